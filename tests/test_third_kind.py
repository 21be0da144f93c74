"""A third kind of signal is one class and one line: an electrocardiogram, from its files to scores and back."""

import inspect
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

import Compression_ADMM
import Decompression
from data import KINDS, Kind, build_kind, kind_of
from data.corpora import default_dataroot
from data.dataset import PictureSet
from models.bpgan import BPGAN
from models.config import ModelConfig
from tests.helpers.models import randomize_context
from tests.helpers.scripts import one_line, table
from utils.codec.checkpoint import Checkpoint, save_checkpoint
from utils.codec.codec import load_codec
from utils.codec.limits import Limits, limit_names
from utils.codec.settings import Settings
from utils.codec.targets import Target
from utils.files import replacing
from utils.training.fitting import fit_coders

SMALL = {f"{part}_{size}": (n,) * 3 for part in ("encoder", "generator") for size, n in (("widths", 16), ("depths", 1))}


class EcgKind(Kind):
    """One lead, int16 (n,) at 500 Hz; the picture has 16 samples a column. A level is 128 units of amplitude."""

    name, code, channels, rate_unit = "ecg", 2, 1, "bps"
    suffixes, output_suffix, usual_size_b = (".ecg",), ".ecg", 500
    metric_names, lower_is_better = ("prd",), ("prd",)
    extent_unit, max_extent = "samples", 500 * 3600 * 24
    settings: ClassVar = {}
    network: ClassVar = dict(in_channels=1, latent_channels=16, latent_rows=1, context_groups=(4, 4, 8), **SMALL)
    folders: ClassVar = {"train": "ecg/train", "val": "ecg/val"}
    crop_shape, storage, stretch = (16, 64), "float16", (1.0, 1.0)

    def read(self, path):
        if Path(path).stat().st_size < 2:
            raise ValueError(f"{path}: no samples")
        return np.fromfile(path, "<i2")

    def write(self, path, signal):
        with replacing(path) as temporary:
            signal.astype("<i2").tofile(temporary)

    def size(self, signal):
        return len(signal), 500

    def picture_shape(self, size):
        return 16, -(-size[0] // 16)

    def to_picture(self, signal):
        level = max(1, -(-int(np.abs(signal.astype(int)).max()) // 128))
        padded = np.pad(signal, (0, -len(signal) % 16), mode="edge")
        return (padded.reshape(1, -1, 16).transpose(0, 2, 1) / (128 * level)).astype(np.float32), min(level, 255)

    def from_picture(self, picture, size, level):
        samples = picture[0].T.reshape(-1)[: size[0]].clip(-1, 1) * (128 * level)
        return np.rint(samples).clip(-32768, 32767).astype(np.int16)

    def extent(self, size):
        return size[0]

    def rate(self, n_bytes, size):
        return 8 * n_bytes * size[1] / size[0]

    def score(self, original, decoded):
        difference = original.astype(float) - decoded
        return {"prd": 100 * float(np.sqrt((difference**2).sum() / (original.astype(float) ** 2).sum()))}

    def samples(self):
        return []

    def augment(self, crop, rng):
        return crop


def heartbeat(n: int) -> np.ndarray:
    """A spike, a wave and a wander of the baseline, 70 times a minute."""
    time = np.arange(n) / 500
    phase = time * 70 / 60 % 1
    wave = np.exp(-(((phase - 0.3) / 0.015) ** 2)) + 0.25 * np.exp(-(((phase - 0.55) / 0.06) ** 2))
    return np.rint(9000 * (wave + 0.05 * np.sin(time))).astype(np.int16)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two recordings where BPGAN_DATA has them, and the one line in data/__init__.py."""
    monkeypatch.setitem(KINDS, "ecg", (__name__, "EcgKind"))
    monkeypatch.setenv("BPGAN_DATA", str(tmp_path))
    folder = tmp_path / "ecg" / "train"
    folder.mkdir(parents=True)
    for number, n in enumerate((4000, 4321)):
        heartbeat(n).tofile(folder / f"{number}.ecg")
    return folder


@pytest.fixture
def checkpoint(folder, tmp_path):
    """An untrained model of the kind's own sizes, its tables fitted to the recordings."""
    kind = build_kind("ecg")
    data = PictureSet(kind, kind.list_files(default_dataroot("ecg", "train"), "train"), progress=False)
    torch.manual_seed(0)
    model = BPGAN(ModelConfig(signal="ecg", **kind.network)).requires_grad_(False)
    randomize_context(model.context)
    tables, _ = fit_coders(model, [data.batch(2, np.random.default_rng(0))])
    path = tmp_path / "ecg.safetensors"
    save_checkpoint(path, Checkpoint(model.config, {}, model.state_dict(), None, None, tables, "context"))
    return path


def test_it_is_one_class_and_one_line():
    assert len(inspect.getsource(EcgKind).splitlines()) < 60


def test_there_and_back_with_targets_and_limits(checkpoint, folder):
    codec, signal = load_codec(checkpoint), heartbeat(4321)
    encoded = codec.encode(signal, 5, Settings.of("admm", 3))
    decoded = codec.decompress(encoded.data)
    assert kind_of(folder / "0.ecg") == "ecg" and decoded.dtype == np.int16 and decoded.shape == signal.shape
    forms = [folder / "1.ecg", torch.from_numpy(signal)]  # what every kind takes without a line of its own
    assert codec.compress([signal, *forms], 5, "none") == 3 * [codec.compress(signal, 5, "none")]
    with pytest.raises(ValueError, match="ecg has no sample rate"):
        codec.compress(signal, sample_rate=250)
    rates = [codec.kind.rate(len(codec.compress(signal, q, "none")), (4321, 500)) for q in (1, 8)]
    met = codec.encode(signal, Target("bps", sum(rates) / 2), Settings.of("admm", 2))
    assert codec.kind.rate(len(met.data), (4321, 500)) <= sum(rates) / 2
    with pytest.raises(ValueError, match="a target can be bytes, bps, prd"):
        codec.encode(signal, Target("psnr_db", 30.0))
    with pytest.raises(ValueError, match="ms_ssim is not for ecg: possible are mse, perceptual$"):
        codec.encode(signal, 3, Settings.of(objective="ms_ssim"))
    assert "max_samples" in limit_names()
    with pytest.raises(ValueError, match="too large: 4321 samples, the limit is 4320: raise it with --max_samples"):
        load_codec(checkpoint, limits=Limits(max_samples=4320)).decompress(encoded.data)


@pytest.mark.slow
def test_the_scripts_know_it(run, checkpoint, folder, tmp_path):
    arguments = ("--checkpoint", checkpoint, "--output", tmp_path / "out")
    code, out, err = run(
        Compression_ADMM, "--input", folder, "--iterations", 2, "--report", *arguments, checkpoint=False
    )
    assert code == 0, err
    header, rows = table(tmp_path / "out" / "metrics.csv")
    assert {"bps", "prd"} < set(header) and len(rows) == 2 and "bps" in out
    assert (tmp_path / "out" / "report.html").is_file()
    code, _, err = run(
        Decompression,
        "--input",
        tmp_path / "out" / "0.bpgan",
        "--checkpoint",
        checkpoint,
        "--output",
        tmp_path / "decoded",
        checkpoint=False,
    )
    assert code == 0, err
    assert (tmp_path / "decoded" / "0.ecg").read_bytes() == (tmp_path / "out" / "0.ecg").read_bytes()
    (folder / "empty.ecg").touch()
    code, _, err = run(
        Compression_ADMM, "--input", folder / "empty.ecg", "--search", "none", *arguments, checkpoint=False
    )
    one_line(code, err, "empty.ecg", "no samples")
