"""Discriminators: they score real against generated; the receiver does not need them.

Of photographs in color, features of a trained network (Projected GAN, Sauer et al. 2021), for the adversarial stage
alone. Of other pictures, patches at several scales (pix2pixHD, Wang et al. 2018), for the adversarial stage and for the
search's perceptual objective. Of waveforms, periods (HiFi-GAN, Kong et al. 2020) and spectra at several resolutions
(UnivNet, Jang et al. 2021), for the adversarial stage alone.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

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
        return _layered(self, x)


class Discriminator(nn.Module):
    """The same patch discriminator at full, half and quarter resolution."""

    def __init__(self, in_channels: int, width: int = 32, scales: int = 3):
        super().__init__()
        self.scales = nn.ModuleList(PatchDiscriminator(in_channels, width) for _ in range(scales))

    def forward(self, x: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """x (B, C, H, W) in [-1, 1], H and W at least 32 -> (logits of each scale, all features)."""
        return _scored(self.scales, [F.avg_pool2d(x, 2**i) if i else x for i in range(len(self.scales))])


PERIODS = (2, 3, 5, 7, 11)  # samples
RESOLUTIONS = ((256, 64), (512, 128), (1024, 256))  # samples of a spectrum's window, and of its hop
SHOWN_POWER = 0.3  # of the magnitudes in the spectra: soft parts are heard, too


class PeriodDiscriminator(nn.Module):
    """A waveform (B, n) -> (logits (B, 1, h, period), list of features): what repeats after `period` samples lies in
    columns, and the columns are convolved."""

    def __init__(self, period: int, widths: tuple[int, ...]):
        super().__init__()
        self.period = period
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(a, b, (5, 1), stride=(3, 1), padding=(2, 0)))
            for a, b in itertools.pairwise((1, *widths))
        )
        self.out = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, waveform: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        rows = waveform.shape[-1] // self.period
        return _layered(self, waveform[:, : rows * self.period].reshape(-1, 1, rows, self.period))


class SpectrumDiscriminator(nn.Module):
    """A waveform (B, n), n at least the window -> (logits (B, 1, frames / 4, bins / 16), list of features)."""

    def __init__(self, window: int, hop: int, width: int):
        super().__init__()
        self.hop = hop
        self.register_buffer("window", torch.hann_window(window), persistent=False)
        widths = (1, width, width, width, width)
        strides = ((1, 2), (2, 2), (2, 2), (1, 2))
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(a, b, (3, 9), stride=stride, padding=(1, 4)))
            for (a, b), stride in zip(itertools.pairwise(widths), strides)
        )
        self.out = weight_norm(nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, waveform: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        spectra = torch.stft(waveform, len(self.window), self.hop, window=self.window, return_complex=True)
        power = spectra.real**2 + spectra.imag**2
        return _layered(self, (power + 1e-8).pow(SHOWN_POWER / 2).transpose(1, 2)[:, None])


class WaveformDiscriminator(nn.Module):
    """Discriminators of several periods and resolutions together."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 128), width: int = 16):
        super().__init__()
        periods = (PeriodDiscriminator(period, widths) for period in PERIODS)
        spectra = (SpectrumDiscriminator(*resolution, width) for resolution in RESOLUTIONS)
        self.parts = nn.ModuleList([*periods, *spectra])

    def forward(self, waveform: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """waveform (B, n), float32 in [-1, 1] -> (logits of each part, all features)."""
        return _scored(self.parts, [waveform] * len(self.parts))


# Of each scale, from 1/2 to 1/32: channels after the projection, and strides of the layers of its head.
PROJECTED_WIDTHS = (24, 32, 48, 64, 96)
HEAD_STRIDES = ((2, 2), (2, 1), (2, 1), (1, 1), (1, 1))
HEAD_WIDTH, CONDITION_WIDTH = 48, 16


class Projection(nn.Module):
    """Features of all scales -> as many, mixed by random weights that a fixed seed gives and that are never trained.

    Channels are mixed within a scale, and coarse scales are added to the fine ones, so that no head can settle on a few
    of the features.
    """

    def __init__(self, in_widths: tuple[int, ...]):
        super().__init__()
        pairs = itertools.pairwise(PROJECTED_WIDTHS)
        self.channels = nn.ModuleList(nn.Conv2d(a, b, 1, bias=False) for a, b in zip(in_widths, PROJECTED_WIDTHS))
        self.scales = nn.ModuleList(nn.Conv2d(coarse, fine, 3, padding=1, bias=False) for fine, coarse in pairs)
        seeded = torch.Generator().manual_seed(0)
        for conv in (*self.channels, *self.scales):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="linear", generator=seeded)
        self.requires_grad_(False)

    def forward(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        mixed = [conv(x) for conv, x in zip(self.channels, features)]
        for i in reversed(range(len(self.scales))):
            coarse = F.interpolate(self.scales[i](mixed[i + 1]), size=mixed[i].shape[2:], mode="bilinear")
            mixed[i] = (mixed[i] + coarse) * 0.5**0.5
        return mixed


class Head(nn.Module):
    """A small discriminator of one scale: (B, C, h, w) -> logits (B, 1, h / s, w / s), s the product of the strides."""

    def __init__(self, in_channels: int, strides: tuple[int, ...]):
        super().__init__()
        widths = [in_channels, *[HEAD_WIDTH] * len(strides)]
        self.layers = nn.ModuleList(
            spectral_norm(nn.Conv2d(a, b, 4 if stride == 2 else 3, stride=stride, padding=1))
            for (a, b), stride in zip(itertools.pairwise(widths), strides)
        )
        self.out = spectral_norm(nn.Conv2d(HEAD_WIDTH, 1, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits, _ = _layered(self, x)
        return logits


class ProjectedDiscriminator(nn.Module):
    """Discriminators of a frozen network's features of pictures, one for each scale (Sauer et al. 2021, "Projected GANs
    Converge Faster").

    They know the latent, too, so that they judge a picture as one of *this* latent (Mentzer et al. 2020, HiFiC).
    Sides of pictures are at least 32 pixels.
    """

    def __init__(self, in_widths: tuple[int, ...], latent_channels: int):
        super().__init__()
        self.projection = Projection(in_widths)
        self.condition = nn.Conv2d(latent_channels, CONDITION_WIDTH, 1)
        self.heads = nn.ModuleList(
            Head(width + CONDITION_WIDTH, strides) for width, strides in zip(PROJECTED_WIDTHS, HEAD_STRIDES)
        )

    def forward(self, features: list[torch.Tensor], latent: torch.Tensor) -> list[torch.Tensor]:
        """Features (B, in_widths[i], H / 2^(i+1), W / 2^(i+1)) of pictures, and the latents (B, latent_channels, h, w)
        that belong to them, of about unit deviation -> logits of each scale."""
        condition = torch.tanh(self.condition(latent))
        return [
            head(torch.cat([x, F.interpolate(condition, size=x.shape[2:])], dim=1))
            for head, x in zip(self.heads, self.projection(features))
        ]


def _scored(parts: nn.ModuleList, inputs: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """What the parts of a discriminator say of an input each -> (logits of each part, all features)."""
    logits, features = zip(*(part(x) for part, x in zip(parts, inputs)))
    return list(logits), list(itertools.chain(*features))


def _layered(part: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """x through the layers of a discriminator -> (logits, features)."""
    features = []
    for layer in part.layers:
        x = F.leaky_relu(layer(x), NEGATIVE_SLOPE)
        features.append(x)
    return part.out(x), features
