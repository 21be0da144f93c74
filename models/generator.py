"""Generator G (synthesis transform): latent -> picture. The search back-propagates through it."""

import torch
from torch import nn

from .blocks import SMALL_START, latent_reach, linear_conv, stack, upsampling_conv
from .config import QUALITIES, STRIDE
from .quality import affine
from .texture import Texture


class Generator(nn.Module):
    """z_hat (B, latent_channels, h, w), quality_row (B,) in 0..7, fractions too -> x_hat (B, C, 16h, 16w).

    The output aims at [-1, 1] and is not clamped: a clamp would take the gradient that the
    search needs. Knowing the quality, the generator knows how coarse its latent is. `rows` > 0
    adds a bias per latent row, as in the encoder.

    With `linear` the picture is a linear transform of z_hat, block by block, to which the network adds its
    part, made of `features`: the same latent with channels of about unit deviation. `linear` stays float32
    where the rest of the network runs in bfloat16: its 8 bits are too few for the mean of a block. Where rows have a
    meaning, it adds each one's mean.

    With `texture` noise joins the features at 1/8 and 1/4 of the resolution (`models/texture.py`).
    """

    def __init__(
        self,
        out_channels: int,
        latent_channels: int,
        widths: tuple[int, int, int],
        depths: tuple[int, int, int],
        rows: int = 0,
        *,
        linear: bool = False,
        scales: bool = False,
        texture: bool = False,
    ):
        super().__init__()
        n4, n8, n16 = widths
        self.in16 = linear_conv(latent_channels, n16)
        self.row_bias = nn.Parameter(torch.zeros(1, n16, rows, 1)) if rows else None
        self.quality16 = nn.Parameter(torch.zeros(QUALITIES, n16))
        self.scale16 = nn.Parameter(torch.ones(QUALITIES, n16)) if scales else None
        self.body16 = stack(n16, depths[2])
        self.out16 = upsampling_conv(n16, n8, 2)
        self.quality8 = nn.Parameter(torch.zeros(QUALITIES, n8))
        self.scale8 = nn.Parameter(torch.ones(QUALITIES, n8)) if scales else None
        self.texture8 = Texture(n8, 2) if texture else None
        self.body8 = stack(n8, depths[1])
        self.out8 = upsampling_conv(n8, n4, 2)
        self.texture4 = Texture(n4, 4) if texture else None
        self.body4 = stack(n4, depths[0])
        self.out4 = upsampling_conv(n4, out_channels, 4, kernel=3)
        self.linear = upsampling_conv(latent_channels, out_channels, STRIDE) if linear else None
        self.row_mean = nn.Parameter(torch.zeros(1, out_channels, STRIDE * rows, 1)) if linear and rows else None
        with torch.no_grad():
            self.out4.weight.mul_(0.3)  # pictures have a standard deviation of about 0.3
            if linear:
                self.out4.weight.mul_(SMALL_START)

    @property
    def reach(self) -> int:
        """Latent positions on each side that an output sample depends on."""
        return latent_reach(self.body16, self.body8, self.body4, self.out4)

    def forward(
        self,
        z_hat: torch.Tensor,
        quality_row: torch.Tensor,
        features: torch.Tensor | None = None,
        origin: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """features, like z_hat: what the network sees; z_hat itself where there is no linear path.

        `origin` is that of `Texture.forward`: it counts only with textures.
        """
        seen = z_hat if features is None else features
        h = affine(
            self.in16(seen.to(self.in16.weight.dtype)), self.quality16, self.scale16, quality_row
        )  # (B, n16, h, w)
        if self.row_bias is not None:
            h = h + self.row_bias
        h = affine(self.out16(self.body16(h)), self.quality8, self.scale8, quality_row)  # (B, n8, 2h, 2w)
        if self.texture8 is not None:
            h = self.texture8(h, origin)
        h = self.out8(self.body8(h))  # (B, n4, 4h, 4w)
        if self.texture4 is not None:
            h = self.texture4(h, origin)
        x_hat = self.out4(self.body4(h)).float()  # (B, C, 16h, 16w)
        if self.linear is None:
            return x_hat
        with torch.autocast(z_hat.device.type, enabled=False):
            x_hat = x_hat + self.linear(z_hat.float())
            return x_hat if self.row_mean is None else x_hat + self.row_mean
