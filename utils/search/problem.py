"""What a search is given, what it finds, and the best quantized iterate on the way.

Latents are on the axis of the symbols: center k lies at k. A search knows one signal by the functions
of its `Problem` alone: it touches no files and does not know the kind of signal.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

Prediction = tuple[torch.Tensor, torch.Tensor]  # mean and log scale, each (B, C, h, w)


@dataclass(frozen=True)
class Problem:
    """One batch of pictures to be coded; indices are latents (B, C, h, w) on the symbols' axis.

    distortion  index -> F (B,), in bits; differentiable
    predict     index -> mean and log scale that the entropy model names for every symbol in its context; differentiable
    estimate    (prediction, index) -> estimated bits (B,); differentiable
    bits        (prediction, candidates (..., B, C, h, w)) -> bits of each symbol as the coder writes it
    start       the latent from which to search
    fallback    symbols that the result is never worse than: encode-and-round
    movable     bool (B, 1, h, w) or None: places that may change
    """

    distortion: Callable[[torch.Tensor], torch.Tensor]
    predict: Callable[[torch.Tensor], Prediction]
    estimate: Callable[[Prediction, torch.Tensor], torch.Tensor]
    bits: Callable[[Prediction, torch.Tensor], torch.Tensor]
    start: torch.Tensor
    fallback: torch.Tensor
    movable: torch.Tensor | None = None

    def hold(self, index: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """The index where it may change, elsewhere the other one."""
        return index if self.movable is None else torch.where(self.movable, index, other)


class Iterate(NamedTuple):
    """One iterate of a search in numbers; each list has one value per picture of the batch."""

    iteration: int  # 0 is the start
    distortion: list[float]  # F, in bits
    bits: list[float]
    cost: list[float]  # J = F + bits
    penalty: list[float] | None  # mean of mu in the step that led here, in bits; None for methods without one
    quantized: bool  # False for the relaxed latent of a rival, whose bits are estimated


Observer = Callable[[Iterate], None]


class StopSearch(Exception):
    """An observer raises it where the search is to end with the best that it has found."""


@dataclass
class SearchResult:
    """The best quantized latent of each picture and what it cost."""

    symbols: torch.Tensor  # int16 (B, C, h, w)
    cost: torch.Tensor  # (B,) its J in bits
    start_cost: torch.Tensor  # (B,) J of encode-and-round
    history: list[Iterate] = field(default_factory=list)  # the quantized iterates in their order


class Best:
    """The best quantized iterate so far of each picture; the first one is the problem's fallback."""

    def __init__(self, problem: Problem):
        self.problem = problem
        self.observe: Observer | None = None
        self.history: list[Iterate] = []
        self.symbols = problem.fallback
        distortion, bits = self._measure(self.symbols)
        self.start_cost = self.cost = distortion + bits
        self._record(0, distortion, bits, None)

    def show_to(self, observe: Observer) -> None:
        """Calls `observe` with the first iterate, then with every one, the relaxed ones of rivals included."""
        self.observe = observe
        observe(self.history[0])

    def judge(self, symbols: torch.Tensor, iteration: int, penalty: torch.Tensor | None = None) -> None:
        """Measures symbols (B, C, h, w) and keeps those of each picture for which they are the best."""
        self.note(symbols, *self._measure(symbols), iteration, penalty)

    def note(
        self,
        symbols: torch.Tensor,
        distortion: torch.Tensor,
        bits: torch.Tensor,
        iteration: int,
        penalty: torch.Tensor | None = None,
    ) -> None:
        """Like `judge`, for symbols whose F and bits, each (B,), are known already; penalty (B,) as in `Iterate`."""
        cost = distortion + bits
        better = cost < self.cost
        self.cost = torch.where(better, cost, self.cost)
        self.symbols = torch.where(wide(better), symbols, self.symbols)
        self._record(iteration, distortion, bits, penalty)

    def show_relaxed(
        self, distortion: torch.Tensor, bits: torch.Tensor, iteration: int, penalty: torch.Tensor | None = None
    ) -> None:
        """Tells the observer, if there is one, of a latent that is not quantized and so never kept."""
        if self.observe is not None:
            self.observe(_iterate(iteration, distortion, bits, penalty, quantized=False))

    @torch.no_grad()
    def _measure(self, symbols: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """F and bits, each (B,), of symbols in their own context."""
        problem = self.problem
        distortion = problem.distortion(symbols)
        return distortion, problem.bits(problem.predict(symbols), symbols).flatten(1).sum(1)

    def _record(
        self, iteration: int, distortion: torch.Tensor, bits: torch.Tensor, penalty: torch.Tensor | None
    ) -> None:
        self.history.append(_iterate(iteration, distortion, bits, penalty, quantized=True))
        if self.observe is not None:
            self.observe(self.history[-1])


def _iterate(
    iteration: int, distortion: torch.Tensor, bits: torch.Tensor, penalty: torch.Tensor | None, quantized: bool
) -> Iterate:
    mu = None if penalty is None else penalty.tolist()
    return Iterate(iteration, distortion.tolist(), bits.tolist(), (distortion + bits).tolist(), mu, quantized)


def geometric(ends: tuple[float, float], progress: float) -> float:
    """The first end at progress 0, the second at 1 and beyond, geometrically in between."""
    return ends[0] * (ends[1] / ends[0]) ** min(max(progress, 0.0), 1.0)


def wide(per_picture: torch.Tensor) -> torch.Tensor:
    """(B,) -> (B, 1, 1, 1)"""
    return per_picture[:, None, None, None]
