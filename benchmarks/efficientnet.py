"""EfficientNet-Lite2, trained on ImageNet: what benchmarks.classes and benchmarks.perceptual see pictures with.

It was trained for none of the codecs, nor to judge them; training and search look through a smaller one
(`models/efficientnet.py`).
"""

from functools import cache
from importlib.metadata import version

import numpy as np
import torch
from PIL import Image

from models.efficientnet import PACKAGE, load_efficientnet, network_input, stages

from .yardsticks import digest

SIDE = 260  # of what is classified, pixels
CROP = 0.875  # SIDE over the shorter side that a picture is scaled to, as the network was evaluated
PATCH, STRIDE = 256, 128  # of patches, pixels


class EfficientNetLite:
    """The network in evaluation, in one process."""

    def __init__(self):
        """Raises ValueError where a package is missing."""
        self.network, path = load_efficientnet(2)
        self.version = f"{PACKAGE} {version(PACKAGE)} {digest(path)}"

    @torch.no_grad()
    def classify(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3) -> float32 (1000,) logits of ImageNet's classes, of the middle of the picture."""
        image = Image.fromarray(pixels)
        scale = SIDE / CROP / min(image.size)
        image = image.resize([max(SIDE, round(side * scale)) for side in image.size], Image.Resampling.BICUBIC)
        left, top = ((side - SIDE) // 2 for side in image.size)
        middle = np.asarray(image.crop((left, top, left + SIDE, top + SIDE)))
        return self.network(_to_input(middle[None]))[0].numpy()

    @torch.no_grad()
    def patch_features(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3) -> float32 (n, 352): the last block's output of each patch, averaged over its places.

        Patches overlap by half. Raises ValueError for a picture that is smaller than a patch.
        """
        patches = patches_of(pixels)
        return torch.cat([stages(self.network, _to_input(patch[None]))[-1].mean((2, 3)) for patch in patches]).numpy()

    @torch.no_grad()
    def distance(self, original: np.ndarray, decoded: np.ndarray) -> float:
        """Two uint8 (H, W, 3) -> mean squared difference of their features, 0 for the same picture.

        The features are the outputs at each resolution, of length 1 at each place, as LPIPS (Zhang et al. 2018) takes
        them; the mean over places and resolutions has no weights that were fitted to anything.
        """
        both = [
            [torch.nn.functional.normalize(stage) for stage in stages(self.network, _to_input(pixels[None]))]
            for pixels in (original, decoded)
        ]
        return float(np.mean([float((a - b).square().sum(1).mean()) for a, b in zip(*both)]))


@cache
def load() -> EfficientNetLite:
    """The network, once. Raises ValueError where a package is missing."""
    return EfficientNetLite()


def _to_input(pixels: np.ndarray) -> torch.Tensor:
    """uint8 (N, H, W, 3) -> float32 (N, 3, H, W), scaled as the network was trained."""
    return network_input(torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float())


def patches_of(pixels: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) -> (n, PATCH, PATCH, 3), STRIDE apart. Raises ValueError where there is none."""
    if min(pixels.shape[:2]) < PATCH:
        raise ValueError(f"a picture of {pixels.shape[1]}x{pixels.shape[0]} has no patch of {PATCH} pixels")
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (PATCH, PATCH), axis=(0, 1))[::STRIDE, ::STRIDE]
    return np.moveaxis(windows, 2, -1).reshape(-1, PATCH, PATCH, 3)
