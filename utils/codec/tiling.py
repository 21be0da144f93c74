"""Padding to the network's stride, and overlapping windows for pictures too large for one pass."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from models.config import STRIDE

CORE_POSITIONS = 4096  # latent positions of a window without its margin: about a megapixel
CORE_SIDE = 64


def pad_to_stride(picture: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) -> the same with H and W rounded up to multiples of 16, edges replicated."""
    down, right = -picture.shape[-2] % STRIDE, -picture.shape[-1] % STRIDE
    return F.pad(picture, (0, right, 0, down), mode="replicate") if down or right else picture


def latent_shape(rows: int, columns: int) -> tuple[int, int]:
    """Latent rows and columns of a picture of that size."""
    return -(-rows // STRIDE), -(-columns // STRIDE)


@dataclass(frozen=True)
class Window:
    """A core of latent positions [top, bottom) x [left, right), and the outer rectangle around it."""

    top: int
    bottom: int
    left: int
    right: int
    outer_top: int
    outer_bottom: int
    outer_left: int
    outer_right: int

    def origin(self, device: torch.device) -> torch.Tensor:
        """Row and column of the outer rectangle's first position: int64 (1, 2)."""
        return torch.tensor([[self.outer_top, self.outer_left]], device=device)

    # Each is an index of the last two dimensions of an array; step 16 is for picture samples.

    def outer(self, step: int = 1) -> tuple:
        """The outer rectangle in the whole grid."""
        return (
            ...,
            slice(self.outer_top * step, self.outer_bottom * step),
            slice(self.outer_left * step, self.outer_right * step),
        )

    def core(self, step: int = 1) -> tuple:
        """The core in the whole grid."""
        return (..., slice(self.top * step, self.bottom * step), slice(self.left * step, self.right * step))

    def core_in_outer(self, step: int = 1) -> tuple:
        """The core in its outer rectangle."""
        return (
            ...,
            slice((self.top - self.outer_top) * step, (self.bottom - self.outer_top) * step),
            slice((self.left - self.outer_left) * step, (self.right - self.outer_left) * step),
        )


def windows(rows: int, columns: int, margin: int) -> Iterator[Window]:
    """Windows whose cores cover a latent grid once; the margin is cut at the grid's edges.

    A grid of up to CORE_POSITIONS is one window. With a margin of the network's reach, what is
    computed window by window equals what is computed at once.
    """
    if rows * columns <= CORE_POSITIONS:
        yield Window(0, rows, 0, columns, 0, rows, 0, columns)
        return
    height = min(rows, CORE_SIDE)
    width = max(CORE_SIDE, CORE_POSITIONS // height)
    if rows > CORE_SIDE and columns < CORE_SIDE:
        width = columns
        height = CORE_POSITIONS // width
    for top in range(0, rows, height):
        for left in range(0, columns, width):
            bottom, right = min(top + height, rows), min(left + width, columns)
            yield Window(
                top,
                bottom,
                left,
                right,
                max(0, top - margin),
                min(rows, bottom + margin),
                max(0, left - margin),
                min(columns, right + margin),
            )


def outer_part(picture: np.ndarray, window: Window, device: torch.device) -> torch.Tensor:
    """The window's outer rectangle of a picture (C, H, W) -> (1, C, h, w) on the device, padded to the stride."""
    part = torch.from_numpy(np.ascontiguousarray(picture[window.outer(STRIDE)]))
    return pad_to_stride(part[None]).to(device).contiguous(memory_format=torch.channels_last)
