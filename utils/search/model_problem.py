"""What the search is given of a model: distortion and bits of a latent, as functions."""

from collections.abc import Callable

import torch

from models.bpgan import BPGAN
from models.entropy_model import logistic_bits

from .admm import Prediction, Problem
from .objectives import Distortion
from .winograd import generator_for_search


class Searchable:
    """A model with its generator and entropy model at hand in bfloat16.

    The search goes through them a hundred times, and bfloat16 throughout saves the casts of autocast.
    """

    def __init__(self, model: BPGAN):
        self.model = model
        self.generator = generator_for_search(model.generator)
        self.kernels = model.context.kernels(torch.bfloat16)

    def problem(
        self,
        x: torch.Tensor,
        valid: tuple[int, int],
        quality: torch.Tensor,
        weight: torch.Tensor | float,
        distance: Distortion,
        bits: Callable[[Prediction, torch.Tensor], torch.Tensor],
        start: torch.Tensor,
        fallback: torch.Tensor,
        movable: torch.Tensor | None = None,
    ) -> Problem:
        """Pictures x (B, C, H, W), of which `valid` rows and columns count; quality (B,) in 0..7.

        F is `weight`, (B,) or for all, times the `distance`; bits, start, fallback, movable as in `Problem`.
        """
        model, (rows, columns) = self.model, valid
        target = x[..., :rows, :columns].contiguous(memory_format=torch.channels_last)  # as the generator's

        def distortion(index: torch.Tensor) -> torch.Tensor:
            z_hat = model.gains.unscale(model.codebook.from_index(index), quality)
            x_hat = self.generator(z_hat.to(torch.bfloat16, memory_format=torch.channels_last), quality)
            return weight * distance(target, x_hat[..., :rows, :columns])

        def predict(index: torch.Tensor) -> Prediction:
            with torch.autocast(index.device.type, torch.bfloat16):
                return model.context(index, quality, self.kernels)

        def estimate(prediction: Prediction, index: torch.Tensor) -> torch.Tensor:
            return logistic_bits(index, *prediction).flatten(1).sum(1)

        return Problem(distortion, predict, estimate, bits, start, fallback, movable)
