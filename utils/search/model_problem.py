"""The functions that the search gets from a model: distortion and bits of a latent."""

from collections.abc import Callable
from functools import cached_property

import torch

from models.bpgan import BPGAN
from models.entropy_model import Kernels, logistic_bits
from models.generator import Generator
from utils.precision import autocast, fast_dtype

from .objectives import Distortion
from .problem import Prediction, Problem
from .winograd import FrozenStack, generator_for_search


class Searchable:
    """A model, with copies of its generator and entropy model in the number type of the search.

    The search goes through them a hundred times, and weights in that type save the casts of autocast. They are
    copied when the first search needs them; later changes of the model's weights do not reach them.
    """

    def __init__(self, model: BPGAN, generator: Generator | None = None):
        """`generator`: another one of the same sizes that the search shall go through."""
        self.model, self._generator = model, generator or model.generator

    @cached_property
    def dtype(self) -> torch.dtype:
        """bfloat16, or float32 on a CPU that would have to emulate it."""
        return fast_dtype(next(self.model.parameters()).device)

    @cached_property
    def generator(self) -> Generator:
        """A copy of the generator with fixed weights."""
        return generator_for_search(self._generator)

    @property
    def arithmetic(self) -> str:
        """In what way the search computes; empty for bfloat16 and Winograd convolutions, which modern CPUs take."""
        parts = [] if self.dtype == torch.bfloat16 else [str(self.dtype).removeprefix("torch.")]
        is_direct = not isinstance(self.generator.body8, FrozenStack)
        return " ".join(parts + ["direct"] * is_direct)

    @cached_property
    def kernels(self) -> Kernels:
        """The masked weights of the entropy model."""
        return self.model.context.kernels(self.dtype)

    def decode(
        self, index: torch.Tensor, quality_row: torch.Tensor, origin: torch.Tensor | None = None
    ) -> torch.Tensor:
        """A latent on the symbols' axis (B, C, h, w) -> picture (B, C, 16h, 16w), not clamped; differentiable.

        `origin`: where it lies in a larger latent, as in `BPGAN.generate`.
        """
        return self.model.generate(self.model.codebook.from_index(index), quality_row, self.generator, origin)

    def problem(
        self,
        x: torch.Tensor,
        valid: tuple[int, int],
        quality_row: torch.Tensor,
        weight: torch.Tensor | float,
        distance: Distortion,
        bits: Callable[[Prediction, torch.Tensor], torch.Tensor],
        start: torch.Tensor,
        fallback: torch.Tensor,
        movable: torch.Tensor | None = None,
        origin: torch.Tensor | None = None,
    ) -> Problem:
        """The problem of pictures x (B, C, H, W), of which `valid` rows and columns count; quality_row (B,) in 0..7.

        F is the `distance` times `weight`, which is (B,) or one number for all; `origin` is that of `decode`. The others
        are those of `Problem`.
        """
        model, (rows, columns) = self.model, valid
        target = x[..., :rows, :columns].contiguous(memory_format=torch.channels_last)  # as the generator's

        def distortion(index: torch.Tensor) -> torch.Tensor:
            return weight * distance(target, self.decode(index, quality_row, origin)[..., :rows, :columns])

        def predict(index: torch.Tensor) -> Prediction:
            with autocast(index.device):
                return model.context(index, quality_row, self.kernels)

        def estimate(prediction: Prediction, index: torch.Tensor) -> torch.Tensor:
            return logistic_bits(index, *prediction).flatten(1).sum(1)

        return Problem(distortion, predict, estimate, bits, start, fallback, movable)
