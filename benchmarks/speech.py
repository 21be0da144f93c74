"""This codec and Opus, Speex, Codec2, AMR-NB, AMR-WB on the same recordings, in one run.

    python -m benchmarks.speech --input DIR

All get the recording at 16 kHz mono (the narrowband ones resampled to 8 kHz), and what they decode is
brought back to 16 kHz, shifted by the codec's delay, and scored against the 16 kHz original: wideband
PESQ, STOI, ESTOI, log-spectral distance. So narrowband codecs pay for what they leave out.

What counts as rate, column `bytes`, favors the others: this codec pays for its whole file, header
included; Opus and Speex for their packets' bytes, without the Ogg pages, headers and packet lengths
that weigh 0.8 to 1.2 kbps in clips of a few seconds; AMR for its frames' whole bytes, without the
file's magic and the mode byte before each frame (0.4 kbps); Codec2's file has no container, and its frames are whole
bytes. Column `file_bytes` has the whole file of each. Opus runs as shipped (20 ms frames) and with
40 ms frames, which are better at the lowest rates; and with 40 ms frames in a newer libopus, decoded
plainly and with NoLACE (Büthe et al. 2024), the deep postfilter of Opus 1.5, which acts from some 8 kbps
on, where Opus codes wideband. Its decoder is a package of npm and runs in Node. Speex in wideband with variable rate, which is
better there than constant rate; both at their highest complexity. AMR is decoded by the OpenCORE
libraries, which score a little higher than ffmpeg's own decoders.

Delays: Opus, Speex and AMR follow the waveform, and the shift of up to 15 ms that correlates best with
the original is undone. Codec2 does not: 18 ms (700C: 28 ms), measured once on envelopes, are undone.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from data import build_kind

from .common import OURS, Benchmark, Codec, Coded, Measure, Missing, benchmark_parser, own_codecs, run

RATE, NARROW = 16000, 8000  # Hz
MAX_SHIFT = 240  # samples at 16 kHz, 15 ms
CODEC2_FRAME = 320  # samples at 8 kHz, 40 ms: a multiple of every mode's frame
CODEC2_DELAY = 288  # samples at 16 kHz
CODEC2_DELAY_700C = 448
AMR_BYTES = {
    "#!AMR\n": (12, 13, 15, 17, 19, 20, 26, 31, 5),  # of a frame, by its mode
    "#!AMR-WB\n": (17, 23, 32, 36, 40, 46, 50, 58, 60, 5),
}


# -- programs and files ----------------------------------------------------------------------------


def _need(package: str, *programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            raise Missing(f"no program {program}; apt-get install {package}")


def _output(*command: str) -> str:
    """What a program prints. Raises ValueError with its last words if it fails."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    text = done.stdout.decode(errors="replace").strip()
    if done.returncode:
        raise ValueError(f"{command[0]} failed with code {done.returncode}: {text[-200:]}")
    return text


def _convert(data: bytes, suffix_in: str, suffix_out: str, *command: str) -> bytes:
    """Bytes through a program that reads the file IN and writes the file OUT."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {"IN": f"{folder}/in{suffix_in}", "OUT": f"{folder}/out{suffix_out}"}
        Path(paths["IN"]).write_bytes(data)
        _output(*(paths.get(part, part) for part in command))
        return Path(paths["OUT"]).read_bytes()


def _resample(clip: np.ndarray, rate_in: int, rate_out: int) -> np.ndarray:
    if rate_in == rate_out:
        return clip
    import soxr

    return soxr.resample(clip, rate_in, rate_out)


def to_raw(clip: np.ndarray) -> bytes:
    """float (n,) in [-1, 1] -> 16-bit samples."""
    return np.clip(np.rint(clip * 32768), -32768, 32767).astype("<i2").tobytes()


def from_raw(data: bytes, rate: int) -> np.ndarray:
    """16-bit samples at a rate -> float32 (n,) at 16 kHz."""
    return _resample(np.frombuffer(data, "<i2").astype(np.float32) / 32768, rate, RATE)


def _wav(clip: np.ndarray, rate: int) -> bytes:
    """float (n,) at 16 kHz -> a 16-bit WAV file at a rate."""
    import io
    import wave

    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, rate, 0, "NONE", ""))
        writer.writeframes(to_raw(_resample(clip, RATE, rate)))
    return file.getvalue()


def ogg_packets(data: bytes) -> list[int]:
    """Sizes of the packets of an Ogg file with one stream (RFC 3533)."""
    sizes, position, size = [], 0, 0
    while position < len(data):
        if data[position : position + 4] != b"OggS":
            raise ValueError("not an Ogg page")
        lacing = data[position + 27 : position + 27 + data[position + 26]]
        for part in lacing:
            size += part
            if part < 255:
                sizes.append(size)
                size = 0
        position += 27 + len(lacing) + sum(lacing)
    return sizes


def amr_payload(data: bytes) -> int:
    """Bytes of the frames of an AMR file, without its magic and each frame's mode byte (RFC 4867)."""
    magic = next((magic for magic in AMR_BYTES if data.startswith(magic.encode())), None)
    if magic is None:
        raise ValueError("not an AMR file")
    position, total = len(magic), 0
    while position < len(data):
        mode = data[position] >> 3 & 15
        size = AMR_BYTES[magic][mode] if mode < len(AMR_BYTES[magic]) else 0  # 15: no data
        position += 1 + size
        total += size
    return total


# -- delays ----------------------------------------------------------------------------------------


def fit_length(original: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """Cut, or extend with silence, to the original's length."""
    decoded = decoded[: original.size]
    return np.pad(decoded, (0, original.size - decoded.size)).astype(np.float32)


def align(original: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """Undo the shift within MAX_SHIFT that correlates best with the original; fit the length."""
    n_fft = 1 << (max(original.size, decoded.size) + MAX_SHIFT).bit_length()
    spectrum = np.fft.rfft(decoded, n_fft) * np.fft.rfft(original, n_fft).conj()
    correlation = np.fft.irfft(spectrum, n_fft)
    shifts = np.arange(-MAX_SHIFT, MAX_SHIFT + 1)
    shift = int(shifts[np.argmax(correlation[shifts])])
    moved = decoded[shift:] if shift >= 0 else np.pad(decoded, (-shift, 0))
    return fit_length(original, moved)


# -- codecs ----------------------------------------------------------------------------------------


def _opus(name: str, label: str, frame_ms: int) -> list[Codec]:
    _need("opus-tools", "opusenc", "opusdec")

    def encode(clip: np.ndarray, kbps: str) -> Coded:
        data = _convert(
            _wav(clip, RATE),
            ".wav",
            ".opus",
            "opusenc",
            "--quiet",
            "--speech",
            "--comp",
            "10",
            "--bitrate",
            kbps,
            "--framesize",
            str(frame_ms),
            "--discard-comments",
            "--padding",
            "0",
            "IN",
            "OUT",
        )
        return Coded(data, sum(ogg_packets(data)[2:]))

    def decode(data: bytes, _) -> np.ndarray:
        return from_raw(_convert(data, ".opus", ".raw", "opusdec", "--quiet", "--rate", str(RATE), "IN", "OUT"), RATE)

    version = _output("opusenc", "--version").splitlines()[0]
    return [
        Codec(
            name,
            label,
            ("6", "7", "8", "10", "12", "16", "20", "24"),
            version,
            encode,
            decode,
            align,
            scale=tuple(map(str, range(6, 65))),
        )
    ]


def opus(_) -> list[Codec]:
    return _opus("opus", "Opus", 20)


def opus_40(_) -> list[Codec]:
    return _opus("opus-40", "Opus, 40 ms frames", 40)


def _opus_packets(clip: np.ndarray, kbps: str) -> list[bytes]:
    """Packets of 40 ms by the libopus that PyAV brings, at the settings of `_opus`."""
    import av

    context = av.CodecContext.create("libopus", "w")
    context.sample_rate, context.layout, context.format = RATE, "mono", "s16"
    context.bit_rate = round(1000 * float(kbps))
    context.options = {"application": "voip", "frame_duration": "40", "vbr": "on", "compression_level": "10"}
    context.open()
    samples = np.frombuffer(to_raw(clip), "<i2")
    samples = np.pad(samples, (0, -samples.size % context.frame_size))
    packets = []
    for start in range(0, samples.size, context.frame_size):
        frame = av.AudioFrame.from_ndarray(
            samples[None, start : start + context.frame_size], format="s16", layout="mono"
        )
        frame.sample_rate, frame.pts = RATE, start
        packets += context.encode(frame)
    return [bytes(packet) for packet in packets + context.encode(None)]


def pack(packets: list[bytes]) -> Coded:
    """Packets with their lengths in 2 bytes each; the rate counts the packets."""
    return Coded(b"".join(len(packet).to_bytes(2, "little") + packet for packet in packets), sum(map(len, packets)))


def unpack(data: bytes) -> list[bytes]:
    """Invert `pack`."""
    packets, position = [], 0
    while position < len(data):
        size = int.from_bytes(data[position : position + 2], "little")
        packets.append(data[position + 2 : position + 2 + size])
        position += 2 + size
    return packets


def _opus_of_pyav(name: str, label: str, version: str, decode, settings: tuple[str, ...]) -> list[Codec]:
    import av

    if "libopus" not in av.codecs_available:
        raise Missing("this PyAV was built without libopus; pip install --force-reinstall av")
    own = f"PyAV {av.__version__}"
    return [
        Codec(
            name,
            label,
            settings,
            f"{own} {version}".strip(),
            lambda clip, kbps: pack(_opus_packets(clip, kbps)),
            decode,
            align,
            scale=tuple(map(str, range(int(settings[0]), 65))),
            coded_as=("opus-pyav", own),
        )
    ]


def opus_pyav(_) -> list[Codec]:
    def decode(data: bytes, _) -> np.ndarray:
        import av

        context = av.CodecContext.create("libopus", "r")
        context.sample_rate, context.layout = 48000, "mono"
        frames = [frame.to_ndarray() for packet in unpack(data) for frame in context.decode(av.Packet(packet))]
        return _resample(np.concatenate(frames, axis=None).astype(np.float32) / 32768, 48000, RATE)

    return _opus_of_pyav(
        "opus-pyav", "Opus, newer libopus, 40 ms frames", "", decode, ("6", "7", "8", "10", "12", "16", "20", "24")
    )


# Packets as `pack` has them on standard input, float32 at 16 kHz on standard output.
_NOLACE = """
import { OpusMLDecoder } from "@wasm-audio-decoders/opus-ml";
import { readFileSync, writeSync } from "node:fs";
const data = readFileSync(0), packets = [];
for (let at = 0; at < data.length; ) {
    const size = data.readUInt16LE(at);
    packets.push(new Uint8Array(data.subarray(at + 2, at + 2 + size)));
    at += 2 + size;
}
const decoder = new OpusMLDecoder({ channels: 1, sampleRate: 16000, speechQualityEnhancement: "nolace" });
await decoder.ready;
const { channelData, errors } = decoder.decodeFrames(packets);
if (errors.length) throw new Error(errors[0].message);
const [{ buffer, byteOffset, byteLength }] = channelData;
const samples = Buffer.from(buffer, byteOffset, byteLength);
for (let at = 0; at < samples.length; ) at += writeSync(1, samples, at);
"""
CHECKOUT = Path(__file__).resolve().parent.parent
NOLACE_PACKAGE = "@wasm-audio-decoders/opus-ml"


def opus_nolace(_) -> list[Codec]:
    _need("nodejs npm", "node")
    manifest = CHECKOUT / "node_modules" / NOLACE_PACKAGE / "package.json"
    if not manifest.exists():
        raise Missing(f"no {NOLACE_PACKAGE} here; in the checkout: npm install --no-save {NOLACE_PACKAGE}")
    version = json.loads(manifest.read_text())["version"]

    def decode(data: bytes, _) -> np.ndarray:
        done = subprocess.run(
            ["node", "--input-type=module", "-e", _NOLACE], input=data, capture_output=True, cwd=CHECKOUT
        )
        if done.returncode:
            raise ValueError(f"node failed with code {done.returncode}: {done.stderr.decode(errors='replace')[-200:]}")
        return np.frombuffer(done.stdout, "<f4")

    settings = ("8", "9", "10", "12", "16", "20", "24")
    return _opus_of_pyav("opus-nolace", "Opus, NoLACE, 40 ms frames", f"opus-ml {version}", decode, settings)


def _speex(name: str, label: str, rate: int, *options: str) -> list[Codec]:
    _need("speex", "speexenc", "speexdec")

    def encode(clip: np.ndarray, quality: str) -> Coded:
        data = _convert(
            _wav(clip, rate), ".wav", ".spx", "speexenc", "--comp", "10", "--quality", quality, *options, "IN", "OUT"
        )
        return Coded(data, sum(ogg_packets(data)[2:]))

    def decode(data: bytes, _) -> np.ndarray:
        return from_raw(_convert(data, ".spx", ".raw", "speexdec", "IN", "OUT"), rate)

    version = _output("speexenc", "--version").splitlines()[0]
    return [
        Codec(
            name,
            label,
            ("0", "1", "2", "4", "6", "8"),
            version,
            encode,
            decode,
            align,
            scale=tuple(map(str, range(11))),
        )
    ]


def speex(_) -> list[Codec]:
    return _speex("speex", "Speex, wideband", RATE, "--wideband", "--vbr")


def speex_nb(_) -> list[Codec]:
    return _speex("speex-nb", "Speex, narrowband", NARROW, "--narrowband")


def codec2(_) -> list[Codec]:
    _need("codec2", "c2enc", "c2dec")

    def encode(clip: np.ndarray, mode: str) -> Coded:
        clip = _resample(clip, RATE, NARROW)
        clip = np.pad(clip, (0, -clip.size % CODEC2_FRAME))  # it drops an incomplete frame
        return Coded(_convert(to_raw(clip), ".raw", ".bin", "c2enc", mode, "IN", "OUT"))

    def decode(data: bytes, mode: str) -> np.ndarray:
        clip = from_raw(_convert(data, ".bin", ".raw", "c2dec", mode, "IN", "OUT"), NARROW)
        return clip[CODEC2_DELAY_700C if mode == "700C" else CODEC2_DELAY :]

    modes = ("700C", "1200", "1300", "1600", "2400", "3200")
    return [Codec("codec2", "Codec2", modes, "codec2", encode, decode, fit_length)]


def _amr(name: str, label: str, encoder: str, decoder: str, rate: int, rates: tuple[str, ...]) -> list[Codec]:
    _need("ffmpeg", "ffmpeg")
    for library, listing in ((encoder, "-encoders"), (decoder, "-decoders")):
        if library not in _output("ffmpeg", "-hide_banner", listing):
            raise Missing(f"this ffmpeg lacks {library}; apt-get install libavcodec-extra")
    ffmpeg = ("ffmpeg", "-nostdin", "-hide_banner", "-loglevel", "error")

    def encode(clip: np.ndarray, bit_rate: str) -> Coded:
        data = _convert(
            _wav(clip, rate), ".wav", ".amr", *ffmpeg, "-i", "IN", "-c:a", encoder, "-b:a", bit_rate, "-f", "amr", "OUT"
        )
        return Coded(data, amr_payload(data))

    def decode(data: bytes, _) -> np.ndarray:
        return from_raw(
            _convert(data, ".amr", ".raw", *ffmpeg, "-c:a", decoder, "-i", "IN", "-f", "s16le", "OUT"), rate
        )

    version = _output("ffmpeg", "-version").splitlines()[0].split(" Copyright")[0]
    return [Codec(name, label, rates, version, encode, decode, align)]


def amr_nb(_) -> list[Codec]:
    return _amr(
        "amr-nb",
        "AMR-NB",
        "libopencore_amrnb",
        "libopencore_amrnb",
        NARROW,
        ("4750", "5150", "5900", "6700", "7400", "7950", "10200", "12200"),
    )


def amr_wb(_) -> list[Codec]:
    return _amr(
        "amr-wb",
        "AMR-WB",
        "libvo_amrwbenc",
        "libopencore_amrwb",
        RATE,
        ("6600", "8850", "12650", "15850", "19850", "23850"),
    )


BENCHMARK = Benchmark(
    kind=build_kind("speech"),
    output=Path("results/benchmark_speech"),
    codecs={
        OURS: own_codecs,
        "opus": opus,
        "opus-40": opus_40,
        "opus-pyav": opus_pyav,
        "opus-nolace": opus_nolace,
        "amr-wb": amr_wb,
        "amr-nb": amr_nb,
        "speex": speex,
        "speex-nb": speex_nb,
        "codec2": codec2,
    },
    measures=(Measure("pesq_wb", "PESQ wideband"), Measure("estoi", "ESTOI")),
    references=("opus", "amr-wb"),
    published=Path(__file__).parent / "anchors" / "speech_measured.json",
    rate_ticks=(0.3, 0.5, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50),
)


def main(argv: list[str] | None = None) -> int:
    parser = benchmark_parser(BENCHMARK, "Rate, quality and speed of this and other speech codecs on the same files.")
    return parser.run(argv, lambda options: run(BENCHMARK, options))


if __name__ == "__main__":
    sys.exit(main())
