"""Search of the quantized latent that codes one signal best: ADMM through the fixed generator.

    minimize  J(q) = F(x, G(q)) + bits(q)   over latents q on the codebook

in bits, F = lmbda * 255^2 * squared error * samples. With a copy z that is free to move
(z = q in the end) and a scaled dual eta:

    z-step     Adam on F(x, G(z~)) + bits(z~) + mu/2 |z - q + eta|^2, z~ a relaxed rounding of z
    q-step     q = argmin over centers c of mu/2 |z + eta - c|^2 + bits(c): exact, place by place
    dual step  eta += step * (z - q)

Latents are on the axis of the symbols: center k lies at k. What is compared and returned are
quantized latents only, and the first of them is encode-and-round. The module touches no files
and does not know the kind of signal.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

METHODS = ("admm", "paper", "sga", "ste", "iht", "round", "none")
OBJECTIVES = ("mse", "ms_ssim", "perceptual")       # what F measures: utils/objectives.py
# The search is done when z and its copy agree (root mean square, in steps) and the copy stands still
# (fraction of places that changed): the primal and the dual residual of ADMM.
PRIMAL_TOLERANCE, DUAL_TOLERANCE = 0.01, 1e-5


@dataclass(frozen=True)
class SearchConfig:
    """What a method does, as data. Defaults were tuned on crops of images/val (docs/how_it_works.md)."""

    method: str = "admm"
    iterations: int = 100
    learning_rate: tuple[float, float] = (0.03, 0.03)   # Adam's, start and end, against a step of 1
    temperature: tuple[float, float] = (0.5, 0.15)    # of the relaxed rounding, start and end
    cooling_from: float = 0.2           # fraction of the iterations from which it falls
    penalty: tuple[float, float] = (0.3, 30.0)        # mu, geometric, start and end
    coupling_from: float = 0.67         # fraction from which q, mu and eta enter
    dual_step: float = 0.3
    rate_weight: float = 1.0            # 0: the paper's method, which does not see the rate
    project_every: int = 2              # iterations between q-steps: each costs a pass through the entropy model
    judge_every: int = 10               # iterations between looks at quantized candidates,
    judge_from: float = 0.5             # from this fraction on: before, the relaxation is too soft to win
    objective: str = "mse"              # one of OBJECTIVES; the search itself is given F as a function

    def __post_init__(self):
        if self.method not in METHODS:
            raise ValueError(f"search method {self.method!r} is not one of {', '.join(METHODS)}")
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective {self.objective!r} is not one of {', '.join(OBJECTIVES)}")
        if min(*self.penalty, *self.learning_rate) <= 0:
            raise ValueError(f"penalty {self.penalty} and learning rate {self.learning_rate} must be positive")
        if self.iterations < 0:
            raise ValueError(f"{self.iterations} iterations: 0 or more are possible")


# Where a method differs from the defaults above.
PRESETS = {
    "admm": {},
    # Liu, Cao, Kim 2020: full dual, nearest centers, no rate, constant mu
    "paper": dict(temperature=(0.0, 0.0), penalty=(3.0, 3.0), coupling_from=0.0, dual_step=1.0, rate_weight=0.0),
    "sga": dict(coupling_from=1.0),         # Yang, Bamler, Mandt 2020
    "ste": dict(learning_rate=(0.005, 0.005), judge_from=0.0),
    "iht": dict(learning_rate=(0.02, 0.02), judge_from=0.0),        # iterative hard thresholding: a step, then the projection
    "round": dict(),                        # back-propagation without rounding, rounded at the end
    "none": dict(iterations=0),
}


def preset(method: str, iterations: int | None = None, objective: str = "mse") -> SearchConfig:
    """The configuration of a method; `iterations` replaces its default."""
    if method not in METHODS:
        raise ValueError(f"search method {method!r} is not one of {', '.join(METHODS)}")
    values = {"method": method, "objective": objective, **PRESETS[method]}
    if iterations is not None and method != "none":
        values["iterations"] = iterations
    return SearchConfig(**values)


@dataclass
class SearchResult:
    """The best quantized latent of each picture and what it cost."""

    symbols: torch.Tensor                        # int16 (B, C, h, w)
    cost: torch.Tensor                           # (B,) its J in bits
    start_cost: torch.Tensor                     # (B,) J of encode-and-round
    history: list[dict] = field(default_factory=list)


@dataclass(frozen=True)
class Problem:
    """One batch of pictures to be coded; all functions are differentiable and batched.

    distortion  index (B, C, h, w) on the symbols' axis -> F (B,), in bits
    rate        index -> estimated bits (B,), with itself as context
    true_rate   symbols -> bits (B,) of what would be written
    costs       (q, candidates (N, B, C, h, w)) -> bits of each candidate in the context q
    start       the latent from which to search, on the symbols' axis
    fallback    symbols that the result is never worse than: encode-and-round
    movable     bool (B, 1, h, w) or None: places that may change
    """

    distortion: Callable[[torch.Tensor], torch.Tensor]
    rate: Callable[[torch.Tensor], torch.Tensor]
    true_rate: Callable[[torch.Tensor], torch.Tensor]
    costs: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    start: torch.Tensor
    fallback: torch.Tensor
    movable: torch.Tensor | None = None


def optimize_latent(problem: Problem, config: SearchConfig, seed: int = 0) -> SearchResult:
    """Run a search. Deterministic given the seed on one machine.

    Returns the quantized candidate of least J seen, per picture: never worse than encode-and-round.
    """
    best = _Best(problem)
    if config.iterations:
        _iterate(problem, config, best, torch.Generator(problem.start.device).manual_seed(seed))
    return SearchResult(best.symbols.to(torch.int16), best.cost, best.start_cost, best.history)


class _Best:
    """The best quantized iterate so far, per picture."""

    def __init__(self, problem: Problem):
        self.problem = problem
        self.symbols = problem.fallback
        self.start_cost = self.cost = self._cost(self.symbols)
        self.history: list[dict] = [{"iteration": 0, "cost": self.cost.tolist()}]

    @torch.no_grad()
    def _cost(self, symbols: torch.Tensor) -> torch.Tensor:
        return self.problem.distortion(symbols) + self.problem.true_rate(symbols)

    def judge(self, symbols: torch.Tensor, iteration: int) -> None:
        cost = self._cost(symbols)
        better = cost < self.cost
        self.cost = torch.where(better, cost, self.cost)
        self.symbols = torch.where(better[:, None, None, None], symbols, self.symbols)
        self.history.append({"iteration": iteration, "cost": cost.tolist()})


def _iterate(problem: Problem, config: SearchConfig, best: _Best, generator: torch.Generator) -> None:
    fixed = problem.start.round()
    z = problem.start.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([z], lr=config.learning_rate[0])
    q, eta = fixed, torch.zeros_like(z)
    for t in range(config.iterations):
        progress = t / config.iterations
        coupled = config.method in ("admm", "paper") and progress >= config.coupling_from
        mu = _geometric(config.penalty, (progress - config.coupling_from) / max(1 - config.coupling_from, 1e-9))
        optimizer.param_groups[0]["lr"] = _geometric(config.learning_rate, progress)
        optimizer.zero_grad(set_to_none=True)
        relaxed = _relax(z, config, progress, generator)
        if problem.movable is not None:
            relaxed = torch.where(problem.movable, relaxed, fixed)
        loss = problem.distortion(relaxed).sum()
        if config.rate_weight:
            loss = loss + config.rate_weight * problem.rate(relaxed).sum()
        if coupled:
            loss = loss + mu / 2 * (z - q + eta).square().sum()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            done = False
            if coupled and (t % config.project_every == 0 or t + 1 == config.iterations):
                before, q = q, _project(problem, z + eta, q, mu, config.rate_weight)
                eta += config.dual_step * (z - q)
                primal = (z - q).square().flatten(1).mean(1).sqrt()
                dual = (q != before).float().flatten(1).mean(1)
                done = bool(((primal < PRIMAL_TOLERANCE) & (dual < DUAL_TOLERANCE)).all())
            elif config.method == "iht":
                q = _project(problem, z, z.round(), 1.0, config.rate_weight)
                z.copy_(q)
            last = done or t + 1 == config.iterations
            if last or (config.method != "round" and progress >= config.judge_from
                                                     and (t + 1) % config.judge_every == 0):
                for candidate in [z.round()] + ([q] if coupled else []):
                    if problem.movable is not None:
                        candidate = torch.where(problem.movable, candidate, fixed)
                    best.judge(candidate, t + 1)
            if done:
                break


def _geometric(ends: tuple[float, float], progress: float) -> float:
    return ends[0] * (ends[1] / ends[0]) ** min(max(progress, 0.0), 1.0)


def _relax(z: torch.Tensor, config: SearchConfig, progress: float, generator: torch.Generator) -> torch.Tensor:
    """What the z-step puts through the generator in place of z."""
    if config.method in ("ste", "iht"):
        return z + (z.round() - z).detach()
    if config.method in ("round", "paper"):
        return z
    # Gumbel-softmax between floor and ceiling, logits -atanh(distance) / T (Yang et al. 2020)
    fall = (progress - config.cooling_from) / (1 - config.cooling_from)
    temperature = _geometric(config.temperature, fall)
    low = z.detach().floor()
    up = (z - low).clamp(1e-4, 1 - 1e-4)
    # Two classes: the difference of two Gumbel variables is logistic.
    # Every picture of a batch gets the same noise, whatever its company; only sums may round otherwise.
    uniform = torch.rand(z.shape[1:], generator=generator, device=z.device).clamp(1e-6, 1 - 1e-6)
    logits = (torch.atanh(up) - torch.atanh(1 - up)) / temperature
    noise = torch.log(uniform) - torch.log1p(-uniform)
    return low + torch.sigmoid((logits + noise) / temperature)


def _project(problem: Problem, target: torch.Tensor, context: torch.Tensor, mu: float,
             rate_weight: float) -> torch.Tensor:
    """The q-step: centers that minimize mu/2 (target - c)^2 + bits(c), bits in the current context.

    Of the centers, those are tried that can win where bits rise away from a predicted value: the two
    around the target, the next one toward zero, and zero.
    """
    nearest = target.round()
    if not rate_weight:
        return nearest
    candidates = torch.stack([nearest, torch.where(target > nearest, nearest + 1, nearest - 1),
                              nearest - nearest.sign(), torch.zeros_like(nearest)])
    cost = mu / 2 * (target - candidates).square() + rate_weight * problem.costs(context, candidates)
    return candidates.gather(0, cost.argmin(0, keepdim=True))[0]
