"""Sound files of every usual kind -> mono float32 at one rate, block by block.

PyAV reads every kind, because the FFmpeg in its wheel reads all of them as the users' other tools do: WAV and its
relatives (RF64, W64, AIFF, AU, CAF, NIST SPHERE), FLAC, Ogg, MP3, AAC, AMR, MP4 and its relatives, WebM and WMA.
Samples of PCM formats and of FLAC are exactly those of the file. The format is judged by the content, never by
the name, and only the formats of `FORMATS` are tried: others would open further files or addresses.

FFmpeg says little about a file that was cut, so this module compares what a file declares with what is there:
- RIFF, W64, AIFF, AU, CAF, MP4, WebM and WMA: the end of every chunk with the end of the file;
- Ogg: the last page must be whole and carry the mark of the stream's end;
- FLAC and SPHERE: the number of samples, where the header states it;
- MP3: the number of frames, where a Xing or VBRI header states it;
- MP3, AAC, AMR and FLAC: the last frame must be whole.
"""

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

logger = logging.getLogger(__name__)

# Names of FFmpeg's demuxers.
FORMATS = "wav,w64,aiff,au,caf,nistsphere,flac,ogg,mp3,aac,loas,amr,mov,mp4,m4a,3gp,3g2,matroska,webm,asf"
SAMPLE_RATES = (2000, 768000)  # Hz; anything else is a damaged header
BLOCK_SAMPLES = 1 << 18  # per channel, that are mixed and resampled at once
# A mix is mistaken for silence where its energy is under this part of what unrelated channels would leave.
CANCELLATION = 0.05
OVERLOAD = 2.0  # float samples up to here are a hot recording and are clipped
QUIETEST_INTEGER = 256.0  # float samples from here on are integers that nobody scaled, 42 dB under full scale
OVERSHOOT = 1.5  # by which resampling may have pushed such integers beyond their range
# Seconds whose means follow an offset. Speech leaves at most 0.02 of its RMS in them (in 559 recordings), and a
# constant offset costs PESQ from an RMS ratio of about 0.2 on.
OFFSET_SECONDS = 0.25
NEGLIGIBLE_OFFSET = 0.1  # of the RMS
SHORT_VORBIS = 2.0  # seconds
LEAST_TAIL = 4096  # bytes behind the samples that a header counts, from which they may be more samples
HIGH_PASS_HZ = 5.0
UNKNOWN_SIZE = 0x7F000000  # bytes; writers to a pipe declare this or more where they cannot know the size

# What people take for sound by mistake: how the file begins, and what it is.
_OTHER_FILES = (
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\x89PNG", "a PNG picture"),
    (b"GIF8", "a GIF picture"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"#EXTM3U", "a playlist, not the sound itself"),
)
_MP4_BOXES = (b"ftyp moov mdat moof free skip wide sidx styp mfra meta uuid udta emsg pdin ssix prft").split()
_EBML_SEGMENT, _EBML_CLUSTER = 0x18538067, 0x1F43B675
# kbit/s of Layer III by the index in the frame's header, for MPEG-1 and for MPEG-2 and 2.5.
_MP3_KBPS = (
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
_MP3_RATES = (44100, 48000, 32000)  # Hz, of MPEG-1


class _Unreadable(ValueError):
    """A reason in our own words."""


def read_mono(
    path: Path,
    rate: int,
    check_length: Callable[[int, int], None] = lambda n_samples, n_declared: None,
    inform: Callable[[str], None] = logger.info,
) -> np.ndarray:
    """Read a sound file -> float32 (n,), n >= 1, mono at `rate` Hz, in [-1, 1].

    The first sound stream is read. Channels are averaged, or one is taken where they cancel each other. Other
    rates are resampled, a constant offset is removed, and float samples in the range of integers are scaled.
    `check_length` is called while decoding with the samples so far and with those that the file declares, 0 or an
    estimate where it does not say, both at `rate`; the ValueError that it raises is passed on with the path.
    What is usual goes to `inform`; a warning that names the file is logged for one that ends early or is
    damaged, for a film, for further streams, for channels that cancel and for samples that are scaled.
    Raises ValueError with one line for a file that is missing, no sound file, empty, or without a readable
    sample, and for NaN, infinite or senseless samples; OSError where the disk fails.
    """
    path = Path(path)
    if not path.is_file():
        reason = "a folder, not a sound file" if path.is_dir() else "no such file"
        raise ValueError(f"{path}: {reason}")
    with open(path, "rb") as file:
        try:
            sound = _Decoded(file, rate, check_length)
            sound.decode()
            if sound.mix.cancels():
                n_channels, loudest = sound.mix.loudest()
                sound.warnings = [
                    f"the {n_channels} channels cancel each other in an average; channel {loudest + 1} alone is used"
                ]
                sound.decode(loudest)
            signal = sound.mix.signal()
            if sound.is_float_pcm:
                signal = _in_full_scale(signal, sound)
        except _Unreadable as error:
            raise ValueError(f"{path}: {error}") from None
        except OSError as error:
            if type(error).__module__.startswith("av."):  # FFmpeg's errors are OSErrors too
                raise ValueError(f"{path}: not readable as sound: {error.strerror}") from None
            raise
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{path}: not readable as sound: {reason}") from None
    for warning in sound.warnings:
        logger.warning(f"{path}: {warning}")
    for note in sound.mix.notes:
        inform(note)
    if _remove_offset(signal, rate):
        inform("a constant offset is removed")
    if np.abs(signal).max() > 1:
        inform("samples beyond full scale are clipped")
        np.clip(signal, -1, 1, out=signal)
    return signal


def _is_film(stream) -> bool:
    """Whether a stream of pictures is more than a cover."""
    from av.stream import Disposition

    return not stream.disposition & Disposition.attached_pic


def resampled(
    samples: np.ndarray,
    source_rate: int,
    rate: int,
    check_length: Callable[[int, int], None],
    inform: Callable[[str], None] = logger.info,
) -> np.ndarray:
    """float32 (n,) at one rate in Hz -> at another, in [-1, 1].

    `check_length` and `inform` are those of `read_mono`. Raises ValueError for a rate outside SAMPLE_RATES.
    """
    mix = _Mix(rate, None, check_length)
    try:
        mix.add(samples[:, None], source_rate)
        mix.finish()
    except _Unreadable as error:
        raise ValueError(str(error)) from None
    for note in mix.notes:
        inform(note)
    return np.clip(mix.signal(), -1, 1)


# ---- decoding


class _Part:
    """Bytes start..stop of a file, as a file: without a name, which FFmpeg would take for an address."""

    def __init__(self, file: BinaryIO, start: int, stop: int):
        self._file, self._start, self._stop, self._place = file, start, stop, start

    def read(self, n: int = -1) -> bytes:
        left = self._stop - self._place
        self._file.seek(self._place)
        data = self._file.read(left if n < 0 else min(n, left))
        self._place += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        origin = (self._start, self._place, self._stop)[whence]
        self._place = min(max(origin + offset, self._start), self._stop)
        return self.tell()

    def tell(self) -> int:
        return self._place - self._start


class _Decoded:
    """A file's first sound stream, decoded into a mix, and what is to be said about the file."""

    def __init__(self, file: BinaryIO, rate: int, check_length: Callable[[int, int], None]):
        self._file, self._rate, self._check_length = file, rate, check_length
        self._size = file.seek(0, 2)
        self.warnings: list[str] = []
        self.is_float_pcm = False

    def decode(self, channel: int | None = None) -> None:
        """Decode all of it. Raises _Unreadable where there is not one sample."""
        self.mix = _Mix(self._rate, channel, self._check_length)
        self._n_broken, self._ends_early, self._goes_on = 0, False, False
        parts = [(0, self._size)]
        if _read_at(self._file, 0, 4) == b"OggS":
            parts, is_whole = _ogg_links(self._file, self._size)
            self._ends_early = not is_whole
        else:
            end = _declared_end(self._file, self._size)
            self._ends_early = end > self._size
            self._goes_on = _is_riff(self._file) and _sound_follows(self._file, end, self._size)
        for place, (start, stop) in enumerate(parts):
            self._decode_part(_Part(self._file, start, stop), is_first=place == 0)
        self.mix.finish()
        if self.mix.n_samples == 0:
            raise _Unreadable("the file ends before its first sample" if self._ends_early else "contains no samples")
        if self._n_broken:
            self.warnings.append(f"damaged: {self._n_broken} packets cannot be decoded and are left out")
        if self._ends_early:
            seconds = self.mix.n_samples / self._rate
            self.warnings.append(f"the file ends early; the {seconds:.1f} s that are there are used")
        if self._goes_on:
            seconds = self.mix.n_samples / self._rate
            self.warnings.append(f"the sound goes on behind what its header counts; all {seconds:.1f} s are used")

    def _decode_part(self, part: _Part, is_first: bool) -> None:
        import av

        try:
            options = {"format_whitelist": FORMATS}
            if self._goes_on:
                options["ignore_length"] = "1"
            container = av.open(part, options=options, metadata_errors="ignore")
        except av.FFmpegError:
            if is_first:
                raise _Unreadable(f"not readable as sound: {self._what_it_is()}") from None
            self._ends_early = True
            return
        with container:
            streams = container.streams.audio
            if not streams:
                raise _Unreadable("not readable as sound: there is no sound in it")
            if len(streams) > 1 and is_first:
                self.warnings.append(f"{len(streams)} sound streams; the first alone is read")
            if is_first and any(_is_film(each) for each in container.streams.video):
                self.warnings.append("a film; its sound alone is read")
            stream = streams[0]
            self.mix.n_declared += int((container.duration or 0) * self._rate / av.time_base)
            if stream.codec_context is None:
                raise _Unreadable("not readable as sound: its codec is not one that can be decoded")
            self.is_float_pcm = stream.codec_context.name.startswith("pcm_f")
            if container.format.name == "caf" and stream.codec_context.name == "alac":
                # FFmpeg cuts the padding of the last packet, which its decoder has already left out.
                stream.codec_context.options = {"flags2": "+skip_manual"}
            if stream.codec_context.name == "vorbis" and self._decode_short_vorbis(part, stream):
                return
            self._decode_stream(container, stream)

    def _decode_short_vorbis(self, part: _Part, stream) -> bool:
        """Decodes what lasts under SHORT_VORBIS seconds by libsndfile; -> whether it did.

        FFmpeg does not cut the last block of so short a stream where the container says that the sound ends.
        """
        import soundfile

        if not stream.duration or stream.duration * stream.time_base >= SHORT_VORBIS:
            return False
        try:
            part.seek(0)
            samples, rate = soundfile.read(part, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError:  # damage, of which FFmpeg decodes what is there
            part.seek(0)
            return False
        self.mix.add(samples, rate)
        return True

    def _decode_stream(self, container, stream) -> None:
        import av

        name = container.format.name
        n_packets = n_samples = n_failed = 0  # failed: packets in a row
        last = b""
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError:
                self._ends_early = True
                break
            if packet is None:
                break
            n_packets += packet.size > 0
            if name == "mp3" and packet.size:
                last = bytes(packet)
            try:
                frames = packet.decode()
            except av.FFmpegError:
                # In joined MP3 files the header of the second one is no sound.
                n_failed += not _mp3_frames(last)
                continue
            for frame in frames:
                n_samples += frame.samples
                self.mix.add(_samples(frame), frame.sample_rate)
            if frames and packet.size:  # what a decoder still held comes with an empty packet
                self._n_broken += n_failed
                n_failed = 0
        if name == "mp3":
            declared = _mp3_frames(_after_id3(self._file))
            is_short = n_packets < declared - 1 or len(last) < _mp3_frame_bytes(last)
        elif name in ("flac", "nistsphere") and stream.duration:
            # What is missing inside has been counted as damage.
            is_short = n_failed > 0 or (
                not self._n_broken and n_samples < stream.duration * stream.time_base * stream.rate
            )
        else:
            is_short = n_failed > 0 and name in ("flac", "aac", "loas", "amr")
        self._ends_early |= is_short

    def _what_it_is(self) -> str:
        """Why nothing could be opened, in a user's words."""
        start = _read_at(self._file, 0, 4096)
        if not start:
            return "the file is empty"
        for magic, what in _OTHER_FILES:
            if start.startswith(magic):
                return f"it is {what}"
        if re.search(rb"<!doctype html|<html", start, re.IGNORECASE):
            return "it is an HTML page, such as a server sends in place of a file"
        if not start.strip(b"\0"):
            return "it begins with nothing but zeros"
        if start[4:8] == b"ftyp" and not any(kind == b"moov" for kind, _ in _boxes(self._file, self._size)):
            return "the file ends before its index (the moov box), without which MP4 cannot be decoded"
        if not re.search(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]", start):
            return "it is text"
        if self._ends_early:
            return "the file ends before its first sample"
        return "it is damaged or of no known sound format"


def _samples(frame) -> np.ndarray:
    """A frame of PyAV -> float32 (n, channels), full scale at 1."""
    samples = frame.to_ndarray()
    channels = frame.layout.nb_channels
    samples = samples.T if frame.format.is_planar else samples.reshape(-1, channels)
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / np.float32(128)
    if samples.dtype.kind == "i":
        return samples.astype(np.float32) / np.float32(2.0 ** (8 * samples.itemsize - 1))
    with np.errstate(over="ignore"):  # what overflows is infinite, and refused
        return samples.astype(np.float32)


class _Mix:
    """Decoded samples in any rate and number of channels -> one channel at one rate."""

    def __init__(self, rate: int, channel: int | None, check_length: Callable[[int, int], None]):
        self._rate, self._channel, self._check_length = rate, channel, check_length
        self._waiting: list[np.ndarray] = []
        self._n_waiting = 0
        self._source = (0, 0)  # Hz, channels
        self._stream = None
        self._done: list[np.ndarray] = []
        self._energies = np.zeros(1)  # of each channel, about its mean in each block
        self._mixed = self._unrelated = 0.0
        self.n_samples = 0  # at the rate asked for, once it is finished
        self.n_declared = 0  # likewise
        self.peak = 0.0
        self.notes: list[str] = []

    def add(self, samples: np.ndarray, rate: int) -> None:
        """Take float32 (n, channels) at a rate in Hz."""
        source = (rate, samples.shape[1])
        if source != self._source:
            self.finish()
            self._begin(*source)
        self._waiting.append(samples)
        self._n_waiting += len(samples)
        while self._n_waiting >= BLOCK_SAMPLES:
            joined = np.concatenate(self._waiting)
            self._waiting, self._n_waiting = [joined[BLOCK_SAMPLES:]], len(joined) - BLOCK_SAMPLES
            self._mix(joined[:BLOCK_SAMPLES])

    def _begin(self, rate: int, channels: int) -> None:
        low, high = SAMPLE_RATES
        if not low <= rate <= high:
            raise _Unreadable(f"sample rate {rate} Hz, {low} to {high} Hz are possible")
        self._source = (rate, channels)
        if rate != self._rate:
            from soxr import ResampleStream

            self.notes.append(f"{rate} Hz sound is resampled to {self._rate} Hz")
            self._stream = ResampleStream(rate, self._rate, 1, dtype="float32")
        if channels > 1 and self._channel is None:
            self.notes.append(f"{channels} channels are averaged to one")

    def _mix(self, block: np.ndarray) -> None:
        if not np.isfinite(block).all():
            raise _Unreadable("contains NaN or infinite samples")
        channels = block.shape[1]
        self.peak = max(self.peak, float(np.abs(block).max()))
        if channels == 1:
            mixed = block[:, 0]
        elif self._channel is None:
            mixed = block.mean(axis=1)
            energies = block.var(axis=0, dtype=np.float64) * len(block)
            self._mixed += float(mixed.var(dtype=np.float64)) * len(block)
            self._unrelated += energies.sum() / channels**2
            self._energies = np.pad(self._energies, (0, max(channels - len(self._energies), 0)))
            self._energies[:channels] += energies
        else:
            mixed = block[:, min(self._channel, channels - 1)]
        self._append(self._stream.resample_chunk(np.ascontiguousarray(mixed)) if self._stream else mixed.copy())

    def finish(self) -> None:
        """Mix what is left; more samples may follow."""
        if self._n_waiting:
            self._mix(np.concatenate(self._waiting))
        self._waiting, self._n_waiting = [], 0
        if self._stream:
            self._append(self._stream.resample_chunk(np.zeros(0, np.float32), last=True))
            if not self.n_samples:  # a single sample of a high rate leaves none
                self._append(np.zeros(1, np.float32))
        self._stream, self._source = None, (0, 0)

    def _append(self, samples: np.ndarray) -> None:
        self._done.append(samples)
        self.n_samples += len(samples)
        try:
            self._check_length(self.n_samples, self.n_declared)
        except ValueError as error:
            raise _Unreadable(str(error)) from None

    def cancels(self) -> bool:
        """Whether the average of the channels lost what each of them holds."""
        return self._mixed < CANCELLATION * self._unrelated

    def loudest(self) -> tuple[int, int]:
        """-> (number of channels, index of the first with about the most energy)."""
        return len(self._energies), int(np.argmax(self._energies >= 0.99 * self._energies.max()))

    def signal(self) -> np.ndarray:
        """-> float32 (n,), n >= 1."""
        signal = np.concatenate(self._done)
        self._done = []
        return signal


# ---- what is done to the samples


def _in_full_scale(signal: np.ndarray, sound: _Decoded) -> np.ndarray:
    """Scale float samples that are integers of 16, 24 or 32 bits. Raises _Unreadable where they fit nothing."""
    peak = sound.mix.peak
    if peak <= OVERLOAD:
        return signal
    bits = next((bits for bits in (16, 24, 32) if peak <= OVERSHOOT * 2 ** (bits - 1)), None)
    if peak < QUIETEST_INTEGER or bits is None:
        raise _Unreadable(
            f"its float samples reach {peak:g}, and neither full scale at 1 nor a range of integers fits: "
            "scale them to -1..1"
        )
    sound.warnings.append(f"its float samples reach {peak:g}; they are taken for {bits}-bit integers and scaled")
    return signal * np.float32(2.0 ** (1 - bits))


def _remove_offset(signal: np.ndarray, rate: int) -> bool:
    """High-pass float32 (n,) in its place where an offset is more than negligible. -> whether one was.

    An offset may drift or begin late. Signals without one keep every bit.
    """
    window = round(OFFSET_SECONDS * rate)
    means = signal[: len(signal) // window * window].reshape(-1, window).mean(axis=1, dtype=np.float64)
    if not len(means):
        return False
    energy = sum(float(np.square(block, dtype=np.float64).sum()) for block in _blocks(signal))
    if np.mean(means**2) <= NEGLIGIBLE_OFFSET**2 * energy / len(signal):
        return False
    from scipy.signal import butter, sosfilt, sosfilt_zi

    sections = butter(2, HIGH_PASS_HZ, "highpass", fs=rate, output="sos")
    state = sosfilt_zi(sections) * means[0]  # as if the offset had always been there
    for block in _blocks(signal):
        block[:], state = sosfilt(sections, block, zi=state)
    return True


def _blocks(signal: np.ndarray) -> Iterator[np.ndarray]:
    return (signal[start : start + BLOCK_SAMPLES] for start in range(0, len(signal), BLOCK_SAMPLES))


# ---- what a file declares about its length


def _read_at(file: BinaryIO, place: int, n: int) -> bytes:
    file.seek(place)
    return file.read(n)


def _is_unknown(n_bytes: int, size: int) -> bool:
    """Whether a declared size is what writers put where they cannot know it."""
    return n_bytes == 0xFFFFFFFF or n_bytes >= 1 << 63 or n_bytes >= UNKNOWN_SIZE > size


def _is_riff(file: BinaryIO) -> bool:
    return _read_at(file, 0, 4) in (b"RIFF", b"RF64", b"BW64", b"RIFX")


def _sound_follows(file: BinaryIO, end: int, size: int) -> bool:
    """Whether what is behind the `end` of a WAV file's samples is neither a chunk, nor a tag, nor padding: more of them.

    So it is where a recorder has crashed, and where a size beyond 4 GiB did not fit into its 32 bits.
    """
    if not 0 < end <= size - LEAST_TAIL:
        return False
    tail = _read_at(file, end, LEAST_TAIL)
    starts = (tail[:4], tail[1:5])  # chunks begin at even places, but not all programs know
    return any(tail) and not any(start[:3] == b"ID3" or all(32 <= byte < 127 for byte in start) for start in starts)


def _declared_end(file: BinaryIO, size: int) -> int:
    """Where the sound ends by what a container declares, in bytes; 0 where it does not say."""
    start = _read_at(file, 0, 40)
    if _is_riff(file):
        return _riff_end(file, size, "big" if start[:4] == b"RIFX" else "little")
    if start[:4] == b"riff":  # Sony Wave64: GUIDs of 16 bytes, multiples of 8
        return _chunks_end(file, size, 40, 16, 8, "little", last=b"data", inclusive=True, align=8)
    if start[:4] == b"FORM":
        return _chunks_end(file, size, 12, 4, 4, "big", last=b"SSND", align=2)
    if start[:4] == b"caff":  # the sizes of the packets may follow the sound
        return _chunks_end(file, size, 8, 4, 8, "big")
    if start[:4] == b"0&\xb2u":  # ASF, the container of WMA
        return _chunks_end(file, size, 0, 16, 8, "little", last=b"6&\xb2u", inclusive=True)
    if start[:4] == b".snd":
        data, n_bytes = int.from_bytes(start[4:8], "big"), int.from_bytes(start[8:12], "big")
        return 0 if _is_unknown(n_bytes, size) else data + n_bytes
    if start[4:8] in _MP4_BOXES:
        return max((end for _, end in _boxes(file, size)), default=0)
    if start[:4] == b"\x1aE\xdf\xa3":
        return _ebml_end(file, size)
    return 0


def _chunks_end(
    file: BinaryIO,
    size: int,
    place: int,
    n_id: int,
    n_size: int,
    order: str,
    last: bytes | None = None,
    inclusive: bool = False,
    align: int = 1,
) -> int:
    """Where consecutive chunks end, or the one whose identifier begins with `last`.

    Each is an identifier of `n_id` bytes, a size of `n_size` bytes, which counts these two where it is
    inclusive, and its content.
    """
    end = 0
    while place + n_id + n_size <= size:
        head = _read_at(file, place, n_id + n_size)
        n_bytes = int.from_bytes(head[n_id:], order)
        if _is_unknown(n_bytes, size) or (inclusive and n_bytes < len(head)):
            break
        end = place + n_bytes + (0 if inclusive else len(head))
        if last and head.startswith(last):
            break
        place = end + -end % align
    return end


def _riff_end(file: BinaryIO, size: int, order: str) -> int:
    """Where the data chunk ends."""
    place, long_size = 12, None
    while place + 8 <= size:
        head = _read_at(file, place, 24)
        n_bytes = int.from_bytes(head[4:8], order)
        if head[:4] == b"ds64":
            long_size = int.from_bytes(head[16:24], order)
        if head[:4] == b"data":
            if n_bytes == 0xFFFFFFFF and long_size:
                n_bytes = long_size
            return 0 if n_bytes == 0 or _is_unknown(n_bytes, size) else place + 8 + n_bytes
        place += 8 + n_bytes + n_bytes % 2
    return place


def _boxes(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int]]:
    """The outermost boxes of MP4 -> (type, where it ends)."""
    place = 0
    while place + 8 <= size:
        head = _read_at(file, place, 16)
        n_bytes = int.from_bytes(head[:4], "big")
        if n_bytes == 1:
            n_bytes = int.from_bytes(head[8:16], "big")
        elif n_bytes == 0:
            n_bytes = size - place
        if n_bytes < 8 or head[4:8] not in _MP4_BOXES:
            return
        place += n_bytes
        yield head[4:8], place


def _ebml_end(file: BinaryIO, size: int) -> int:
    """The end of the last element of a Matroska or WebM file; those of unknown size are entered."""
    place = 0
    while place < size:
        head = _read_at(file, place, 12)
        n_id = 9 - head[0].bit_length()
        if n_id > 4 or len(head) <= n_id or head[n_id] == 0:
            break
        n_size = 9 - head[n_id].bit_length()
        name = int.from_bytes(head[:n_id], "big")
        n_bytes = int.from_bytes(head[n_id : n_id + n_size], "big") - (1 << (7 * n_size))
        place += n_id + n_size
        if n_bytes < (1 << (7 * n_size)) - 1:
            place += n_bytes
            if name == _EBML_SEGMENT:
                break
        elif name not in (_EBML_SEGMENT, _EBML_CLUSTER):
            break
    return place


def _ogg_links(file: BinaryIO, size: int) -> tuple[list[tuple[int, int]], bool]:
    """The streams that follow each other in an Ogg file -> ([(start, stop), ...], whether the last one is whole).

    FFmpeg reads on from one to the next only where codec, rate and channels stay.
    """
    starts, place, was_first, is_whole = [], 0, False, False
    while place < size:
        head = _read_at(file, place, 27 + 255)
        if head[:4] != b"OggS" or len(head) < 27:
            skipped = _find(file, b"OggS", place + 1)
            if skipped is None:
                break
            place = skipped
            continue
        is_first = bool(head[5] & 2)
        if is_first and not was_first:
            starts.append(place)
        was_first = is_first
        place += 27 + head[26] + sum(head[27 : 27 + head[26]])
        is_whole = bool(head[5] & 4) and place <= size
    starts = starts if 0 in starts else [0, *starts]
    return list(zip(starts, [*starts[1:], size])), is_whole


def _find(file: BinaryIO, pattern: bytes, place: int) -> int | None:
    """Where bytes occur next in a file, from a place on."""
    while block := _read_at(file, place, 1 << 16):
        found = block.find(pattern)
        if found >= 0:
            return place + found
        if len(block) < len(pattern):
            break
        place += len(block) - len(pattern) + 1
    return None


def _after_id3(file: BinaryIO) -> bytes:
    """The first bytes of an MP3 file behind its ID3v2 tag."""
    head = _read_at(file, 0, 10)
    place = 0
    if head[:3] == b"ID3":
        place = 10 + sum((byte & 127) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0)))
    return _read_at(file, place, 2048)


def _mp3_frames(data: bytes) -> int:
    """How many frames a Xing or VBRI header declares; 0 where there is none or it does not say."""
    found = re.search(rb"\xff[\xe2-\xff].{2}.{0,40}?(Xing|Info|VBRI)", data, re.DOTALL)
    if not found:
        return 0
    tag = data[found.start(1) :]
    if tag[:4] == b"VBRI":
        return int.from_bytes(tag[14:18], "big")
    return int.from_bytes(tag[8:12], "big") if tag[7:8] and tag[7] & 1 else 0


def _mp3_frame_bytes(frame: bytes) -> int:
    """Bytes of a Layer III frame by its header; 0 where it is none."""
    if len(frame) < 4 or frame[0] != 255 or frame[1] & 0xE6 != 0xE2:
        return 0
    version, rate, kbps = frame[1] >> 3 & 3, frame[2] >> 2 & 3, frame[2] >> 4
    if version == 1 or rate == 3 or kbps == 15 or kbps == 0:
        return 0
    is_first = version == 3
    hertz = _MP3_RATES[rate] >> {3: 0, 2: 1, 0: 2}[version]
    return (144000 if is_first else 72000) * _MP3_KBPS[not is_first][kbps] // hertz + (frame[2] >> 1 & 1)
