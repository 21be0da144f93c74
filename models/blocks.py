"""Building blocks that encoder and generator share."""

import torch
import torch.nn.functional as F
from torch import nn

NEGATIVE_SLOPE = 0.1


class ResidualBlock(nn.Module):
    """x + conv(act(conv(act(x)))): (B, N, H, W) -> (B, N, H, W).

    The second convolution starts near zero, so that the network starts as a shallow, well
    conditioned one and learns from the first step.
    """

    def __init__(self, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        init_conv(self.conv1)
        init_conv(self.conv2, scale=0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv1(F.leaky_relu(x, NEGATIVE_SLOPE))
        return x + self.conv2(F.leaky_relu_(h, NEGATIVE_SLOPE))


def init_conv(conv: nn.Conv2d, scale: float = 1.0) -> nn.Conv2d:
    """Variance-preserving start: without it the signal dies on the way through the strides."""
    nn.init.kaiming_normal_(conv.weight, a=NEGATIVE_SLOPE, nonlinearity="leaky_relu")
    with torch.no_grad():
        conv.weight.mul_(scale)
    nn.init.zeros_(conv.bias)
    return conv


def linear_conv(n_in: int, n_out: int, kernel: int = 1) -> nn.Conv2d:
    """Convolution with no activation after it, of unit gain."""
    conv = nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2)
    nn.init.normal_(conv.weight, std=(n_in * kernel * kernel) ** -0.5)
    nn.init.zeros_(conv.bias)
    return conv


def stack(width: int, depth: int) -> nn.Sequential:
    return nn.Sequential(*[ResidualBlock(width) for _ in range(depth)])
