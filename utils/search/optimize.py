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
    """Run a search. Deterministic given the seed on one machine.

    Returns the quantized candidate of least J seen, per picture: never worse than encode-and-round. `observe` is
    called with every `Iterate`, and changes nothing of it. `StopSearch`, raised by it, ends the search early; all
    else that it raises is passed on.
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
