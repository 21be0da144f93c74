"""How the search runs the generator on this machine: Winograd convolutions where they are faster.

The search takes a picture through the generator and back a hundred times, and nearly all of that is 3x3
convolutions, which run at the cores' peak already. F(4x4, 3x3) (Lavin and Gray 2016, "Fast Algorithms for
Convolutional Neural Networks") has 36 products for a tile of 4x4 outputs where they have 144:

    Y = A^T [ (G g G^T) * (B^T d B) ] A         d: 6x6 inputs, g: 3x3 weights, Y: 4x4 outputs

The products of all channels are 36 matrix products, made by PyTorch in bfloat16; A and B, in float32, are the kernels
of `winograd_kernels.py`. What stands around a convolution (activation, bias, residual, slope of the activation) is
done on the way, in no pass over memory of its own. With the points +-3/4 and +-3/2 in place of the usual +-1 and +-2 a
picture is about as near to float32's as with direct convolutions in bfloat16 (docs/how_it_works.md).
"""

import copy
import logging

import torch
from torch import nn

from models.generator import Generator
from utils.precision import capabilities, fast_dtype

from . import winograd_kernels as kernels

log = logging.getLogger(__name__)

STACKS = ("body16", "body8", "body4")  # of residual blocks in a generator
# A stack's replacement must reproduce what it adds to its input, and the slope of that, within these fractions. The
# slope is the looser one: where a value is next to 0, bfloat16 may see it on the other side of the activation.
MAX_ERRORS = (0.05, 0.35)  # seen: 0.02 to 0.03, 0.05 to 0.17
MIN_CHANGE = 0.1  # of the input; a stack that adds less is measured against this, as bfloat16 rounds the sum
CHUNK = 49152  # tiles times channels that go through together: 3.5 MB transformed, and as much of products


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
            stacks = {name: _verified(getattr(generator, name), name) for name in STACKS}
        except NotReproduced as error:
            log.info("the search runs the residual blocks without Winograd convolutions: %s", error)
            return result
        for name, stack in stacks.items():
            setattr(result, name, stack)
    return result


def pays_here() -> bool:
    """Whether Winograd is faster on this CPU: AVX-512 has bfloat16, but there is no AMX.

    With matrix instructions direct convolutions are as fast, and without bfloat16 the search is in float32.
    """
    told = capabilities()
    return bool(told.get("avx512_bf16") and not told.get("amx_tile")) and kernels.available()


class NotReproduced(ValueError):
    """A FrozenStack cannot stand for these blocks."""


def _verified(blocks: nn.Sequential, name: str) -> "FrozenStack":
    """FrozenStack of the blocks. Raises NotReproduced if a small random input shows that it computes something else."""
    try:
        frozen = FrozenStack(blocks)
    except (AttributeError, TypeError) as error:
        raise NotReproduced(f"the blocks of {name} are built of other layers ({error})") from None
    generator = torch.Generator().manual_seed(0)
    x, gradient = torch.randn(2, 1, len(frozen.no_bias), 6, 7, generator=generator).bfloat16().float()

    def added(stack: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
        leaf = x.clone().requires_grad_(True)
        with torch.enable_grad():
            y = stack(leaf)
            (slope,) = torch.autograd.grad(y, leaf, gradient.to(y.dtype))
        return y.detach().float() - x, slope.float() - gradient

    for what, found, expected, limit in zip(("output", "slope"), added(frozen), added(blocks), MAX_ERRORS):
        error = float((found - expected).norm() / expected.norm().clamp_min(MIN_CHANGE * x.norm()))
        if not error <= limit:
            raise NotReproduced(f"{name} computes something else ({what} off by {error:.0%}, allowed are {limit:.0%})")
    return frozen


class FrozenStack(nn.Module):
    """What `blocks.stack` computes, with the weights it has now: (B, N, H, W) -> bfloat16 (B, N, H, W).

    Gradients reach the input only. Raises AttributeError or TypeError where the blocks have other layers.
    """

    def __init__(self, blocks: nn.Sequential):
        super().__init__()
        convolutions = [conv for block in blocks for conv in (block.conv1, block.conv2)]
        width = convolutions[0].weight.shape[0]
        for conv in convolutions:  # the kernels trust the sizes they are given
            if conv.weight.shape != (width, width, 3, 3) or conv.bias is None:
                raise TypeError(f"not all of them 3x3 convolutions of {width} channels with a bias")
        self.forward_weights = [_transformed(conv.weight.detach()) for conv in convolutions]
        # back-propagation is the convolution with mirrored weights, inputs and outputs exchanged
        self.backward_weights = [_transformed(conv.weight.detach().flip(2, 3).transpose(0, 1)) for conv in convolutions]
        self.biases = [conv.bias.detach().float().clone() for conv in convolutions]
        self.no_bias = torch.zeros_like(self.biases[0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _Stack.apply(x, self)


class _Stack(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, stack):
        x, kept = _channels_last(x), []
        for first in range(0, len(stack.biases), 2):
            second = first + 1
            h = _convolve(x, stack.forward_weights[first], stack.biases[first], activate=True)
            kept += [x, h]
            x = _convolve(h, stack.forward_weights[second], stack.biases[second], activate=True, base=x)
        ctx.stack = stack
        ctx.save_for_backward(*kept)
        return x.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx, gradient):
        stack, kept, slope = ctx.stack, ctx.saved_tensors, _channels_last(gradient)
        for first in range(len(kept) - 2, -1, -2):
            second = first + 1
            inner = _convolve(slope, stack.backward_weights[second], stack.no_bias, gate=kept[second])
            slope = _convolve(inner, stack.backward_weights[first], stack.no_bias, gate=kept[first], base=slope)
        return slope.permute(0, 3, 1, 2), None


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) -> bfloat16 (B, H, W, C): no copy of one in channels_last."""
    return x.to(torch.bfloat16).permute(0, 2, 3, 1).contiguous()


def _transformed(weight: torch.Tensor) -> torch.Tensor:
    """(outputs, inputs, 3, 3) -> G g G^T, bfloat16 (36, inputs, outputs)."""
    p, q = kernels.P, kernels.Q
    rows = [[1 / (p * q) ** 2, 0, 0]]
    for point, other in ((p, q), (q, p)):
        scale = 1 / (2 * point**2 * (point**2 - other**2))
        rows += [[scale, sign * point * scale, point**2 * scale] for sign in (1, -1)]
    # in float64, whose sums round alike in any number of threads once they are bfloat16
    matrix = torch.tensor([*rows, [0, 0, 1]], dtype=torch.float64, device=weight.device)
    tiles = torch.einsum("ai,ocij,bj->abco", matrix, weight.double(), matrix)
    return tiles.flatten(0, 1).to(torch.bfloat16).contiguous()


def _convolve(
    x: torch.Tensor,
    weights: torch.Tensor,
    bias: torch.Tensor,
    activate: bool = False,
    gate: torch.Tensor | None = None,
    base: torch.Tensor | None = None,
) -> torch.Tensor:
    """base + slope of the activation at gate * (bias + convolution of x, activated): all of them (B, H, W, C)."""
    batch, height, width, channels = x.shape
    y = torch.empty_like(x)
    across, rows = -(-width // 4), batch * -(-height // 4)
    step = -(-rows // -(-rows * across * channels // CHUNK))
    for first in range(0, rows, step):
        end = min(first + step, rows)
        tiles = torch.empty(36, (end - first) * across, channels, dtype=torch.bfloat16)
        kernels.to_tiles(x, tiles, first, end, activate)
        products = torch.bmm(tiles, weights)
        kernels.from_tiles(products, y, first, end, bias, gate, base)
    return y
