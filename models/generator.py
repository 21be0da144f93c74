"""Generator G (synthesis transform): latent -> picture. The search back-propagates through it."""

import torch
from torch import nn

from .blocks import latent_reach, linear_conv, stack, upsampling_conv
from .config import QUALITIES
from .quality import at_quality


class Generator(nn.Module):
    """z_hat (B, latent_channels, h, w), quality (B,) in 0..7, fractions too -> x_hat (B, C, 16h, 16w).

    The output aims at [-1, 1] and is not clamped: a clamp would take the gradient that the
    search needs. Knowing the quality, the generator knows how coarse its latent is. `rows` > 0
    adds a bias per latent row, as in the encoder.
    """

    def __init__(
        self,
        out_channels: int,
        latent_channels: int,
        widths: tuple[int, int, int],
        depths: tuple[int, int, int],
        rows: int = 0,
    ):
        super().__init__()
        n4, n8, n16 = widths
        self.in16 = linear_conv(latent_channels, n16)
        self.row_bias = nn.Parameter(torch.zeros(1, n16, rows, 1)) if rows else None
        self.quality16 = nn.Parameter(torch.zeros(QUALITIES, n16))
        self.body16 = stack(n16, depths[2])
        self.out16 = upsampling_conv(n16, n8, 2)
        self.quality8 = nn.Parameter(torch.zeros(QUALITIES, n8))
        self.body8 = stack(n8, depths[1])
        self.out8 = upsampling_conv(n8, n4, 2)
        self.body4 = stack(n4, depths[0])
        self.out4 = upsampling_conv(n4, out_channels, 4, kernel=3)
        with torch.no_grad():
            self.out4.weight.mul_(0.3)  # pictures have a standard deviation of about 0.3

    @property
    def reach(self) -> int:
        """Latent positions on each side that an output sample depends on."""
        return latent_reach(self.body16, self.body8, self.body4, self.out4)

    def forward(self, z_hat: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
        h = self.in16(z_hat) + at_quality(self.quality16, quality)[:, :, None, None]  # (B, n16, h, w)
        if self.row_bias is not None:
            h = h + self.row_bias
        h = self.out16(self.body16(h))  # (B, n8, 2h, 2w)
        h = h + at_quality(self.quality8, quality)[:, :, None, None]
        h = self.out8(self.body8(h))  # (B, n4, 4h, 4w)
        return self.out4(self.body4(h))  # (B, C, 16h, 16w)
