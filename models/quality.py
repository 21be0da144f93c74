"""Qualities between the trained ones: every table with one row per quality is interpolated."""

import math

import torch

from .config import QUALITIES, QUALITY_STEPS, ModelConfig


def quality_row(quality_step: int, device: torch.device) -> torch.Tensor:
    """A file's quality step -> the quality as the networks take it: its place among the trained ones, float32 (1,)."""
    return torch.tensor([quality_step / QUALITY_STEPS], dtype=torch.float32, device=device)


def at_quality(table: torch.Tensor, quality_row: torch.Tensor) -> torch.Tensor:
    """table (8, N), quality_row (B,) in 0..7, integer or float -> (B, N)."""
    quality_row = quality_row.to(table.dtype)
    low = quality_row.floor().clamp(0, QUALITIES - 2)
    low_row, high_row = table[low.long()], table[low.long() + 1]
    return low_row + (quality_row - low)[:, None] * (high_row - low_row)


def affine(h: torch.Tensor, bias: torch.Tensor, scale: torch.Tensor | None, quality_row: torch.Tensor) -> torch.Tensor:
    """Features h (B, N, H, W) scaled and shifted channel by channel, as tables (8, N) say; without a scale, shifted."""
    if scale is not None:
        h = h * at_quality(scale, quality_row)[:, :, None, None]
    return h + at_quality(bias, quality_row)[:, :, None, None]


def resample(table: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Rows of a table (8, N) at `places` (8,) on the quality axis 0..7; beyond its ends it goes on straight."""
    low = places.floor().clamp(0, QUALITIES - 2)
    return table[low.long()] + (places - low)[:, None] * (table[low.long() + 1] - table[low.long()])


@torch.no_grad()
def move_qualities(model: torch.nn.Module, old: ModelConfig, new: ModelConfig) -> None:
    """Rows of all tables by quality, taken where the old model had the new one's rate weights; in place."""
    if (old.lmbda_low, old.lmbda_high) == (new.lmbda_low, new.lmbda_high):
        return
    places = torch.tensor(
        [
            (QUALITIES - 1) * math.log(new.lmbda(q) / old.lmbda_low) / math.log(old.lmbda_high / old.lmbda_low)
            for q in range(1, QUALITIES + 1)
        ]
    )
    for parameter in model.parameters():
        if parameter.dim() == 2 and len(parameter) == QUALITIES:
            parameter.copy_(resample(parameter, places.to(parameter.device)))
