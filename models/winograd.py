"""3x3 convolutions of residual blocks by Winograd's algorithm, on the CPUs where it is faster.

Search and training take pictures through the generator and back, and nearly all of that is 3x3 convolutions, which run
at the cores' peak already. F(4x4, 3x3) (Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks") has
36 products for a tile of 4x4 outputs where they have 144:

    Y = A^T [ (G g G^T) * (B^T d B) ] A         d: 6x6 inputs, g: 3x3 weights, Y: 4x4 outputs
    dg = G^T [ sum over tiles of (B^T d B) * (A dY A^T) ] G

The products of all channels are 36 matrix products, made by PyTorch in the pictures' type; A and B, in float32, are the
kernels of `winograd_kernels.py`. What stands around a convolution (activation, bias, residual, slope of the activation)
is done on the way, in no pass over memory of its own. With the points +-3/4 and +-3/2 in place of the usual +-1 and +-2
a picture in bfloat16 is about as near to float32's as with direct convolutions (docs/how_it_works.md).

The receiver's pictures come from PyTorch's own convolutions everywhere: only where gradients are wanted is this used.
"""

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from utils.precision import capabilities, fast_dtype

from . import winograd_kernels as kernels

# Tiles times channels in a chunk: few enough that transformed tiles stay in the cache until they are multiplied.
CHUNKS = {torch.bfloat16: 49152, torch.float32: 16384}


def pays_here() -> bool:
    """Whether Winograd is faster on this CPU in its `fast_dtype`.

    In bfloat16 it is where AVX-512 multiplies and there is no AMX: with matrix instructions direct convolutions are as
    fast. In float32 it is with AVX2; other CPUs without bfloat16 were not measured.
    """
    told = capabilities()
    if fast_dtype(torch.device("cpu")) == torch.bfloat16:
        faster = told.get("avx512_bf16") and not told.get("amx_tile")
    else:
        faster = told.get("avx2") and not told.get("avx512_f")
    return bool(faster) and kernels.available()


def trains_by_it(x: torch.Tensor, *layers: nn.Conv2d) -> bool:
    """Whether 3x3 convolutions that learn and that x (B, N, H, W) goes through are faster by Winograd here."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32 == fast_dtype(x.device)
        and not torch.is_autocast_enabled("cpu")
        and all(
            conv.weight.shape == (x.shape[1], x.shape[1], 3, 3)  # the kernels trust the sizes they are given
            and conv.padding == (1, 1)
            and conv.bias is not None
            and conv.weight.dtype == torch.float32
            for conv in layers
        )
        and pays_here()
    )


class Convolution(NamedTuple):
    """The weights g of a 3x3 convolution, transformed to G g G^T, and its bias."""

    forward: torch.Tensor  # (36, inputs, outputs)
    backward: torch.Tensor  # (36, outputs, inputs): of the convolution that takes gradients back
    bias: torch.Tensor  # float32 (outputs,)


def transformed(weight: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype) -> Convolution:
    """The convolution of weight (outputs, inputs, 3, 3) and bias (outputs,) for pictures of the type.

    The transform is computed in the weight's type. Gradients reach weight and bias through `forward` and `bias`.
    """
    matrix = _transform(weight.dtype)
    weights = weight.permute(2, 3, 0, 1).flatten(0, 1)  # (9, outputs, inputs)

    def apply(matrix: torch.Tensor) -> torch.Tensor:
        return (matrix @ weights.flatten(1)).to(dtype).unflatten(1, weights.shape[1:])

    forward = apply(matrix).transpose(1, 2)
    if not forward.requires_grad:  # fixed weights, which many products are made with
        forward = forward.contiguous()
    with torch.no_grad():
        # back-propagation is the convolution with mirrored weights, inputs and outputs exchanged
        backward = apply(matrix.flip(1))
    return Convolution(forward, backward, bias)


@cache
def _transform(dtype: torch.dtype) -> torch.Tensor:
    """What takes the 9 weights g of a convolution to the 36 of G g G^T: (36, 9)."""
    p, q = kernels.P, kernels.Q
    rows = [[1 / (p * q) ** 2, 0, 0]]
    for point, other in ((p, q), (q, p)):
        scale = 1 / (2 * point**2 * (point**2 - other**2))
        rows += [[scale, sign * point * scale, point**2 * scale] for sign in (1, -1)]
    matrix = torch.tensor([*rows, [0, 0, 1]], dtype=torch.float64)
    return torch.kron(matrix, matrix).to(dtype)


def residual_block(x: torch.Tensor, first: Convolution, second: Convolution) -> torch.Tensor:
    """x + second(act(first(act(x)))), as `ResidualBlock` has it: (B, N, H, W) -> (B, N, H, W) of the weights' type.

    Gradients reach x, and `forward` and `bias` of the convolutions where they are float32.
    """
    return _ResidualBlock.apply(x, *first, *second)


class _ResidualBlock(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, forward1, backward1, bias1, forward2, backward2, bias2):
        x = x.to(forward1.dtype).permute(0, 2, 3, 1).contiguous()  # no copy of one in channels_last
        h = _convolve(x, forward1, bias1, activate=True)
        y = _convolve(h, forward2, bias2, activate=True, base=x)
        ctx.save_for_backward(x, h, backward1, backward2)
        return y.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, h, backward1, backward2 = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        outer = gradient.to(x.dtype).permute(0, 2, 3, 1).contiguous()
        inner = _convolve(outer, backward2, gate=h)
        return (
            _convolve(inner, backward1, gate=x, base=outer).permute(0, 3, 1, 2) if wanted[0] else None,
            _weight_gradient(x, inner) if wanted[1] else None,
            None,
            inner.sum((0, 1, 2)) if wanted[3] else None,
            _weight_gradient(h, outer) if wanted[4] else None,
            None,
            outer.sum((0, 1, 2)) if wanted[6] else None,
        )


def _convolve(
    x: torch.Tensor,
    weights: torch.Tensor,
    bias: torch.Tensor | None = None,
    activate: bool = False,
    gate: torch.Tensor | None = None,
    base: torch.Tensor | None = None,
) -> torch.Tensor:
    """base + slope of the activation at gate * (bias + convolution of x, activated): all of them (B, H, W, C)."""
    y, bias = torch.empty_like(x), torch.zeros(x.shape[-1]) if bias is None else bias
    for first, end, tiles in _chunks(x):
        kernels.to_tiles(x, tiles, first, end, activate)
        kernels.from_tiles(torch.bmm(tiles, weights), y, first, end, bias, gate, base)
    return y


def _weight_gradient(x: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Of the transformed weights that took x (B, H, W, C), activated, to an output of that gradient: (36, C, C)."""
    channels = x.shape[-1]
    result = torch.zeros(36, channels, channels)
    for first, end, tiles in _chunks(x):
        kernels.to_tiles(x, tiles, first, end, activate=True)  # again: kept, they would be twice the picture's size
        spread = torch.empty_like(tiles)
        kernels.spread(gradient, spread, first, end)
        torch.baddbmm(result, spread.transpose(1, 2), tiles, out=result)
    return result.transpose(1, 2)  # (36, outputs, inputs) lies in memory as the weights do


def _chunks(x: torch.Tensor) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Rows of tiles of pictures (B, H, W, C) that go through together: first, end, room for their tiles."""
    batch, height, width, channels = x.shape
    across, rows = -(-width // 4), batch * -(-height // 4)
    step = -(-rows // -(-rows * across * channels // CHUNKS[x.dtype]))
    for first in range(0, rows, step):
        end = min(first + step, rows)
        yield first, end, torch.empty(36, (end - first) * across, channels, dtype=x.dtype)
