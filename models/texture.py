"""Texture out of noise, for the realistic generator.

Where the latent does not say how the leaves lie, a convolutional network has nothing to make texture of: equal inputs
give equal outputs, so what it invents repeats. Noise that its features shape is something else at every place (Karras
et al. 2019, "A Style-Based Generator Architecture for Generative Adversarial Networks").

The noise belongs to the place in the picture and is the same on every machine: sender and receiver see one picture, and
a picture that is made in windows has no seams.
"""

from functools import cache

import numpy as np
import torch
from torch import nn

from .blocks import linear_conv

PLANES = 8
PERIOD = 64  # latent positions after which the noise repeats, 1024 pixels
START = 0.3  # of the spread's weights
NOISE_BITS = 4  # fraction bits of the noise, which bfloat16 holds exactly


@cache
def noise_integers(step: int) -> np.ndarray:
    """Noise with `step` values per latent position: int32 (PLANES, PERIOD * step, PERIOD * step).

    Its unit is 2^-NOISE_BITS, and its distribution is about the normal one of mean 0 and deviation 1.
    """
    side = PERIOD * step
    # eight bytes make a value; the deviation of their sum is 209
    raw = np.random.PCG64(step).random_raw(PLANES * side**2)
    sums = raw.view(np.uint8).reshape(-1, 8).sum(1, dtype=np.int32) - 1020
    return ((sums + 6) // 13).reshape(PLANES, side, side)


def noise_window(step: int, origin: tuple[int, int], rows: int, columns: int) -> np.ndarray:
    """The noise of rows and columns of features whose first ones belong to the latent position `origin`."""
    table = noise_integers(step)
    places = ((first * step + np.arange(count)) % table.shape[1] for first, count in zip(origin, (rows, columns)))
    return table[(slice(None), *np.ix_(*places))]


class Texture(nn.Module):
    """h + spread(strength(h) * noise): features (B, N, step * h, step * w) -> alike, for latents of h rows and w columns."""

    def __init__(self, width: int, step: int):
        super().__init__()
        self.step = step
        self.strength = linear_conv(width, PLANES)
        self.spread = linear_conv(PLANES, width)
        with torch.no_grad():
            self.spread.weight.mul_(START)
        noise = torch.from_numpy(noise_integers(step)).float() * 2.0**-NOISE_BITS
        self.register_buffer("noise", noise, persistent=False)

    def forward(self, h: torch.Tensor, origin: torch.Tensor | None = None) -> torch.Tensor:
        """origin int64 (B or 1, 2): row and column of the latent's first position in its picture, both 0 by default."""
        if origin is None:
            origin = torch.zeros(1, 2, dtype=torch.int64, device=h.device)
        rows, columns = (
            (origin[:, axis, None] * self.step + torch.arange(size, device=h.device)) % (PERIOD * self.step)
            for axis, size in enumerate(h.shape[2:])
        )
        noise = self.noise[:, rows[:, :, None], columns[:, None, :]].transpose(0, 1)
        return h + self.spread(self.strength(h) * noise)


def has_texture(state: dict) -> bool:
    """Whether a generator's weights by name are of one with textures."""
    return any(name.startswith("texture") for name in state)
