"""The training loop: steps, the ends of stages, and a state from which any interrupt resumes."""

import dataclasses
import logging
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from data.base import Kind
from data.dataset import PictureSet
from models.config import QUALITIES, ModelConfig
from utils import distributed
from utils.codec.checkpoint import Checkpoint, save_checkpoint

from .fitting import fit_coders, fitting_batches
from .log import RunLog
from .model_card import joined_info, write_model_card
from .networks import Networks
from .schedule import Schedule
from .searched import SearchedBatches
from .stages import STAGE_CLASSES
from .state import RunState, damage_in_one_line, load_state, save_state
from .validation import validate

log = logging.getLogger(__name__)

SAVE_SECONDS = 60  # an interrupt loses at most this much


@dataclass(frozen=True)
class Settings:
    """What the command line says about a run."""

    stages: tuple[str, ...]  # names, in the order of training
    minutes: float | None = None  # length of the run; of no effect where `steps` is given
    steps: int | None = None
    batch_size: int = 8  # crops per step and process
    learning_rate: float = 2e-3  # peak of the stage joint; the others have fixed fractions
    optimizer: str = "soap"  # or "adamw"
    validate_every: float = 5.0  # minutes; 0: at the ends of stages only
    seed: int = 0
    vgg16: bool = False  # whether the adversarial stage uses VGG16's features


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
        self, config: ModelConfig, kind: Kind, folder: Path, settings: Settings, device: torch.device, description: dict
    ):
        """`description` goes into the checkpoint's `info`. Raises ValueError where networks that judge are missing."""
        self.config, self.kind, self.folder, self.settings = config, kind, Path(folder), settings
        self.device, self.description = device, dict(description)
        if settings.vgg16 and "adversarial" not in settings.stages:
            raise ValueError("--vgg16 is for the stage adversarial, which --stages leaves out: drop one of the two")
        self.rank, self.world_size = distributed.world()
        self.schedule = Schedule(settings.stages, settings.minutes, settings.steps)
        self.networks = Networks(
            config, device, settings.seed, adversarial="adversarial" in settings.stages, vgg16=settings.vgg16
        )
        torch.manual_seed(settings.seed + self.rank)  # noise and crops of its own in each process
        self.state = RunState(np.random.default_rng([settings.seed, self.rank]))
        self.searched = SearchedBatches(self.folder / "searched", self.rank)
        self._kept: Checkpoint | None = None  # whose files stay valid
        self._begin_stage()

    def _begin_stage(self) -> None:
        """The stage that the state names, with fresh optimizers."""
        name, settings = self.settings.stages[self.state.stage_index], self.settings
        self.stage = STAGE_CLASSES[name](
            self.networks,
            self.kind,
            self.state,
            self.searched,
            learning_rate=settings.learning_rate,
            optimizer=settings.optimizer,
        )
        self.description |= self.stage.facts()

    def start(self, data: PictureSet, trunk: Checkpoint | None = None) -> None:
        """Start anew: a linear path from the pictures, residual blocks from a trunk, if there is one, and everything
        else from random weights."""
        if self.config.linear_path:
            self.networks.start_linear_path(data)
            if trunk:
                self.networks.start_trunk(trunk, data)
            self._begin_stage()

    def adopt(self, checkpoint: Checkpoint) -> None:
        """Start from the weights of a checkpoint of the same sizes; its qualities may span other rates."""
        self.networks.adopt_model(checkpoint)
        self._begin_stage()  # anew: what it builds and resets is made from these weights
        if all(STAGE_CLASSES[name].keeps_realistic for name in self.settings.stages):
            self.networks.adopt_realistic(checkpoint)

    def keep_files_of(self, checkpoint: Checkpoint) -> None:
        """Tell what checkpoint the run starts or started from: its files stay valid where no stage changes their meaning."""
        if checkpoint.config == self.config and all(STAGE_CLASSES[name].keeps_files for name in self.settings.stages):
            self._kept = checkpoint

    # -- the loop ------------------------------------------------------------------------------

    def run(self, data: PictureSet, validation: PictureSet | None) -> Path:
        """Trains to the end; -> path of the exported checkpoint.

        SIGINT and SIGTERM end the run between two steps, with the state saved, in KeyboardInterrupt.
        """
        state, stop = self.state, StopRequest()
        record = RunLog(self.folder, self.schedule, state, shown=self.rank == 0)
        saved = validated = time.monotonic()
        self._zero = saved - state.seconds
        if state.step == 0:
            self.save()
        try:
            while True:
                if stop.requested:
                    self.save()
                    raise KeyboardInterrupt
                progress = distributed.broadcast_number(self.schedule.stage_progress(state))  # one clock decides
                if progress < 1:
                    record.step(self.step(data, progress))
                else:
                    path = self._end_stage(data, validation, record)
                    if state.stage_index + 1 == len(self.schedule.stages):
                        break
                    state.begin_stage(state.stage_index + 1)
                    self._begin_stage()
                    self.save()
                now = self._tick()
                if self.settings.validate_every and now - validated > 60 * self.settings.validate_every:
                    self._validate(validation, record)
                    validated = self._tick()
                if now - saved > SAVE_SECONDS:
                    self.save()
                    saved = now
        finally:
            stop.close()
            record.close()
        self.save()
        self.searched.remove()
        return path

    def _tick(self) -> float:
        """The clock's time; all of it since the start of `run` counts as the run's."""
        now = time.monotonic()
        self.state.seconds = now - self._zero
        return now

    def step(self, data: PictureSet, progress: float) -> dict[str, torch.Tensor]:
        """One step on crops drawn from the data, at a progress 0..1 of the stage; -> its terms."""
        state, started = self.state, time.monotonic()
        self.stage.set_rate(progress)
        x = data.batch(self.settings.batch_size, state.rng).to(self.device)
        quality_row = torch.from_numpy(state.rng.integers(0, QUALITIES, self.settings.batch_size))
        quality_row = quality_row.to(self.device, non_blocking=True)
        state.waiting_seconds += time.monotonic() - started
        terms = self.stage.step(x, quality_row)
        self.stage.update_averages()
        state.step, state.stage_step = state.step + 1, state.stage_step + 1
        state.stepping_seconds += time.monotonic() - started
        return terms

    # -- the ends of stages, validation, checkpoints -------------------------------------------

    def _end_stage(self, data: PictureSet, validation: PictureSet | None, record: RunLog) -> Path:
        """What follows a stage's last step; -> path of the checkpoint, which any stage leaves whole."""
        started = self._tick()
        record.announce(f"steps done: {self.state.stage_step}; now fitting, validating and writing the checkpoint")
        self.stage.check()
        self.stage.finish(lambda: fitting_batches(data, self.device))
        self._validate(validation, record)
        self._tick()
        path = self.export(data)
        took = self._tick() - started
        self.state.longest_ending = max(self.state.longest_ending, took)
        record.announce(f"wrote {path} after {took:.0f} s")
        return path

    def _validate(self, validation: PictureSet | None, record: RunLog) -> None:
        if validation is None or self.rank:
            return
        record.draw("validating")
        record.validation(*validate(self.networks, self.stage.shown_generator(), validation))

    def export(self, data: PictureSet) -> Path:
        """Write the run's checkpoint from the averaged weights."""
        path = self.folder / "checkpoint.safetensors"
        if self.rank == 0:
            info = {
                **self.description,
                "minutes": round(self.state.seconds / 60, 1),
                "steps": self.state.step,
                "validation": self.state.history,
            }
            weights = self.networks.weights()
            save_checkpoint(
                path,
                dataclasses.replace(
                    self._kept or self._fitted(data),
                    realistic=weights.get("realistic_average"),
                    discriminator=weights.get("discriminator"),
                    info=joined_info(self._kept.info, info) if self._kept else info,
                ),
            )
            write_model_card(path)
        distributed.barrier()
        return path

    def _fitted(self, data: PictureSet) -> Checkpoint:
        """All that files depend on, with code tables fitted to crops.

        The default coder is the one that needs fewer bits on crops that no table was fitted to.
        """
        model = self.networks.average
        tables, default_coder = fit_coders(model, fitting_batches(data, self.device))
        return Checkpoint(self.config, self.kind.settings, model.state_dict(), None, None, tables, default_coder, {})

    # -- the saved state -----------------------------------------------------------------------

    def state_path(self, rank: int) -> Path:
        return self.folder / (f"state_{rank}.pt" if self.world_size > 1 else "state.pt")

    def save(self) -> None:
        """All that the rest of the run depends on, in a file that is replaced whole."""
        self.stage.check()
        save_state(
            self.state_path(self.rank),
            {
                **self._identity(),
                **self._beginning(),
                **self.state.to_dict(),
                "networks": self.networks.weights(),
                "optimizers": {name: optimizer.state_dict() for name, optimizer in self.stage.optimizers.items()},
                "searched": self.searched.count,
                "torch_rng": torch.get_rng_state(),
                "device_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            },
        )

    def _identity(self) -> dict:
        """What a resumed run must share with the saved one."""
        names = list(self.settings.stages)
        return {"config": self.config.to_dict(), "stages": names, "optimizer": self.settings.optimizer}

    def _beginning(self) -> dict:
        """What a resumed run has from its --init: how it sees signals, and the checkpoint whose files stay valid."""
        return {"signal": self.kind.settings, "kept": self._kept.fingerprint.hex() if self._kept else ""}

    def resume(self) -> None:
        """Go on from the saved state. Raises ValueError if there is none, or it is damaged or of another run.

        All processes take the first one's: where an interrupt met them at different steps, their
        weights would part. Only the source of crops and noise is each one's own.
        """
        path = self.state_path(0)
        if not path.is_file():
            raise ValueError(f"nothing to resume: {path} does not exist; leave out --resume to start")
        saved = load_state(path, self.device)
        with damage_in_one_line(path):
            given = {name: saved[name] for name in self._identity()}
            own = self.config.to_dict()
            differ = [name for name in own if given["config"].get(name) != own[name]]
            beginning = {name: saved.get(name, value) for name, value in self._beginning().items()}
        self._refuse_another_run(given, differ)
        if beginning != self._beginning():
            raise ValueError(f"{path}: the run started from another checkpoint: give the same --init as before")
        with damage_in_one_line(path):
            self.state.restore(saved)
            self._begin_stage()
            self.networks.restore(saved["networks"])
            for name, optimizer in self.stage.optimizers.items():
                optimizer.load_state_dict(saved["optimizers"][name])
            self.searched.resume(saved["searched"])
            if self.rank == 0:
                self._set_chance(saved)
        if self.rank:
            self._resume_chance()

    def _refuse_another_run(self, given: dict, differ: list[str]) -> None:
        own = self._identity()
        if given["stages"] != own["stages"]:
            raise ValueError(
                f"the saved run has the stages {' '.join(given['stages'])}, "
                f"--stages says {' '.join(own['stages'])}: give the same ones"
            )
        if differ:
            raise ValueError(
                f"the saved run is of another model, its {', '.join(differ)} differ: give the same --signal, "
                "--init, --width, --lmbda_low and --lmbda_high"
            )
        if given["optimizer"] != own["optimizer"]:
            raise ValueError(f"the saved run uses --optimizer {given['optimizer']}: give the same one")

    def _set_chance(self, saved: dict) -> None:
        torch.set_rng_state(saved["torch_rng"].cpu())
        if self.device.type == "cuda" and saved.get("device_rng") is not None:  # none of a run on a CPU so far
            torch.cuda.set_rng_state(saved["device_rng"].cpu(), self.device)

    def _resume_chance(self) -> None:
        """This process's own source of crops and noise, where it was saved at the first one's step; else a new one."""
        try:
            saved = load_state(self.state_path(self.rank), self.device)
            if saved["step"] == self.state.step:
                self.state.rng.bit_generator.state = saved["rng"]
                self._set_chance(saved)
                return
        except (OSError, ValueError, KeyError) as error:
            log.warning("process %d draws other crops from here on: %s", self.rank, error)
        self.state.rng = np.random.default_rng([self.settings.seed, self.rank, self.state.step])
