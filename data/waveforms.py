"""Waveforms of speech pictures for training: what `SpeechKind.from_picture` does, differentiable.

The phase follows from the magnitudes by phase gradient heap integration as in `data/phase.py`, without the
refinement after it. It is held constant: gradients reach the picture through the magnitudes alone. What originals and
decoded pictures are turned into differs by their pictures only, so a discriminator of such waveforms judges the
generator and not the phase.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .phase import integrate_phase
from .stft import SpeechSettings, mel_interpolation, mel_to_linear, shown_magnitudes, to_decibels, windows


class Waveforms(nn.Module):
    """Pictures (B, 1, n_mels, frames), clamped to [-1, 1] -> float32 (B, frames * hop_length), 1 is full scale.

    Levels are left out: a picture of 1 sounds as loud as a full-scale sine.
    """

    def __init__(self, settings: SpeechSettings):
        super().__init__()
        self.settings = settings
        _, dual = windows(settings)
        self.register_buffer("interpolation", torch.from_numpy(mel_interpolation(settings).toarray()))
        # `idgtreal` sums over the bins without dividing by their number, as irfft does
        dual = np.fft.fftshift(dual) * settings.n_fft
        self.register_buffer("dual", torch.from_numpy(dual.astype(np.float32)))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        pictures = pictures[:, 0].float().clamp(-1, 1)
        linear, phase = self._fixed(pictures)
        smooth = self.interpolation @ shown_magnitudes(pictures, self.settings)
        smooth = smooth * (linear / smooth.detach().clamp_min(1e-12))
        return self._synthesized(torch.polar(smooth, phase))

    def _fixed(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Refined magnitudes and phases, (B, n_bins, frames) each, without gradient."""
        linear, phase = [], []
        for shades in pictures.detach().cpu().numpy():
            magnitude = mel_to_linear(10 ** (to_decibels(shades, self.settings) / 20), self.settings)
            linear.append(magnitude)
            phase.append(integrate_phase(magnitude, self.settings).astype(np.float32))
        return tuple(torch.from_numpy(np.stack(a)).to(pictures.device) for a in (linear, phase))

    def _synthesized(self, coefficients: torch.Tensor) -> torch.Tensor:
        """Inverse Gabor transform of (B, n_bins, frames), as `stft.synthesize`, of a signal that ends in silence."""
        settings, length = self.settings, len(self.dual)
        frames = torch.fft.irfft(coefficients, settings.n_fft, dim=1)
        pieces = frames.repeat(1, length // settings.n_fft, 1) * self.dual[:, None]
        hop, n_frames = settings.hop_length, pieces.shape[-1]
        total = (n_frames - 1) * hop + length
        added = F.fold(pieces, (1, total), (1, length), stride=(1, hop))[:, 0, 0]
        return added[:, length // 2 : length // 2 + n_frames * hop]
