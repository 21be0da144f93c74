"""The code of docs/extending.md does what the page says."""

import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_checkpoint

import data
from data import kind_of
from utils import entropy
from utils.codec.checkpoint import save_checkpoint
from utils.codec.codec import Codec, load_codec
from utils.codec.settings import Settings
from utils.search import config, optimize
from utils.search.objectives import clamped_squared_error

PAGE = Path(__file__).resolve().parent.parent / "docs" / "extending.md"


@pytest.fixture
def page(monkeypatch) -> dict:
    """The names that all blocks of the page define, its registrations undone afterwards."""
    for module, name in ((entropy, "CODERS"), (config, "PRESETS"), (optimize, "SOLVERS")):
        for entry in list(getattr(module, name)):
            monkeypatch.setitem(getattr(module, name), entry, getattr(module, name)[entry])
    before = {id(r): set(r) for r in (entropy.CODERS, config.PRESETS, optimize.SOLVERS)}
    module = types.ModuleType("extending")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    exec(compile("\n".join(blocks), PAGE.name, "exec"), vars(module))
    for name in ("extending", "utils.entropy.backwards"):
        monkeypatch.setitem(sys.modules, name, module)
    yield vars(module)
    for registry in (entropy.CODERS, config.PRESETS, optimize.SOLVERS):
        for name in set(registry) - before[id(registry)]:
            del registry[name]


def codec_of(path: Path) -> Codec:
    """A tiny codec whose tables are fitted now, so for every coder that is registered."""
    save_checkpoint(path, tiny_checkpoint("image"))
    return load_codec(path)


def test_the_metric(page, ramp_image):
    kind = page["ImageKindWithMae"]()
    brighter = np.where(ramp_image < 255, ramp_image + 1, 254).astype(np.uint8)
    scores = kind.score(ramp_image, brighter)
    assert tuple(scores) == kind.metric_names and scores["mae"] == 1


def test_the_kind(page, tmp_path, monkeypatch):
    monkeypatch.setitem(data.KINDS, "seismogram", ("extending", "SeismogramKind"))
    kind = data.build_kind("seismogram")
    traces = np.sin(np.arange(40 * 50) / 9).reshape(40, 50).astype(np.float32)
    kind.write(tmp_path / "a.npy", traces)
    assert kind_of(tmp_path / "a.npy") == "seismogram" and kind.list_files(tmp_path, "test") == [tmp_path / "a.npy"]
    signal = kind.read(tmp_path / "a.npy")
    picture, level = kind.to_picture(signal)
    assert picture.shape == (kind.channels, *kind.picture_shape(kind.size(signal)))
    padded = np.pad(picture, ((0, 0), (0, 8), (0, 14)))
    assert np.array_equal(kind.from_picture(padded, kind.size(signal), level), traces)
    assert kind.rate(250, (40, 50)) == 1 and kind.score(traces, 0.9 * traces)["snr_db"] == pytest.approx(20, abs=1e-3)
    kind.write(tmp_path / "b.npy", 2 * traces)
    with pytest.raises(ValueError, match=re.escape("in [-1, 1]")):
        kind.read(tmp_path / "b.npy")


def test_the_coder(page, ramp_image, tmp_path):
    codec = codec_of(tmp_path / "image.safetensors")
    backwards = codec.compress(ramp_image, 3, Settings.of("none", entropy_coder="backwards"))
    usual = codec.compress(ramp_image, 3, Settings.of("none", entropy_coder="context"))
    assert backwards != usual and len(backwards) == len(usual)
    assert np.array_equal(codec.decompress(backwards), codec.decompress(usual))


def test_the_method(page, ramp_image, codecs, monkeypatch):
    monkeypatch.setattr(config, "METHODS", tuple(config.PRESETS))
    encoded = codecs["image"].encode(ramp_image, 3, Settings.of("flips"))
    assert encoded.search == "flips" and encoded.iterations == 20
    assert encoded.bits_saved > 0


def test_the_distortion(page):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 8, 8, generator=generator) * 1.8 - 0.9
    near = (x + 1e-3).requires_grad_()
    distortion = page["log_cosh"](x, near)
    assert distortion.shape == (2,)
    torch.testing.assert_close(distortion, clamped_squared_error(x, near), rtol=1e-2, atol=0)
    (gradient,) = torch.autograd.grad(distortion.sum(), near)
    assert (gradient > 0).all()
    assert page["log_cosh"](x, -x).sum() < clamped_squared_error(x, -x).sum() / 2
