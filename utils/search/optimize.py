"""Runs a search by the name of its method."""

from collections.abc import Callable
from contextlib import suppress

import torch

from .config import SearchConfig, solver
from .problem import Best, Observer, Problem, SearchResult, StopSearch

Solver = Callable[[Problem, SearchConfig, Best, torch.Generator], None]


def optimize_latent(
    problem: Problem, config: SearchConfig, seed: int = 0, observe: Observer | None = None
) -> SearchResult:
    """Run a search. On one machine the seed decides the result.

    The result is, for each picture, the quantized candidate with the lowest J that was seen: it is never worse than
    encode-and-round. `observe` is called with every `Iterate` and does not change the result. If it raises
    `StopSearch`, the search ends early; everything else that it raises is passed on.
    """
    best = Best(problem)
    generator = torch.Generator(problem.start.device).manual_seed(seed)
    with suppress(StopSearch):
        if observe is not None:
            best.show_to(observe)
        if config.iterations:
            solve: Solver = solver(config.method)
            solve(problem, config, best, generator)
    return SearchResult(best.symbols.to(torch.int16), best.cost, best.start_cost, best.history)
