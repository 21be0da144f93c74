"""Encoder E (analysis transform): picture -> latent. Only a starting point for the search."""

import torch
from torch import nn

from .blocks import SMALL_START, latent_reach, linear_conv, stack
from .config import QUALITIES, STRIDE
from .quality import affine


class Encoder(nn.Module):
    """x (B, C, H, W) in [-1, 1], H and W multiples of 16; quality_row (B,) in 0..7 -> z (B, latent_channels, H/16, W/16).

    Space-to-depth and 1x1 convolutions do the striding: they lose nothing and start well
    conditioned. `rows` > 0 adds a bias per latent row (pictures whose rows have a meaning, as
    mel bands do). With `scales` the quality scales and shifts features. With `linear` the latent is
    a linear transform of 16x16 blocks, to which the network adds its part in units of `amplitude`,
    the deviation of each coefficient: all channels carry the picture from the first step on. Where rows have a
    meaning, each has its own mean, which is left out.
    """

    def __init__(
        self,
        in_channels: int,
        latent_channels: int,
        widths: tuple[int, int, int],
        depths: tuple[int, int, int],
        rows: int = 0,
        *,
        linear: bool = False,
        scales: bool = False,
    ):
        super().__init__()
        n4, n8, n16 = widths
        self.down4 = nn.PixelUnshuffle(4)
        self.down2 = nn.PixelUnshuffle(2)
        self.in4 = linear_conv(16 * in_channels, n4, 3)
        self.body4 = stack(n4, depths[0])
        self.in8 = linear_conv(4 * n4, n8)
        self.quality8 = nn.Parameter(torch.zeros(QUALITIES, n8)) if scales else None
        self.scale8 = nn.Parameter(torch.ones(QUALITIES, n8)) if scales else None
        self.body8 = stack(n8, depths[1])
        self.in16 = linear_conv(4 * n8, n16)
        self.quality16 = nn.Parameter(torch.zeros(QUALITIES, n16)) if scales else None
        self.scale16 = nn.Parameter(torch.ones(QUALITIES, n16)) if scales else None
        self.row_bias = nn.Parameter(torch.zeros(1, n16, rows, 1)) if rows else None
        self.body16 = stack(n16, depths[2])
        self.out = linear_conv(n16, latent_channels)
        self.linear = None
        if linear:
            self.down16 = nn.PixelUnshuffle(STRIDE)
            self.linear = linear_conv(STRIDE**2 * in_channels, latent_channels)
            self.row_mean = nn.Parameter(torch.zeros(1, in_channels, STRIDE * rows, 1)) if rows else None
            self.register_buffer("amplitude", torch.ones(latent_channels))
            with torch.no_grad():  # the linear transform is good already: its correction starts small
                self.out.weight.mul_(SMALL_START)

    @property
    def reach(self) -> int:
        """Latent positions on each side whose samples a latent depends on."""
        return latent_reach(self.body16, self.body8, self.body4, self.in4)

    def forward(self, x: torch.Tensor, quality_row: torch.Tensor) -> torch.Tensor:
        if x.shape[-2] % STRIDE or x.shape[-1] % STRIDE:
            raise ValueError(f"picture is {x.shape[-2]}x{x.shape[-1]}: pad it to multiples of {STRIDE}")
        h = self.body4(self.in4(self.down4(x)))  # (B, n4, H/4, W/4)
        h = self.in8(self.down2(h))  # (B, n8, H/8, W/8)
        if self.scale8 is not None:
            h = affine(h, self.quality8, self.scale8, quality_row)
        h = self.in16(self.down2(self.body8(h)))  # (B, n16, H/16, W/16)
        if self.scale16 is not None:
            h = affine(h, self.quality16, self.scale16, quality_row)
        if self.row_bias is not None:
            h = h + self.row_bias
        z = self.out(self.body16(h))
        if self.linear is None:
            return z
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 is too coarse for the mean of a block
            return self.linear_latent(x) + self.amplitude[:, None, None] * z.float()

    def linear_latent(self, x: torch.Tensor) -> torch.Tensor:
        """What the linear path alone makes of x, float32; for encoders that have one."""
        x = x.float() if self.row_mean is None else x.float() - self.row_mean
        return self.linear(self.down16(x))
