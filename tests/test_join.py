"""Joining the checkpoints of successive runs."""

import dataclasses

import pytest
import torch

from conftest import tiny_checkpoint, tiny_config
from models import QUALITIES, build_model
from models.adapt import widen, widened
from utils import join
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.codec import load_codec
from utils.coders import load_weights


def run(tmp_path, earlier, later, *more) -> int:
    for name, checkpoint in (("earlier", earlier), ("later", later)):
        save_checkpoint(tmp_path / f"{name}.safetensors", checkpoint)
    return join.main([str(tmp_path / "earlier.safetensors"), str(tmp_path / "later.safetensors"),
                      "--output", str(tmp_path / "joined.safetensors"), *more])


def described(checkpoint, command: str, minutes: float, steps: int):
    row = {"stage": "joint", "step": steps, "minutes": minutes, "val_bpp_1": 0.1, "val_psnr_1": 25.0}
    return dataclasses.replace(checkpoint, info={"command": command, "minutes": minutes, "steps": steps, "files": 3,
                                                 "validation": [row]})


def test_the_realistic_difference_is_added(tmp_path, capsys):
    earlier = described(tiny_checkpoint("image", 0), "train one", 2.5, 10)
    later = described(tiny_checkpoint("image", 1, with_realistic=False), "train two", 4, 20)
    assert run(tmp_path, earlier, later, "--share", "0.5") == 0
    assert "joined.safetensors" in capsys.readouterr().out
    before, after, joined = (load_checkpoint(tmp_path / f"{name}.safetensors") for name in ("earlier", "later", "joined"))
    assert joined.fingerprint == after.fingerprint != before.fingerprint      # files of the later one stay valid
    for name, tensor in joined.realistic.items():
        expected = after.model[f"generator.{name}"] + 0.5 * (before.realistic[name] - before.model[f"generator.{name}"])
        torch.testing.assert_close(tensor, expected, atol=2e-3, rtol=2e-3)
    assert any((before.realistic[name] - before.model[f"generator.{name}"]).abs().max() > 0.01 for name in joined.realistic)
    for name, tensor in before.discriminator.items():
        assert torch.equal(joined.discriminator[name], tensor)
    assert joined.info["commands"] == ["train one", "train two"] and "command" not in joined.info
    assert (joined.info["minutes"], joined.info["steps"]) == (6.5, 30)
    assert [(row["minutes"], row["step"]) for row in joined.info["validation"]] == [(2.5, 10), (6.5, 30)]
    card = (tmp_path / "joined.md").read_text()
    assert "`train one`" in card and "`train two`" in card and joined.fingerprint.hex() in card
    # joined again, the runs stand in their order
    assert [*join.join(joined, later, 1.0).info["commands"]] == ["train one", "train two", "train two"]


def test_other_rates_and_more_channels(tmp_path):
    """Tables by quality come from where the rate weights are the same; new channels count as in the faithful generator."""
    earlier = tiny_checkpoint("image", 0)
    config = dataclasses.replace(widened(tiny_config("image"), 20), lmbda_high=tiny_config("image").lmbda_high / 2)
    old, model = build_model(earlier.config), build_model(config)
    load_weights(old, earlier)
    widen(old, model)
    with torch.no_grad():
        model.generator.in16.weight[:, 16:].normal_()
    later = dataclasses.replace(tiny_checkpoint("image", 0, latent_channels=20, context_groups=config.context_groups),
                                config=config, realistic=None, model=model.state_dict())
    joined = join.join(earlier, later, 1.0)
    torch.testing.assert_close(joined.realistic["in16.weight"][:, :16] - later.model["generator.in16.weight"][:, :16],
                               earlier.realistic["in16.weight"] - earlier.model["generator.in16.weight"])
    assert torch.equal(joined.realistic["in16.weight"][:, 16:], later.model["generator.in16.weight"][:, 16:])
    difference = earlier.realistic["quality8"] - earlier.model["generator.quality8"]
    place = (QUALITIES - 1) * torch.log(torch.tensor(config.lmbda(8) / earlier.config.lmbda_low)) / torch.log(
        torch.tensor(earlier.config.lmbda_high / earlier.config.lmbda_low))
    low = int(place)
    torch.testing.assert_close(joined.realistic["quality8"][7] - later.model["generator.quality8"][7],
                               difference[low] + (place - low) * (difference[low + 1] - difference[low]))
    save_checkpoint(tmp_path / "joined.safetensors", joined)
    assert load_codec(tmp_path / "joined.safetensors").has_realistic


@pytest.mark.parametrize("earlier, later, words", [
    (dict(with_realistic=False), {}, "the earlier checkpoint has no realistic generator"),
    ({}, dict(generator_widths=(16, 16, 24)), "the checkpoints' generator_widths differ"),
    ({}, dict(latent_channels=12, context_groups=(4, 8)), "the checkpoints' latent_channels differ")])
def test_mistakes(tmp_path, capsys, earlier, later, words):
    assert run(tmp_path, tiny_checkpoint("image", 0, **earlier), tiny_checkpoint("image", 1, **later)) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and words in lines[0] and not (tmp_path / "joined.safetensors").exists()
