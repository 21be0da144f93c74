"""The weights in checkpoints/: they load, code the built-in samples, and beat JPEG on them."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import KINDS
from utils.batch import CHECKPOINTS
from utils.codec import load_codec
from utils.decoder import load_decoder
from utils.metrics import estoi, psnr

SIZE_LIMIT = 25_000_000     # bytes; what a repository can carry


@pytest.fixture(scope="module", params=sorted(KINDS))
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def codec(kind):
    return load_codec(CHECKPOINTS / f"{kind}.safetensors")


def jpeg(pixels: np.ndarray, at_least: int) -> tuple[int, np.ndarray]:
    """The smallest JPEG of at least that many bytes -> (its bytes, its pixels)."""
    for quality in range(1, 96):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=quality, optimize=True)
        if stream.tell() >= at_least:
            break
    return stream.tell(), np.asarray(Image.open(stream).convert("RGB"))


def test_sizes_and_card(kind):
    path = CHECKPOINTS / f"{kind}.safetensors"
    assert path.stat().st_size < SIZE_LIMIT
    card = path.with_suffix(".md").read_text()
    assert load_decoder(path).fingerprint.hex() in card and "train.py" in card


@pytest.mark.parametrize("coder", ["context", "huffman"])
def test_samples_at_rising_qualities(codec, coder):
    """Better quality costs more and looks or sounds better; a receiver decodes the same."""
    path = codec.signal.samples()[0]
    original = codec.signal.read(path)
    receiver = load_decoder(CHECKPOINTS / f"{codec.signal.name}.safetensors")
    score = psnr if codec.signal.name == "image" else estoi
    sizes, scores = [], []
    for quality in (1, 4, 8):
        data = codec.compress(original, quality, "none", entropy_coder=coder)
        decoded = receiver.decompress(data)
        sizes.append(len(data))
        scores.append(score(original, decoded))
    assert sizes == sorted(set(sizes)) and scores == sorted(scores)


def test_beats_jpeg_at_the_same_bytes():
    codec = load_codec(CHECKPOINTS / "image.safetensors")
    for path in codec.signal.samples():
        original = codec.signal.read(path)
        data = codec.compress(original, 3, "none")
        n_bytes, rival = jpeg(original, len(data))
        assert n_bytes >= len(data)
        assert psnr(original, codec.decompress(data)) > psnr(original, rival), Path(path).name


def test_search_pays():
    """Forty iterations on a real photograph save a fiftieth of distortion plus rate, or more."""
    codec = load_codec(CHECKPOINTS / "image.safetensors")
    original = codec.signal.read(codec.signal.samples()[0])[:192, :192]
    assert codec.encode(original, 3, "admm", iterations=40).bits_saved > 0.02
