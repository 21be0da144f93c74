"""What tests share: small synthetic signals and models, scripts as a user calls them, the import path."""

import csv
import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# These files train, start processes or use the shipped weights: `make check` leaves them out whole.
SLOW_FILES = {
    "test_benchmarks",
    "test_codec",
    "test_fuzz",
    "test_interrupts",
    "test_join",
    "test_machines",
    "test_pipes",
    "test_scripts",
    "test_shipped",
    "test_soak",
    "test_training",
    "test_winograd",
}


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.stem in SLOW_FILES:
            item.add_marker(pytest.mark.slow)


# -- signals -------------------------------------------------------------------------------------------


def save_picture(path, height, width, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[:height, :width]
    pixels = (
        128
        + 50 * np.sin(columns / (4 + seed)) * np.cos(rows / 5)
        + 8 * np.random.default_rng(seed).normal(size=(height, width))
    )
    Image.fromarray(np.clip(pixels[..., None] * [1, 0.9, 0.8], 0, 255).astype(np.uint8)).save(path)


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


def tiny_config(signal: str, **changes):
    """A model of a few thousand weights, whose tests run in milliseconds."""
    from models.config import ModelConfig

    values = dict(
        in_channels={"image": 3, "speech": 1}[signal],
        latent_channels=16,
        latent_rows=8 if signal == "speech" else 0,
        context_groups=(4, 4, 8),
        context_hidden=8,
        encoder_widths=(16, 16, 16),
        encoder_depths=(1, 1, 1),
        generator_widths=(16, 16, 16),
        generator_depths=(1, 1, 1),
        linear_path=signal == "image",  # as in what ships; speech has neither
        quality_scales=signal == "image",
    )
    return ModelConfig(signal=signal, **{**values, **changes})


def randomize_context(context) -> None:
    """Reasonable random weights: at its start the last layer is zero and the context without effect."""
    import torch

    with torch.no_grad():
        fan_in = context.last_mask.flatten(1).sum(1).clamp_min(1).view(-1, 1, 1, 1)
        context.last.weight.normal_().mul_(0.4 / fan_in.sqrt())
        for parameter in (context.first.bias, context.second.bias, context.quality_bias, context.last.bias):
            parameter.normal_(std=0.1)
        if context.row_bias is not None:
            context.row_bias.normal_(std=0.1)
        if context.leading is not None:
            context.leading.weight.normal_(std=0.1)
        if context.first_scale is not None:
            for scale in (context.first_scale, context.second_scale):
                scale.uniform_(0.7, 1.4)
            context.second_quality_bias.normal_(std=0.1)
        channels = sum(context.groups)
        context.prior[:, channels:] = torch.linspace(-1.0, 1.0, len(context.prior))[:, None]


def tiny_model(signal: str, seed: int = 0, **changes):
    """A seeded untrained model, its context model and centers with values of their own."""
    import torch

    from models.bpgan import BPGAN

    torch.manual_seed(seed)
    model = BPGAN(tiny_config(signal, **changes))
    randomize_context(model.context)
    model.codebook.centers += 0.3 * torch.rand_like(model.codebook.centers)
    return model.requires_grad_(False)


def tiny_checkpoint(signal: str, seed: int = 0, with_realistic: bool = True, **changes):
    """`Checkpoint` of a tiny model, its tables fitted to waves and noise; see `tiny_checkpoints`."""
    import torch

    from data import build_kind
    from models.discriminator import Discriminator
    from utils.codec.checkpoint import Checkpoint
    from utils.training.fitting import fit_coders

    model = tiny_model(signal, seed, **changes)
    rows, columns = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
    waves = torch.sin(columns / 7) * torch.cos(rows / 11)
    x = (0.5 * waves + 0.2 * torch.randn(2, model.config.in_channels, 128, 128)).clamp(-1, 1)
    tables, _ = fit_coders(model, [x])
    realistic = (
        {name: weight + 0.05 * torch.randn_like(weight) for name, weight in model.generator.state_dict().items()}
        if with_realistic
        else None
    )
    discriminator = Discriminator(model.config.in_channels, scales=3).state_dict() if with_realistic else None
    return Checkpoint(
        model.config,
        build_kind(signal).settings,
        model.state_dict(),
        realistic,
        discriminator,
        tables,
        "context",
        {"made by": "tests"},
    )


def tiny_codecs(folder: Path) -> list:
    """A tiny codec of each kind of signal, its checkpoint KIND.safetensors in the folder: for the long runs."""
    from utils.codec.checkpoint import save_checkpoint
    from utils.codec.codec import load_codec

    codecs = []
    for kind in ("image", "speech"):
        save_checkpoint(folder / f"{kind}.safetensors", tiny_checkpoint(kind))
        codecs.append(load_codec(folder / f"{kind}.safetensors"))
    return codecs


@pytest.fixture(scope="session")
def tiny_checkpoints(tmp_path_factory) -> dict[str, Path]:
    """Checkpoint files: "image" and "speech", "image_faithful" (no realistic generator), "image_other"."""
    from utils.codec.checkpoint import save_checkpoint

    folder = tmp_path_factory.mktemp("checkpoints")
    made = {
        "image": tiny_checkpoint("image"),
        "speech": tiny_checkpoint("speech"),
        "image_faithful": tiny_checkpoint("image", with_realistic=False),
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


@contextmanager
def signal_handlers_kept():
    """The scripts take over two signals; they are given back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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


def environment() -> dict[str, str]:
    """Of a process that a test starts: one thread, alone."""
    return {
        **{k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")},
        "OMP_NUM_THREADS": "1",
    }


def listing(folder) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def table(path) -> tuple[list[str], list[dict]]:
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        return list(reader.fieldnames), list(reader)


def one_line(code, err, *words, exit_code=None):
    """A mistake: exit code, one line that says what, no traceback."""
    assert code != 0 and (exit_code is None or code == exit_code)
    lines = err.strip().splitlines()
    assert len(lines) == 1 and "error: " in lines[0], err
    for word in words:
        assert word in lines[0], err
