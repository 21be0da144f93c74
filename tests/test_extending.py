"""The code of docs/extending.md does what the page says."""

import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import Compression_ADMM
import data
from data import kind_of
from tests.helpers.models import tiny_checkpoint
from tests.helpers.scripts import ROOT
from utils import entropy
from utils.codec.checkpoint import save_checkpoint
from utils.codec.codec import Codec, load_codec
from utils.codec.settings import Settings
from utils.search import config
from utils.search.objectives import Reference, clamped_squared_error

PAGE = ROOT / "docs" / "extending.md"


@pytest.fixture
def page(monkeypatch) -> dict:
    """The names that all blocks of the page define, its registrations undone afterwards."""
    registries = (entropy.CODERS, config.METHODS, config.OBJECTIVES)
    before = [dict(registry) for registry in registries]
    module = types.ModuleType("extending")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    exec(compile("\n".join(blocks), PAGE.name, "exec"), vars(module))
    for name in ("extending", "utils.entropy.backwards", "utils.search.flips", "utils.search.log_cosh"):
        monkeypatch.setitem(sys.modules, name, module)
    yield vars(module)
    for registry, entries in zip(registries, before):
        registry.clear()
        registry.update(entries)


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


def test_the_method(page, ramp_image, codecs):
    encoded = codecs["image"].encode(ramp_image, 3, Settings.of("flips"))
    assert encoded.search == "flips" and encoded.iterations == 20
    assert encoded.bits_saved > 0


def test_the_distortion(page):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 8, 8, generator=generator) * 1.8 - 0.9
    near = (x + 1e-3).requires_grad_()
    log_cosh = page["LogCosh"](Reference(x, lambda: near, lambda x: None, list, list))
    distortion = log_cosh(x, near)
    assert distortion.shape == (2,)
    torch.testing.assert_close(distortion, clamped_squared_error(x, near), rtol=1e-2, atol=0)
    (gradient,) = torch.autograd.grad(distortion.sum(), near)
    assert (gradient > 0).all()
    assert log_cosh(x, -x).sum() < clamped_squared_error(x, -x).sum() / 2


def test_the_distortion_is_searched_for(page, ramp_image, codecs):
    assert "log_cosh" in codecs["speech"].objectives
    encoded = codecs["image"].encode(ramp_image, 3, Settings.of("admm", 5, "log_cosh"))
    assert encoded.bits_saved > 0


@pytest.mark.slow
def test_command_lines_offer_what_is_registered(page, ramp_image, run, tmp_path):
    Image.fromarray(ramp_image).save(tmp_path / "a.png")
    words = ("--search", "flips", "--objective", "log_cosh", "--iterations", 2)
    code, _, err = run(Compression_ADMM, tmp_path / "a.png", tmp_path / "a.bpgan", *words)
    assert code == 0 and (tmp_path / "a.bpgan").is_file(), err
