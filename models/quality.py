"""Qualities between the trained ones: every table with one row per quality is interpolated."""

import torch

from .config import QUALITIES

QUALITY_STEPS = 32      # a file names its quality in steps of 1/32: about 1.3 % of rate each


def at_quality(table: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
    """table (8, N), quality (B,) in 0..7, integer or float -> (B, N)."""
    quality = quality.to(table.dtype)
    low = quality.floor().clamp(0, QUALITIES - 2)
    low_row, high_row = table[low.long()], table[low.long() + 1]
    return low_row + (quality - low)[:, None] * (high_row - low_row)


def resample(table: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Rows of a table (8, N) at `places` (8,) on the quality axis 0..7; beyond its ends it goes on straight."""
    low = places.floor().clamp(0, QUALITIES - 2)
    return table[low.long()] + (places - low)[:, None] * (table[low.long() + 1] - table[low.long()])
