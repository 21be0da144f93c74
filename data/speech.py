"""Speech as a picture: magnitudes of a Gabor transform in mel bands, and the way back.

In memory speech is mono, 16 kHz, float32 in [-1, 1]. Picture values show the cube root of the magnitude,
-1 for none, 1 for the file's level. In checkpoints of before they run linearly in decibels, from -1 at `floor_db`
below the level. The level is one byte of the header:
0 for digital silence, else (level - 241) / 2 dB, where 0 dB is a full-scale sine.
Long recordings are transformed and rebuilt in overlapping chunks of 20 s.
"""

import logging
from dataclasses import asdict
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import ClassVar

import numpy as np

from utils.files import replacing

from .base import Kind, Preview
from .folders import is_held_out, is_timit, speaker_of, timit_files
from .sound_files import read_mono, resampled
from .stft import SpeechSettings, magnitudes, mel_basis, mel_to_linear, to_decibels, to_shades

logger = logging.getLogger(__name__)

CHUNK_FRAMES = 2560  # 20 s at the default settings: what bounds the memory
OVERLAP_FRAMES = 48  # from one chunk to the next; frames near a cut lack a neighbor
CUT_FRAMES = 16  # last frames of a chunk that are replaced by the next chunk's
FADE_FRAMES = 8  # over which the next chunk takes over
BELOW_FLOOR_DB = 10.0  # what the floor hides lies under it: 0.01 to 0.03 PESQ over 0 or infinity
LOUDEST_DB = 7.0  # level 255; a full-scale constant has 6 dB
LEVEL_STEPS = 2  # per dB
# Of the weight of an error, a nat per half of the floor's depth. Of 0, 0.8, 1.6, 3, 4 and 5.5, 3 gave the best
# PESQ and ESTOI at equal rates, by search alone, on recordings of speech/val.
LOUDNESS_SLOPE = 3.0
MEAN_WEIGHT = 0.76  # mean of exp(LOUDNESS_SLOPE * x) over speech/train
SHOWN_SECONDS = 20  # of a recording that a page shows and plays
# Colors of a spectrogram from its floor to its loudest point, evenly spaced: dark to bright.
SHOWN_COLORS = (
    (0, 0, 4),
    (40, 11, 84),
    (101, 21, 110),
    (159, 42, 99),
    (212, 72, 66),
    (245, 125, 21),
    (250, 193, 39),
    (252, 255, 164),
)


class SpeechKind(Kind):
    """Mono speech at 16 kHz; the keyword arguments are those of `SpeechSettings`."""

    name = "speech"
    code = 1
    named_suffixes = (".mp4", ".3gp", ".webm")  # films: among photographs nobody expects their sound alone
    suffixes = (
        ".wav",
        ".flac",
        ".ogg",
        ".oga",
        ".opus",
        ".mp3",
        ".m4a",
        ".mp4",
        ".3gp",
        ".webm",
        ".aac",
        ".amr",
        ".wma",
        ".sph",
        ".nist",
        ".aif",
        ".aiff",
        ".aifc",
        ".au",
        ".snd",
        ".caf",
        ".w64",
        ".rf64",
    )
    output_suffix = ".wav"
    channels = 1
    rate_unit = "kbps"
    usual_size_b = 16000
    extent_unit = "seconds"
    max_extent = 4 * 3600  # lectures, meetings and films are shorter (docs/robustness.md)
    metric_names = ("pesq_wb", "stoi", "estoi", "log_spectral_distance")
    lower_is_better = ("log_spectral_distance",)

    network: ClassVar = dict(
        in_channels=1,
        latent_channels=128,
        latent_rows=8,
        encoder_widths=(48, 96, 160),
        encoder_depths=(1, 3, 3),
        generator_widths=(48, 96, 160),
        generator_depths=(3, 5, 5),
        context_groups=(4, 4, 8, 8, 16, 16, 32, 40),
        context_hidden=40,
        linear_path=True,
        quality_scales=True,
        lmbda_low=0.0007,
        lmbda_high=0.09,
    )
    new_settings: ClassVar = dict(exponent=1 / 3)
    folders: ClassVar = {"train": "speech/train", "val": "speech/val", "test": "speech/test"}
    # Two seconds. Pictures are never stretched: resampling smooths the noise that is to be coded.
    crop_shape = (128, 256)
    storage = "float16"
    stretch = (1.0, 1.0)
    spare_columns = 40  # faster speech uses them up: 15 % of a crop, and one
    joins_short = True
    tensor_dims = 1
    has_waveforms = True

    def __init__(self, **settings):
        self._settings = SpeechSettings(**settings)
        self._said: set[str] = set()

    @property
    def settings(self) -> dict:
        """Plain numbers; `SpeechKind(**settings)` rebuilds the instance."""
        return asdict(self._settings)

    def read(self, path: Path) -> np.ndarray:
        """Read a sound file -> float32 (n,), n >= 1, mono at the settings' sample rate, in [-1, 1].

        What is done to the samples, what is warned of, and the errors are those of `sound_files.read_mono`.
        """
        return read_mono(path, self._settings.sample_rate, self._check_length, self._say_once)

    def _from_array(self, values: np.ndarray) -> np.ndarray:
        """(samples,), float in [-1, 1] or int16 -> float32 (samples,)."""
        if values.ndim != 1 or values.size == 0 or not (values.dtype.kind == "f" or values.dtype == np.int16):
            channels = "; average the channels, or take one" if values.ndim == 2 else ""
            raise ValueError(
                f"speech is (samples,), float in [-1, 1] or int16, and not empty; "
                f"found {values.dtype} {values.shape}{channels}"
            )
        if values.dtype == np.int16:
            return values.astype(np.float32) / np.float32(32768)
        peak = np.abs(values).max()
        if not peak <= 1:  # NaN is neither
            raise ValueError(f"samples of type {values.dtype} are in [-1, 1], found a magnitude of {peak:g}")
        return values.astype(np.float32, copy=False)

    def _resampled(self, signal: np.ndarray, sample_rate: int) -> np.ndarray:
        """Resampled as files are. Raises ValueError for a rate that sound does not have."""
        if isinstance(sample_rate, bool) or not isinstance(sample_rate, (int, float, np.number)):
            raise ValueError(f"sample_rate {sample_rate!r} is not a number of Hz")
        rate = self._settings.sample_rate
        return (
            signal if sample_rate == rate else resampled(signal, sample_rate, rate, self._check_length, self._say_once)
        )

    def _check_length(self, n_samples: int, n_declared: int) -> None:
        """Raise ValueError for more than `max_extent`, with the whole length if the file declares it."""
        rate = self._settings.sample_rate
        if n_samples > self.max_extent * rate:
            self.check_extent((max(n_samples, n_declared), rate))

    def _say_once(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            logger.info(message)

    def write(self, path: Path, signal: np.ndarray) -> None:
        """Write 16-bit PCM WAV, exactly the samples that `from_picture` returned."""
        import soundfile

        # Through memory: libsndfile does not say that a disk is full.
        stream = BytesIO()
        samples = _round_to_16_bit(signal).astype(np.int16)
        soundfile.write(stream, samples, self._settings.sample_rate, format="WAV", subtype="PCM_16")
        with replacing(path) as temporary:
            temporary.write_bytes(stream.getbuffer())

    def size(self, signal: np.ndarray) -> tuple[int, int]:
        """-> (samples, sample rate in Hz)."""
        return len(signal), self._settings.sample_rate

    def picture_shape(self, size: tuple[int, int]) -> tuple[int, int]:
        """-> (n_mels, 1 + samples // hop_length)."""
        samples, rate = size
        if rate != self._settings.sample_rate or samples < 0:
            raise ValueError(f"found {samples} samples at {rate} Hz, expected {self._settings.sample_rate} Hz")
        return self._settings.n_mels, self._settings.frames(samples)

    def to_picture(self, signal: np.ndarray) -> tuple[np.ndarray, int]:
        """float32 (n,) -> (picture (1, n_mels, frames) float32 in [-1, 1], level 0..255)."""
        settings = self._settings
        rows, columns = self.picture_shape(self.size(signal))
        decibels = np.empty((rows, columns), dtype=np.float32)
        basis = mel_basis(settings)
        for start in range(0, columns, CHUNK_FRAMES):
            stop = min(start + CHUNK_FRAMES, columns)
            linear = magnitudes(signal, start, stop, settings).astype(np.float32)
            decibels[:, start:stop] = 20 * np.log10(np.maximum(basis @ linear, 1e-20))
        if not np.any(signal):
            return np.full((1, rows, columns), -1, np.float32), 0
        level = _level_of(float(decibels.max()))
        decibels -= _level_db(level)
        return to_shades(decibels, settings)[None], level

    def from_picture(self, picture: np.ndarray, size: tuple[int, int], level: int) -> np.ndarray:
        """picture (1, >= n_mels, >= frames), clamped to [-1, 1] and cropped -> float32 (samples,).

        What comes back are multiples of 1/32768 in [-1, 1), the samples of a 16-bit file.
        Raises ValueError if the picture is smaller than `size` asks for or is not finite.
        """
        rows, n_frames = self.picture_shape(size)
        if (
            picture.ndim != 3
            or picture.shape[0] != self.channels
            or picture.shape[1] < rows
            or picture.shape[2] < n_frames
        ):
            raise ValueError(
                f"picture {picture.shape} does not hold {size[0]} samples, which make (1, {rows}, {n_frames})"
            )
        picture = picture[:, :rows, :n_frames]
        if not np.isfinite(picture).all():
            raise ValueError("picture contains NaN or infinite values")
        signal = np.zeros(size[0], dtype=np.float32)
        if level == 0 or size[0] == 0:
            return signal

        start = 0
        while True:
            stop = min(start + CHUNK_FRAMES, n_frames)
            chunk = picture[0, :, start:stop]
            self._rebuild_chunk(signal, chunk, start, stop == n_frames, level)
            if stop == n_frames:
                break
            start = stop - OVERLAP_FRAMES
        rounded = _round_to_16_bit(signal)
        rounded /= 32768
        return rounded

    def _rebuild_chunk(self, signal: np.ndarray, picture: np.ndarray, start: int, is_last: bool, level: int) -> None:
        """Write frames start, start + 1, ... of the picture (n_mels, frames) into the signal.

        Except for the first chunk, phases continue those of the samples already there, so that
        the fade joins two copies of one waveform.
        """
        from .phase import reconstruct

        settings = self._settings
        hop, margin = settings.hop_length, settings.margin
        decibels = to_decibels(picture, settings) + _level_db(level)
        decibels = np.where(picture > -1, decibels, decibels - BELOW_FLOOR_DB)
        mel = 10 ** (decibels / 20)
        mel[:, (picture <= -1).all(axis=0)] = 0  # a frame of nothing but floor is silence
        linear = mel_to_linear(mel, settings)

        origin = start * hop
        free = margin * hop  # room for what neighboring chunks hold
        support = (0 if start == 0 else -free, len(signal) - origin if is_last else picture.shape[1] * hop + free)
        if start == 0:
            chunk = reconstruct(linear, support, settings)
            signal[: len(chunk)] = chunk[: len(signal)]
            return
        decided = (OVERLAP_FRAMES - CUT_FRAMES) * hop
        past = signal[origin - free : origin + decided]
        chunk = reconstruct(linear, support, settings, past)
        fade_from = decided - FADE_FRAMES * hop
        weight = (np.arange(decided - fade_from) + 0.5) / (decided - fade_from)
        chunk[fade_from:decided] *= weight
        chunk[fade_from:decided] += (1 - weight) * signal[origin + fade_from : origin + decided]
        target = signal[origin + fade_from : origin + len(chunk)]
        target[:] = chunk[fade_from : fade_from + len(target)]

    def extent(self, size: tuple[int, int]) -> float:
        """Seconds."""
        samples, rate = size
        return samples / rate

    def dimensions(self, size: tuple[int, int]) -> dict[str, float]:
        """Seconds, and the sample rate in Hz."""
        return {"seconds": self.extent(size), "sample_rate": size[1]}

    def size_text(self, size: tuple[int, int]) -> str:
        return f"{self.extent(size):.2f} s, {size[1]} Hz"

    def rate(self, n_bytes: int, size: tuple[int, int]) -> float:
        """Kilobits per second of the whole file."""
        samples, rate = size
        return 8 * n_bytes / 1000 / (samples / rate)

    def score(self, original: np.ndarray, decoded: np.ndarray) -> dict[str, float]:
        """Metrics by name; NaN where a clip is too short for one."""
        metrics = import_module("utils.metrics")
        return {name: getattr(metrics, name)(original, decoded) for name in self.metric_names}

    def weights(self, x):
        """An error in a loud band is heard more than one in a soft band: 20 dB count 4.5 times.

        Where the picture shows a power of the magnitude, its values say so themselves.
        """
        if self._settings.exponent:
            return None
        return (LOUDNESS_SLOPE * x).exp() / MEAN_WEIGHT

    def shown_by(self, pictures, settings):
        """The loudness that the pictures show, on the scale of the other settings."""
        other = SpeechSettings(**settings)
        return pictures.new_tensor(to_shades(to_decibels(pictures.cpu().numpy(), self._settings), other))

    def preview(self, signal: np.ndarray, reference: np.ndarray) -> Preview:
        """The spectrogram of the first 20 s, low bands at the bottom, and their sound.

        Two rows of pixels a band, colored over `floor_db` below the reference's level.
        """
        settings = self._settings
        rate = settings.sample_rate
        n_shown = SHOWN_SECONDS * rate
        picture, level = self.to_picture(signal[:n_shown])
        loudest = self.to_picture(reference[:n_shown])[1] or 1
        decibels = to_decibels(picture[0, ::-1].repeat(2, axis=0), settings) + _level_db(level) - _level_db(loudest)
        brightness = 1 + decibels * 2 / settings.floor_db
        if level == 0:
            brightness[:] = -1
        scale = np.linspace(-1, 1, len(SHOWN_COLORS))
        pixels = np.stack([np.interp(brightness, scale, channel) for channel in zip(*SHOWN_COLORS)], axis=-1)
        seconds = len(signal) / rate
        note = (
            f"{seconds:.1f} s; {settings.n_mels} mel bands up to {settings.fmax / 1000:g} kHz, {settings.floor_db:g} dB"
        )
        if len(signal) > n_shown:
            note = f"the first {SHOWN_SECONDS} s of {note}; the figures are of the whole"
        return Preview(np.rint(pixels).astype(np.uint8), signal[:n_shown], rate, note)

    def list_files(self, root: Path | str, split: str) -> list[Path]:
        """Of a TIMIT distribution the split's own files ("val" is its test set), elsewhere all of a folder.

        Training leaves out the prompts that are held out by name (`data.folders.is_held_out`).
        """
        if is_timit(root):
            return timit_files(root, "train" if split == "train" else "test")
        return [path for path in super().list_files(root, split) if split != "train" or not is_held_out(path)]

    def speaker_of(self, path):
        """The speaker, where the file's name tells one."""
        return speaker_of(path)

    def samples(self) -> list[Path]:
        """The synthesized sentence that the repository ships."""
        return [Path(__file__).parent / "samples" / "speech.flac"]

    def waveforms(self):
        """`data.waveforms.Waveforms`: the phase is rebuilt, and held constant."""
        from .waveforms import Waveforms

        return Waveforms(self._settings)

    def disturbance(self):
        """`data.hearing.Disturbance`: that of PESQ."""
        from .hearing import Disturbance

        return Disturbance(self._settings)

    def augment(self, crop, rng):
        """Another voice, room, microphone or line for half of the crops (`data.augment`)."""
        from .augment import augment

        return augment(crop, rng, self._settings, self.crop_shape[1])


def _level_db(level: int) -> float:
    """Loudness in dB that a level 1..255 stands for."""
    return LOUDEST_DB + (level - 255) / LEVEL_STEPS


def _level_of(decibels: float) -> int:
    """The smallest level 1..255 that is not below a loudness in dB."""
    return int(np.clip(np.ceil((decibels - LOUDEST_DB) * LEVEL_STEPS) + 255, 1, 255))


def _round_to_16_bit(signal: np.ndarray) -> np.ndarray:
    """float32 (n,) in [-1, 1] -> float32 (n,), integers -32768..32767."""
    scaled = signal * np.float32(32768)
    np.rint(scaled, out=scaled)
    return np.clip(scaled, -32768, 32767, out=scaled)
