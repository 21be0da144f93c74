"""Residual blocks that start from those of a model with another latent, and of speech with another picture."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from data import build_kind
from data.dataset import PictureSet
from data.speech import SpeechKind
from models.bpgan import BPGAN
from options.train_options import train_parser
from tests.helpers.models import tiny_checkpoint, tiny_config
from utils.codec.checkpoint import load_checkpoint, save_checkpoint
from utils.codec.weights import load_weights
from utils.training import networks, setup
from utils.training.linear_path import start_linear_path
from utils.training.networks import Networks
from utils.training.trunk import ENCODER_BLOCKS, GENERATOR_BLOCKS, QUALITY_TABLES, check_trunk

OLD = dict(linear_path=False, quality_scales=False, latent_channels=12, context_groups=(4, 4, 4))
OF_THE_SAME_FORM = dict(latent_channels=12, context_groups=(4, 4, 4))
NEW = {"image": {}, "speech": SpeechKind.new_settings}  # settings of the kind


@pytest.fixture(autouse=True)
def few_crops(monkeypatch):
    monkeypatch.setattr(networks, "LINEAR_PATH_CROPS", 32)
    monkeypatch.setattr(networks, "TRUNK_CROPS", 40)
    monkeypatch.setattr(SpeechKind, "crop_shape", (128, 128))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of one training file of each kind."""
    root = tmp_path_factory.mktemp("trunk")
    for name in NEW:
        (root / name).mkdir()
    rng = np.random.default_rng(0)
    pixels = np.repeat(np.repeat(rng.uniform(0, 255, (12, 12, 3)), 24, 0), 24, 1) * np.linspace(0.5, 1, 288)[:, None]
    Image.fromarray(pixels.astype(np.uint8)).save(root / "image" / "a.png")
    t = np.arange(48000) / 16000
    sound = sum(np.sin(2 * np.pi * f * t * (1 + 0.1 * t)) for f in (200, 450, 1200)) * np.abs(np.sin(5 * t))
    soundfile.write(root / "speech" / "a.wav", 0.2 * sound + 0.002 * rng.normal(size=len(t)), 16000)
    return {name: root / name for name in NEW}


@pytest.fixture(params=[(name, changes) for name in NEW for changes in (OLD, OF_THE_SAME_FORM)], ids=str)
def started(request, folders):
    """Networks that have just started, an old checkpoint and model, and pictures."""
    name, changes = request.param
    checkpoint = tiny_checkpoint(name, seed=3, **changes)
    data = PictureSet(build_kind(name, NEW[name]), sorted(folders[name].iterdir()), progress=False)
    old = BPGAN(checkpoint.config).requires_grad_(False)
    load_weights(old, checkpoint)
    for key, table in old.named_parameters():
        if key.split(".")[-1] in QUALITY_TABLES:  # as training leaves them
            table.copy_(torch.linspace(0.3, 3, table.numel()).view_as(table))
    if old.config.linear_path:
        start_linear_path(old, data.batch(32, np.random.default_rng(4)))
    checkpoint.model = old.state_dict()
    nets = Networks(tiny_config(name), torch.device("cpu"), seed=0)
    nets.start_linear_path(data)
    nets.start_trunk(checkpoint, data)
    pictures = data.batch(8, np.random.default_rng(5))
    old_pictures = data.kind.shown_by(pictures, checkpoint.signal_settings)
    return SimpleNamespace(name=name, model=nets.average, old=old, pictures=pictures, old_pictures=old_pictures)


def explained(outputs: torch.Tensor, wanted: torch.Tensor) -> float:
    """The share of the variance (B, N, h, w) that is reproduced."""
    spread = wanted - wanted.mean((0, 2, 3), keepdim=True)
    return 1 - float((outputs - wanted).square().sum() / spread.square().sum())


@pytest.mark.slow
def test_the_blocks_are_the_old_ones(started):
    for part, names in (("encoder", ENCODER_BLOCKS), ("generator", GENERATOR_BLOCKS)):
        for name in names:
            new, old = (getattr(getattr(model, part), name).state_dict() for model in (started.model, started.old))
            assert all(torch.equal(new[key], old[key]) for key in old) and new.keys() == old.keys()
        new, old = getattr(started.model, part), getattr(started.old, part)
        for name in QUALITY_TABLES:
            if started.name == "image" and getattr(old, name) is not None:  # the qualities of both are the same
                torch.testing.assert_close(getattr(new, name), getattr(old, name), rtol=0, atol=1e-3)
    rows = started.model.generator.row_bias
    assert rows is None or torch.equal(rows, started.old.generator.row_bias)


@pytest.mark.slow
@torch.no_grad()
def test_the_blocks_see_about_what_they_saw(started):
    model, old = started.model, started.old
    seen, saw = (m.encoder.in4(m.encoder.down4(x)) for m, x in ((model, started.pictures), (old, started.old_pictures)))
    assert explained(seen, saw) > (0.99 if started.name == "image" else 0.5)  # of speech, soft sounds are hardly seen
    row = torch.full((8,), 7.0)
    y_hat = model.analyze(started.pictures, row).round()
    place = torch.full((8,), 7.0)
    old_y = old.analyze(started.old_pictures, place).round()
    seen = model.generator.in16(model.gains.seen(y_hat, row))
    assert explained(seen, old.generator.in16(old.gains.seen(old_y, place))) > 0.3


@pytest.mark.slow
@torch.no_grad()
def test_the_latent_begins_as_that_of_the_linear_path(started):
    row = torch.arange(8.0)
    linear = started.model.gains.scale(started.model.encoder.linear_latent(started.pictures), row)
    torch.testing.assert_close(started.model.analyze(started.pictures, row), linear)


@pytest.mark.slow
@torch.no_grad()
def test_the_generator_adds_what_the_linear_path_misses(started):
    model, row = started.model, torch.full((8,), 4.0)
    y_hat = model.analyze(started.pictures, row).round()
    with_network = (model.generate(y_hat, row) - started.pictures).square().mean()
    for tensor in (model.generator.out4.weight, model.generator.out4.bias):
        tensor.zero_()
    assert with_network < (model.generate(y_hat, row) - started.pictures).square().mean()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"encoder_widths": (8, 16, 16)}, "encoder_widths"),
        ({"generator_depths": (1, 1, 2)}, "generator_depths"),
        ({"latent_rows": 4}, "latent rows"),
        ({"signal": "image"}, "signal"),
    ],
)
def test_a_trunk_that_does_not_fit_is_refused(changes, message):
    config = tiny_config("speech")
    check_trunk(config, tiny_config("speech"))
    with pytest.raises(ValueError, match=message):
        check_trunk(config, dataclasses.replace(tiny_config("speech"), **changes))
    with pytest.raises(ValueError, match="linear path"):
        check_trunk(tiny_config("speech", linear_path=False), config)


@pytest.mark.slow
def test_a_run_starts_from_a_trunk(folders, tmp_path, monkeypatch):
    """By the command line; `--resume` goes on without it."""
    config = tiny_config("speech")
    monkeypatch.setattr(setup, "new_config", lambda options: config)
    save_checkpoint(tmp_path / "old.safetensors", tiny_checkpoint("speech", **OLD))
    roots = [str(folders["speech"])]
    common = ["--signal", "speech", "--dataroot", *roots, "--valroot", *roots, "--runs", str(tmp_path), "--name", "run"]
    options = train_parser().parse_args([*common, "--steps", "1", "--trunk", str(tmp_path / "old.safetensors")])
    options.argv = []
    trainer, *_ = setup.build_trainer(options)
    assert trainer.kind.settings == SpeechKind(**SpeechKind.new_settings).settings
    old = load_checkpoint(tmp_path / "old.safetensors").model
    name = "generator.body8.0.conv1.weight"
    assert torch.equal(trainer.networks.model.state_dict()[name], old[name].float())
    trainer.save()
    (tmp_path / "old.safetensors").unlink()
    options = train_parser().parse_args([*common, "--steps", "1", "--resume"])
    options.argv = []
    resumed, *_ = setup.build_trainer(options)
    assert torch.equal(resumed.networks.model.state_dict()[name], old[name].float())
    with pytest.raises(SystemExit):
        train_parser().parse_args([*common, "--init", "a", "--trunk", "b"])
