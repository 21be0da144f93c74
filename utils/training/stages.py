"""The stages of training: what each one trains, on what loss, and what it leaves behind.

  joint        encoder, generator, gains and entropy model on rate + distortion, rounding straight through
  quantized    centers are fitted to the data; the encoder is fixed, generator and entropy model see truly
               quantized latents
  entropy      the entropy model alone; it converges slowest, and without the generator a step is cheap
  searched     generator and entropy model on what the search makes of training crops: the search moves a
               latent to where the generator serves it best, this moves the generator to such latents
  adversarial  a second generator, started from the first, with the discriminators; everything that
               a file depends on stays as it is

A new stage is one class here and its line in `schedule.py`. How runs of them went: docs/training.md.
"""

from collections.abc import Callable

import torch

from data.base import Kind
from models import losses
from models.config import QUALITIES
from models.entropy_model import logistic_bits
from models.texture import PERIOD
from utils import distributed
from utils.search.config import objective_class, preset
from utils.search.model_problem import Searchable
from utils.search.objectives import Distortion, Reference
from utils.search.optimize import optimize_latent

from .critics import critics_of
from .distortion import trained_distortion
from .fitting import fit_centers
from .linear_path import is_linear
from .networks import Networks
from .recorded import Gradients, Objective
from .schedule import STAGES
from .searched import SearchedBatches
from .soap import SOAP
from .state import RunState

EMA_DECAY = 0.999
GRADIENT_LIMIT = 1.0
CHECK_EVERY = 50  # steps from one look at the loss to the next, on an accelerator
LINEAR_RATE = 0.02  # learning rate of a linear path, which starts near its end, as a fraction of the others'
# Qualities differ fifty-fold in rate; with plain sums the best one alone would steer the network,
# with relative weights the gradient of the worst one is mostly noise. This exponent lies between.
QUALITY_BALANCE = 0.4
# The stage `searched`: iterations of a search; steps from one search to the next; searches in a row at the
# start; the share of crops that are trained as the search found them, the others as the encoder left them.
SEARCH_ITERATIONS, STEPS_PER_SEARCH, FIRST_SEARCHES, SEARCHED_SHARE = 25, 8, 16, 0.7
# Of kinds of signal that are heard: the share of the searches that minimize the disturbance.
HEARD_SEARCHES = 0.5
# Of the way from the weights that the stage began with to those that it ends with: between the two lie weights that
# serve both kinds of latents (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models").
SEARCHED_WAY = 0.7
# Kinds of signal that are heard: the share of the distortion's slope that is that of the relative disturbance.
HEARD_SHARE = 0.4
MIN_DISTURBANCE = 0.01  # points of MOS; less is silence
LOW_QUALITIES = 5  # the qualities at which much is missing that critics could bring are the first ones

Terms = dict[str, torch.Tensor]  # a step's loss terms by the names of the log, scalars without gradient


class Stage:
    """One stage at work. `schedule` ties a subclass to its line of the schedule, and so to its name.

    Quality rows are the qualities' places in the networks' tables, int64 (B,) in 0..7. A stage whose steps are all
    alike states its `objective`; another one its own `step`.
    """

    schedule = None
    rotates = True  # whether SOAP pays here
    hears = True  # whether the distortion of kinds that are heard is in part their disturbance
    keeps_files = False  # whether all that a file depends on stays as it is
    keeps_realistic = False  # whether a checkpoint's realistic generator still fits after this stage

    def __init__(
        self,
        networks: Networks,
        kind: Kind,
        state: RunState,
        searched: SearchedBatches,
        *,
        learning_rate: float,
        optimizer: str,
    ):
        self.networks, self.kind, self.state, self.searched = networks, kind, state, searched
        self.learning_rate = learning_rate
        config = networks.config
        self.lmbdas = torch.tensor([config.lmbda(q) for q in range(1, QUALITIES + 1)], device=networks.device)
        self.error = trained_distortion(config, kind)
        disturbance = kind.disturbance() if self.hears else None
        self.disturbance = None if disturbance is None else disturbance.to(networks.device)
        networks.model.requires_grad_(True)
        self.prepare()
        self.parameters = self.trained()
        self.optimizers = {"generator": self._optimizer(optimizer), **self.more_optimizers()}
        self.gradients = Gradients(self.objective, self.parameters)
        self._unchecked: tuple[int, torch.Tensor, torch.Tensor] | None = None  # step, loss and gradient norm

    # -- what a subclass says ---------------------------------------------------------------------

    def prepare(self) -> None:
        """Freeze, reset and build what the stage needs; all of the model has just been set to learn."""

    def trained(self) -> list[torch.nn.Parameter]:
        """What the main optimizer moves."""
        return [p for p in self.networks.model.parameters() if p.requires_grad]

    def more_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {}

    def objective(self, *inputs: torch.Tensor) -> Objective:
        """Of a step: what the main optimizer goes down, and the terms of the log, batch means, `loss` among them."""
        raise NotImplementedError

    def step(self, x: torch.Tensor, quality_row: torch.Tensor) -> Terms:
        """One step on crops x (B, C, H, W) in [-1, 1]; -> its terms."""
        return self.descend(x, quality_row)

    def averages(self) -> list[tuple[torch.nn.Module, torch.nn.Module]]:
        """Pairs (average, network) of what moves."""
        return [(self.networks.average, self.networks.model)]

    def decay(self) -> float:
        """Of the moving average; it follows faster while the stage is young."""
        step = self.state.stage_step
        return min(EMA_DECAY, (1 + step) / (10 + step))

    def finish(self, batches: Callable[[], list[torch.Tensor]]) -> None:
        """After the last step; `batches` draws the crops of all fits. Later stages start from the averaged weights."""
        self.networks.model.load_state_dict(self.networks.average.state_dict())

    def shown_generator(self) -> torch.nn.Module:
        """The generator that validation looks at."""
        return self.networks.average.generator

    def facts(self) -> dict[str, str]:
        """What a checkpoint should tell of this stage."""
        return {}

    # -- what all of them do ----------------------------------------------------------------------

    def _optimizer(self, name: str) -> torch.optim.Optimizer:
        networks = [part for part in (self.networks.model, self.networks.realistic) if part is not None]
        slow = {id(p) for part in networks for name, p in part.named_parameters() if is_linear(name)}
        # A rotation would mix the groups of channels that the entropy model's masks keep apart.
        unrotated = slow | {id(p) for p in self.networks.model.context.parameters()}
        groups = []
        for factor, rotate in ((1.0, True), (1.0, False), (LINEAR_RATE, False)):
            own = [p for p in self.parameters if (id(p) not in unrotated, id(p) in slow) == (rotate, factor != 1.0)]
            if own:
                groups.append({"params": own, "rotate": rotate, "factor": factor})
        if name == "adamw" or not self.rotates:
            return torch.optim.AdamW(groups, lr=self.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
        return SOAP(groups, lr=self.learning_rate)

    def set_rate(self, progress: float) -> None:
        """Learning rate of all optimizers at a progress 0..1 of the stage."""
        rate = self.learning_rate * self.schedule.rate(progress, self.state.stage_step)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("factor", 1.0)

    @torch.no_grad()
    def update_averages(self) -> None:
        for average, current in self.averages():
            torch._foreach_lerp_(list(average.parameters()), list(current.parameters()), 1 - self.decay())

    def descend(self, *inputs: torch.Tensor) -> Terms:
        """One step of the main optimizer down `objective` of the inputs; -> its terms."""
        loss, terms = self.gradients(*inputs)
        self.move("generator", self.parameters, loss)
        return terms

    def update(self, optimizer: str, parameters: list[torch.nn.Parameter], loss: torch.Tensor) -> None:
        """One step of an optimizer down a loss that is not its `objective`."""
        self.optimizers[optimizer].zero_grad(set_to_none=True)
        loss.backward()
        self.move(optimizer, parameters, loss.detach())

    def move(self, optimizer: str, parameters: list[torch.nn.Parameter], loss: torch.Tensor) -> None:
        """One step of an optimizer by the gradients that are there; `check` raises where they are no numbers."""
        # Not by DistributedDataParallel: it averages what its own forward has called, while the stages call
        # parts of the model (analyze, generate, rate), and want another wrapper for each set of what is frozen.
        distributed.average_gradients(parameters)
        self._unchecked = self.state.step, loss.clone(), torch.nn.utils.clip_grad_norm_(parameters, GRADIENT_LIMIT)
        # Elsewhere than on a CPU a look waits for all that the device has still to do. What is no number stays none.
        if loss.device.type == "cpu" or self.state.step % CHECK_EVERY == 0:
            self.check()
        self.optimizers[optimizer].step()

    def check(self) -> None:
        """Raises FloatingPointError where the last loss or its slope is no number. Nothing is saved unchecked."""
        unchecked, self._unchecked = self._unchecked, None
        if unchecked and not torch.isfinite(unchecked[2]):
            step, loss, norm = unchecked
            raise FloatingPointError(
                f"step {step} of stage {self.schedule.name}: loss {float(loss):.4g}, gradient "
                f"norm {float(norm):.4g}; the last saved state is whole: resume it with a lower --learning_rate"
            )

    def balance(self, quality_row: torch.Tensor) -> torch.Tensor:
        """Weights (B,) of the losses: 1 for the best quality, more for the others."""
        return (self.lmbdas[-1] / self.lmbdas[quality_row]) ** QUALITY_BALANCE

    def distortion(self, x: torch.Tensor, x_hat: torch.Tensor) -> torch.Tensor:
        """(B,) of pictures: equal to what the model is trained for, but its slope is in part that of how different
        they sound."""
        error = self.error(x, x_hat)
        if self.disturbance is None:
            return error
        disturbance = self.disturbance(x, x_hat).clamp_min(MIN_DISTURBANCE)
        return (1 - HEARD_SHARE) * error + HEARD_SHARE * error.detach() * disturbance / disturbance.detach()

    def rate_distortion(self, x, quality_row, x_hat, bits) -> Objective:
        """`objective` of pictures x_hat (B, C, H, W) that took `bits` (B,)."""
        distortion = self.distortion(x, x_hat)
        terms = losses.rate_distortion(x, bits, self.lmbdas[quality_row], distortion)
        loss = (terms["loss"] * self.balance(quality_row)).mean()
        return loss, {name: value.mean().detach() for name, value in {**terms, "distortion": distortion}.items()}

    def quantized(self, x: torch.Tensor, quality_row: torch.Tensor) -> torch.Tensor:
        """Symbols (B, latent_channels, h, w) as the encoder leaves them, without gradient."""
        model = self.networks.model
        with torch.no_grad(), self.networks.autocast():
            return model.codebook.quantize(model.analyze(x, quality_row))

    def objective_from(self, symbols: torch.Tensor, x: torch.Tensor, quality_row: torch.Tensor) -> Objective:
        """`objective` of the pictures that the model makes of given symbols."""
        model = self.networks.model
        with self.networks.autocast():
            x_hat = model.generate(model.codebook.dequantize(symbols), quality_row)
            bits = model.rate(symbols.float(), quality_row)
        return self.rate_distortion(x, quality_row, x_hat, bits)

    def freeze_encoder(self) -> None:
        """The latents stay: encoder and gains before the quantizer."""
        self.networks.model.encoder.requires_grad_(False)
        self.networks.model.gains.log_gain.requires_grad_(False)


class Joint(Stage):
    schedule = STAGES["joint"]
    hears = False  # what an encoder gains by it, a search loses again (docs/training.md)

    def prepare(self) -> None:
        for module in (self.networks.model, self.networks.average):  # it rounds, until its end
            module.codebook.reset()

    def objective(self, x, quality_row):
        with self.networks.autocast():
            x_hat, bits = self.networks.model(x, quality_row)
        return self.rate_distortion(x, quality_row, x_hat, bits)

    def finish(self, batches):
        fit_centers(self.networks.average, batches(), self.kind)
        super().finish(batches)


class Quantized(Stage):
    schedule = STAGES["quantized"]

    def prepare(self) -> None:
        self.freeze_encoder()

    def objective(self, x, quality_row):
        return self.objective_from(self.quantized(x, quality_row), x, quality_row)

    def decay(self) -> float:
        return EMA_DECAY


class Entropy(Stage):
    schedule = STAGES["entropy"]
    rotates = False
    keeps_realistic = True

    def prepare(self) -> None:
        self.networks.model.requires_grad_(False)
        self.networks.model.context.requires_grad_(True)

    def objective(self, x, quality_row):
        model = self.networks.model
        symbols = self.quantized(x, quality_row).float()
        with self.networks.autocast():
            bits = model.rate(symbols, quality_row)
        bpp = bits / (x.shape[-2] * x.shape[-1])
        loss = (bpp * self.balance(quality_row)).mean()
        return loss, {"loss": loss.detach(), "bpp": bpp.mean().detach()}


class Searched(Stage):
    schedule = STAGES["searched"]

    def prepare(self) -> None:
        self.freeze_encoder()

    def step(self, x, quality_row):
        """Trains on a batch that was searched before; the given one is searched and joins them when its turn comes."""
        searched, step, rng = self.searched, self.state.stage_step, self.state.rng
        if step == 0:
            searched.keep_start(self.networks.average.state_dict())
        if step < FIRST_SEARCHES or step % STEPS_PER_SEARCH == 0 or not searched.count:
            searched.add(x, quality_row, *self.search(x, quality_row))
        x, quality_row, plain, found = searched.draw(rng, self.networks.device)
        taken = torch.from_numpy(rng.uniform(size=len(x)) < SEARCHED_SHARE).to(self.networks.device, non_blocking=True)
        return self.descend(torch.where(taken[:, None, None, None], found, plain), x, quality_row)

    def objective(self, symbols, x, quality_row):
        return self.objective_from(symbols, x, quality_row)

    def finish(self, batches):
        average = self.networks.average.state_dict()
        for name, start in self.searched.start(self.networks.device).items():
            if start.is_floating_point():
                average[name].lerp_(start, 1 - SEARCHED_WAY)
        super().finish(batches)

    def search(self, x, quality_row) -> tuple[torch.Tensor, torch.Tensor]:
        """Symbols int16 as the encoder leaves them, and as a search by the entropy model's own bits finds them."""
        model, objective = self.networks.average, self.searched_objective()
        searchable = Searchable(model)
        with torch.no_grad(), self.networks.autocast():
            index = model.codebook.to_index(model.analyze(x, quality_row))
        problem = searchable.problem(
            x,
            tuple(x.shape[-2:]),
            quality_row,
            self.lmbdas[quality_row] * 255**2 * x.shape[-2] * x.shape[-1],
            self.searched_distortion(objective, x, lambda: searchable.decode(index.round(), quality_row)),
            lambda prediction, candidates: logistic_bits(candidates, *prediction),
            index,
            index.round(),
        )
        found = optimize_latent(problem, preset("admm", SEARCH_ITERATIONS, objective), seed=self.state.stage_step)
        return index.round().to(torch.int16), found.symbols

    def searched_objective(self) -> str:
        """What the search of a batch minimizes, by its name: what the model is trained for, or what is heard."""
        if self.disturbance is None or self.state.rng.uniform() >= HEARD_SEARCHES:
            return self.networks.config.objective
        return "pesq"

    def searched_distortion(self, objective: str, x: torch.Tensor, start: Callable[[], torch.Tensor]) -> Distortion:
        """The objective of a batch x, as users choose it. `start()`: x_hat."""
        return objective_class(objective)(Reference(x, start, self.kind.weights, disturbance=lambda: self.disturbance))


class Adversarial(Stage):
    schedule = STAGES["adversarial"]
    rotates = False
    keeps_files = True
    keeps_realistic = True

    def prepare(self) -> None:
        self.networks.model.requires_grad_(False)
        self.networks.build_realistic(texture=self.networks.has_colors)
        self.critics = critics_of(self.networks, self.kind)

    def trained(self):
        return list(self.networks.realistic.parameters())

    def more_optimizers(self):
        return {"discriminator": torch.optim.AdamW(self.critics.parameters, lr=self.learning_rate, betas=(0.5, 0.95))}

    def step(self, x, quality_row):
        """The discriminators' step, then the realistic generator's."""
        networks, model, critics = self.networks, self.networks.model, self.critics
        quality_row = self.lowered(quality_row)
        y_hat = model.codebook.dequantize(self.quantized(x, quality_row))
        with torch.no_grad():
            latent = model.gains.seen(y_hat, quality_row)
        with networks.autocast():
            x_hat = model.generate(y_hat, quality_row, networks.realistic, self.origin(len(x)))
            with torch.no_grad():
                real = critics.see(x)
            fake = critics.see(x_hat)

        # discriminators
        critics.learn(True)
        with networks.autocast():
            real_logits = critics.judge(real, latent)
            fake_logits = critics.judge([view.detach() for view in fake], latent)
        d_loss = losses.discriminator_hinge(real_logits, fake_logits)
        self.update("discriminator", critics.parameters, d_loss)

        # generator
        critics.learn(False)
        with networks.autocast():
            fake_logits, likeness = critics.compare(real, fake, latent)
        # relative to what the quality can do anyway, so that all qualities weigh the same
        weight = (self.lmbdas[quality_row] / self.lmbdas[0]).sqrt() * 255**2 * self.lmbdas[0]
        distortion = self.distortion(x, x_hat)
        terms = {
            "distortion": (weight * distortion).mean(),
            **likeness,
            "adversarial": losses.generator_hinge(fake_logits),
        }
        g_loss = losses.weighted_sum(terms, critics.weights)
        self.update("generator", self.parameters, g_loss)
        terms |= {"loss": g_loss, "discriminator": d_loss}
        return {name: value.detach() for name, value in terms.items()}

    def origin(self, batch: int) -> torch.Tensor:
        """Where in larger pictures the crops of a batch lie, for the noise: anywhere."""
        return torch.from_numpy(self.state.rng.integers(0, PERIOD, (batch, 2))).to(self.networks.device)

    def lowered(self, quality_row: torch.Tensor) -> torch.Tensor:
        """The qualities drawn for a batch, as many of them low as the critics want."""
        lowers = torch.from_numpy(self.state.rng.uniform(size=len(quality_row)) < self.critics.low_share)
        return torch.where(lowers.to(quality_row.device), quality_row * LOW_QUALITIES // QUALITIES, quality_row)

    def averages(self):
        return [(self.networks.realistic_average, self.networks.realistic)]

    def shown_generator(self):
        return self.networks.realistic_average

    def facts(self):
        return {"perceptual_loss": self.critics.facts()}


STAGE_CLASSES = {cls.schedule.name: cls for cls in Stage.__subclasses__()}
