"""The training loop: stages, steps, validation, and a state from which any interrupt resumes.

Stages (how runs of them went: docs/training.md):
  joint        encoder, generator, gains and entropy model on rate + distortion, rounding straight through
  quantized    centers fitted to the data; the encoder is fixed, generator and entropy model see
               truly quantized latents
  entropy      the entropy model alone, many times as many latents a minute: it learns longest
  searched     generator and entropy model on what the search makes of training crops: the search moves a
               latent to where the generator serves it best, this moves the generator to such latents
  adversarial  a second generator, started from the first, with the discriminators; everything that
               a file depends on stays as it is
"""

import copy
import json
import math
import signal
import threading
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from data.base import Kind
from data.dataset import PictureSet
from models import losses
from models.bpgan import BPGAN, build_generator
from models.config import QUALITIES, ModelConfig
from models.discriminator import Discriminator
from models.entropy_model import logistic_bits
from models.perceptual import PerceptualDistance, perceptual_distance
from models.quality import move_qualities
from utils import distributed
from utils.codec.checkpoint import Checkpoint, load_strictly, save_checkpoint
from utils.codec.tiling import pad_to_stride
from utils.codec.weights import load_weights
from utils.files import replacing
from utils.search.config import preset
from utils.search.model_problem import Searchable
from utils.search.objectives import clamped_squared_error
from utils.search.optimize import optimize_latent

from .fitting import fit_centers, fit_coders
from .model_card import write_model_card
from .searched import SearchedBatches
from .soap import SOAP

EMA_DECAY = 0.999
GRADIENT_LIMIT = 1.0
SAVE_SECONDS = 60  # an interrupt loses at most this much
WARMUP_STEPS = 100
# Qualities differ fifty-fold in rate; with plain sums the best one alone would steer the network,
# with relative weights the gradient of the worst one is mostly noise. This exponent lies between.
QUALITY_BALANCE = 0.4
VALIDATED_QUALITIES = (1, 3, 5, 8)


@dataclass(frozen=True)
class Stage:
    """One line of the schedule."""

    name: str
    share: float  # of the run's length, before normalizing over the chosen stages
    learning_rate: float  # peak, as a fraction of --learning_rate
    final_rate: float  # the cosine ends at this fraction of the peak


SCHEDULE = {
    stage.name: stage
    for stage in (
        Stage("joint", share=0.58, learning_rate=1.0, final_rate=0.02),
        Stage("quantized", share=0.10, learning_rate=0.25, final_rate=0.05),
        Stage("entropy", share=0.07, learning_rate=0.5, final_rate=0.02),
        Stage("searched", share=0.13, learning_rate=0.25, final_rate=0.05),
        Stage("adversarial", share=0.12, learning_rate=0.15, final_rate=0.1),
    )
}
# The stage `searched`: iterations of a search; steps from one search to the next; searches in a row at the
# start; the share of crops that are trained as the search found them, the others as the encoder left them.
SEARCH_ITERATIONS, STEPS_PER_SEARCH, FIRST_SEARCHES, SEARCHED_SHARE = 25, 8, 16, 0.7


class StopRequest:
    """Notes SIGINT and SIGTERM, so that no step is cut in two; a second one ends at once."""

    def __init__(self):
        self.requested = False
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)

    def _note(self, number, frame):
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def close(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class Trainer:
    """Holds what a run needs; `run()` trains to the end and returns the final checkpoint's path."""

    def __init__(
        self,
        config: ModelConfig,
        kind: Kind,
        folder: Path,
        stages: list[str],
        *,
        batch_size: int,
        learning_rate: float,
        optimizer: str,
        minutes: float | None,
        steps: int | None,
        validate_every: float,
        device: torch.device,
        seed: int,
        compile_step: bool,
        description: dict,
    ):
        self.config, self.kind, self.folder = config, kind, Path(folder)
        self.stages = [SCHEDULE[name] for name in stages]
        self.batch_size, self.learning_rate, self.optimizer_name = batch_size, learning_rate, optimizer
        self.minutes, self.steps, self.validate_every = minutes, steps, validate_every
        self.device, self.description, self.seed = device, description, seed
        self.rank, self.world_size = distributed.world()

        torch.manual_seed(seed)  # the same weights in every process
        self.model = BPGAN(config).to(device, memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.realistic = self.realistic_average = self.discriminator = None
        torch.manual_seed(seed + self.rank)  # noise and crops of its own in each
        self.rng = np.random.default_rng([seed, self.rank])
        self.lmbdas = torch.tensor([config.lmbda(q) for q in range(1, QUALITIES + 1)], device=device)
        self.stage_index, self.stage_step, self.step = 0, 0, 0
        self.stage_seconds = self.seconds = 0.0
        self.history: list[dict] = []
        self._discriminator_optimizer = None
        self.searched = SearchedBatches(self.folder / "searched", self.rank)
        self.steps_of_stages = {
            "searched": self.searched_step,
            "entropy": self.entropy_step,
            "adversarial": self.adversarial_step,
        }
        self._start_stage()
        self.forward = torch.compile(self.model) if compile_step else self.model

    # -- what a stage trains -------------------------------------------------------------------

    @property
    def stage(self) -> Stage:
        return self.stages[self.stage_index]

    def _start_stage(self) -> None:
        """Freeze, reset and build what the stage needs, with fresh optimizers."""
        model, name = self.model, self.stage.name
        if name == "joint":  # which rounds, until its end
            for module in (model, self.average):
                module.codebook.reset()
        model.requires_grad_(name != "adversarial")
        if name in ("quantized", "searched"):
            model.encoder.requires_grad_(False)
            model.gains.log_gain.requires_grad_(False)
        if name == "entropy":
            model.requires_grad_(False)
            model.context.requires_grad_(True)
        trained = [p for p in model.parameters() if p.requires_grad]
        if name == "adversarial":
            self._build_realistic()
            self._discriminator_optimizer = torch.optim.AdamW(
                self.discriminator.parameters(), lr=self.learning_rate, betas=(0.5, 0.95)
            )
            self.description["perceptual_loss"] = "VGG16" if self._perceptual else "feature matching alone"
            trained = list(self.realistic.parameters())
        self.trained = trained
        self.optimizer = self._new_optimizer()

    @cached_property
    def _perceptual(self) -> PerceptualDistance | None:
        """Distance of VGG16's features, where there are any; loaded when a stage first needs it."""
        return perceptual_distance(self.config.in_channels, self.device)

    def _new_optimizer(self) -> torch.optim.Optimizer:
        if self.optimizer_name == "adamw" or self.stage.name in ("entropy", "adversarial"):
            return torch.optim.AdamW(self.trained, lr=self.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
        # A rotation would mix the groups of channels that the entropy model's masks keep apart.
        masked = {id(p) for p in self.model.context.parameters()}
        groups = [
            {"params": [p for p in self.trained if (id(p) in masked) == inside], "rotate": not inside}
            for inside in (False, True)
        ]
        return SOAP(groups, lr=self.learning_rate)

    def _build_realistic(self) -> None:
        """A second generator, equal to the first one, and discriminators."""
        self.realistic = build_generator(self.config).to(self.device, memory_format=torch.channels_last)
        self.realistic.load_state_dict(self.model.generator.state_dict())
        self.realistic_average = copy.deepcopy(self.realistic).requires_grad_(False)
        with torch.random.fork_rng(devices=[]):  # the same weights in every process
            torch.default_generator.manual_seed(self.seed)
            self.discriminator = Discriminator(self.config.in_channels).to(self.device)

    def _finish_stage(self, data: PictureSet) -> None:
        """After the joint stage centers are fitted; later stages start from the averaged weights."""
        if self.stage.name == "joint":
            fit_centers(self.average, self._fitting_batches(data))
        self.model.load_state_dict(self.average.state_dict())

    def adopt(self, checkpoint: Checkpoint) -> None:
        """Start from the weights of a checkpoint of the same sizes; its qualities may span other rates."""
        for module in (self.model, self.average):
            load_weights(module, checkpoint)
            move_qualities(module, checkpoint.config, self.config)
        self._start_stage()  # anew: what it builds and resets is made from these weights
        if self.stage.name == "entropy" and checkpoint.realistic:
            # generators stay as they are: the realistic one goes with the faithful one still
            self._build_realistic()
        if self.realistic is None:
            return
        if checkpoint.realistic:
            for module in (self.realistic, self.realistic_average):
                load_strictly(module, checkpoint.realistic, "the checkpoint's realistic generator")
                move_qualities(module, checkpoint.config, self.config)
        if checkpoint.discriminator:
            load_strictly(self.discriminator, checkpoint.discriminator, "the checkpoint's discriminator")
        elif self.stage.name != "adversarial":
            self.discriminator = None

    # -- steps ---------------------------------------------------------------------------------

    def generator_step(self, x: torch.Tensor, quality: torch.Tensor) -> dict[str, torch.Tensor]:
        """One step on rate + distortion; -> its terms, batch means."""
        with self._autocast():
            x_hat, bits = (
                self.forward(x, quality) if self.stage.name == "joint" else self._quantized_forward(x, quality)
            )
        return self._descend(x, quality, x_hat, bits)

    def _descend(self, x, quality, x_hat, bits) -> dict[str, torch.Tensor]:
        """A step down the loss of pictures x_hat that took `bits`; -> its terms, batch means."""
        terms = losses.rate_distortion(x, x_hat, bits, self.lmbdas[quality], self.kind.weights(x))
        self._update(self.optimizer, self.trained, (terms["loss"] * self._balance(quality)).mean())
        return {name: value.mean().detach() for name, value in terms.items()}

    def _balance(self, quality: torch.Tensor) -> torch.Tensor:
        """Weights (B,) of the losses at qualities (B,) in 0..7: 1 for the best, more for the others."""
        return (self.lmbdas[-1] / self.lmbdas[quality]) ** QUALITY_BALANCE

    def _quantized_forward(self, x, quality):
        with torch.no_grad():
            symbols = self.model.codebook.quantize(self.model.analyze(x, quality))
        return self._decoded(symbols, quality)

    def _decoded(self, symbols, quality):
        """Pictures and bits (B,) of symbols."""
        return self.model.generate(self.model.codebook.dequantize(symbols), quality), self.model.rate(
            symbols.float(), quality
        )

    def searched_step(self, x: torch.Tensor, quality: torch.Tensor) -> dict[str, torch.Tensor]:
        """One step on a batch that was searched before.

        The given batch is searched and joins the others where its turn has come.
        """
        if self.stage_step < FIRST_SEARCHES or self.stage_step % STEPS_PER_SEARCH == 0 or not self.searched.count:
            self.searched.add(x, quality, *self._search(x, quality))
        x, quality, plain, found = self.searched.draw(self.rng, self.device)
        taken = torch.from_numpy(self.rng.uniform(size=len(x)) < SEARCHED_SHARE).to(self.device)
        symbols = torch.where(taken[:, None, None, None], found, plain)
        with self._autocast():
            x_hat, bits = self._decoded(symbols, quality)
        return self._descend(x, quality, x_hat, bits)

    def _search(self, x: torch.Tensor, quality: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Symbols int16 as the encoder leaves them, and as a search by the entropy model's own bits finds them."""
        model = self.average
        with torch.no_grad(), self._autocast():
            index = model.codebook.to_index(model.analyze(x, quality))
        weight = self.lmbdas[quality] * 255**2 * x.shape[-2] * x.shape[-1]
        problem = Searchable(model).problem(
            x,
            tuple(x.shape[-2:]),
            quality,
            weight,
            lambda a, b: clamped_squared_error(a, b, self.kind.weights(a)),
            lambda prediction, candidates: logistic_bits(candidates, *prediction),
            index,
            index.round(),
        )
        found = optimize_latent(problem, preset("admm", SEARCH_ITERATIONS), seed=self.stage_step)
        return index.round().to(torch.int16), found.symbols

    def entropy_step(self, x: torch.Tensor, quality: torch.Tensor) -> dict[str, torch.Tensor]:
        """One step of the entropy model, each crop at half of the qualities: one pass of the encoder serves all."""
        model = self.model
        with torch.no_grad(), self._autocast():
            z = model.encoder(x).float().repeat(QUALITIES // 2, 1, 1, 1)
            quality = torch.cat([(quality + step) % QUALITIES for step in range(0, QUALITIES, 2)])
            symbols = model.codebook.quantize(model.gains.scale(z, quality)).float()
        with self._autocast():
            bits = model.rate(symbols, quality)
        bpp = bits / (x.shape[-2] * x.shape[-1])
        loss = (bpp * self._balance(quality)).mean()
        self._update(self.optimizer, self.trained, loss)
        return {"loss": loss.detach(), "bpp": bpp.mean().detach()}

    def adversarial_step(self, x: torch.Tensor, quality: torch.Tensor) -> dict[str, torch.Tensor]:
        """One step of the discriminator, then one of the realistic generator."""
        model, discriminator = self.model, self.discriminator
        with torch.no_grad(), self._autocast():
            symbols = model.codebook.quantize(model.analyze(x, quality))
            z_hat = model.gains.unscale(model.codebook.dequantize(symbols), quality)
        with self._autocast():
            x_hat = self.realistic(z_hat, quality)

        # discriminator
        discriminator.requires_grad_(True)
        with self._autocast():
            real_logits, _ = discriminator(x)
            fake_logits, _ = discriminator(x_hat.detach())
        d_loss = losses.discriminator_hinge(real_logits, fake_logits)
        self._update(self._discriminator_optimizer, list(discriminator.parameters()), d_loss)

        # generator
        discriminator.requires_grad_(False)
        with self._autocast():
            fake_logits, fake_features = discriminator(x_hat)
            with torch.no_grad():
                _, real_features = discriminator(x)
        mse = losses.squared_error(x, x_hat, self.kind.weights(x))
        # relative to what the quality can do anyway, so that all qualities weigh the same
        distortion = (self.lmbdas[quality] / self.lmbdas[0]).sqrt() * 255**2 * self.lmbdas[0] * mse
        terms = {
            "distortion": distortion.mean(),
            "feature_matching": losses.feature_matching(real_features, fake_features).mean(),
            "perceptual": self._perceptual(x, x_hat).mean() if self._perceptual else torch.zeros_like(d_loss),
            "adversarial": losses.generator_hinge(fake_logits),
        }
        g_loss = losses.weighted_sum(terms, losses.ADVERSARIAL_WEIGHTS)
        self._update(self.optimizer, self.trained, g_loss)
        return {
            **{k: v.detach() for k, v in terms.items()},
            "loss": g_loss.detach(),
            "discriminator": d_loss.detach(),
            "mse": mse.mean().detach(),
        }

    def _update(self, optimizer, parameters, loss: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        distributed.average_gradients(parameters)
        norm = torch.nn.utils.clip_grad_norm_(parameters, GRADIENT_LIMIT)
        if not torch.isfinite(norm):
            raise FloatingPointError(
                f"step {self.step} of stage {self.stage.name}: loss {float(loss.detach()):.4g}, gradient norm "
                f"{float(norm):.4g}; the last saved state is whole: resume it with a lower --learning_rate"
            )
        optimizer.step()

    def _autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16)

    def _update_average(self) -> None:
        decay = (
            min(EMA_DECAY, (1 + self.stage_step) / (10 + self.stage_step))
            if (self.stage.name != "quantized")
            else EMA_DECAY
        )
        pairs = [(self.average, self.model)]
        if self.stage.name == "adversarial":
            pairs = [(self.realistic_average, self.realistic)]
        with torch.no_grad():
            for average, current in pairs:
                torch._foreach_lerp_(list(average.parameters()), list(current.parameters()), 1 - decay)

    # -- the loop ------------------------------------------------------------------------------

    def run(self, data: PictureSet, validation: PictureSet | None) -> Path:
        """Trains to the end; -> path of the exported checkpoint.

        SIGINT and SIGTERM end the run between two steps, with the state saved, in KeyboardInterrupt.
        """
        writer = SummaryWriter(self.folder / "tensorboard") if self.rank == 0 else None
        bar = tqdm(total=1000, disable=self.rank != 0, bar_format="{desc} {percentage:3.0f}%|{bar}| {postfix}")
        path = None
        last_save = last_validation = last_log = time.monotonic()
        waited = 0.0
        stop = StopRequest()
        if self.step == 0:
            self._save_state()
        try:
            while self.stage_index < len(self.stages):
                if stop.requested:
                    self._save_state()
                    raise KeyboardInterrupt
                progress = distributed.broadcast_number(self._stage_progress())  # one clock decides
                if progress >= 1:
                    self._finish_stage(data)
                    self._validate(validation, writer)
                    path = self.export(data)
                    if self.stage_index + 1 == len(self.stages):
                        break
                    self.stage_index, self.stage_step, self.stage_seconds = self.stage_index + 1, 0, 0.0
                    self._start_stage()
                    self._save_state()
                    continue
                started = time.monotonic()
                self._set_learning_rate(progress)
                x = data.batch(self.batch_size, self.rng).to(self.device)
                quality = torch.from_numpy(self.rng.integers(0, QUALITIES, self.batch_size)).to(self.device)
                waited += time.monotonic() - started
                terms = self.steps_of_stages.get(self.stage.name, self.generator_step)(x, quality)
                self._update_average()
                self.step, self.stage_step = self.step + 1, self.stage_step + 1
                now = time.monotonic()
                self.stage_seconds += now - started
                self.seconds += now - started
                if now - last_log > 10 or self.stage_step == 1:
                    self._log(terms, writer, bar, waited / max(self.seconds, 1e-9))
                    last_log = now
                if self.validate_every and now - last_validation > 60 * self.validate_every:
                    self._validate(validation, writer)
                    last_validation = time.monotonic()
                if now - last_save > SAVE_SECONDS:
                    self._save_state()
                    last_save = time.monotonic()
        finally:
            stop.close()
            bar.close()
            if writer:
                writer.close()
        self._save_state()
        self.searched.remove()
        return path

    def _stage_progress(self) -> float:
        """0..1, by the clock or by steps."""
        share = self.stage.share / sum(stage.share for stage in self.stages)
        if self.steps is not None:
            return self.stage_step / max(1, round(self.steps * share))
        return self.stage_seconds / (60 * self.minutes * share)

    def _set_learning_rate(self, progress: float) -> None:
        stage = self.stage
        cosine = stage.final_rate + (1 - stage.final_rate) * (1 + math.cos(math.pi * progress)) / 2
        warmup = min(1.0, (self.stage_step + 1) / WARMUP_STEPS)
        rate = self.learning_rate * stage.learning_rate * cosine * warmup
        for optimizer in filter(None, (self.optimizer, self._discriminator_optimizer)):
            for group in optimizer.param_groups:
                group["lr"] = rate

    def _log(self, terms, writer, bar, waiting: float) -> None:
        if self.rank:
            return
        row = {
            "stage": self.stage.name,
            "step": self.step,
            "minutes": round(self.seconds / 60, 3),
            "steps_per_second": round(self.step / max(self.seconds, 1e-9), 3),
            "waiting_for_data": round(waiting, 4),
            **{k: float(v) for k, v in terms.items()},
        }
        self._append(row)
        for name, value in row.items():
            if name not in ("stage", "step"):
                writer.add_scalar(f"train/{name}", value, self.step)
        bar.set_description(self.stage.name)
        bar.n = int(1000 * min(1.0, self._stage_progress()))
        bar.set_postfix_str(f"step {self.step} loss {row['loss']:.3f}")

    def _append(self, row: dict) -> None:
        with open(self.folder / "history.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")

    # -- validation and files --------------------------------------------------------------------

    @torch.no_grad()
    def _validate(self, validation: PictureSet | None, writer) -> None:
        """True quantization on whole validation pictures; estimated rate, and picture PSNR."""
        if validation is None or self.rank:
            return
        model = self.average
        generator = self.realistic_average if self.stage.name == "adversarial" else model.generator
        row = {"stage": self.stage.name, "step": self.step, "minutes": round(self.seconds / 60, 3)}
        for q in VALIDATED_QUALITIES:
            quality = torch.tensor([q - 1], device=self.device)
            bpp, psnr = [], []
            for stored in validation.pictures:
                picture = validation._load(stored)[None]
                padded = pad_to_stride(picture)
                with self._autocast():
                    symbols = model.codebook.quantize(model.analyze(padded, quality))
                    bits = model.rate(symbols.float(), quality)
                    z_hat = model.gains.unscale(model.codebook.dequantize(symbols), quality)
                    x_hat = generator(z_hat, quality).float().clamp(-1, 1)
                x_hat = x_hat[..., : picture.shape[-2], : picture.shape[-1]]
                mse = losses.squared_error(picture, x_hat, self.kind.weights(picture))
                bpp.append(float(bits) / (picture.shape[-2] * picture.shape[-1]))
                psnr.append(-10 * math.log10(max(float(mse), 1e-10)))
            row[f"val_bpp_{q}"], row[f"val_psnr_{q}"] = float(np.mean(bpp)), float(np.mean(psnr))
            writer.add_scalar(f"val/bpp_{q}", row[f"val_bpp_{q}"], self.step)
            writer.add_scalar(f"val/psnr_{q}", row[f"val_psnr_{q}"], self.step)
            if q == VALIDATED_QUALITIES[1] and self.config.in_channels in (1, 3):
                both = torch.cat([picture, x_hat], dim=-1)[0]
                writer.add_image("val/original_and_decoded", (both + 1) / 2, self.step)
        self.history.append(row)
        self._append(row)

    def _fitting_batches(self, data: PictureSet) -> list[torch.Tensor]:
        """The same crops in every process and at every call."""
        rng = np.random.default_rng(0)
        return [data.batch(8, rng).to(self.device) for _ in range(12)]

    def export(self, data: PictureSet) -> Path:
        """Fit the code tables and write the run's checkpoint from the averaged weights."""
        path = self.folder / "checkpoint.safetensors"
        if self.rank == 0:
            tables, default_coder = fit_coders(self.average, self._fitting_batches(data))
            info = {
                **self.description,
                "minutes": round(self.seconds / 60, 1),
                "steps": self.step,
                "validation": self.history,
            }
            save_checkpoint(
                path,
                Checkpoint(
                    config=self.config,
                    signal_settings=self.kind.settings,
                    model=self.average.state_dict(),
                    realistic=self.realistic_average.state_dict() if self.realistic_average else None,
                    discriminator=self.discriminator.state_dict() if self.discriminator else None,
                    tables=tables,
                    default_coder=default_coder,
                    info=info,
                ),
            )
            write_model_card(path)
        distributed.barrier()
        return path

    def _state_path(self, rank: int) -> Path:
        return self.folder / (f"state_{rank}.pt" if self.world_size > 1 else "state.pt")

    def _save_state(self) -> None:
        modules = {name: getattr(self, name).state_dict() for name in self._module_names()}
        state = {
            "config": self.config.to_dict(),
            "stages": [s.name for s in self.stages],
            "stage_index": self.stage_index,
            "stage_step": self.stage_step,
            "step": self.step,
            "stage_seconds": self.stage_seconds,
            "seconds": self.seconds,
            "modules": modules,
            "searched": self.searched.count,
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
            "rng": self.rng.bit_generator.state,
            "torch_rng": torch.get_rng_state(),
        }
        if self._discriminator_optimizer:
            state["discriminator_optimizer"] = self._discriminator_optimizer.state_dict()
        with replacing(self._state_path(self.rank)) as temporary:
            torch.save(state, temporary)

    def _module_names(self) -> list[str]:
        optional = ["realistic", "realistic_average", "discriminator"]
        return ["model", "average"] + [name for name in optional if getattr(self, name) is not None]

    def resume(self) -> None:
        """Go on from the saved state. Raises ValueError if there is none or it is of another model or other stages.

        All processes take the first one's: where an interrupt met them at different steps, their
        weights would part. Only the source of crops and noise is each one's own.
        """
        path = self._state_path(0)
        if not path.is_file():
            raise ValueError(f"nothing to resume: {path} does not exist; leave out --resume to start")
        state = torch.load(path, map_location=self.device, weights_only=True)
        names = [stage.name for stage in self.stages]
        if state["stages"] != names:
            raise ValueError(
                f"the saved run has the stages {' '.join(state['stages'])}, "
                f"--stages says {' '.join(names)}: give the same ones"
            )
        config = self.config.to_dict()
        other = [name for name in config if state["config"].get(name) != config[name]]
        if other:
            raise ValueError(
                f"the saved run is of another model, its {', '.join(other)} differ: give the same --signal, "
                "--init, --width, --lmbda_low and --lmbda_high"
            )
        self.stage_index = state["stage_index"]
        self._start_stage()
        if self.realistic is None and "realistic" in state["modules"]:
            self._build_realistic()
        if "discriminator" not in state["modules"]:
            self.discriminator = None
        for name, tensors in state["modules"].items():
            getattr(self, name).load_state_dict(tensors)
        self.optimizer.load_state_dict(state["optimizer"])
        if self._discriminator_optimizer and "discriminator_optimizer" in state:
            self._discriminator_optimizer.load_state_dict(state["discriminator_optimizer"])
        self.stage_step, self.step = state["stage_step"], state["step"]
        self.stage_seconds, self.seconds = state["stage_seconds"], state["seconds"]
        self.history = state["history"]
        self.searched.resume(state.get("searched", 0))
        own = self._state_path(self.rank)
        if self.rank:
            state = torch.load(own, map_location=self.device, weights_only=True) if own.is_file() else {"step": None}
        if state["step"] == self.step:
            self.rng.bit_generator.state = state["rng"]
            torch.set_rng_state(state["torch_rng"].cpu())
        else:
            self.rng = np.random.default_rng([self.seed, self.rank, self.step])
