"""Synthetic signals on disk."""

import numpy as np
from PIL import Image


def save_picture(path, height, width, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[:height, :width]
    pixels = (
        128
        + 50 * np.sin(columns / (4 + seed)) * np.cos(rows / 5)
        + 8 * np.random.default_rng(seed).normal(size=(height, width))
    )
    Image.fromarray(np.clip(pixels[..., None] * [1, 0.9, 0.8], 0, 255).astype(np.uint8)).save(path)
