"""Entropy model: the probability of every symbol given the ones already decoded.

Channels are decoded in groups. Within group g at one position the symbols depend on all symbols
of the earlier groups (any place in a 5x5 window) and on those of group g at the causal half of the
window (raster order). The early groups thus serve the later ones as a hyperprior would, the causal
half as the autoregressive model of Minnen et al. 2018 does, and training needs one masked
convolution (as in MADE and PixelCNN) instead of a network per group.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from .config import FEATURE_LIMIT, KERNEL, MAX_LOG_SCALE, MIN_LOG_SCALE, QUALITIES
from .quality import at_quality

MIN_PROBABILITY = 2.0**-16  # what a fixed-point table can give at the least


class Kernels(NamedTuple):
    """Masked weights of the three layers."""

    first: list[torch.Tensor]  # for each group (hidden, 2 * channels seen, 5, 5)
    second: torch.Tensor
    last: torch.Tensor
    leading: torch.Tensor | None  # (channels of the first group, the same, 5, 5), float32


class ContextModel(nn.Module):
    """symbols (B, C, h, w) -> mean and log scale of a logistic distribution for each of them.

    With `leading` the first group's means also get a linear prediction from its own symbols at the causal
    half of the window, which are not clamped: beside a linear path these are the means and slopes of blocks,
    hundreds of steps large. With `scales` the quality scales the units of both layers.
    """

    def __init__(
        self, groups: tuple[int, ...], hidden: int, rows: int = 0, *, leading: bool = False, scales: bool = False
    ):
        super().__init__()
        channels, units = sum(groups), hidden * len(groups)
        channel_group = torch.repeat_interleave(torch.arange(len(groups)), torch.tensor(groups))
        unit_group = torch.arange(len(groups)).repeat_interleave(hidden)
        self.first = nn.Conv2d(2 * channels, units, KERNEL, padding=KERNEL // 2)
        self.second = nn.Conv2d(units, units, 1)
        self.last = nn.Conv2d(units, 2 * channels, 1)
        self.quality_bias = nn.Parameter(torch.zeros(QUALITIES, units))
        self.row_bias = nn.Parameter(torch.zeros(1, units, rows, 1)) if rows else None
        self.prior = nn.Parameter(torch.zeros(QUALITIES, 2 * channels))
        self.leading = nn.Conv2d(groups[0], groups[0], KERNEL, padding=KERNEL // 2, bias=False) if leading else None
        self.first_scale = nn.Parameter(torch.ones(QUALITIES, units)) if scales else None
        self.second_scale = nn.Parameter(torch.ones(QUALITIES, units)) if scales else None
        self.second_quality_bias = nn.Parameter(torch.zeros(QUALITIES, units)) if scales else None

        place = torch.arange(KERNEL * KERNEL).view(KERNEL, KERNEL)
        causal = place < KERNEL * KERNEL // 2
        source, target = channel_group.repeat(2), unit_group
        earlier = (source[None] < target[:, None])[:, :, None, None]
        same = (source[None] == target[:, None])[:, :, None, None]
        self.groups = tuple(groups)
        self.register_buffer("causal", causal.float(), persistent=False)
        self.register_buffer("first_mask", (earlier | (same & causal)).float(), persistent=False)
        below = unit_group[None] <= unit_group[:, None]
        self.register_buffer("second_mask", below.float()[:, :, None, None], persistent=False)
        below = unit_group[None] <= channel_group.repeat(2)[:, None]
        self.register_buffer("last_mask", below.float()[:, :, None, None], persistent=False)

        for conv, mask in ((self.first, self.first_mask), (self.second, self.second_mask)):
            fan_in = mask.flatten(1).sum(1).clamp_min(1).view(-1, 1, 1, 1)
            with torch.no_grad():
                conv.weight.normal_().mul_((2.0 / fan_in).sqrt())
            nn.init.zeros_(conv.bias)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        if leading:
            nn.init.zeros_(self.leading.weight)

    def kernels(self, dtype: torch.dtype | None = None) -> Kernels:
        """The masked weights, in another type if named: who passes them to `forward` again and again saves the masking.

        A group's units see the channels up to the group's end only: a convolution for each group
        leaves out most of what the mask makes zero.
        """
        first = self.first.weight * self.first_mask
        units, channels = len(self.first.bias) // len(self.groups), sum(self.groups)
        parts, seen = [], 0
        for group, size in enumerate(self.groups):
            seen += size
            own = first[group * units : (group + 1) * units]
            parts.append(torch.cat([own[:, :seen], own[:, channels : channels + seen]], dim=1))
        kernels = [*parts, self.second.weight * self.second_mask, self.last.weight * self.last_mask]
        *parts, second, last = [kernel.to(dtype or kernel.dtype) for kernel in kernels]
        return Kernels(parts, second, last, self.leading_kernel())

    def leading_kernel(self) -> torch.Tensor | None:
        """The masked weights of the first group's linear prediction."""
        return None if self.leading is None else self.leading.weight * self.causal

    def _first_layer(self, symbols: torch.Tensor, kernels: list[torch.Tensor]) -> torch.Tensor:
        """Signed values and magnitudes through the masked 5x5 convolution: signs predict means,
        magnitudes predict scales."""
        limited = symbols.clamp(-FEATURE_LIMIT, FEATURE_LIMIT).to(kernels[0].dtype)
        signed, magnitude = limited.split(self.groups, 1), limited.abs().split(self.groups, 1)
        parts = []
        for group, (kernel, bias) in enumerate(zip(kernels, self.first.bias.chunk(len(kernels)))):
            features = torch.cat([*signed[: group + 1], *magnitude[: group + 1]], dim=1)
            parts.append(F.conv2d(features, kernel, bias, padding=KERNEL // 2))
        return torch.cat(parts, dim=1)

    def forward(self, symbols: torch.Tensor, quality_row: torch.Tensor, kernels: Kernels | None = None):
        """symbols (B, C, h, w) float integers, quality_row (B,) in 0..7 -> (mean, log_scale), like symbols.

        `kernels`: this model's own, where they are at hand.
        """
        kernels = kernels or self.kernels()

        def at(table: torch.Tensor) -> torch.Tensor:
            return at_quality(table, quality_row)[:, :, None, None]

        h = self._first_layer(symbols, kernels.first) + at(self.quality_bias)
        if self.row_bias is not None:
            h = h + self.row_bias
        h = F.relu(h if self.first_scale is None else h * at(self.first_scale))
        h = F.conv2d(h, kernels.second, self.second.bias)
        if self.second_scale is not None:
            h = (h + at(self.second_quality_bias)) * at(self.second_scale)
        out = F.conv2d(F.relu(h), kernels.last, self.last.bias).float() + at(self.prior)
        mean, log_scale = out.chunk(2, dim=1)
        if kernels.leading is not None:
            with torch.autocast(symbols.device.type, enabled=False):  # large numbers, of which every step counts
                own = symbols[:, : self.groups[0]].float()
                led = F.conv2d(own, kernels.leading, padding=KERNEL // 2)
            mean = torch.cat([mean[:, : self.groups[0]] + led, mean[:, self.groups[0] :]], dim=1)
        # Only what learns is led back: a search would take the slope for that of bits which its symbols do not have.
        limited = bounded if self.training else torch.clamp
        return mean, limited(log_scale, MIN_LOG_SCALE, MAX_LOG_SCALE)


class _Bounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, low, high):
        ctx.save_for_backward(x)
        ctx.bounds = low, high
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx, slope):
        (x,), (low, high) = ctx.saved_tensors, ctx.bounds
        leads_back = ((x >= low) | (slope < 0)) & ((x <= high) | (slope > 0))
        return slope * leads_back, None, None


def bounded(x: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """x limited to [low, high], with a slope outside that leads back inside, where a clamp has none.

    So an output that has drifted beyond a limit can come back (Ballé's lower bound in tensorflow/compression).
    """
    return _Bounded.apply(x, low, high)


def logistic_bits(y: torch.Tensor, mean: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
    """Bits of y (symbols, or symbols plus uniform noise) in unit bins of a logistic distribution."""
    inverse = torch.exp(-log_scale)
    distance = (y.float() - mean).abs()  # the density is even: stay on its falling side
    probability = torch.sigmoid((0.5 - distance) * inverse) - torch.sigmoid((-0.5 - distance) * inverse)
    return -torch.log2(probability.clamp_min(MIN_PROBABILITY))
