"""Perceptual loss: distance of VGG16's features (Johnson et al. 2016)."""

from urllib.error import URLError

import torch
from torch import nn

from .losses import relative_distance

LAYERS = (3, 8, 15, 22)  # relu1_2, relu2_2, relu3_3, relu4_3


class VGG16Distance(nn.Module):
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


def load_vgg16(device: torch.device) -> VGG16Distance:
    """The distance on a device, by torchvision's ImageNet weights, which are downloaded unless they are in its cache.

    Raises ValueError where they cannot be had.
    """
    try:
        from torchvision.models import VGG16_Weights, vgg16

        return VGG16Distance(vgg16(weights=VGG16_Weights.IMAGENET1K_V1).features).to(device)
    except (ImportError, URLError, OSError, RuntimeError) as error:
        raise ValueError(f"VGG16's weights are not available ({error}): leave --vgg16 out") from None
