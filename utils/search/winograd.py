"""How the search runs the generator on this machine: Winograd convolutions where they are faster."""

import copy
import logging

import torch
from torch import nn

from models.generator import Generator
from models.winograd import pays_here, residual_block, transformed
from utils.precision import fast_dtype

log = logging.getLogger(__name__)

STACKS = ("body16", "body8", "body4")  # of residual blocks in a generator
# A stack's replacement must reproduce what it adds to its input, and the slope of that, within these fractions. In
# bfloat16 the slope is the looser one: a value next to 0 may be seen on the other side of the activation.
MAX_ERRORS = {
    torch.bfloat16: (0.05, 0.35),  # seen: 0.02 to 0.03, 0.04 to 0.24
    torch.float32: (1e-4, 1e-4),  # seen: 1e-6 to 4e-6, both
}
INPUTS = 16  # at random; the error of a single one varies threefold
MIN_CHANGE = 0.1  # of the input; a stack that adds less is measured against this, as bfloat16 rounds the sum


def generator_for_search(generator: Generator) -> Generator:
    """A copy of the `fast_dtype` with fixed weights, its residual blocks as `FrozenStack` where that is faster.

    A generator with other blocks than those that FrozenStack was written for is left as it is.
    """
    device = next(generator.parameters()).device
    result = copy.deepcopy(generator).to(fast_dtype(device)).requires_grad_(False)
    if result.linear is not None:  # of a generator only this is exact enough in float32 alone
        result.linear = copy.deepcopy(generator.linear).requires_grad_(False)
    if device.type == "cpu" and pays_here():
        try:
            stacks = {name: _verified(getattr(generator, name), name, fast_dtype(device)) for name in STACKS}
        except NotReproduced as error:
            log.info("the search runs the residual blocks without Winograd convolutions: %s", error)
            return result
        for name, stack in stacks.items():
            setattr(result, name, stack)
    return result


class NotReproduced(ValueError):
    """A FrozenStack cannot stand for these blocks."""


def _verified(blocks: nn.Sequential, name: str, dtype: torch.dtype) -> "FrozenStack":
    """FrozenStack of the blocks. Raises NotReproduced if small random inputs show that it computes something else."""
    try:
        frozen = FrozenStack(blocks, dtype)
    except (AttributeError, TypeError) as error:
        raise NotReproduced(f"the blocks of {name} are built of other layers ({error})") from None
    generator = torch.Generator().manual_seed(0)
    x, gradient = torch.randn(2, INPUTS, frozen.width, 6, 7, generator=generator).bfloat16().float()

    def added(stack: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
        leaf = x.clone().requires_grad_(True)
        with torch.enable_grad():
            y = stack(leaf)
            (slope,) = torch.autograd.grad(y, leaf, gradient.to(y.dtype))
        return y.detach().float() - x, slope.float() - gradient

    direct = copy.deepcopy(blocks).requires_grad_(False)  # blocks that learn may run by Winograd themselves
    for what, found, expected, limit in zip(("output", "slope"), added(frozen), added(direct), MAX_ERRORS[dtype]):
        error = float((found - expected).norm() / expected.norm().clamp_min(MIN_CHANGE * x.norm()))
        if not error <= limit:
            raise NotReproduced(f"{name} computes something else ({what} off by {error:.2%}, allowed are {limit:.2%})")
    return frozen


class FrozenStack(nn.Module):
    """What `blocks.stack` computes, with the weights it has now: (B, N, H, W) -> (B, N, H, W) of the dtype.

    Gradients reach the input only. Raises AttributeError or TypeError where the blocks have other layers.
    """

    def __init__(self, blocks: nn.Sequential, dtype: torch.dtype):
        super().__init__()
        layers = [conv for block in blocks for conv in (block.conv1, block.conv2)]
        self.width = layers[0].weight.shape[0]
        for conv in layers:  # the kernels trust the sizes they are given
            if conv.weight.shape != (self.width, self.width, 3, 3) or conv.bias is None:
                raise TypeError(f"not all of them 3x3 convolutions of {self.width} channels with a bias")
        # in float64, whose sums round alike in any number of threads once they are of the dtype
        self.convolutions = [
            transformed(conv.weight.detach().double(), conv.bias.detach().float().clone(), dtype) for conv in layers
        ]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for first, second in zip(self.convolutions[::2], self.convolutions[1::2]):
            x = residual_block(x, first, second)
        return x
