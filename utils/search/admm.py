"""Search of the quantized latent that codes one signal best: ADMM through the fixed generator.

    minimize  J(q) = F(x, G(q)) + bits(q)   over latents q on the codebook

in bits, F = lmbda * 255^2 * squared error * samples. With a copy z that is free to move (z = q in
the end) and a scaled dual eta, ADMM alternates

    z-step     argmin over z of  F(x, G(z)) + bits around z + mu/2 |z - q + eta|^2
    q-step     argmin over centers c of  mu/2 |z + eta - c|^2 + bits(c)
    dual step  eta += z - q

The z-step is linearized at q, where one back-propagation gives the slope g of F and of the bits
that the neighbors cost with q as their context. Then z + eta = q - g / mu: the dual goes into the
target of the q-step, which is exact, place by place, and the iterates are quantized all along. Three
things make it pay: mu is the curvature of F, measured at the start and corrected by every step;
the target remembers the ones before it; and the q-step draws from exp(-cost / T), T falling, so that
it does not end in the first place where no single symbol is worth changing.

Latents are on the axis of the symbols: center k lies at k. What is compared and returned are
quantized latents only, and the first of them is encode-and-round. The module touches no files
and does not know the kind of signal.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch.nn.functional import avg_pool2d

from .config import SearchConfig

Prediction = tuple[torch.Tensor, torch.Tensor]  # mean and log scale, each (B, C, h, w)

PROBE = 0.25  # steps: how far the curvature is measured; a generator trained on searched
# latents takes most of a larger disturbance away, and seems flat
CURVATURE_LIMITS = (0.3, 10.0)  # of what is seen of it, against what was measured at the start
MIN_STEP = 100.0  # bits of curvature in a move; less says nothing about it
BACKTRACK = 1.5  # mu rises by this where a move was not taken
MAX_RISE = 1.5  # of J by a noisy move, or it is not taken: the curvature measured was too small
MAX_RELAXATION = 0.6
# The search is done when z has come to its target (root mean square, in steps) and the copy q stands
# still: the primal and the dual residual of ADMM.
PRIMAL_TOLERANCE = 0.01


@dataclass
class SearchResult:
    """The best quantized latent of each picture and what it cost."""

    symbols: torch.Tensor  # int16 (B, C, h, w)
    cost: torch.Tensor  # (B,) its J in bits
    start_cost: torch.Tensor  # (B,) J of encode-and-round
    history: list[dict] = field(default_factory=list)


@dataclass(frozen=True)
class Problem:
    """One batch of pictures to be coded; indices are latents (B, C, h, w) on the symbols' axis.

    distortion  index -> F (B,), in bits; differentiable
    predict     index -> mean and log scale that the entropy model names for every symbol in this context; differentiable
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


def optimize_latent(problem: Problem, config: SearchConfig, seed: int = 0) -> SearchResult:
    """Run a search. Deterministic given the seed on one machine.

    Returns the quantized candidate of least J seen, per picture: never worse than encode-and-round.
    """
    best = _Best(problem)
    generator = torch.Generator(problem.start.device).manual_seed(seed)
    if config.iterations:
        (_alternate if config.method in ("admm", "iht") else _descend)(problem, config, best, generator)
    return SearchResult(best.symbols.to(torch.int16), best.cost, best.start_cost, best.history)


class _Best:
    """The best quantized iterate so far, per picture."""

    @torch.no_grad()
    def __init__(self, problem: Problem):
        self.problem = problem
        self.symbols = problem.fallback
        self.start_cost = self.cost = self._cost(self.symbols)
        self.history: list[dict] = [{"iteration": 0, "cost": self.cost.tolist()}]

    def _cost(self, symbols: torch.Tensor) -> torch.Tensor:
        problem = self.problem
        return problem.distortion(symbols) + problem.bits(problem.predict(symbols), symbols).flatten(1).sum(1)

    @torch.no_grad()
    def judge(self, symbols: torch.Tensor, iteration: int) -> None:
        self.note(symbols, self._cost(symbols), iteration)

    def note(self, symbols: torch.Tensor, cost: torch.Tensor, iteration: int) -> None:
        """Takes symbols whose cost is known."""
        better = cost < self.cost
        self.cost = torch.where(better, cost, self.cost)
        self.symbols = torch.where(_wide(better), symbols, self.symbols)
        self.history.append({"iteration": iteration, "cost": cost.tolist()})


# -- ADMM ------------------------------------------------------------------------------------------


class _View(NamedTuple):
    """A quantized latent and what one back-propagation tells of it."""

    q: torch.Tensor  # (B, C, h, w)
    cost: torch.Tensor  # (B,) J
    slope: torch.Tensor  # (B, C, h, w) of F, and of the bits of all others with q as their context
    bits: torch.Tensor  # (3, B, C, h, w) of each symbol of q, q + 1 and q - 1 in the context of q

    def where(self, condition: torch.Tensor, other: "_View") -> "_View":
        """Picture by picture: this one where the condition (B,) holds, else the other."""
        return _View(*(torch.where(condition if a.dim() == 1 else _wide(condition), a, b) for a, b in zip(self, other)))


def _look(problem: Problem, q: torch.Tensor) -> _View:
    leaf = q.detach().clone().requires_grad_(True)
    prediction = problem.predict(leaf)
    distortion = problem.distortion(leaf)
    (slope,) = torch.autograd.grad(distortion.sum() + problem.estimate(prediction, q).sum(), leaf)
    bits = problem.bits(tuple(tensor.detach() for tensor in prediction), torch.stack([q, q + 1, q - 1]))
    return _View(q, distortion.detach() + bits[0].flatten(1).sum(1), slope, bits)


@torch.no_grad()
def _curvature(slope: torch.Tensor, probed: torch.Tensor, probe: torch.Tensor) -> torch.Tensor:
    """Diagonal of the Hessian from the slopes at q and at q + probe, probe of random signs -> (B, C, h, w).

    (Hutchinson's estimate with a difference in place of the derivative.) What one probe gives for one
    symbol is mostly noise: the result is the product of a mean, a factor for each place, and a
    cautious one for each channel, as steps of all channels are of about the same weight.
    """
    raw = (probed - slope) * probe / PROBE**2
    mean = raw.mean((1, 2, 3), keepdim=True).clamp_min(1e-6)
    place = avg_pool2d(raw.mean(1, keepdim=True), 3, 1, 1, count_include_pad=False)
    channel = raw.mean((2, 3), keepdim=True)
    return mean * (place / mean).clamp_min(0.05) * (channel / mean).clamp(0.5, 4.0).sqrt()


def _alternate(problem: Problem, config: SearchConfig, best: _Best, generator: torch.Generator) -> None:
    """ADMM; or what is left of it without memory and noise, iterative hard thresholding."""
    start = problem.start.round()
    noise_shape, device = start.shape[1:], start.device  # every picture of a batch gets the same noise,
    now = _look(problem, start)  # whatever its company; only sums may round otherwise
    if not torch.equal(start, problem.fallback):
        best.note(start, now.cost, 0)
    probe = PROBE * (2.0 * torch.randint(0, 2, noise_shape, generator=generator, device=device) - 1)
    curvature = _curvature(now.slope, _look(problem, start + probe).slope, probe)
    factor = torch.full_like(now.cost, 1.5)  # of the curvature along the moves that are made; corrected below
    relaxation = 1.0
    if config.method == "admm":
        relaxation = min(MAX_RELAXATION, config.relaxation / config.iterations**0.5)
    moves = max(1, config.iterations - 1)  # the probe was one
    z = problem.start
    gumbel = _Gumbel(noise_shape, generator, device)
    for t in range(moves):
        mu = config.penalty * _wide(factor) * curvature
        target = now.q - now.slope / mu
        z = z + relaxation * (target - z)
        warm, noise = t < config.noise_until * moves, None
        if warm:
            noise = _geometric(config.noise, t / (config.noise_until * moves)) * gumbel.draw()
        q, own = _project(problem, now, z, mu, noise)
        move = q - now.q
        primal = (z - target).square().flatten(1).mean(1).sqrt()
        if not warm and not move.any() and bool((primal < PRIMAL_TOLERANCE).all()):
            break
        then = _look(problem, q)
        best.note(q, then.cost, t + 1)
        power = (curvature / 2 * move.square()).flatten(1).sum(1)
        # what the slope and the symbols' own bits leave of the change of J is curvature
        seen = (then.cost - now.cost - (now.slope * move).flatten(1).sum(1) - own) / power.clamp_min(1e-3)
        factor = torch.where(power > MIN_STEP, (factor * seen.clamp(*CURVATURE_LIMITS)).sqrt(), factor)
        taken = then.cost <= (MAX_RISE if warm else 1) * now.cost
        factor = torch.where(taken, factor, BACKTRACK * factor)
        z = torch.where(_wide(taken), z, now.q)
        now = then.where(taken, now)


class _Gumbel:
    """Noise (3, C, h, w), the same for every picture of a batch.

    Drawn once, as that takes longer than all else in a q-step; each time it is moved by a random number of places.
    """

    def __init__(self, shape: torch.Size, generator: torch.Generator, device: torch.device):
        self.shape, self.generator = (3, *shape), generator
        uniform = torch.rand(self.shape, generator=generator, device=device).clamp_(1e-6, 1 - 1e-6)
        self.noise = uniform.log_().neg_().log_().neg_().flatten().repeat(2)

    def draw(self) -> torch.Tensor:
        count = len(self.noise) // 2
        start = int(torch.randint(count, (), generator=self.generator, device=self.noise.device))
        return self.noise[start : start + count].view(self.shape)


def _project(
    problem: Problem, now: _View, target: torch.Tensor, mu: torch.Tensor, noise: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The q-step: of q and its two neighbors, beyond which no slope reaches, the center c of least
    mu/2 (target - c)^2 + bits(c), bits in the context of q. Gumbel noise (3, C, h, w), T times as large, makes it
    a draw from exp(-that / T).

    -> the new q, and what the changed symbols cost more themselves, (B,) bits.
    """
    pull = mu * (target - now.q)
    more_up, more_down = now.bits[1:] - now.bits[0]
    stay, up, down = torch.zeros_like(pull), more_up + mu / 2 - pull, more_down + mu / 2 + pull  # less the cost of q
    if noise is not None:
        stay, up, down = stay - noise[0], up - noise[1], down - noise[2]
    leaves = torch.minimum(up, down) < stay  # (argmin over so short a dimension takes ten times as long)
    if problem.movable is not None:
        leaves = leaves & problem.movable
    rises = up <= down
    step = torch.where(rises, 1.0, -1.0) * leaves
    own = (torch.where(rises, more_up, more_down) * leaves).flatten(1).sum(1)
    return now.q + step, own


# -- the methods to compare with -------------------------------------------------------------------


def _descend(problem: Problem, config: SearchConfig, best: _Best, generator: torch.Generator) -> None:
    """Adam on z, with rounding seen in the method's way."""
    fixed = problem.start.round()
    z = problem.start.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([z], lr=config.learning_rate)
    q, eta = fixed, torch.zeros_like(z)
    for t in range(config.iterations):
        progress = t / config.iterations
        optimizer.zero_grad(set_to_none=True)
        relaxed = problem.hold(_relax(z, config, progress, generator), fixed)
        loss = problem.distortion(relaxed).sum()
        if config.method == "paper":
            loss = loss + config.penalty / 2 * (z - q + eta).square().sum()
        else:
            loss = loss + problem.estimate(problem.predict(relaxed), relaxed).sum()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            candidates = [z.round()]
            if config.method == "paper":
                q = (z + eta).round()
                eta += z - q
                candidates.append(q)
            if t + 1 == config.iterations or (
                config.method != "round" and progress >= config.judge_from and (t + 1) % config.judge_every == 0
            ):
                for candidate in candidates:
                    best.judge(problem.hold(candidate, fixed), t + 1)


def _relax(z: torch.Tensor, config: SearchConfig, progress: float, generator: torch.Generator) -> torch.Tensor:
    """What a step of Adam puts through the generator in place of z."""
    if config.method == "ste":
        return z + (z.round() - z).detach()
    if config.method in ("round", "paper"):
        return z
    # Gumbel-softmax between floor and ceiling, logits -atanh(distance) / T (Yang et al. 2020)
    fall = (progress - config.cooling_from) / (1 - config.cooling_from)
    temperature = _geometric(config.temperature, fall)
    low = z.detach().floor()
    up = (z - low).clamp(1e-4, 1 - 1e-4)
    # Two classes: the difference of two Gumbel variables is logistic.
    uniform = torch.rand(z.shape[1:], generator=generator, device=z.device).clamp(1e-6, 1 - 1e-6)
    logits = (torch.atanh(up) - torch.atanh(1 - up)) / temperature
    noise = torch.log(uniform) - torch.log1p(-uniform)
    return low + torch.sigmoid((logits + noise) / temperature)


def _geometric(ends: tuple[float, float], progress: float) -> float:
    return ends[0] * (ends[1] / ends[0]) ** min(max(progress, 0.0), 1.0)


def _wide(per_picture: torch.Tensor) -> torch.Tensor:
    """(B,) -> (B, 1, 1, 1)"""
    return per_picture[:, None, None, None]
