"""The paper's method, ADMM through the fixed generator, as it is run here; and iterative hard thresholding.

    minimize  J(q) = F(x, G(q)) + bits(q)   over latents q on the codebook

in bits, F = lmbda * 255^2 * squared error * samples. With a copy z that is free to move (z = q in
the end) and a scaled dual eta, ADMM alternates

    z-step     argmin over z of  F(x, G(z)) + bits around z + mu/2 |z - q + eta|^2
    q-step     argmin over centers c of  mu/2 |z + eta - c|^2 + bits(c)
    dual step  eta += z - q

The z-step is linearized at q, where one back-propagation gives the slope g of F and of the bits
that the neighbors cost with q as their context. The minimum is then at z + eta = q - g / mu, so that z-step and
dual step give one *proposal*, and z and eta need no variables of their own. The q-step is exact, place by place, and
the iterates are quantized all along. Three things make it pay:

- mu is the curvature of F, measured at the start and corrected by every step (`Curvature`), place by place where F is
  no squared error (`FollowedCurvature`);
- the *target*, which stands for z + eta in the q-step, is a running mean of the proposals;
- the q-step draws from exp(-cost / T), T falling, so that it does not end in the first place where no
  single symbol is worth changing (`GumbelNoise`).
"""

from typing import NamedTuple

import torch
from torch.nn.functional import avg_pool2d

from .config import SearchConfig, objective_class
from .problem import Best, Problem, geometric, wide

# Steps by which the probe of the curvature moves each symbol. A generator trained on searched latents suppresses larger
# disturbances, and F would seem flat.
PROBE = 0.25
FIRST_FACTOR = 1.5  # on the measured curvature, until the first move corrects it
CURVATURE_LIMITS = (0.3, 10.0)  # of the curvature that a move shows, as multiples of the measured one
MIN_POWER = 100.0  # bits by which curvature should change J; a move with less says nothing about it
BACKTRACK = 1.5  # mu rises by this factor where a move was not taken
MAX_RELAXATION = 0.6
# Of the curvature that moves show place by place:
LEAST_SHARE = 0.2  # of the curvature with which F would fall to 0; a probe that shows less is not believed
SECANT_SIDE = 5  # places whose moves count together
SECANT_MEMORY = 0.7  # by which earlier moves count less with each move
SECANT_PRIOR = 3.0  # bits a place, by which the measured curvature counts beside the moves
SECANT_LIMITS = (0.3, 20.0)  # of the measured curvature
RECOVERY = 1.5  # by which mu falls again with each move that is taken
# The search is done when the target has come to its proposal (root mean square, in steps) and the copy q stands
# still: the primal and the dual residual of ADMM.
PRIMAL_TOLERANCE = 0.01


def admm(problem: Problem, config: SearchConfig, best: Best, generator: torch.Generator) -> None:
    """The target remembers earlier proposals, and for longer where there are more iterations."""
    _alternate(problem, config, best, generator, min(MAX_RELAXATION, config.relaxation / config.iterations**0.5))


def iht(problem: Problem, config: SearchConfig, best: Best, generator: torch.Generator) -> None:
    """What is left of ADMM without memory (and, by its preset, without noise): iterative hard thresholding."""
    _alternate(problem, config, best, generator, relaxation=1.0)


def _alternate(
    problem: Problem, config: SearchConfig, best: Best, generator: torch.Generator, relaxation: float
) -> None:
    now = linearize(problem, problem.start.round())
    if not torch.equal(now.q, problem.fallback):
        best.note(now.q, now.distortion, now.rate, 0)
    # Every picture of a batch gets the same probe and noise, whatever its company; only sums may round differently.
    follow = Curvature if objective_class(config.objective).steady else FollowedCurvature
    curvature = follow.measure(problem, now, config.penalty, generator)
    noise = GumbelNoise(now.q.shape[1:], generator, now.q.device)
    target = problem.start
    moves = max(1, config.iterations - 1)  # the probe was one
    for t in range(moves):
        warm = t < config.noise_until * moves
        mu = curvature.mu
        # z-step and dual step: z + eta, with F linearized at q
        proposal = now.q - now.slope / mu
        target = target + relaxation * (proposal - target)
        # q-step
        temperature = geometric(config.noise, t / (config.noise_until * moves)) if warm else 0.0
        q, own_bits = project(problem, now, target, mu, temperature * noise.draw() if warm else None)
        move = q - now.q
        if not warm and not move.any() and _has_arrived(target, proposal):
            break
        # judge: by J of the quantized iterate
        new = linearize(problem, q)
        best.note(q, new.distortion, new.rate, t + 1, mu.flatten(1).mean(1))
        # learn
        curvature.observe(move, now, new, own_bits)
        # accept, each picture by itself: while there is noise, J may rise
        taken = new.cost <= (curvature.max_rise if warm else 1) * now.cost
        curvature.judge(taken)
        target = torch.where(wide(taken), target, now.q)
        now = new.where(taken, now)


class Linearization(NamedTuple):
    """A quantized latent and what one back-propagation tells of J around it."""

    q: torch.Tensor  # (B, C, h, w)
    distortion: torch.Tensor  # (B,) F
    rate: torch.Tensor  # (B,) bits
    slope: torch.Tensor  # (B, C, h, w) of F, and of the bits of the symbols that have q in their context
    bits: torch.Tensor  # (3, B, C, h, w) of each symbol of q, q + 1 and q - 1, in the context of q

    @property
    def cost(self) -> torch.Tensor:
        """J, (B,)"""
        return self.distortion + self.rate

    def where(self, condition: torch.Tensor, other: "Linearization") -> "Linearization":
        """Picture by picture: this one where the condition (B,) holds, else the other."""
        return Linearization(
            *(torch.where(condition if a.dim() == 1 else wide(condition), a, b) for a, b in zip(self, other))
        )


def linearize(problem: Problem, q: torch.Tensor) -> Linearization:
    """q (B, C, h, w) -> J and its slope there, by one pass through the generator and back."""
    leaf = q.detach().clone().requires_grad_(True)
    prediction = problem.predict(leaf)
    distortion = problem.distortion(leaf)
    (slope,) = torch.autograd.grad(distortion.sum() + problem.estimate(prediction, q).sum(), leaf)
    bits = problem.bits(tuple(tensor.detach() for tensor in prediction), torch.stack([q, q + 1, q - 1]))
    return Linearization(q, distortion.detach(), bits[0].flatten(1).sum(1), slope, bits)


class Curvature:
    """The penalty mu: a fraction of the curvature of F, the diagonal of its Hessian.

    mu = penalty * factor * diagonal. The diagonal (B, C, h, w) is measured once; the factor (B,) follows what the
    moves show of the curvature along them.
    """

    max_rise = 1.5  # of J by a noisy move, as a factor; beyond it the measured curvature was too small

    def __init__(self, diagonal: torch.Tensor, penalty: float):
        self.diagonal, self.penalty = diagonal, penalty
        self.factor = torch.full_like(diagonal[:, 0, 0, 0], FIRST_FACTOR)

    @classmethod
    def measure(cls, problem: Problem, now: Linearization, penalty: float, generator: torch.Generator) -> "Curvature":
        """Measure it by the slope at q plus a probe of random signs, which takes one back-propagation."""
        signs = 2.0 * torch.randint(0, 2, now.q.shape[1:], generator=generator, device=now.q.device) - 1
        probe = PROBE * signs
        probed = linearize(problem, now.q + probe)
        return cls(hessian_diagonal(now.slope, probed.slope, probe, cls.least(now)), penalty)

    @staticmethod
    def least(now: Linearization) -> torch.Tensor | None:
        """The least mean (B,) of the diagonal that is believed, if there is one."""
        return None

    @property
    def mu(self) -> torch.Tensor:
        """(B, C, h, w)"""
        return self.penalty * wide(self.factor) * self.diagonal

    def observe(self, move: torch.Tensor, now: Linearization, new: Linearization, own_bits: torch.Tensor) -> None:
        """Corrects the factor by a move (B, C, h, w) from now to new, whose symbols themselves cost own_bits (B,) more.

        What the slope and those bits do not explain of the change of J is curvature.
        """
        change = new.cost - now.cost - (now.slope * move).flatten(1).sum(1) - own_bits
        power = (self.diagonal / 2 * move.square()).flatten(1).sum(1)  # the change that the diagonal expects
        seen = change / power.clamp_min(1e-3)
        corrected = (self.factor * seen.clamp(*CURVATURE_LIMITS)).sqrt()
        self.factor = torch.where(power > MIN_POWER, corrected, self.factor)

    def judge(self, taken: torch.Tensor) -> None:
        """Raises mu of the pictures whose move was not taken, bool (B,): the next one is shorter."""
        self.factor = torch.where(taken, self.factor, BACKTRACK * self.factor)


class FollowedCurvature(Curvature):
    """The curvature of an F that is no squared error: one that changes on the way, and not everywhere alike.

    A move tells it by the slopes at its ends: their difference times the move is the move's own curvature (the secant
    of the quasi-Newton methods), and it says so for each place. mu = penalty * factor * place * measured diagonal. The
    factor is 1 but for moves that were not taken.
    """

    max_rise = 1.1

    def __init__(self, diagonal: torch.Tensor, penalty: float):
        super().__init__(diagonal, penalty)
        self.factor = torch.ones_like(self.factor)
        self.measured, self.expected, self.seen = diagonal, torch.zeros(()), torch.zeros(())

    @staticmethod
    def least(now: Linearization) -> torch.Tensor:
        """A step along the slope g to the minimum of a parabola lowers F by g^2 / 2h, and F is never below 0."""
        return LEAST_SHARE * now.slope.square().flatten(1).sum(1) / (2 * now.distortion).clamp_min(1e-6)

    def observe(self, move: torch.Tensor, now: Linearization, new: Linearization, own_bits: torch.Tensor) -> None:
        """Corrects the diagonal by a move (B, C, h, w) from now to new; the slopes alone tell, not the bits."""
        self.expected = SECANT_MEMORY * self.expected + _around(self.measured * move.square())
        self.seen = SECANT_MEMORY * self.seen + _around((new.slope - now.slope) * move)
        place = (self.seen + SECANT_PRIOR) / (self.expected + SECANT_PRIOR)
        self.diagonal = self.measured * place.clamp(*SECANT_LIMITS)

    def judge(self, taken: torch.Tensor) -> None:
        """Doubles mu where a move was not taken, bool (B,); with those that are taken it comes back."""
        self.factor = torch.where(taken, (self.factor / RECOVERY).clamp_min(1), 2 * self.factor)


def _around(values: torch.Tensor) -> torch.Tensor:
    """Sums over the channels of (B, C, h, w), and means of those around each place -> (B, 1, h, w)."""
    return avg_pool2d(values.sum(1, keepdim=True), SECANT_SIDE, 1, SECANT_SIDE // 2, count_include_pad=False)


@torch.no_grad()
def hessian_diagonal(
    slope: torch.Tensor, probed: torch.Tensor, probe: torch.Tensor, least: torch.Tensor | None = None
) -> torch.Tensor:
    """Diagonal of the Hessian from the slopes at q and at q + probe, probe of random signs -> (B, C, h, w).

    This is Hutchinson's estimate with a difference in place of the derivative. One probe gives mostly noise for a
    single symbol. So the result is the product of a mean, a factor per place, and a cautious factor per channel:
    steps of all channels weigh about the same. Where the mean is below `least` (B,), all is raised by what lacks.
    """
    raw = (probed - slope) * probe / PROBE**2
    if least is not None:
        raw = raw + wide((least - raw.mean((1, 2, 3))).clamp_min(0))
    mean = raw.mean((1, 2, 3), keepdim=True).clamp_min(1e-6)
    place = avg_pool2d(raw.mean(1, keepdim=True), 3, 1, 1, count_include_pad=False)
    channel = raw.mean((2, 3), keepdim=True)
    return mean * (place / mean).clamp_min(0.05) * (channel / mean).clamp(0.5, 4.0).sqrt()


def project(
    problem: Problem, now: Linearization, target: torch.Tensor, mu: torch.Tensor, noise: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The q-step: the center c with the lowest cost mu/2 (target - c)^2 + bits(c), its bits in the context of q.

    Candidates are q and its two neighbors, since the slope says nothing about centers beyond them. Gumbel noise
    (3, C, h, w), multiplied by T, makes the choice a draw from exp(-cost / T).

    -> the new q (B, C, h, w), and the bits (B,) that the changed symbols themselves cost more.
    """
    pull = mu * (target - now.q)
    more_up, more_down = now.bits[1:] - now.bits[0]
    stay, up, down = torch.zeros_like(pull), more_up + mu / 2 - pull, more_down + mu / 2 + pull  # less the cost of q
    if noise is not None:
        stay, up, down = stay - noise[0], up - noise[1], down - noise[2]
    leaves = torch.minimum(up, down) < stay  # argmin over so short a dimension takes ten times as long
    if problem.movable is not None:
        leaves = leaves & problem.movable
    rises = up <= down
    step = torch.where(rises, 1.0, -1.0) * leaves
    own_bits = (torch.where(rises, more_up, more_down) * leaves).flatten(1).sum(1)
    return now.q + step, own_bits


class GumbelNoise:
    """Gumbel noise (3, C, h, w), the same for every picture of a batch.

    Drawing it takes longer than all else in a q-step. So it is drawn once, and each q-step shifts it by a random number
    of places.
    """

    def __init__(self, shape: torch.Size, generator: torch.Generator, device: torch.device):
        self.shape, self.generator = (3, *shape), generator
        uniform = torch.rand(self.shape, generator=generator, device=device).clamp_(1e-6, 1 - 1e-6)
        self.noise = uniform.log_().neg_().log_().neg_().flatten().repeat(2)

    def draw(self) -> torch.Tensor:
        """The noise of one q-step."""
        count = len(self.noise) // 2
        start = int(torch.randint(count, (), generator=self.generator, device=self.noise.device))
        return self.noise[start : start + count].view(self.shape)


def _has_arrived(target: torch.Tensor, proposal: torch.Tensor) -> bool:
    """Whether the primal residual is small in every picture."""
    residual = (target - proposal).square().flatten(1).mean(1).sqrt()
    return bool((residual < PRIMAL_TOLERANCE).all())
