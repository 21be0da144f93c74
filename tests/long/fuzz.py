"""Hostile files against the decoder: each must end in the format's own error or in a whole decode.

    python -m tests.long.fuzz --files 200000
    python -m tests.long.fuzz --seed 3 --first 4711 --files 1      # one case again

Small honest files of every kind of signal and entropy coder are taken apart, changed in header and
payload, and put together with a right checksum. What is decoded is the symbols; of those that are
accepted, some go on through the generator. Cases run in forked processes, so that a crash or a loop
without end is a finding like any other. A case depends on seed and number alone.
"""

import argparse
import dataclasses
import mmap
import os
import re
import resource
import signal
import struct
import sys
import tempfile
import time
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms
from tqdm import tqdm

from tests.helpers.models import tiny_codecs
from utils.codec import bitstream
from utils.codec.bitstream import BitstreamError, FileHeader
from utils.codec.codec import Codec, load_codec
from utils.codec.limits import Limits
from utils.codec.settings import Settings
from utils.codec.tiling import latent_shape

CHUNK = 2000  # cases a process
# What a service would set: hours of sound in 59 bytes are a valid file, and take as long as they are.
LIMITS = Limits(max_pixels=4e6, max_seconds=240)
PATIENCE = 60.0  # seconds without a finished case: a loop without end
MEMORY_FACTOR = 1.5  # over an honest file of the same declared size
SLACK_BYTES = 1 << 16  # what small objects take in either
REBUILT = 100  # one of so many accepted grids goes through the generator
REBUILT_POSITIONS = 64  # if it is no larger: the generator is slow
SECONDS = 0.5  # of processor time a case may take, and ...
SECONDS_PER_SYMBOL = 2e-6  # ... for each symbol that its size declares


class Finding(Exception):
    """What a case did and must not do."""


# -- honest files ----------------------------------------------------------------------------------


def honest_files(codecs: list[Codec]) -> list[bytes]:
    """Small files of every kind and coder, blank, smooth and noisy, at several sizes and qualities."""
    rng = np.random.default_rng(0)
    files = []
    for codec in codecs:
        sizes = [(1, 1), (7, 40), (48, 33)] if codec.kind.name == "image" else [(1,), (700,), (5000,)]
        for size in sizes:
            time_axis = np.arange(size[-1]) / 9
            smooth = np.broadcast_to(np.sin(time_axis), size)
            noise = rng.uniform(-1, 1, size)
            for wave in (0 * smooth, 0.5 * smooth, 0.3 * smooth + 0.5 * noise):
                if codec.kind.name == "image":
                    original = np.repeat(np.rint(127.5 + 127.5 * wave)[..., None], 3, axis=2).astype(np.uint8)
                else:
                    original = wave.astype(np.float32)
                for coder in codec.coders:
                    for quality in (1, 4.5, 8):
                        files.append(codec.compress(original, quality, Settings.of("none", entropy_coder=coder)))
        if codec.kind.section_names:
            files += _files_with_sections(codec)
    return files


def _files_with_sections(codec: Codec) -> list[bytes]:
    """Pictures that are gray, that have transparency, and that keep their metadata."""
    rows, columns = np.mgrid[:30, :41]
    gray = (rows * 8).astype(np.uint8)
    alpha = np.clip((columns - 12) * 20, 0, 255).astype(np.uint8)
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    metadata = {"exif": exif.tobytes(), "icc": profile}
    layouts = [gray, np.dstack([gray, alpha]), np.dstack([gray, 255 - gray, gray, alpha])]
    plain = Settings.of("none")
    return [codec.compress(pixels, 3, plain, metadata=kept) for pixels in layouts for kept in ({}, metadata)] * 3


# -- hostile files ---------------------------------------------------------------------------------


def _other_size(rng: np.random.Generator, size: int) -> int:
    return int(
        [
            size + rng.integers(-2, 3),
            rng.integers(0, 64),
            size * rng.integers(2, 9),
            rng.integers(0, 1 << 14),
            2 ** rng.uniform(0, 31),
            bitstream.MAX_SIZE - rng.integers(0, 3),
            0,
        ][rng.integers(7)]
    )


def _change_header(rng: np.random.Generator, header: FileHeader, codecs: list[Codec]) -> FileHeader:
    field = bitstream.FIELDS[rng.integers(1, len(bitstream.FIELDS))]  # the version has one value
    if field.name == "sectioned":
        return dataclasses.replace(header, sections=_change_sections(rng, header.sections))
    if field.layout == "bytes":
        if rng.uniform() < 0.8:  # nearly all of these end at the fingerprint
            return header
        value = [rng.bytes(field.low), codecs[rng.integers(len(codecs))].fingerprint][rng.integers(2)]
    elif field.layout in ("varint", "default"):
        value = min(max(_other_size(rng, getattr(header, field.name)), field.low), field.high)
    else:
        value = int(rng.integers(field.low, field.high + 1))
    return dataclasses.replace(header, **{field.name: value})


def _change_sections(rng: np.random.Generator, sections: Mapping[str, bytes]) -> dict[str, bytes]:
    """One of them damaged, gone, or filled with what belongs into another."""
    names = list(bitstream.SECTIONS)
    name = names[rng.integers(len(names))]
    contents = list(sections.values()) or [b"x"]
    changed = [
        b"",
        rng.bytes(40),
        contents[rng.integers(len(contents))],
        *5 * [_change_payload(rng, contents[0], contents)],
    ]
    found = {
        **sections,
        (name if rng.uniform() < 0.3 or not sections else next(iter(sections))): changed[rng.integers(8)],
    }
    return {name: content for name, content in found.items() if content}


def _change_payload(rng: np.random.Generator, payload: bytes, others: list[bytes]) -> bytes:
    data, place = bytearray(payload), int(rng.integers(len(payload) + 1))
    length = int(min(2 ** rng.uniform(0, 8), 200))
    way = rng.integers(9)
    if way < 3 and data:  # bits, the finest damage, most often
        for _ in range(int(rng.integers(1, 4))):
            data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    elif way == 3 and data:
        data[rng.integers(len(data))] = rng.integers(256)
    elif way == 4:
        del data[place:]
    elif way == 5:
        data[place:place] = rng.bytes(length)
    elif way == 6:
        data[place : place + length] = bytes([rng.choice([0, 255, 1, 128])]) * length
    elif way == 7:
        other = others[rng.integers(len(others))]
        start = int(rng.integers(len(other) + 1))
        data[place:] = other[start:]
    else:
        data = bytearray(rng.bytes(length))
    return bytes(data)


def with_checksum(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(4, "big")


def hostile_file(seed: int, number: int, codecs: list[Codec], files: list[bytes]) -> bytes:
    """Case `number` of a seed: the same bytes every time."""
    rng = np.random.default_rng([seed, number])
    data = files[rng.integers(len(files))]
    way = rng.uniform()
    if way < 0.05:  # any byte, the checksum left as it is
        return _change_payload(rng, data, files)
    if way < 0.15:  # any byte of the header, varints too
        body = bytearray(data[:-4])
        for _ in range(int(rng.integers(1, 4))):
            body[rng.integers(2, min(len(body), 20))] = rng.integers(256)
        return with_checksum(bytes(body))
    codec = next(c for c in codecs if c.kind.code == bitstream.kind_of_file(data))
    header, payload = bitstream.unpack(data, codec.default_sizes)
    others = [other[16:-4] for other in files]
    for _ in range(int(rng.integers(1, 4))):
        if rng.uniform() < 0.4:
            header = _change_header(rng, header, codecs)
        else:
            payload = _change_payload(rng, payload, others)
    return bitstream.pack(header, payload, codec.default_sizes)


# -- one case --------------------------------------------------------------------------------------


class Judge:
    """Decodes cases and holds what honest files of the same size cost."""

    def __init__(self, codecs: list[Codec]):
        self.codecs = codecs
        self._honest: dict[tuple, int] = {}
        tracemalloc.start()

    def close(self) -> None:
        tracemalloc.stop()

    def judge(self, data: bytes, rebuild: bool) -> str:
        """-> what became of the file, a word or two. Raises Finding for what must not be."""
        try:
            code = bitstream.kind_of_file(data)
        except BitstreamError as error:
            return self._refusal(error)
        codec = next((c for c in self.codecs if c.kind.code == code), self.codecs[0])
        header = shape = None
        started = time.process_time()
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        try:
            header, payload = codec.unpack(data)
            rows, columns = codec.kind.picture_shape((header.size_a, header.size_b))
            shape = (codec.config.latent_channels, *latent_shape(rows, columns))
            _, symbols = codec.read_symbols(data)
            result = "decoded"
        except BitstreamError as error:
            result = self._refusal(error)
        except Exception as error:
            raise Finding(f"{type(error).__name__}: {error}") from error
        seconds, peak = time.process_time() - started, tracemalloc.get_traced_memory()[1] - before
        n_symbols = int(np.prod(shape)) if shape else 0
        if seconds > SECONDS + n_symbols * SECONDS_PER_SYMBOL:
            raise Finding(f"{seconds:.2f} s for {n_symbols} symbols")
        allowed = MEMORY_FACTOR * (self._honest_bytes(codec, shape) if shape else 0) + len(data) + SLACK_BYTES
        if peak > allowed:
            raise Finding(f"{peak} bytes of memory for {n_symbols} symbols, an honest file's would be {allowed:.0f}")
        if result == "decoded":
            result = self._check_sections(codec, data, header)
        if result == "decoded":
            return self._check_grid(codec, header, payload, shape, symbols, rebuild)
        return result

    @staticmethod
    def _refusal(error: BitstreamError) -> str:
        if not str(error) or "\n" in str(error):
            raise Finding(f"a message that is not one line: {error!r}")
        return "refused: " + re.split(r"[:;,]| [0-9a-f]*\d", str(error))[0]

    def _check_sections(self, codec: Codec, data: bytes, header: FileHeader) -> str:
        """What becomes of the sections, each of which is decoded."""
        if not header.sections:
            return "decoded"
        size = header.size_a, header.size_b
        started = time.process_time()
        try:
            codec.metadata(data)
            joined = codec.kind.join(np.zeros(size, np.uint8), header.sections)
        except BitstreamError as error:
            return self._refusal(error)
        except ValueError as error:
            return self._refusal(BitstreamError(str(error)))
        except Exception as error:
            raise Finding(f"in a section: {type(error).__name__}: {error}") from error
        if codec.kind.size(joined) != size:
            raise Finding(f"a section of {joined.shape}, declared {size}")
        if time.process_time() - started > SECONDS + size[0] * size[1] * SECONDS_PER_SYMBOL:
            raise Finding(f"{time.process_time() - started:.2f} s for sections of {size}")
        return "decoded"

    def _honest_bytes(self, codec: Codec, shape: tuple[int, int, int]) -> int:
        """Peak memory of decoding a blank or a noisy file of about that size, of whichever coder needs most."""
        positions = 1 << max(0, shape[1] * shape[2] - 1).bit_length()  # few sizes, each measured once
        key = codec.kind.code, positions
        if key not in self._honest:
            peaks = []
            height = min(shape[1], positions) if codec.config.latent_rows else 1
            blank = np.zeros((shape[0], height, -(-positions // height)), np.int16)
            noise = np.random.default_rng(0).integers(-1, 2, blank.shape, np.int16)
            for coder in codec.coders.values():
                for grid in (blank, noise):
                    payload, repeats = coder.encode(grid, 0)
                    before = tracemalloc.get_traced_memory()[0]
                    tracemalloc.reset_peak()
                    coder.decode(payload, grid.shape, 0, repeats)
                    peaks.append(tracemalloc.get_traced_memory()[1] - before)
            self._honest[key] = max(peaks)
        return self._honest[key]

    @staticmethod
    def _check_grid(codec, header, payload, shape, symbols, rebuild) -> str:
        if symbols.shape != shape or symbols.dtype != np.int16:
            raise Finding(f"symbols {symbols.dtype} {symbols.shape}, declared {shape}")
        coder = next(c for c in codec.coders.values() if c.code == header.coder)
        again, repeats = coder.encode(symbols, header.quality_step)
        if not np.array_equal(coder.decode(again, shape, header.quality_step, repeats), symbols):
            raise Finding("decoded symbols that the encoder cannot write")
        if rebuild and shape[1] * shape[2] <= REBUILT_POSITIONS:
            try:
                size = header.size_a, header.size_b
                flags = {"gray": bool(header.gray), "exact": bool(header.exact)}
                decoded = codec.rebuild(symbols, header.quality_step, size, header.level, **flags)
                decoded = codec.kind.join(decoded, header.sections)
            except Exception as error:
                raise Finding(f"after decoding: {type(error).__name__}: {error}") from error
            if codec.kind.size(decoded) != (header.size_a, header.size_b) or not np.isfinite(decoded).all():
                raise Finding(f"a decoded signal {decoded.shape} that is not the declared one, or not finite")
        if (again, repeats) != (payload, bool(header.repeats)):
            return "decoded, though the encoder writes it in another way"
        return "decoded"


# -- many cases ------------------------------------------------------------------------------------


def _child(judge: Judge, seed: int, numbers: range, files: list[bytes], progress: mmap.mmap, report: int) -> None:
    """Work through `numbers`; findings and counts as lines into the file descriptor `report`."""
    counts: Counter = Counter()
    with os.fdopen(report, "w") as out:
        for number in numbers:
            progress[:8] = struct.pack("<q", number)
            data = hostile_file(seed, number, judge.codecs, files)
            try:
                counts[judge.judge(data, number % REBUILT == 0)] += 1
            except Finding as finding:
                out.write(f"finding\t{number}\t{' '.join(str(finding).split())}\n")
        progress[:8] = struct.pack("<q", numbers.stop)
        for word, count in counts.items():
            out.write(f"count\t{word}\t{count}\n")
        out.write(f"peak\t-\t{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}\n")


def _wait(process: int, progress: mmap.mmap) -> str:
    """'' where the process ended well, else what happened to it."""
    last, since = None, time.monotonic()
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            if os.WIFSIGNALED(status):
                return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
            return f"exit code {os.WEXITSTATUS(status)}" if status else ""
        if bytes(progress[:8]) != last:
            last, since = bytes(progress[:8]), time.monotonic()
        elif time.monotonic() - since > PATIENCE:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return f"no end after {PATIENCE:.0f} s"
        time.sleep(0.01)


def fuzz(
    codecs: list[Codec],
    files: list[bytes],
    n_files: int,
    seed: int = 0,
    first: int = 0,
    output: Path | None = None,
    quiet: bool = True,
) -> tuple[dict[int, str], Counter, int]:
    """`files`: honest ones. -> ({case: finding}, count of each outcome, the largest process in bytes)."""
    torch.set_num_threads(1)  # forked processes have none of the parent's threads
    for data in files:  # compiles what is compiled, which would count as time and memory of the first cases
        next(c for c in codecs if c.kind.code == bitstream.kind_of_file(data)).read_symbols(data)
    judge = Judge(codecs)
    findings: dict[int, str] = {}
    counts: Counter = Counter()
    peak = 0
    try:
        for data in files:  # honest files must pass
            if judge.judge(data, True) != "decoded":
                raise AssertionError("an honest file was refused")
        start, end = first, first + n_files
        with mmap.mmap(-1, 8) as progress, tqdm(total=n_files, disable=quiet, file=sys.stderr) as bar:
            while start < end:
                numbers = range(start, min(start + CHUNK, end))
                with tempfile.TemporaryFile("w+") as report:
                    process = os.fork()
                    if not process:
                        try:
                            _child(judge, seed, numbers, files, progress, os.dup(report.fileno()))
                            os._exit(0)
                        except BaseException as error:
                            print(f"the fuzzer itself failed: {error!r}", file=sys.stderr)
                            os._exit(1)
                    fate = _wait(process, progress)
                    start = numbers.stop
                    if fate:
                        (number,) = struct.unpack("<q", progress[:8])
                        findings[number] = fate
                        start = number + 1
                    report.seek(0)
                    for line in report:
                        what, word, value = line.rstrip("\n").split("\t")
                        if what == "finding":
                            findings[int(word)] = value
                        elif what == "count":
                            counts[word] += int(value)
                        else:
                            peak = max(peak, 1024 * int(value))
                bar.update(start - numbers.start)
    finally:
        judge.close()
    if output and findings:
        output.mkdir(parents=True, exist_ok=True)
        for number, text in findings.items():
            path = output / f"{seed}-{number}.bpgan"
            path.write_bytes(hostile_file(seed, number, codecs, files))
            print(f"{path}: {text}", file=sys.stderr)
    return findings, counts, peak


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--files", type=int, default=200000, help="how many cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        nargs="+",
        default=None,
        help="trained weights; without it, tiny untrained ones are used, which are faster",
    )
    parser.add_argument("--output", type=Path, default=Path("results/fuzz"), help="where findings are kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        codecs = [load_codec(p) for p in options.checkpoint] if options.checkpoint else tiny_codecs(Path(folder))
    for codec in codecs:
        codec.kind.max_extent = LIMITS.of(codec.kind)
    started = time.monotonic()
    findings, counts, peak = fuzz(
        codecs, honest_files(codecs), options.files, options.seed, options.first, options.output, quiet=False
    )
    for word, count in counts.most_common():
        print(f"{count:>9}  {word}")
    print(
        f"{len(findings)} findings in {options.files} files, {time.monotonic() - started:.0f} s, "
        f"largest process {peak / 1e6:.0f} MB"
    )
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
