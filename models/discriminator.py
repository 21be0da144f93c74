"""Multi-scale patch discriminator D (pix2pixHD, Wang et al. 2018): scores real against generated.

The adversarial stage and the search's perceptual objective use it; the receiver does not need it.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from .blocks import NEGATIVE_SLOPE


class PatchDiscriminator(nn.Module):
    """x (B, C, H, W) -> (logits (B, 1, H/8, W/8), list of features), each logit sees a 46x46 patch."""

    def __init__(self, in_channels: int, width: int):
        super().__init__()
        widths = [in_channels, width, 2 * width, 4 * width]
        self.layers = nn.ModuleList(
            spectral_norm(nn.Conv2d(a, b, 4, stride=2, padding=1)) for a, b in itertools.pairwise(widths)
        )
        self.out = spectral_norm(nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), NEGATIVE_SLOPE)
            features.append(x)
        return self.out(x), features


class Discriminator(nn.Module):
    """The same patch discriminator at full, half and quarter resolution."""

    def __init__(self, in_channels: int, width: int = 32, scales: int = 3):
        super().__init__()
        self.scales = nn.ModuleList(PatchDiscriminator(in_channels, width) for _ in range(scales))

    def forward(self, x: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """x (B, C, H, W) in [-1, 1], H and W at least 32 -> (logits of each scale, all features)."""
        logits, features = [], []
        for i, scale in enumerate(self.scales):
            score, maps = scale(F.avg_pool2d(x, 2**i) if i else x)
            logits.append(score)
            features.extend(maps)
        return logits, features
