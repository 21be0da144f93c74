"""How different two speech pictures sound: the disturbance of PESQ, in a form that can be descended.

PESQ (ITU-T P.862, for the wide band P.862.2) compares the loudness of two recordings in bands as narrow as the ear's,
frame by frame. `Disturbance` computes the same from pictures in place of waveforms, so that it has no phase. Two steps are
made smooth: the dead zone of small differences, and the threshold from which added sound counts more than missing
sound. The level is fixed where P.862 measures it, and the tilt of the spectrum is not forgiven. Numbers without a word of
their own are P.862's.
"""

import math

import numpy as np
import torch
from torch import nn

from .stft import SpeechSettings, mel_interpolation, shown_magnitudes

FRAME = 256  # samples from one frame of P.862 to the next
BIN_HZ = 31.25  # frequency bins of P.862; a band is as many as its entry says, from 0 Hz on
BINS = (
    *(1, 1, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 4, 3, 4, 5, 4, 5, 6, 6, 7),
    *(8, 9, 9, 12, 12, 15, 16, 18, 21, 25, 20),
)
# Bark: P.862's own widths within 1 %. The first band is half as wide and never counted.
WIDTHS = 0.318 * 1.0131 ** np.arange(-1, len(BINS) - 1)
THRESHOLDS = (  # of hearing, power density of each band
    *(5.13e7, 2.45e6, 70800, 4898, 1175, 389, 104.7, 45.7, 17.78, 9.77, 4.9, 3.09, 1.905, 1.259, 0.977, 0.724, 0.562),
    *(0.457, 0.389, 0.331, 0.295, 0.269, 0.257, 0.251, 0.251, 0.251, 0.251, 0.263, 0.288, 0.309, 0.339, 0.372, 0.398),
    *(0.437, 0.468, 0.49, 0.501, 0.501, 0.513, 0.525, 0.525, 0.525, 0.513, 0.479, 0.427, 0.372, 0.363, 0.417, 0.537),
)
# From the power of a bin, 1 at the picture's 1, to power per Bark as in P.862, whose level it brings recordings to: the
# mean of 40 recordings of speech/val, which deviate by 1.4 dB.
LEVEL = 3.0e12 * 6.910853e-6
HIGH_PASS = (2.740826, -5.4816519, 2.740826), (1.0, -1.9444777, 0.94597794)  # P.862.2's input filter
ZWICKER_POWER, LOUDNESS_SCALE = 0.23, 0.1866
DEAD_ZONE = 0.25  # of the softer loudness: less is not heard
ADDED_POWER, ADDED_FROM, ADDED_MOST, ADDED_SOFTNESS = 1.2, 3.0, 12.0, 0.5
SPLIT_FRAMES, SPLIT_NORM = 20, 6  # stretches whose loud moments count most
SYMMETRIC, ASYMMETRIC = 0.1, 0.0309  # points of raw MOS


class Disturbance(nn.Module):
    """Two batches of pictures (B, 1, n_mels, frames), clamped to [-1, 1] -> (B,) points of raw MOS lost, 0 to about 6."""

    def __init__(self, settings: SpeechSettings):
        super().__init__()
        from scipy.signal import freqz

        self.settings, self.lag = settings, max(1, FRAME // settings.hop_length)
        centers = (np.cumsum(WIDTHS) - WIDTHS / 2) - WIDTHS[0] / 2
        exponents = ZWICKER_POWER * np.clip(6 / (centers + 2), 1, 2) ** 0.15
        hertz = BIN_HZ * np.arange(sum(BINS))
        hertz = hertz[hertz < settings.sample_rate / 2]
        _, response = freqz(*HIGH_PASS, hertz, fs=2 * BIN_HZ * sum(BINS))
        rows = np.repeat(np.arange(len(BINS)), BINS)[: len(hertz)]
        bark = np.zeros((len(BINS), len(rows)))
        bark[rows, np.arange(len(rows))] = LEVEL * BIN_HZ / WIDTHS[rows] * np.abs(response) ** 2
        bins = np.rint(hertz * settings.n_fft / settings.sample_rate).astype(int)
        constants = dict(
            interpolation=mel_interpolation(settings).toarray()[bins],
            bark=bark,
            thresholds=np.array(THRESHOLDS)[:, None],
            exponents=exponents[:, None],
            widths=np.where(np.arange(len(BINS)) > 0, WIDTHS, 0)[:, None],
        )
        for name, values in constants.items():
            self.register_buffer(name, torch.from_numpy(values.astype(np.float32)), persistent=False)

    def forward(self, x: torch.Tensor, x_hat: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):  # powers span twelve orders of magnitude
            return self._disturbance(x, x_hat)

    def _disturbance(self, x: torch.Tensor, x_hat: torch.Tensor) -> torch.Tensor:
        real, fake = self._density(x), self._density(x_hat)
        heard = self._audible(real)
        fake = fake * self._gains(heard, self._audible(fake))
        loudness, loudness_hat = self._loudness(real), self._loudness(fake)
        difference = loudness_hat - loudness
        dead = DEAD_ZONE * torch.minimum(loudness, loudness_hat)
        difference = difference - dead * torch.tanh(difference / (dead + 0.01))
        weighted, width = self.widths * difference, self.widths.sum()
        symmetric = (width * weighted.square().sum(1) + 1e-8).sqrt()
        asymmetric = (weighted * self._added(real, fake)).abs().sum(1)
        weight = ((heard[:, 0] + 1e5) / 1e7) ** -0.04
        return SYMMETRIC * self._overall(symmetric * weight) + ASYMMETRIC * self._overall(asymmetric * weight)

    def _density(self, pictures: torch.Tensor) -> torch.Tensor:
        """Power per Bark, (B, bands, frames)."""
        mel = shown_magnitudes(pictures[:, 0].float().clamp(-1, 1), self.settings)
        return self.bark @ (self.interpolation @ mel).square()

    def _audible(self, density: torch.Tensor) -> torch.Tensor:
        return (density - self.thresholds).clamp_min(0).sum(1, keepdim=True)

    def _gains(self, heard: torch.Tensor, heard_hat: torch.Tensor) -> torch.Tensor:
        """How much louder each decoded frame would be as loud as the original, (B, 1, frames): that is forgiven in part."""
        ratio = (heard + 5e3) / (heard_hat + 5e3)
        before = torch.cat([ratio[..., : self.lag], ratio[..., : -self.lag]], dim=2)[..., : ratio.shape[2]]
        return (0.8 * ratio + 0.2 * before).clamp(3e-4, 5)

    def _loudness(self, density: torch.Tensor) -> torch.Tensor:
        """Sone per Bark (Zwicker)."""
        threshold = self.thresholds
        above = (0.5 + 0.5 * (density / threshold).clamp_min(1)) ** self.exponents - 1
        return LOUDNESS_SCALE * (2 * threshold) ** self.exponents * above

    def _added(self, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        """Weights of what was added in frames and bands where there was little."""
        ratio = ((fake + 50) / (real + 50)) ** ADDED_POWER
        return ratio.clamp_max(ADDED_MOST) * torch.sigmoid((ratio.log() - math.log(ADDED_FROM)) / ADDED_SOFTNESS)

    def _overall(self, disturbance: torch.Tensor) -> torch.Tensor:
        """Of frames (B, frames) -> (B,)."""
        disturbance, split = disturbance.clamp_max(45), SPLIT_FRAMES * self.lag
        if disturbance.shape[1] >= split:
            windows = disturbance.unfold(1, split, split // 2)
            disturbance = ((windows**SPLIT_NORM).mean(2) + 1e-12) ** (1 / SPLIT_NORM)
        return (disturbance.square().mean(1) + 1e-12).sqrt()
