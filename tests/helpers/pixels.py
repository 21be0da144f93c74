"""Golden files in tests/golden: the pictures of Kodak as .bpgan files, and the SHA-256 of their pixels as decoded exactly.

The first picture has a file at each of the three qualities, the others at one of them in turn. The files are of the
shipped weights. With others they are made anew, but a file that the weights still decode is kept:

    python -m tests.helpers.pixels kodak/*.png
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

from tests.helpers.scripts import ROOT
from utils.codec.codec import load_codec
from utils.codec.decoder import Decoder
from utils.codec.fingerprint import shipped
from utils.codec.settings import Settings

GOLDEN = ROOT / "tests" / "golden"
HASHES = GOLDEN / "pixels.json"
QUALITIES = (1, 4, 8)
REALISM = (0.0, 0.5, 1.0)  # of the first file; the others are decoded at 0


def cases() -> list[tuple[str, float]]:
    """Names of the golden files, and the realism at which they are decoded."""
    return [(name, float(realism)) for name, hashes in golden()["pixels"].items() for realism in hashes]


def golden() -> dict:
    """What pixels.json holds: the exact generators' fingerprints, and the hashes by file and realism."""
    return json.loads(HASHES.read_text())


def fingerprints(decoder: Decoder) -> dict[str, str]:
    return {f"{realism:g}": decoder.exact_generator(realism).fingerprint() for realism in REALISM}


def hash_of_pixels(pixels: np.ndarray) -> str:
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()


def with_transparency(pixels: np.ndarray) -> np.ndarray:
    """A gray picture (64, 80, 2) of a part of a larger one, transparent on the left."""
    gray = pixels[100:164, 200:280].mean(2).round()
    alpha = np.broadcast_to(np.linspace(0, 400, 80).clip(0, 255).round(), gray.shape)
    return np.dstack([gray, alpha]).astype(np.uint8)


def of_these_weights(decoder: Decoder, path: Path) -> bool:
    try:
        decoder.decompress(path.read_bytes())
    except ValueError:
        return False
    return True


def main(paths: list[Path]) -> None:
    if not paths:
        sys.exit("name pictures of Kodak")
    codec = load_codec(shipped("image"))
    settings = Settings.of("none", exact=True)
    files = {}
    for i, path in enumerate(paths):
        pixels = codec.kind.read(path)
        for quality in QUALITIES if i == 0 else QUALITIES[i % 3 :][:1]:
            files[f"{path.stem}_quality_{quality}.bpgan"] = (pixels, quality)
    files["gray_alpha.bpgan"] = (with_transparency(pixels), 3)
    hashes = {}
    for old in GOLDEN.glob("*.bpgan"):
        if old.name not in files or not of_these_weights(codec, old):
            old.unlink()
    for name, (pixels, quality) in files.items():
        path = GOLDEN / name
        if not path.exists():
            path.write_bytes(codec.compress(pixels, quality, settings))
        levels = REALISM if not hashes else REALISM[:1]
        data = path.read_bytes()
        hashes[name] = {f"{realism:g}": hash_of_pixels(codec.decompress(data, realism)) for realism in levels}
    HASHES.write_text(json.dumps({"fingerprints": fingerprints(codec), "pixels": hashes}, indent=2) + "\n")


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
