"""The distortions that the searches of one codec minimize beside the bits."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch

from data import Kind
from models.config import STRIDE, ModelConfig
from models.discriminator import Discriminator
from models.efficientnet import picture_features
from utils.search.config import objective_class, objectives_for
from utils.search.objectives import Distortion, Reference, discriminator_distance

from .settings import quality_at
from .tiling import Window


class Distortions:
    """The objectives that fit a kind of signal, and the trained networks that some of them need."""

    def __init__(
        self, kind: Kind, config: ModelConfig, discriminator: Discriminator | None, device: torch.device
    ) -> None:
        self.kind, self.config, self.discriminator, self.device = kind, config, discriminator, device

    @property
    def names(self) -> list[str]:
        """The objectives that a search of this kind of signal can minimize."""
        return objectives_for(self.kind.metric_names)

    def check(self, objective: str) -> None:
        """Raise ValueError for an objective that is not for this kind of signal."""
        if objective not in self.names:
            raise ValueError(
                f"the objective {objective} is not for {self.kind.name}: possible are {', '.join(self.names)}"
            )

    def weight(self, quality_step: int) -> float:
        """Bits per picture sample that a distortion of 1 weighs as much as: lmbda * 255^2."""
        return self.config.lmbda(quality_at(quality_step)) * 255**2

    def of(self, objective: str, x: torch.Tensor, start: Callable[[], torch.Tensor], gray: bool = False) -> Distortion:
        """The objective for pictures x (B, C, H, W).

        `start()` is what they are before the search, as x_hat: some objectives are relative to it. `gray`: the
        receiver shows the gray of a picture alone, so that nothing but its errors counts.
        """
        if gray:

            def shown(x_hat: torch.Tensor) -> torch.Tensor:
                return self.kind.gray_picture(x_hat.float()).expand_as(x_hat)

            distance = self.of(objective, x, lambda: shown(start()))
            return lambda x, x_hat: distance(x, shown(x_hat))

        return objective_class(objective)(
            Reference(x, start, self.kind.weights, self._of_features, self._of_disturbance)
        )

    def _of_features(self) -> Distortion:
        """Distance of features: of a network trained on photographs, for these, or of the checkpoint's discriminator."""
        if self.kind.has_colors:
            return picture_features(self.device).distance
        if self.discriminator is None:
            raise ValueError("the objective perceptual needs a checkpoint with a discriminator, and this one has none")
        return discriminator_distance(self.discriminator)

    def _of_disturbance(self) -> Distortion:
        module = self.kind.disturbance()
        if module is None:
            raise ValueError(f"nothing tells how {self.kind.name} sounds: take another objective than pesq")
        return module.to(self.device)

    @torch.no_grad()
    def bits(
        self,
        objective: str,
        picture: np.ndarray,
        decoded: Iterable[np.ndarray],
        tiles: Sequence[Window],
        quality_step: int,
        gray: bool,
    ) -> list[float]:
        """What the objective of each decoded picture weighs, in bits.

        picture (C, H, W) and the decoded ones have values in [-1, 1]. The first of these is where the search
        started. Each of the search's tiles counts by itself, as in the search.
        """
        weight, parts = self.weight(quality_step), [tile.core(STRIDE) for tile in tiles]
        total, distances = [], []
        for x_hat in decoded:
            bits = 0.0
            for place, part in enumerate(parts):
                x, y = (torch.from_numpy(np.ascontiguousarray(p[part]))[None].to(self.device) for p in (picture, x_hat))
                if not total:
                    distances.append(self.of(objective, x, lambda y=y: y, gray))
                bits += weight * float(distances[place](x, y)) * x.shape[-2] * x.shape[-1]
            total.append(bits)
        return total
