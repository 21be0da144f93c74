"""Growing a trained model without changing what it does."""

import dataclasses

import numpy as np
import pytest
import torch

from models.bpgan import BPGAN
from tests.helpers.models import tiny_checkpoint
from utils.codec.checkpoint import load_checkpoint, save_checkpoint
from utils.codec.codec import load_codec
from utils.codec.weights import load_weights
from utils.training import grow

pytestmark = pytest.mark.slow

SIZES = ("--encoder_depths", "1", "2", "3", "--generator_depths", "2", "1", "3", "--context_hidden", "12")


def run(tmp_path, checkpoint, *sizes) -> int:
    save_checkpoint(tmp_path / "small.safetensors", checkpoint)
    return grow.main([str(tmp_path / "small.safetensors"), *sizes, "--output", str(tmp_path / "grown.safetensors")])


@pytest.mark.parametrize("kind", ["image", "speech"])
def test_the_grown_model_does_what_the_small_one_did(tmp_path, capsys, kind):
    assert run(tmp_path, tiny_checkpoint(kind), *SIZES) == 0
    assert "grown.safetensors" in capsys.readouterr().out and (tmp_path / "grown.md").exists()
    small, grown = (load_codec(tmp_path / f"{name}.safetensors") for name in ("small", "grown"))
    config = load_checkpoint(tmp_path / "grown.safetensors").config
    assert (config.encoder_depths, config.generator_depths, config.context_hidden) == ((1, 2, 3), (2, 1, 3), 12)
    rng = np.random.default_rng(0)
    signal = (
        rng.integers(0, 256, (96, 128, 3), np.uint8)
        if kind == "image"
        else rng.uniform(-0.5, 0.5, 20000).astype(np.float32)
    )
    before, after = (codec.compress(signal, 4, "none") for codec in (small, grown))
    assert abs(len(after) - len(before)) <= 2  # one coder, whose weights round differently
    for realism in (0.0, 1.0):
        decoded = [codec.decompress(file, realism) for codec, file in ((small, before), (grown, after))]
        difference = np.abs(decoded[0].astype(float) - decoded[1])
        assert difference.max() <= (1 if kind == "image" else 1e-3)


def test_what_was_added_learns():
    """Its last layers start at zero, and have a slope."""
    small = tiny_checkpoint("speech")
    config = dataclasses.replace(small.config, encoder_depths=(2, 1, 1), generator_depths=(1, 1, 2), context_hidden=12)
    model = BPGAN(config)
    load_weights(model, grow.grow(small, config))
    x = torch.rand(2, 1, 128, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x_hat, bits = model(x, torch.tensor([2, 6]))
    (1000 * (x - x_hat).square().sum() + bits.sum()).backward()
    added = [model.encoder.body4[1].conv2.weight, model.generator.body16[1].conv2.weight]
    added += [model.context.second.weight[:8, 8:12], model.context.last.weight[-1:, -4:]]
    slopes = [model.encoder.body4[1].conv2.weight.grad, model.generator.body16[1].conv2.weight.grad]
    slopes += [model.context.second.weight.grad[:8, 8:12], model.context.last.weight.grad[-1:, -4:]]
    for weight, slope in zip(added, slopes):
        assert not weight.any() and slope.abs().max() > 0


@pytest.mark.parametrize(
    "sizes, words",
    [
        (("--context_hidden", "4"), "context_hidden 4 is less than the checkpoint's 8"),
        (("--generator_depths", "1", "0", "2"), "generator_depths (1, 0, 2) is less"),
    ],
)
def test_it_does_not_shrink(tmp_path, capsys, sizes, words):
    assert run(tmp_path, tiny_checkpoint("image"), *sizes) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and words in lines[0] and not (tmp_path / "grown.safetensors").exists()


def test_other_sizes_stay():
    checkpoint = tiny_checkpoint("image")
    with pytest.raises(ValueError, match="only encoder_depths, generator_depths, context_hidden can grow"):
        grow.grow(checkpoint, dataclasses.replace(checkpoint.config, generator_widths=(16, 16, 24)))
