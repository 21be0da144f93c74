"""A larger model that does what a trained one does: more residual blocks, more hidden units in the entropy model.

    python -m utils.training.grow checkpoints/speech.safetensors --generator_depths 3 5 5 --output grown.safetensors
    python train.py --signal speech --init grown.safetensors ...

The further blocks stand at the end of each stack and add nothing yet, since their last convolution is zero; nothing listens to
the further hidden units yet (Chen, Goodfellow, Shlens 2016, "Net2Net"; Zhang, Dauphin, Ma 2019, "Fixup", start blocks so).
So training goes on where it was, with room to improve.
"""

import dataclasses
import sys
from pathlib import Path

import torch

from models.bpgan import BPGAN, build_generator
from models.config import ModelConfig
from models.entropy_model import ContextModel
from models.texture import has_texture
from options.base_options import Parser
from utils.codec.checkpoint import Checkpoint, load_checkpoint, load_strictly, save_checkpoint
from utils.codec.weights import NETWORK, load_weights, network_of, network_tables
from utils.entropy.integer_network import pack

from .model_card import write_model_card

STACKS = ("body4", "body8", "body16")
GROWING = ("encoder_depths", "generator_depths", "context_hidden")


def check_growth(old: ModelConfig, new: ModelConfig) -> None:
    """Raises ValueError where the new model is not the old one with more blocks and units."""
    sizes = {name: getattr(old, name) for name in GROWING}
    if dataclasses.replace(new, **sizes) != old:
        raise ValueError(f"only {', '.join(GROWING)} can grow: all else must be as in the checkpoint")
    for name, before in sizes.items():
        after = getattr(new, name)
        pairs = zip(after, before) if isinstance(before, tuple) else [(after, before)]
        if any(a < b for a, b in pairs):
            raise ValueError(f"{name} {after} is less than the checkpoint's {before}: a model can grow, not shrink")


@torch.no_grad()
def grow(checkpoint: Checkpoint, config: ModelConfig) -> Checkpoint:
    """A checkpoint of the sizes of `config` whose encoder, generators and entropy model compute what they did before.

    Raises ValueError as `check_growth` does.
    """
    check_growth(checkpoint.config, config)
    old = BPGAN(checkpoint.config)
    with torch.random.fork_rng(devices=[]):  # the same start at every call
        torch.default_generator.manual_seed(0)
        new = BPGAN(config)
    load_weights(old, checkpoint)
    for part in ("gains", "codebook"):
        getattr(new, part).load_state_dict(getattr(old, part).state_dict())
    adopt_network(new.encoder, old.encoder.state_dict())
    adopt_network(new.generator, old.generator.state_dict())
    adopt_context(new.context, old.context)
    realistic = None
    if checkpoint.realistic:
        generator = build_generator(config, has_texture(checkpoint.realistic))
        adopt_network(generator, checkpoint.realistic)
        realistic = generator.state_dict()
    network = network_tables(new.context, network_of(checkpoint).usual)
    tables = {**checkpoint.tables, NETWORK: pack(network)}
    return dataclasses.replace(checkpoint, config=config, model=new.state_dict(), realistic=realistic, tables=tables)


def adopt_network(network: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Give an encoder or a generator the weights of one with shorter stacks; what its own have more adds nothing."""
    load_strictly(network, {**network.state_dict(), **state}, "the checkpoint's network")
    for name in STACKS:
        for place, block in enumerate(getattr(network, name)):
            if f"{name}.{place}.conv2.weight" not in state:
                torch.nn.init.zeros_(block.conv2.weight)


def adopt_context(new: ContextModel, old: ContextModel) -> None:
    """Give an entropy model the weights of one with fewer hidden units in each group; nothing sees its further ones."""
    groups, (units, hidden) = len(old.groups), (len(model.first.bias) // len(old.groups) for model in (new, old))
    kept = torch.cat([torch.arange(hidden) + group * units for group in range(groups)])
    torch.nn.init.zeros_(new.last.weight)
    further = torch.ones(groups * units, dtype=torch.bool)
    further[kept] = False
    new.second.weight[:, further] = 0
    new.second.weight[kept[:, None], kept] = old.second.weight
    new.last.weight[:, kept] = old.last.weight
    for name in ("first.weight", "first.bias", "second.bias"):
        new.get_parameter(name)[kept] = old.get_parameter(name)
    for name in ("quality_bias", "row_bias", "first_scale", "second_scale", "second_quality_bias"):
        if getattr(old, name) is not None:
            getattr(new, name)[:, kept] = getattr(old, name)
    for name in ("last.bias", "prior", "leading.weight"):
        if name in dict(old.named_parameters()):
            new.get_parameter(name).copy_(old.get_parameter(name))


def main(argv: list[str] | None = None) -> int:
    parser = Parser("Give a trained model more residual blocks or hidden units, without effect yet.")
    parser.add_argument("checkpoint", type=Path, help="the trained model")
    for name in ("encoder_depths", "generator_depths"):
        parser.add_argument(
            f"--{name}", type=int, nargs=3, metavar=("AT_4", "AT_8", "AT_16"), help="residual blocks at 1/4, 1/8, 1/16"
        )
    parser.add_argument("--context_hidden", type=int, help="hidden units of the entropy model per group and layer")
    parser.add_argument(
        "--output", type=Path, required=True, help="where the larger checkpoint goes, its card beside it"
    )

    def run(options) -> int:
        checkpoint = load_checkpoint(options.checkpoint)
        sizes = {name: getattr(options, name) for name in GROWING if getattr(options, name) is not None}
        sizes = {name: tuple(size) if isinstance(size, list) else size for name, size in sizes.items()}
        save_checkpoint(options.output, grow(checkpoint, dataclasses.replace(checkpoint.config, **sizes)))
        print(f"wrote {options.output} and {write_model_card(options.output)}")
        return 0

    return parser.run(argv, run)


if __name__ == "__main__":
    sys.exit(main())
