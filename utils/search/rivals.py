"""The methods that ADMM is compared with: Adam on the free latent z, each with its own view of the rounding.

Every one of them is a function (problem, config, best, generator) that shows its quantized candidates to `best`.
"""

from collections.abc import Callable
from dataclasses import replace

import torch

from .config import SearchConfig
from .problem import Best, Problem, geometric

Relaxation = Callable[[torch.Tensor, float], torch.Tensor]  # z, progress in 0..1 -> what goes through the generator


def paper(problem: Problem, config: SearchConfig, best: Best, generator: torch.Generator) -> None:
    """ADMM as in Liu, Cao, Kim 2020: the z-step is a step of Adam, the q-step rounds, and mu is constant."""
    rounded = problem.start.round()
    z, optimizer = _adam(problem, config)
    q, eta = rounded, torch.zeros_like(z)
    penalty = torch.full_like(best.cost, config.penalty)
    for t in range(config.iterations):
        held = problem.hold(z, rounded)
        distortion = problem.distortion(held)
        _descend(optimizer, distortion.sum() + config.penalty / 2 * (z - q + eta).square().sum())  # z-step
        with torch.no_grad():
            if best.observe is not None:  # the method itself does not look at the bits
                bits = problem.estimate(problem.predict(held), held)
                best.show_relaxed(distortion, bits, t + 1, penalty)
            q = (z + eta).round()  # q-step
            eta += z - q  # dual step
            if _is_judged(t, config):
                for candidate in (z.round(), q):
                    best.judge(problem.hold(candidate, rounded), t + 1, penalty)


def sga(problem: Problem, config: SearchConfig, best: Best, generator: torch.Generator) -> None:
    """Stochastic Gumbel annealing: Gumbel-softmax between floor and ceiling, logits -atanh(distance) / T.

    (Yang, Bamler, Mandt 2020.)
    """

    def relax(z: torch.Tensor, progress: float) -> torch.Tensor:
        fall = (progress - config.cooling_from) / (1 - config.cooling_from)
        temperature = geometric(config.temperature, fall)
        low = z.detach().floor()
        up = (z - low).clamp(1e-4, 1 - 1e-4)
        # Two classes: the difference of two Gumbel variables is logistic.
        uniform = torch.rand(z.shape[1:], generator=generator, device=z.device).clamp(1e-6, 1 - 1e-6)
        logits = (torch.atanh(up) - torch.atanh(1 - up)) / temperature
        noise = torch.log(uniform) - torch.log1p(-uniform)
        return low + torch.sigmoid((logits + noise) / temperature)

    _relaxed_descent(problem, config, best, relax)


def ste(problem: Problem, config: SearchConfig, best: Best, generator: torch.Generator) -> None:
    """Straight-through estimate: the rounded latent goes forward, its gradient goes back as if nothing were rounded."""
    _relaxed_descent(problem, config, best, lambda z, progress: z + (z.round() - z).detach())


def round_at_the_end(problem: Problem, config: SearchConfig, best: Best, generator: torch.Generator) -> None:
    """Back-propagation that knows of no rounding, and one rounding after the last step."""
    _relaxed_descent(problem, replace(config, judge_from=1.0), best, lambda z, progress: z)


def encode_and_round(problem: Problem, config: SearchConfig, best: Best, generator: torch.Generator) -> None:
    """No search: `best` has this candidate from the start."""


def _relaxed_descent(problem: Problem, config: SearchConfig, best: Best, relax: Relaxation) -> None:
    """Adam on F + bits of the relaxed latent."""
    rounded = problem.start.round()
    z, optimizer = _adam(problem, config)
    for t in range(config.iterations):
        relaxed = problem.hold(relax(z, t / config.iterations), rounded)
        distortion = problem.distortion(relaxed)
        bits = problem.estimate(problem.predict(relaxed), relaxed)
        _descend(optimizer, distortion.sum() + bits.sum())
        best.show_relaxed(distortion, bits, t + 1)
        if _is_judged(t, config):
            best.judge(problem.hold(z.detach().round(), rounded), t + 1)


def _adam(problem: Problem, config: SearchConfig) -> tuple[torch.Tensor, torch.optim.Optimizer]:
    """The free latent z, from the problem's start, and its optimizer."""
    z = problem.start.clone().requires_grad_(True)
    return z, torch.optim.Adam([z], lr=config.learning_rate)


def _descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def _is_judged(t: int, config: SearchConfig) -> bool:
    """Whether quantized candidates are looked at after step t, from 0; after the last one they always are."""
    due = t / config.iterations >= config.judge_from and (t + 1) % config.judge_every == 0
    return due or t + 1 == config.iterations
