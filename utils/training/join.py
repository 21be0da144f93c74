"""One checkpoint of successive runs: a later one's weights, and what the adversarial stage of an earlier one brought.

    python -m utils.training.join runs/early/checkpoint.safetensors runs/late/checkpoint.safetensors --output joined.safetensors

The realistic generator becomes the later faithful one plus a share of the difference between the earlier
realistic one and the earlier faithful one, weight by weight (Wang et al. 2018, ESRGAN, mix generators
so): stages that improve the faithful generator need not be followed by an adversarial one. Where the two
do not add up well, it follows the faithful one less far: with --follow 0 the earlier realistic one stays,
and serves the later latents as long as the encoder is the same. The discriminator is the earlier one's.
The model card beside the output tells of the runs of both.
"""

import dataclasses
import sys
from pathlib import Path

import torch

from models.bpgan import build_generator
from models.config import ModelConfig
from models.quality import move_qualities
from models.texture import has_texture
from options.base_options import Parser, in_range
from utils.codec.checkpoint import Checkpoint, load_checkpoint, load_strictly, save_checkpoint

from .model_card import joined_info, write_model_card

GENERATOR = "generator."


def faithful(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """The faithful generator's weights, named as the realistic one's are."""
    return {
        name.removeprefix(GENERATOR): tensor for name, tensor in checkpoint.model.items() if name.startswith(GENERATOR)
    }


def _at_rates(state: dict[str, torch.Tensor], own: ModelConfig, wanted: ModelConfig) -> dict[str, torch.Tensor]:
    """A generator's weights with the tables by quality that another range of rates needs."""
    generator = build_generator(own, has_texture(state))
    load_strictly(generator, state, "a generator of the earlier checkpoint")
    move_qualities(generator, own, wanted)
    return generator.state_dict()


def join(earlier: Checkpoint, later: Checkpoint, share: float, follow: float = 1.0) -> Checkpoint:
    """Raises ValueError where the earlier one has no realistic generator or the sizes do not fit."""
    if not earlier.realistic:
        raise ValueError("the earlier checkpoint has no realistic generator: nothing to join")
    rates = {"lmbda_low": later.config.lmbda_low, "lmbda_high": later.config.lmbda_high}
    if dataclasses.replace(earlier.config, **rates) != later.config:
        raise ValueError("the checkpoints are of models of different sizes: only their rates may differ")
    before = _at_rates(faithful(earlier), earlier.config, later.config)
    after = _at_rates(earlier.realistic, earlier.config, later.config)
    realistic, newer = {}, faithful(later)
    for name, weights in after.items():
        nothing = torch.zeros_like(weights)  # what faithful generators have for texture
        old, new = before.get(name, nothing), newer.get(name, nothing)
        realistic[name] = old + follow * (new - old) + share * (weights - old)
    return dataclasses.replace(
        later, realistic=realistic, discriminator=earlier.discriminator, info=joined_info(earlier.info, later.info)
    )


def main(argv: list[str] | None = None) -> int:
    parser = Parser("Join the checkpoints of two successive runs.")
    parser.add_argument("earlier", type=Path, help="checkpoint with a realistic generator")
    parser.add_argument("later", type=Path, help="checkpoint whose faithful generator is the newer one")
    parser.add_argument("--share", type=in_range(float, 0.0, 2.0), default=1.0, help="of the realistic difference")
    parser.add_argument(
        "--follow",
        type=in_range(float, 0.0, 1.0),
        default=1.0,
        help="how far it goes with the faithful generator, from the earlier one to the later one",
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="where the joined checkpoint goes, its card beside it"
    )

    def run(options) -> int:
        joined = join(load_checkpoint(options.earlier), load_checkpoint(options.later), options.share, options.follow)
        save_checkpoint(options.output, joined)
        print(f"wrote {options.output} and {write_model_card(options.output)}")
        return 0

    return parser.run(argv, run)


if __name__ == "__main__":
    sys.exit(main())
