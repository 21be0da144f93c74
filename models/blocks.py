"""Building blocks that encoder and generator share."""

import math

import torch
import torch.nn.functional as F
from torch import nn

NEGATIVE_SLOPE = 0.1
SMALL_START = 0.1  # of a last convolution's weights, where the network corrects what a linear path gives already


class ResidualBlock(nn.Module):
    """x + conv(act(conv(act(x)))): (B, N, H, W) -> (B, N, H, W).

    The second convolution starts near zero, so that the network starts as a shallow, well
    conditioned one and learns from the first step.

    A block in its place states its own `reach`: the margin of windows follows from it (`latent_reach`).
    """

    reach = 2  # samples on each side that an output depends on: two 3x3 convolutions

    def __init__(self, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        init_conv(self.conv1)
        init_conv(self.conv2, scale=0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() and self.conv1.weight.requires_grad:
            from . import winograd  # imports numba, which the receiver can do without

            if winograd.trains_by_it(x, self.conv1, self.conv2):
                layers = (winograd.transformed(c.weight, c.bias, x.dtype) for c in (self.conv1, self.conv2))
                return winograd.residual_block(x, *layers)
        h = self.conv1(F.leaky_relu(x, NEGATIVE_SLOPE))
        return x + self.conv2(F.leaky_relu_(h, NEGATIVE_SLOPE))


class SubPixelConv(nn.Conv2d):
    """Convolution, then PixelShuffle (Shi et al. 2016): (B, n_in, H, W) -> (B, n_out, factor * H, factor * W).

    Weights are those of `nn.Conv2d` before `nn.PixelShuffle`. The channels of one output sample are computed side
    by side, so that in channels_last whole rows of them are moved: a tenth of the time, most of all backward.
    """

    def __init__(self, n_in: int, n_out: int, factor: int, kernel: int = 1):
        super().__init__(n_in, n_out * factor**2, kernel, padding=kernel // 2)
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        r, n_out = self.factor, self.out_channels // self.factor**2
        weight, bias = (p.unflatten(0, (n_out, r * r)).transpose(0, 1).flatten(0, 1) for p in (self.weight, self.bias))
        y = F.conv2d(x, weight, bias, padding=self.padding).permute(0, 2, 3, 1)  # (B, H, W, r * r * n_out)
        b, h, w, _ = y.shape
        y = y.reshape(b, h, w, r, r, n_out).transpose(2, 3).reshape(b, r * h, r * w, n_out)
        return y.permute(0, 3, 1, 2)


def init_conv(conv: nn.Conv2d, scale: float = 1.0) -> nn.Conv2d:
    """Variance-preserving start: without it the signal dies on the way through the strides."""
    nn.init.kaiming_normal_(conv.weight, a=NEGATIVE_SLOPE, nonlinearity="leaky_relu")
    with torch.no_grad():
        conv.weight.mul_(scale)
    nn.init.zeros_(conv.bias)
    return conv


def linear_conv(n_in: int, n_out: int, kernel: int = 1) -> nn.Conv2d:
    """Convolution with no activation after it, of unit gain."""
    return _unit_gain(nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2))


def upsampling_conv(n_in: int, n_out: int, factor: int, kernel: int = 1) -> SubPixelConv:
    """Like `linear_conv`, to `factor` times as many rows and columns."""
    return _unit_gain(SubPixelConv(n_in, n_out, factor, kernel))


def _unit_gain(conv: nn.Conv2d) -> nn.Conv2d:
    nn.init.normal_(conv.weight, std=conv.weight[0].numel() ** -0.5)
    nn.init.zeros_(conv.bias)
    return conv


def stack(width: int, depth: int) -> nn.Sequential:
    """Residual blocks one after the other, (B, width, H, W) -> (B, width, H, W)."""
    return nn.Sequential(*[ResidualBlock(width) for _ in range(depth)])


def latent_reach(body16: nn.Sequential, body8: nn.Sequential, body4: nn.Sequential, outer: nn.Conv2d) -> int:
    """Latent positions on each side that a network's output depends on, at most.

    It has a stack of blocks at 1/16, 1/8 and 1/4 of the picture's resolution, and the convolution `outer` at 1/4;
    all its other layers stay within a sample of their own grid.
    """
    at16, at8, at4 = (sum(block.reach for block in body) for body in (body16, body8, body4))
    at4 += outer.kernel_size[0] // 2
    # each rounded up by itself, and one more to spare
    return at16 + math.ceil(at8 / 2) + math.ceil(at4 / 4) + 1
