"""Discriminators: they score real against generated; the receiver does not need them.

Of pictures, patches at several scales (pix2pixHD, Wang et al. 2018), for the adversarial stage and for the search's
perceptual objective. Of waveforms, periods (HiFi-GAN, Kong et al. 2020) and spectra at several resolutions (UnivNet,
Jang et al. 2021), for the adversarial stage alone.
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
