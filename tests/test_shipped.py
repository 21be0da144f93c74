"""The weights in checkpoints/: they load, code the built-in samples, and beat JPEG on them."""

import functools
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import KINDS
from utils.codec.codec import Codec, load_codec
from utils.codec.decoder import load_decoder
from utils.codec.fingerprint import CHECKPOINTS
from utils.codec.settings import Settings
from utils.codec.targets import Target
from utils.metrics import estoi, ms_ssim, psnr

pytestmark = pytest.mark.slow

LEAST_SAVED = 0.15  # of the bytes, by weights for MS-SSIM at more of it
SIZE_LIMIT = 25_000_000  # bytes; what a repository can carry


SHIPPED = sorted(path.stem for path in CHECKPOINTS.glob("*.safetensors"))


@pytest.fixture(scope="module", params=SHIPPED)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def codec(name):
    return codec_of(name)


@functools.cache
def codec_of(name: str) -> Codec:
    return load_codec(CHECKPOINTS / f"{name}.safetensors")


def score_of(codec: Codec, original: np.ndarray, decoded: np.ndarray) -> float:
    """By what the weights are trained for."""
    score = estoi if codec.kind.name == "speech" else {"mse": psnr, "ms_ssim": ms_ssim}[codec.config.objective]
    return score(original, decoded)


def jpeg(pixels: np.ndarray, at_least: int) -> tuple[int, np.ndarray]:
    """The smallest JPEG of at least that many bytes -> (its bytes, its pixels)."""
    for quality in range(1, 96):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=quality, optimize=True)
        if stream.tell() >= at_least:
            break
    return stream.tell(), np.asarray(Image.open(stream).convert("RGB"))


def test_all_are_there():
    assert set(SHIPPED) >= {*KINDS, "image_ms_ssim"}
    assert codec_of("image_ms_ssim").config.objective == "ms_ssim"


def test_sizes_and_card(name):
    path = CHECKPOINTS / f"{name}.safetensors"
    assert path.stat().st_size < SIZE_LIMIT
    card = path.with_suffix(".md").read_text()
    assert load_decoder(path).fingerprint.hex() in card and "train.py" in card


@pytest.mark.parametrize("coder", ["context", "huffman"])
def test_samples_at_rising_qualities(codec, name, coder):
    """Better quality costs more and looks or sounds better; a receiver decodes the same."""
    original = codec.kind.read(codec.kind.samples()[0])
    original = original[:256, :256] if codec.kind.name == "image" else original[:32000]
    receiver = load_decoder(CHECKPOINTS / f"{name}.safetensors")
    sizes, scores = [], []
    for quality in (1, 4, 8):
        data = codec.compress(original, quality, Settings.of("none", entropy_coder=coder))
        decoded = receiver.decompress(data)
        sizes.append(len(data))
        scores.append(score_of(codec, original, decoded))
    assert sizes == sorted(set(sizes)) and scores == sorted(scores)


def test_beats_jpeg_at_the_same_bytes():
    codec = codec_of("image")
    for path in codec.kind.samples():
        original = codec.kind.read(path)
        data = codec.compress(original, 3, "none")
        n_bytes, rival = jpeg(original, len(data))
        assert n_bytes >= len(data)
        assert psnr(original, codec.decompress(data)) > psnr(original, rival), Path(path).name


@pytest.mark.parametrize("kind, least", [("image", 0.045), ("speech", 0.07)])  # seen: 0.061, 0.095
def test_search_pays(kind, least):
    """25 iterations on a real photograph and a sentence save this much of distortion plus rate, and more than annealing."""
    codec = codec_of(kind)
    original = codec.kind.read(codec.kind.samples()[0])
    original = original[:192, :192] if kind == "image" else original[:24000]
    saved = codec.encode(original, 3, Settings.of("admm", 25)).bits_saved
    assert saved > least
    assert saved > codec.encode(original, 3, Settings.of("sga", 25)).bits_saved + 0.02


@pytest.mark.parametrize("quality, least", [(1, 0.04), (2, 0.06), (8, 0.07)])  # seen: 0.056, 0.081, 0.094
def test_search_pays_at_the_ends_of_the_range(quality, least):
    """On a detailed crop, where a wrong curvature leads astray: with a probe of half a step quality 1 saves 0.028."""
    codec = codec_of("image")
    original = codec.kind.read(codec.kind.samples()[0])[:256, :256]
    assert codec.encode(original, quality, Settings.of("admm", 15)).bits_saved > least


def test_weights_for_ms_ssim_are_better_at_it():
    """On a photograph, without search: more of it than the usual weights have, for fewer bytes."""
    codec, usual = codec_of("image_ms_ssim"), codec_of("image")
    original = codec.kind.read(codec.kind.samples()[0])
    for quality in (2, 5):
        data = usual.compress(original, quality, "none")
        fewer = codec.compress(original, Target("bytes", int((1 - LEAST_SAVED) * len(data))), "none")
        assert ms_ssim(original, codec.decompress(fewer)) > ms_ssim(original, usual.decompress(data))


@pytest.mark.parametrize("name", ["image", "image_ms_ssim"])
@pytest.mark.parametrize("color", [(200, 80, 40), (255, 255, 255), (0, 0, 0), (128, 128, 128), (30, 60, 200)])
def test_a_blank_picture_is_tiny(name, color):
    codec = codec_of(name)
    blank = np.zeros((256, 384, 3), np.uint8) + np.array(color, np.uint8)
    for quality in (1, 2):
        for coder in ("context", "huffman"):
            data = codec.compress(blank, quality, Settings.of("none", entropy_coder=coder))
            assert len(data) < 80, coder
        # the lowest qualities are a few gray levels off in saturated colors
        assert np.abs(codec.decompress(data).astype(int) - blank).mean() < 8


def test_more_silence_adds_next_to_nothing():
    codec = codec_of("speech")
    speech = codec.kind.read(codec.kind.samples()[0])
    for quality in (1, 3, 5):
        sizes = [
            len(codec.compress(np.concatenate([speech, np.zeros(16000 * seconds, np.float32)]), quality, "none"))
            for seconds in (1, 2, 3, 6)
        ]
        assert max(np.diff(sizes)) < 20


def test_huffman_is_close_to_context(codec):
    signal = codec.kind.read(codec.kind.samples()[0])
    for quality in (2, 6):
        context, huffman = (
            len(codec.compress(signal, quality, Settings.of("none", entropy_coder=name)))
            for name in ("context", "huffman")
        )
        assert context < huffman < 1.12 * context
