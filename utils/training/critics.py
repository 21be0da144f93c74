"""What judges decoded pictures in the adversarial stage: discriminators, and a distance of features beside them.

The stage's loss has three terms. The distortion keeps the picture that the sender meant. A distance of features
measures what looks alike. The adversarial term adds the texture that a mean of possible pictures lacks.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch

from data.base import Kind
from models import losses
from models.config import STRIDE
from models.efficientnet import picture_features

from .networks import Networks

# Of the finest bands and of the features at 1/2, 1/4 and 1/8 of the resolution: sides of the windows whose statistics
# are compared, 16 pixels and 32.
WINDOWS = (16, 8, 4, 4)

Views = list[torch.Tensor]
Logits = list[torch.Tensor]


class Critics(ABC):
    """The discriminators of a run at work. `Adversarial` trains them and the generator in turn."""

    weights: ClassVar[dict[str, float]]  # of the loss terms by name
    low_share = 0.0  # of crops that get one of the first qualities, beside what chance gives

    def __init__(self, networks: Networks, discriminators: list[torch.nn.Module]):
        self.networks = networks
        self.parameters = [p for network in discriminators for p in network.parameters() if p.requires_grad]

    def learn(self, learns: bool) -> None:
        """Whether the discriminators' weights get gradients."""
        for parameter in self.parameters:
            parameter.requires_grad_(learns)

    @abstractmethod
    def see(self, pictures: torch.Tensor) -> Views:
        """What the discriminators see of pictures (B, C, H, W)."""

    @abstractmethod
    def judge(self, views: Views, latent: torch.Tensor) -> Logits:
        """Logits of views of pictures that belong to latents (B, latent_channels, h, w) of about unit deviation."""

    @abstractmethod
    def compare(self, real: Views, fake: Views, latent: torch.Tensor) -> tuple[Logits, dict[str, torch.Tensor]]:
        """Views of originals and of decoded pictures -> logits of the decoded ones, and the term of likeness by name."""

    @abstractmethod
    def facts(self) -> str:
        """How likeness is measured, for the model card."""


class PatchCritics(Critics):
    """Patches of pictures, and waveforms where the kind has them; likeness is feature matching (Salimans et al. 2016)."""

    weights: ClassVar = {"distortion": 1.0, "feature_matching": 2.0, "adversarial": 0.4}

    def __init__(self, networks: Networks, kind: Kind):
        self.discriminators, self.waveforms = [networks.discriminator], None
        if networks.waveform_discriminator:
            self.discriminators.append(networks.waveform_discriminator)
            self.waveforms = kind.waveforms().to(networks.device)
        super().__init__(networks, self.discriminators)

    def see(self, pictures):
        return [pictures] if self.waveforms is None else [pictures, self.waveforms(pictures)]

    def judge(self, views, latent):
        logits, _ = self._scored(views)
        return logits

    def compare(self, real, fake, latent):
        logits, features = self._scored(fake)
        with torch.no_grad():
            _, real_features = self._scored(real)
        return logits, {"feature_matching": losses.feature_matching(real_features, features).mean()}

    def facts(self):
        return "feature matching alone"

    def _scored(self, views: Views) -> tuple[Logits, list[torch.Tensor]]:
        logits, features = [], []
        for discriminator, view in zip(self.discriminators, views):
            scores, maps = discriminator(view)
            logits += scores
            features += maps
        return logits, features


class FeatureCritics(Critics):
    """Features of EfficientNet-Lite0: for likeness, unless VGG16's are asked for, and for the discriminators."""

    weights: ClassVar = {"distortion": 1.0, "perceptual": 1.0, "adversarial": 0.15}
    low_share = 0.9

    def __init__(self, networks: Networks):
        """Raises ValueError where the network's packages are missing."""
        super().__init__(networks, [networks.projected_discriminator])
        self.features = picture_features(networks.device)

    def see(self, pictures):
        return [pictures, *self.features(pictures)]

    def judge(self, views, latent):
        return self.networks.projected_discriminator(views[1:], latent)

    def compare(self, real, fake, latent):
        if self.networks.vgg16:
            likeness = self.networks.vgg16(real[0], fake[0])
        else:
            likeness = self._likeness(real, fake)
        return self.judge(fake, latent), {"perceptual": likeness.mean()}

    def _likeness(self, real: Views, fake: Views) -> torch.Tensor:
        """(B,): by local statistics where samples are finer than what the latent says of their places, else by place."""
        bands = [losses.finest_bands(views[0].float()) for views in (real, fake)]
        pairs = [bands, *zip(real[1:], fake[1:])]
        distances = [losses.texture_distance(*pair, window) for pair, window in zip(pairs, WINDOWS)]
        distances += [losses.relative_distance(*pair) for pair in pairs[len(WINDOWS) :]]
        distances.append(losses.pattern_distance(*bands, STRIDE))
        return sum(distances) / len(distances)

    def facts(self):
        return "VGG16" if self.networks.vgg16 else "EfficientNet-Lite0"


def critics_of(networks: Networks, kind: Kind) -> Critics:
    """Those of the discriminators that the networks have."""
    return FeatureCritics(networks) if networks.projected_discriminator else PatchCritics(networks, kind)
