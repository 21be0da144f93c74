"""Perceptual loss: distance of VGG16 features (Johnson et al. 2016), where its weights are available."""

import logging
from pathlib import Path
from urllib.error import URLError

import torch
from torch import nn

from .losses import relative_distance

log = logging.getLogger(__name__)

LAYERS = (3, 8, 15, 22)  # relu1_2, relu2_2, relu3_3, relu4_3


class PerceptualDistance(nn.Module):
    """x, x_hat (B, 3, H, W) in [-1, 1] -> (B,), mean L1 distance of features, each relative to its size."""

    def __init__(self, features: nn.Sequential):
        super().__init__()
        self.features = features[: LAYERS[-1] + 1].eval().requires_grad_(False)
        # ImageNet's mean and deviation, for values in [-1, 1]
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1) * 2 - 1)
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1) * 2)

    def forward(self, x: torch.Tensor, x_hat: torch.Tensor) -> torch.Tensor:
        real, fake, total = (x - self.mean) / self.deviation, (x_hat - self.mean) / self.deviation, 0.0
        for i, layer in enumerate(self.features):
            real, fake = layer(real), layer(fake)
            if i in LAYERS:
                total = total + relative_distance(real, fake)
        return total / len(LAYERS)


def is_cached() -> bool:
    """Whether torchvision has VGG16's weights on this machine already."""
    from torchvision.models import VGG16_Weights

    name = Path(VGG16_Weights.IMAGENET1K_V1.url).name
    return (Path(torch.hub.get_dir()) / "checkpoints" / name).is_file()


def perceptual_distance(channels: int, device: torch.device, download: bool = False) -> PerceptualDistance | None:
    """The distance on a device, by torchvision's ImageNet weights from its cache; `download` also fetches them.

    None for pictures that are not RGB, and, with a warning in the log, where the weights are not available.
    """
    if channels != 3:
        return None
    try:
        from torchvision.models import VGG16_Weights, vgg16

        if not (download or is_cached()):
            log.warning(
                "VGG16's weights are not in torchvision's cache and nothing is downloaded unasked: features of the "
                "discriminator alone are used (torchvision.models.vgg16(weights='IMAGENET1K_V1') fetches them)"
            )
            return None
        return PerceptualDistance(vgg16(weights=VGG16_Weights.IMAGENET1K_V1).features).to(device)
    except (ImportError, URLError, OSError, RuntimeError) as error:
        log.warning("VGG16's weights are not available (%s): features of the discriminator alone are used", error)
        return None
