"""The command that gives a checkpoint the tables of one more coder, and a coder that is one module: this one."""

import subprocess
import sys
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numba import njit
from PIL import Image

from tests.helpers.models import tiny_checkpoint
from tests.helpers.scripts import ROOT
from utils.codec.checkpoint import load_checkpoint, save_checkpoint
from utils.codec.codec import load_codec
from utils.codec.settings import Settings
from utils.entropy import CODERS, coder_class
from utils.entropy.coders import ESCAPE, MAX_RADIUS, Coder, ResidualTables
from utils.entropy.integer_network import COMPLETE, ENDS_EARLY, LEFT_OVER, N_ROWS, reads, walk
from utils.training import fitting


@dataclass(eq=False)
class PlainTables(ResidualTables):
    radius: np.ndarray

    def check(self):
        if self.radius.shape != (N_ROWS,):
            raise ValueError(f"plain tables: radius is {self.radius.shape}")

    @property
    def costs(self):
        return np.full((N_ROWS, ESCAPE + 1), 32, np.float32)


class PlainSource(NamedTuple):
    residuals: np.ndarray  # int32


@reads(PlainSource)
def _residual(source, position, row, center):
    if position >= len(source.residuals):
        return np.int64(0), np.int64(-ENDS_EARLY)
    return np.int64(source.residuals[position]), position + 1


@njit
def _decode(symbols, modes, network, source):
    position = walk(symbols, modes, network, source, np.int64(0))
    if position < 0:
        return -position
    return COMPLETE if position == len(source.residuals) else LEFT_OVER


class PlainCoder(Coder):
    """32 bits for each residual."""

    name, code, tables_class = "plain", 2, PlainTables

    @classmethod
    def fit(cls, coded):
        assert sum(len(residuals) for residuals, _ in coded) > 0
        return PlainTables(np.full(N_ROWS, MAX_RADIUS, np.int32))

    def _encode(self, residuals, rows):
        return residuals.astype(np.int32).view(np.uint8)

    def _decode(self, data, symbols, modes, network):
        return LEFT_OVER if len(data) % 4 else _decode(symbols, modes, network, PlainSource(data.view(np.int32)))


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A checkpoint with the tables of all coders but PlainCoder, and a folder of training pictures."""
    save_checkpoint(tmp_path / "trained.safetensors", tiny_checkpoint("image"))
    (tmp_path / "train").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    Image.fromarray(noise).resize((280, 270)).save(tmp_path / "train" / "a.png")
    monkeypatch.setitem(CODERS, "plain", (__name__, "PlainCoder"))
    monkeypatch.setattr(fitting, "FITTING_BATCHES", 2)
    monkeypatch.setattr(fitting, "FITTING_CROPS", 1)
    return tmp_path


def fit(folder, *more, output="more.safetensors", coder="plain") -> int:
    arguments = [folder / "trained.safetensors", "--coder", coder, "--output", folder / output]
    return fitting.main([*map(str, arguments), "--dataroot", str(folder / "train"), *more])


@pytest.mark.slow
def test_a_checkpoint_gets_the_tables_of_a_new_coder(files, capsys):
    assert fit(files) == 0 and "more.safetensors" in capsys.readouterr().out
    before, after = (load_checkpoint(files / f"{name}.safetensors") for name in ("trained", "more"))
    assert set(after.tables) == {*before.tables, "plain"} and after.default_coder == before.default_coder
    for name, tensor in before.model.items():
        assert torch.equal(tensor, after.model[name]), name
    for name, arrays in before.tables.items():
        for key, array in arrays.items():
            assert np.array_equal(array, after.tables[name][key]), (name, key)

    codec = load_codec(files / "more.safetensors")
    picture = codec.kind.read(files / "train" / "a.png")[:70, :90]
    data = {
        name: codec.compress(picture, 4, Settings.of(iterations=1, entropy_coder=name)) for name in ("plain", "context")
    }
    assert len(data["plain"]) > 2 * len(data["context"])
    plain, symbols = codec.read_symbols(codec.compress(picture, 4, Settings.of("none", entropy_coder="plain")))
    assert plain.coder == PlainCoder.code
    assert np.array_equal(symbols, codec.read_symbols(codec.compress(picture, 4, Settings.of("none")))[1])
    with pytest.raises(ValueError, match="ends early"):
        coder = codec.coders["plain"]
        coder.decode(coder.encode(symbols, 96)[0][:-4], symbols.shape, 96, False)


@pytest.mark.slow
def test_nothing_is_overwritten(files, capsys):
    assert fit(files, output="trained.safetensors") == 1
    assert "exists already" in capsys.readouterr().err
    assert fit(files, coder="context") == 1
    assert "has tables of the coder context" in capsys.readouterr().err
    assert not (files / "more.safetensors").exists()


@pytest.mark.slow
def test_folders_without_files_end_in_one_line(files, capsys):
    (files / "train" / "a.png").unlink()
    assert fit(files) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--dataroot must hold files" in error


def test_coders_name_themselves_as_they_are_listed():
    classes = [coder_class(name) for name in CODERS]
    assert [coder.name for coder in classes] == list(CODERS)
    assert len({coder.code for coder in classes}) == len(classes)


@pytest.mark.slow
@pytest.mark.parametrize(
    "module, absent",
    [
        ("utils.entropy", ("numpy", "numba", "torch")),
        ("utils.entropy.coders", ("torch",)),
        ("utils.entropy.huffman", ("torch",)),
    ],
)
def test_importing_coders_loads_little(module, absent):
    program = f"import sys, {module}; print([name for name in {absent} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
