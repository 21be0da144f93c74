"""Encoder E (analysis transform): picture -> latent. Only a starting point for the search."""

import torch
from torch import nn

from .blocks import latent_reach, linear_conv, stack
from .config import STRIDE


class Encoder(nn.Module):
    """x (B, C, H, W) in [-1, 1], H and W multiples of 16 -> z (B, latent_channels, H/16, W/16).

    Space-to-depth and 1x1 convolutions do the striding: they lose nothing and start well
    conditioned. `rows` > 0 adds a bias per latent row (pictures whose rows have a meaning, as
    mel bands do).
    """

    def __init__(
        self,
        in_channels: int,
        latent_channels: int,
        widths: tuple[int, int, int],
        depths: tuple[int, int, int],
        rows: int = 0,
    ):
        super().__init__()
        n4, n8, n16 = widths
        self.down4 = nn.PixelUnshuffle(4)
        self.down2 = nn.PixelUnshuffle(2)
        self.in4 = linear_conv(16 * in_channels, n4, 3)
        self.body4 = stack(n4, depths[0])
        self.in8 = linear_conv(4 * n4, n8)
        self.body8 = stack(n8, depths[1])
        self.in16 = linear_conv(4 * n8, n16)
        self.row_bias = nn.Parameter(torch.zeros(1, n16, rows, 1)) if rows else None
        self.body16 = stack(n16, depths[2])
        self.out = linear_conv(n16, latent_channels)

    @property
    def reach(self) -> int:
        """Latent positions on each side whose samples a latent depends on."""
        return latent_reach(self.body16, self.body8, self.body4, self.in4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-2] % STRIDE or x.shape[-1] % STRIDE:
            raise ValueError(f"picture is {x.shape[-2]}x{x.shape[-1]}: pad it to multiples of {STRIDE}")
        h = self.body4(self.in4(self.down4(x)))  # (B, n4, H/4, W/4)
        h = self.body8(self.in8(self.down2(h)))  # (B, n8, H/8, W/8)
        h = self.in16(self.down2(h))  # (B, n16, H/16, W/16)
        if self.row_bias is not None:
            h = h + self.row_bias
        return self.out(self.body16(h))
