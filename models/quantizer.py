"""Per-channel non-uniform codebook and the gains that make one model serve all qualities.

The latent is scaled by a gain per quality and channel, so that in its own units a quantization
step is about 1; symbols are the indices of the centers there. The inverse gain, learned on its
own, takes the centers back (Cui et al. 2021, "Asymmetric gained deep image compression").
"""

import torch
from torch import nn

from .config import QUALITIES
from .quality import at_quality


class Codebook(nn.Module):
    """Centers (latent_channels, 2K+1) of the symbols -K..K, strictly ascending per channel.

    Symbols beyond K (escapes) lie one step apart beyond the outermost centers.
    """

    def __init__(self, channels: int, max_symbol: int):
        super().__init__()
        self.max_symbol = max_symbol
        self.register_buffer("centers", torch.empty(channels, 2 * max_symbol + 1))
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Centers at the integers, where rounding puts them before they are fitted."""
        self.centers.copy_(torch.arange(-self.max_symbol, self.max_symbol + 1, dtype=torch.float32))

    def to_index(self, y: torch.Tensor) -> torch.Tensor:
        """y (B, C, h, w) in steps -> its place on the symbols' axis, float32.

        Piecewise linear: center k lies at k, the midpoint of two centers halfway, so that rounding
        gives the nearest center. Beyond the outermost centers one step is one symbol.
        """
        k, channels = self.max_symbol, y.shape[1]
        flat = y.detach().float().transpose(0, 1).reshape(channels, -1).contiguous()
        upper = torch.searchsorted(self.centers, flat).clamp(1, 2 * k)
        low, high = self.centers.gather(1, upper - 1), self.centers.gather(1, upper)
        index = upper - 1 - k + ((flat - low) / (high - low)).clamp(0, 1)
        index = index + (flat - self.centers[:, -1:]).clamp_min(0) + (flat - self.centers[:, :1]).clamp_max(0)
        return index.view(channels, y.shape[0], *y.shape[2:]).transpose(0, 1)

    def quantize(self, y: torch.Tensor) -> torch.Tensor:
        """y (B, C, h, w) in steps -> symbols, int16, of the nearest centers."""
        return self.to_index(y).round().clamp(-32767, 32767).to(torch.int16)

    def from_index(self, index: torch.Tensor) -> torch.Tensor:
        """The inverse of `to_index`, differentiable; at integers it gives the centers."""
        k, channels = self.max_symbol, index.shape[1]
        inside = index.clamp(-k, k)
        lower = inside.detach().floor().clamp(-k, k - 1)
        flat = (lower.transpose(0, 1).reshape(channels, -1) + k).long()
        low, high = self.centers.gather(1, flat), self.centers.gather(1, flat + 1)
        low, step = (t.view(channels, index.shape[0], *index.shape[2:]).transpose(0, 1) for t in (low, high - low))
        return low + (inside - lower) * step + (index - inside)

    def dequantize(self, symbols: torch.Tensor) -> torch.Tensor:
        """symbols (B, C, h, w), any integer type -> their centers, float32, in steps."""
        return self.from_index(symbols.float())


class Gains(nn.Module):
    """Per quality and channel: z -> y = z * gain (in steps), y_hat -> z_hat = y_hat * inverse.

    Beside a linear path, the generator's network sees y_hat * feature: channels of about unit deviation.
    """

    def __init__(self, channels: int, low: float, high: float, features: bool = False):
        super().__init__()
        # Step sizes fall with the square root of lmbda (high-rate theory); channels start in
        # falling order of energy, so that the early groups of the context carry what matters.
        quality = torch.linspace(0, 1, QUALITIES)[:, None]
        slope = torch.linspace(0.7, -0.7, channels)[None]
        start = torch.log(torch.tensor(low)) + quality * torch.log(torch.tensor(high / low)) + slope
        self.log_gain = nn.Parameter(start.clone())
        self.log_inverse = nn.Parameter(-start)
        self.log_feature = nn.Parameter(torch.zeros_like(start)) if features else None

    def scale(self, z: torch.Tensor, quality_row: torch.Tensor) -> torch.Tensor:
        """z (B, C, h, w), quality_row (B,) in 0..7 -> y, the latent in quantization steps."""
        return z * at_quality(self.log_gain, quality_row).exp()[:, :, None, None]

    def unscale(self, y_hat: torch.Tensor, quality_row: torch.Tensor) -> torch.Tensor:
        """y_hat (B, C, h, w) in quantization steps -> z_hat, the latent as the generator takes it."""
        return y_hat * at_quality(self.log_inverse, quality_row).exp()[:, :, None, None]

    def features(self, y_hat: torch.Tensor, quality_row: torch.Tensor) -> torch.Tensor | None:
        """y_hat (B, C, h, w) -> what the generator's network sees beside a linear path; None where it sees z_hat."""
        if self.log_feature is None:
            return None
        return y_hat * at_quality(self.log_feature, quality_row).exp()[:, :, None, None]

    def seen(self, y_hat: torch.Tensor, quality_row: torch.Tensor) -> torch.Tensor:
        """y_hat (B, C, h, w) -> what the generator's network sees, with a linear path or without one."""
        features = self.features(y_hat, quality_row)
        return self.unscale(y_hat, quality_row) if features is None else features


def straight_through_round(y: torch.Tensor) -> torch.Tensor:
    """Rounding forward, identity backward."""
    return y + (y.round() - y).detach()
