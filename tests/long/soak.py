"""Compress and decompress over and over in one process: memory must stay flat.

    python -m tests.long.soak --minutes 60

Pictures and clips of ever other sizes, qualities, coders and searches. After a warm-up of a tenth of
the time the resident memory may grow by 2 percent.
"""

import argparse
import gc
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from tests.helpers.models import tiny_codecs
from utils.codec.codec import Codec, load_codec
from utils.codec.settings import Settings

ALLOWED_GROWTH = 0.02
WARM_UP = 0.1  # of the time
LEAST_ROUNDS = 20
MAX_SIDE = 160  # pixels
MAX_SAMPLES = 24000


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def round_trip(codecs: list[Codec], number: int, folder: Path) -> None:
    """Signal `number`: compressed, decompressed, written; every fifth time a damaged file too.

    The first one is the largest: what its size needs is part of the warm-up.
    """
    rng = np.random.default_rng(number)
    for codec in codecs:
        if codec.kind.name == "image":
            height, width = rng.integers(1, MAX_SIDE, 2) if number else (MAX_SIDE, MAX_SIDE)
            original = rng.integers(0, 256, (height, width, 3), np.uint8)
        else:
            n_samples = rng.integers(1, MAX_SAMPLES) if number else MAX_SAMPLES
            original = rng.uniform(-0.5, 0.5, n_samples).astype(np.float32)
        coder = list(codec.coders)[number % len(codec.coders)]
        data = codec.compress(
            original,
            1 + rng.integers(0, 225) / 32,
            Settings.of(str(rng.choice(["none", "admm"])), 3, entropy_coder=coder),
        )
        codec.kind.write(folder / f"decoded{codec.kind.output_suffix}", codec.decompress(data))
        if number % 5 == 0:
            try:
                codec.decompress(data[:-1])
            except ValueError:
                continue
            raise AssertionError("a cut file was decoded")


def soak(codecs: list[Codec], seconds: float, folder: Path, report=print) -> tuple[int, int, int]:
    """At least `LEAST_ROUNDS`, however short the time.

    -> (rounds, resident bytes after the warm-up, the most after that, both after a collection of garbage).
    """
    began = last = time.monotonic()
    rounds = warm = peak = 0
    while time.monotonic() < began + seconds or rounds < LEAST_ROUNDS:
        round_trip(codecs, rounds, folder)
        rounds += 1
        now = time.monotonic()
        if now > began + WARM_UP * seconds and rounds % 5 == 0:
            gc.collect()
            resident = resident_bytes()
            warm = warm or resident
            peak = max(peak, resident)
            if now > last + 60:
                last = now
                report(f"{(now - began) / 60:5.1f} min, {rounds} rounds, {resident / 1e6:.1f} MB")
    return rounds, warm, peak


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument(
        "--checkpoint",
        type=Path,
        nargs="+",
        default=None,
        help="trained weights; without it, tiny untrained ones are used",
    )
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        codecs = [load_codec(p) for p in options.checkpoint] if options.checkpoint else tiny_codecs(Path(folder))
        rounds, warm, peak = soak(codecs, 60 * options.minutes, Path(folder), lambda text: print(text, flush=True))
    growth = peak / warm - 1 if warm else float("nan")
    print(
        f"{rounds} rounds; {warm / 1e6:.1f} MB after the warm-up, at most {peak / 1e6:.1f} MB after it: {growth:+.1%}"
    )
    return 0 if growth <= ALLOWED_GROWTH else 1


if __name__ == "__main__":
    sys.exit(main())
