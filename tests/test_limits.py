"""Limits: a small file that declares a large signal is refused by its header, and the encoder has the same limit."""

import math
import re
import tracemalloc

import numpy as np
import pytest
import soundfile
from PIL import Image

import Compression_ADMM
import Decompression
import test as evaluate
from data import KINDS, build_kind, kind_class
from utils.codec import bitstream
from utils.codec.bitstream import BitstreamError
from utils.codec.codec import load_codec
from utils.codec.decoder import load_decoder
from utils.codec.limits import Limits, limit_names
from utils.codec.tiling import latent_shape

pytestmark = pytest.mark.slow


def declared(codec, size: tuple[int, int]) -> bytes:
    """A file of 30 bytes or so that declares a size, and whose every check up to it holds."""
    header = bitstream.FileHeader(codec.kind.code, 1, 0, codec.fingerprint, *size)
    return bitstream.pack(header, bytes(12), codec.default_sizes)


@pytest.fixture
def untouched(monkeypatch):
    """Nothing may be decoded."""
    monkeypatch.setattr("utils.entropy.coders.Coder.decode", lambda *_: pytest.fail("decoded"))


@pytest.mark.parametrize(
    "name, most, within, beyond",
    [
        ("image", {"max_pixels": 10_000}, (100, 100), (100, 101)),
        ("image", {"max_pixels": 10_000}, (1, 625), (1, 626)),  # a line is padded to 16 rows
        ("image", {"max_pixels": math.inf}, (65536, 32767), None),
        ("image", {}, (8000, 16000), (8000, 16001)),
        ("image", {"max_seconds": 1}, (8000, 16000), (8000, 16001)),  # of another kind
        ("speech", {"max_seconds": 1.5}, (24000, 16000), (24001, 16000)),
        ("speech", {}, (4 * 3600 * 16000, 16000), (4 * 3600 * 16000 + 1, 16000)),
    ],
)
def test_the_header_decides(tiny_checkpoints, untouched, name, most, within, beyond):
    decoder = load_decoder(tiny_checkpoints[name], limits=Limits(**most))
    option = f"max_{decoder.kind.extent_unit}"
    header, _ = decoder.unpack(declared(decoder, within))
    assert (header.size_a, header.size_b) == within
    if beyond is None:
        return
    data = declared(decoder, beyond)
    assert len(data) < 40
    tracemalloc.start()
    with pytest.raises(BitstreamError, match=rf"^too large: .*--{option}, in Python with Limits\({option}=") as error:
        decoder.decompress(data)
    assert "\n" not in str(error.value) and tracemalloc.get_traced_memory()[1] < 1 << 16
    tracemalloc.stop()


@pytest.mark.parametrize("name, most", [("image", {"max_pixels": 6000}), ("speech", {"max_seconds": 0.5})])
def test_the_encoder_has_the_same_limit(tiny_checkpoints, untouched, tmp_path, name, most):
    """What is read, what is encoded from an array and what is decoded are bounded by one number."""
    limited, free = (load_codec(tiny_checkpoints[name], limits=limits) for limits in (Limits(**most), None))
    if name == "image":
        small, large = np.zeros((60, 100, 3), np.uint8), np.zeros((61, 100, 3), np.uint8)
        path = tmp_path / "large.png"
        Image.fromarray(large).save(path)
    else:
        small, large = np.zeros(8000, np.float32), np.zeros(8001, np.float32)
        path = tmp_path / "large.wav"
        soundfile.write(path, large, 16000)
    assert limited.unpack(limited.compress(small, 3, "none"))
    for refused in (lambda: limited.compress(large, 3, "none"), lambda: limited.kind.read(path)):
        with pytest.raises(ValueError, match=f"too large: .*--max_{limited.kind.extent_unit}"):
            refused()
    assert free.unpack(free.compress(free.kind.read(path), 3, "none"))
    assert type(free.kind).max_extent == free.kind.max_extent  # no codec's limit is another's


@pytest.mark.parametrize("name, size", [("image", (6400, 6400)), ("speech", (3600 * 16000, 16000))])
def test_a_blank_signal_of_any_size_comes_back(codecs, name, size):
    """Its file has a few bytes, so that no size can be refused for its payload alone."""
    codec = codecs[name]
    blank = np.zeros((codec.config.latent_channels, *latent_shape(*codec.kind.picture_shape(size))), np.int16)
    payload, repeats = codec.coders["context"].encode(blank, 0)
    header = bitstream.FileHeader(codec.kind.code, 1, 0, codec.fingerprint, *size, repeats=int(repeats))
    data = bitstream.pack(header, payload, codec.default_sizes)
    assert len(data) < 500
    assert np.array_equal(codec.read_symbols(data)[1], blank)


def test_mistakes_are_named():
    assert set(limit_names()) == {f"max_{kind_class(name).extent_unit}" for name in KINDS}
    with pytest.raises(ValueError, match="max_pixel is not a limit: these are max_pixels, max_seconds"):
        Limits(max_pixel=5)
    for value in (0, -1, math.nan):
        with pytest.raises(ValueError, match="max_seconds .* is not a positive number"):
            Limits(max_seconds=value)
    assert repr(Limits(max_pixels=1e6, max_seconds=None)) == "Limits(max_pixels=1e+06)"


@pytest.mark.slow
@pytest.mark.parametrize("module", [Compression_ADMM, evaluate, Decompression], ids=lambda module: module.__name__)
def test_the_scripts_have_the_options(run, codecs, tmp_path, module):
    """One line that names the option, and no limit of one kind is another's."""
    sources = tmp_path / "in"
    sources.mkdir()
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(sources / "a.png")
    soundfile.write(sources / "b.wav", np.zeros(8000), 16000)
    if module is Decompression:
        for path, name in ((sources / "a.png", "image"), (sources / "b.wav", "speech")):
            path.with_suffix(".bpgan").write_bytes(codecs[name].compress(build_kind(name).read(path), 3, "none"))
            path.unlink()
    more = ("--search", "none") if module is Compression_ADMM else ()
    for option, most, refused in (("--max_pixels", 1199, "a."), ("--max_seconds", 0.49, "b.")):
        output = tmp_path / option
        code, _, err = run(module, "--input", sources, "--output", output, option, most, *more)
        (line,) = (line for line in re.split("[\r\n]+", err) if line.startswith("error: ") and "too large" in line)
        assert code == 1 and refused in line and option in line and "Traceback" not in err
        again = tmp_path / f"{option}-again"
        code, _, err = run(module, "--input", sources, "--output", again, option, most * 1.1, *more)
        assert code == 0, err
