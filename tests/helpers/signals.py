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


def on_page(pixels: np.ndarray) -> np.ndarray:
    """What a white page shows of pixels of any layout: uint8 (H, W, 3)."""
    from data.images import on_white

    return np.broadcast_to(on_white(pixels), (*pixels.shape[:2], 3))
