"""Fixtures that tests share: small synthetic signals, tiny checkpoints and codecs, scripts as a user calls them."""

import dataclasses
import os
import re
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.scripts import signal_handlers_kept

SLOW_FILE = re.compile(r"^pytestmark = pytest\.mark\.slow$", re.MULTILINE)
# Reasons of skips where BPGAN_NO_SKIPS is set: a GPU, another user than root, and what requirements-test.txt leaves out,
# programs and large packages, whose reasons say how to install them.
MAY_LACK = re.compile(r"needs a GPU|root may|(apt-get|npm|pip) install (?!--force-reinstall)")


def pytest_ignore_collect(collection_path: Path, config) -> bool | None:
    """Files of slow tests alone are not imported where slow tests are left out."""
    if config.getoption("markexpr") == "not slow" and collection_path.suffix == ".py":
        return SLOW_FILE.search(collection_path.read_text()) is not None or None
    return None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """With BPGAN_NO_SKIPS in the environment, as in CI, a skip for any other reason than those of MAY_LACK fails."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("BPGAN_NO_SKIPS"):
        _, _, reason = report.longrepr
        if not MAY_LACK.search(reason):
            report.outcome, report.longrepr = "failed", f"{reason}; with BPGAN_NO_SKIPS nothing else may be missing"
    return report


# -- signals -------------------------------------------------------------------------------------------


@pytest.fixture
def ramp_image() -> np.ndarray:
    """uint8 (48, 80, 3): red grows to the right, green downwards; all four corners differ."""
    rows, columns = np.mgrid[:48, :80]
    return np.stack([columns * 3, rows * 5, 255 - columns - rows], axis=-1).astype(np.uint8)


@pytest.fixture
def texture_image() -> np.ndarray:
    """uint8 (203, 251, 3), odd sides, large enough for 5 scales of MS-SSIM: waves and noise."""
    rows, columns = np.mgrid[:203, :251]
    waves = 40 * np.sin(columns / 3) * np.cos(rows / 7) + 30 * np.sin((rows + columns) / 19)
    noise = np.random.default_rng(0).normal(0, 12, (203, 251, 3))
    return np.clip(128 + waves[..., None] * [1, 0.8, -0.6] + noise, 0, 255).astype(np.uint8)


@pytest.fixture
def voiced_clip() -> np.ndarray:
    """float32 (40000,), 2.5 s at 16 kHz: harmonics of a gliding pitch under syllables."""
    rng = np.random.default_rng(0)
    time = np.arange(40000) / 16000
    phase = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 0.7 * time)) / 16000
    formants = ((600, 200), (1500, 300), (2600, 400))
    voice = np.zeros_like(time)
    for harmonic in range(1, 50):
        gain = sum(np.exp(-(((120 * harmonic - center) / width) ** 2)) for center, width in formants)
        voice += (gain + 0.02) * np.sin(harmonic * phase)
    syllables = np.clip(np.sin(2 * np.pi * 3 * time), 0, 1)
    clip = syllables * voice + 1e-3 * rng.standard_normal(time.size)
    return (0.5 * clip / np.abs(clip).max()).astype(np.float32)


# -- models --------------------------------------------------------------------------------------------
# PyTorch is imported where a fixture needs it: the process that hands out the tests to others does without it.


@pytest.fixture(scope="session")
def tiny_checkpoints(tmp_path_factory) -> dict[str, Path]:
    """Checkpoint files: "image" and "speech", "image_faithful" (no realistic generator), "image_other"."""
    from tests.helpers.models import tiny_checkpoint
    from utils.codec.checkpoint import save_checkpoint

    folder = tmp_path_factory.mktemp("checkpoints")
    image = tiny_checkpoint("image")
    made = {
        "image": image,
        "speech": tiny_checkpoint("speech"),
        "image_faithful": dataclasses.replace(image, realistic=None, discriminator=None),
        "image_other": tiny_checkpoint("image", seed=1),
    }
    for name, checkpoint in made.items():
        save_checkpoint(folder / f"{name}.safetensors", checkpoint)
    return {name: folder / f"{name}.safetensors" for name in made}


@pytest.fixture(scope="session")
def codecs(tiny_checkpoints) -> dict:
    """The tiny checkpoints, loaded by `load_codec`."""
    from utils.codec.codec import load_codec

    return {name: load_codec(path) for name, path in tiny_checkpoints.items()}


# -- scripts -------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def handlers():
    with signal_handlers_kept():
        yield


@pytest.fixture
def run(tiny_checkpoints, capsys):
    """Run a script in this process -> (exit code, standard output, standard error)."""

    def call(module, *arguments, checkpoint=True):
        if checkpoint:
            arguments += ("--checkpoint", tiny_checkpoints["image"], tiny_checkpoints["speech"])
        try:
            code = module.main([str(a) for a in arguments] + ["--device", "cpu"])
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return code, out, err

    return call
