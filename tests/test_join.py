"""Joining the checkpoints of successive runs."""

import dataclasses
import math

import pytest
import torch

from models.config import QUALITIES
from models.texture import has_texture
from tests.helpers.models import tiny_checkpoint
from utils.codec.checkpoint import load_checkpoint, save_checkpoint
from utils.codec.codec import load_codec
from utils.training import join

pytestmark = pytest.mark.slow


def run(tmp_path, earlier, later, *more) -> int:
    for name, checkpoint in (("earlier", earlier), ("later", later)):
        save_checkpoint(tmp_path / f"{name}.safetensors", checkpoint)
    return join.main(
        [
            str(tmp_path / "earlier.safetensors"),
            str(tmp_path / "later.safetensors"),
            "--output",
            str(tmp_path / "joined.safetensors"),
            *more,
        ]
    )


def described(checkpoint, command: str, minutes: float, steps: int):
    row = {"stage": "joint", "step": steps, "minutes": minutes, "val_bpp_1": 0.1, "val_psnr_1": 25.0}
    return dataclasses.replace(
        checkpoint, info={"command": command, "minutes": minutes, "steps": steps, "files": 3, "validation": [row]}
    )


def test_the_realistic_difference_is_added(tmp_path, capsys):
    earlier = described(tiny_checkpoint("image", 0), "train one", 2.5, 10)
    later = described(tiny_checkpoint("image", 1, with_realistic=False), "train two", 4, 20)
    assert run(tmp_path, earlier, later, "--share", "0.5") == 0
    assert "joined.safetensors" in capsys.readouterr().out
    before, after, joined = (
        load_checkpoint(tmp_path / f"{name}.safetensors") for name in ("earlier", "later", "joined")
    )
    assert joined.fingerprint == after.fingerprint != before.fingerprint  # files of the later one stay valid
    for name, tensor in joined.realistic.items():
        nothing = torch.zeros_like(tensor)  # a faithful generator's texture
        old, new = (each.model.get(f"generator.{name}", nothing) for each in (before, after))
        torch.testing.assert_close(tensor, new + 0.5 * (before.realistic[name] - old), atol=2e-3, rtol=2e-3)
        assert (before.realistic[name] - old).abs().max() > 0.01
    assert has_texture(joined.realistic)
    for name, tensor in before.discriminator.items():
        assert torch.equal(joined.discriminator[name], tensor)
    assert joined.info["commands"] == ["train one", "train two"] and "command" not in joined.info
    assert (joined.info["minutes"], joined.info["steps"]) == (6.5, 30)
    assert [(row["minutes"], row["step"]) for row in joined.info["validation"]] == [(2.5, 10), (6.5, 30)]
    card = (tmp_path / "joined.md").read_text()
    assert "`train one`" in card and "`train two`" in card and joined.fingerprint.hex() in card
    # joined again, the runs stand in their order
    assert [*join.join(joined, later, 1.0).info["commands"]] == ["train one", "train two", "train two"]


def test_the_realistic_generator_need_not_follow(tmp_path):
    earlier, later = tiny_checkpoint("image", 0), tiny_checkpoint("image", 1, with_realistic=False)
    assert run(tmp_path, earlier, later, "--follow", "0") == 0
    joined, before = (load_checkpoint(tmp_path / f"{name}.safetensors") for name in ("joined", "earlier"))
    for name, tensor in joined.realistic.items():
        torch.testing.assert_close(tensor, before.realistic[name], atol=2e-3, rtol=2e-3)


def test_other_rates(tmp_path):
    """Differences of tables by quality come from where the rate weights are the same."""
    earlier = tiny_checkpoint("image", 0)
    config = dataclasses.replace(earlier.config, lmbda_high=earlier.config.lmbda_high / 2)
    later = dataclasses.replace(tiny_checkpoint("image", 1), config=config, realistic=None)
    joined = join.join(earlier, later, 1.0)
    difference = earlier.realistic["quality8"] - earlier.model["generator.quality8"]
    assert difference.abs().max() > 1e-3
    place = (
        (QUALITIES - 1)
        * math.log(config.lmbda(8) / earlier.config.lmbda_low)
        / math.log(earlier.config.lmbda_high / earlier.config.lmbda_low)
    )
    low = int(place)
    torch.testing.assert_close(
        joined.realistic["quality8"][7] - later.model["generator.quality8"][7],
        difference[low] + (place - low) * (difference[low + 1] - difference[low]),
    )
    torch.testing.assert_close(
        joined.realistic["out4.weight"] - later.model["generator.out4.weight"],
        earlier.realistic["out4.weight"] - earlier.model["generator.out4.weight"],
    )
    save_checkpoint(tmp_path / "joined.safetensors", joined)
    assert load_codec(tmp_path / "joined.safetensors").has_realistic


@pytest.mark.parametrize(
    "earlier, later, words",
    [
        (dict(with_realistic=False), {}, "the earlier checkpoint has no realistic generator"),
        ({}, dict(generator_widths=(16, 16, 24)), "models of different sizes"),
        ({}, dict(latent_channels=12, context_groups=(4, 8)), "models of different sizes"),
    ],
)
def test_mistakes(tmp_path, capsys, earlier, later, words):
    assert run(tmp_path, tiny_checkpoint("image", 0, **earlier), tiny_checkpoint("image", 1, **later)) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and words in lines[0] and not (tmp_path / "joined.safetensors").exists()
