"""hubconf.py: codecs for programs in any folder, whatever modules these have of their own."""

import ast
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import hubconf
from tests.helpers.scripts import ROOT, environment
from utils.codec.checkpoint import load_checkpoint
from utils.codec.fingerprint import shipped

pytestmark = pytest.mark.slow

# A program with a module utils, a module data and a folder models, all imported before BPGAN comes.
PROGRAM = """
import sys
import data, utils, models.mine
import numpy as np
import torch

root, image, speech, picture = sys.argv[1:]
codec = torch.hub.load(root, "bpgan_image", source="local", checkpoint=image)
assert (utils.NAME, data.NAME, models.mine.NAME) == ("utils", "data", "models.mine")
import utils as utils_again, data as data_again, models as models_again
assert utils_again is utils and data_again is data and models_again is models
from utils import NAME
import later

encoded = codec.encode(picture, 4, "admm")
pixels = codec.kind.read(picture)
decoded = codec.decompress(encoded.data)
assert {"psnr_db", "ms_ssim"} == set(codec.kind.score(pixels, decoded)) and codec.info(encoded.data)["width"] == 200

talk = torch.hub.load(root, "bpgan_speech", source="local", checkpoint=speech, device="auto")
assert type(talk) is type(codec)
samples = np.sin(np.arange(8000) / 9).astype(np.float32)
assert len(talk.kind.score(samples, talk.decompress(talk.compress(samples)))) == 4

from utils.codec.settings import Settings
assert codec.compress(pixels, 4, Settings.of("admm")) == encoded.data
print("all is well")
"""


@pytest.fixture
def elsewhere(tmp_path):
    """A folder with modules of its own, and a picture."""
    for name in ("utils", "data", "later"):
        (tmp_path / f"{name}.py").write_text(f"NAME = {name!r}")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine.py").write_text("NAME = __name__")
    (tmp_path / "program.py").write_text(PROGRAM)
    rows, columns = np.mgrid[:180, :200]
    Image.fromarray(np.stack([rows, columns, rows // 2], axis=-1).astype(np.uint8)).save(tmp_path / "a.png")
    return tmp_path


def started(folder, *arguments):
    variables = {name: value for name, value in environment().items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "program.py", ROOT, *arguments], cwd=folder, env=variables, capture_output=True, text=True
    )


def test_a_program_with_modules_of_these_names(elsewhere, tiny_checkpoints):
    ended = started(elsewhere, tiny_checkpoints["image"], tiny_checkpoints["speech"], "a.png")
    assert ended.returncode == 0 and "all is well" in ended.stdout, ended.stderr


def test_a_module_of_the_same_full_name_is_named(elsewhere, tiny_checkpoints):
    """What the codec asks for later would be the caller's module."""
    (elsewhere / "utils.py").unlink()
    (elsewhere / "utils").mkdir()
    for name in ("__init__", "metrics"):
        (elsewhere / "utils" / f"{name}.py").write_text("NAME = 'mine'")
    (elsewhere / "program.py").write_text(
        "import sys, utils.metrics, torch\n"
        "try:\n"
        "    torch.hub.load(sys.argv[1], 'bpgan_image', source='local')\n"
        "finally:\n"
        "    import utils.metrics\n"
        "    assert utils.metrics.NAME == 'mine' and not [name for name in sys.modules if name.startswith('data.')]\n"
    )
    ended = started(elsewhere)
    last = ended.stderr.strip().splitlines()[-1]
    assert ended.returncode == 1 and last.startswith("ImportError: BPGAN and this program both have a module utils.me")
    assert str(elsewhere / "utils" / "metrics.py") in last and "rename" in last


def test_limits():
    codec = torch.hub.load(str(ROOT), "bpgan_image", source="local", limits={"max_pixels": 100})
    with pytest.raises(ValueError, match="the limit is 100"):
        codec.compress(np.zeros((20, 20, 3), np.uint8), 3, "none")
    with pytest.raises(ValueError, match="max_minutes is not a limit"):
        torch.hub.load(str(ROOT), "bpgan_speech", source="local", limits={"max_minutes": 1})


@pytest.mark.parametrize("kind", ["image", "speech"])
def test_without_arguments_the_shipped_weights_are_taken(kind):
    codec = torch.hub.load(str(ROOT), f"bpgan_{kind}", source="local")
    assert codec.kind.name == kind and codec.device.type == "cpu"
    assert codec.fingerprint == load_checkpoint(shipped(kind)).fingerprint


def test_weights_for_an_objective():
    codec = torch.hub.load(str(ROOT), "bpgan_image", source="local", objective="ms_ssim")
    assert codec.config.objective == "ms_ssim"


def test_modules_that_are_this_repository_s_stay(tiny_checkpoints):
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in hubconf._PACKAGES}
    path = list(sys.path)
    torch.hub.load(str(ROOT), "bpgan_image", source="local", checkpoint=tiny_checkpoints["image"])
    assert before and all(sys.modules[name] is module for name, module in before.items())
    assert sys.path == path


def test_mistakes_are_named(tiny_checkpoints, tmp_path):
    for arguments, words in (
        (dict(checkpoint=tiny_checkpoints["speech"]), "is for speech: call bpgan_speech"),
        (dict(checkpoint=tmp_path / "none"), "does not exist"),
        (dict(device="abacus"), "device abacus is not one of cpu, cuda, auto"),
    ):
        with pytest.raises(ValueError, match=words):
            torch.hub.load(str(ROOT), "bpgan_image", source="local", **arguments)


def sources():
    """All that a codec may import, and nothing of training, batches and downloads."""
    for pattern in ("data/*.py", "models/*.py", "utils/*.py", "utils/*/*.py"):
        for path in ROOT.glob(pattern):
            if path.parent.name not in ("training", "batch") and path.name != "download.py":
                yield path, ast.parse(path.read_text())


def test_the_dependencies_are_what_is_imported():
    found = set()
    for _, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.partition(".")[0])
    assert sorted(found - set(hubconf._PACKAGES) - set(sys.stdlib_module_names)) == hubconf.dependencies


def test_what_is_imported_later_has_its_full_name():
    """`from utils import metrics` inside a function would find a caller's utils."""
    for path, tree in sources():
        for function in ast.walk(tree):
            if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
                short = [
                    node.lineno
                    for node in ast.walk(function)
                    if isinstance(node, ast.ImportFrom) and not node.level and node.module in hubconf._PACKAGES
                ]
                assert not short, (path, short)
