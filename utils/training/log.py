"""What a run tells: the bar, history.jsonl, TensorBoard."""

import json
import sys
import time
from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from .schedule import Schedule
from .state import RunState

LOG_SECONDS = 10  # from one row of losses to the next
BAR_SECONDS = 0.5  # from one look of the bar to the next, on a terminal


class RunLog:
    """Of the first process; the others' calls do nothing."""

    def __init__(self, folder: Path, schedule: Schedule, state: RunState, shown: bool):
        self.folder, self.schedule, self.state, self.shown = Path(folder), schedule, state, shown
        self.writer = SummaryWriter(self.folder / "tensorboard") if shown else None
        self.bar = tqdm(total=1000, disable=not shown, bar_format="{bar:20}| {percentage:3.0f}% {desc}")
        self._logged = self._drawn = time.monotonic()
        self._loss = ""
        self._start = state.step, state.stepping_seconds

    def close(self) -> None:
        self.bar.close()
        if self.writer:
            self.writer.close()

    @property
    def stage(self) -> str:
        return self.schedule.stages[self.state.stage_index].name

    # -- the bar ----------------------------------------------------------------------------------

    def draw(self, doing: str = "") -> None:
        """The run's progress, which never falls, its stage, steps, rate and time left; or what it is doing instead."""
        if not self.shown:
            return
        state, total = self.state, self.schedule.total_steps
        step, seconds = self._start
        rate = (state.step - step) / max(state.stepping_seconds - seconds, 1e-9)
        self.bar.n = max(self.bar.n, int(1000 * self.schedule.run_progress(state)))
        parts = [
            f"{self.stage} ({state.stage_index + 1} of {len(self.schedule.stages)})",
            f"step {state.step}" + (f" of {total}" if total else ""),
            f"{rate:.2f} steps/s",
            f"{tqdm.format_interval(self.schedule.seconds_left(state))} left",
            doing or self._loss,
        ]
        self.bar.set_description_str(", ".join(filter(None, parts)))
        self._drawn = time.monotonic()

    def announce(self, text: str) -> None:
        """A line that stays, above the bar, and the bar says the same."""
        if self.shown:
            self.bar.write(f"{self.stage}: {text}", file=sys.stderr)
            self.draw(text)

    # -- the files --------------------------------------------------------------------------------

    def step(self, terms: dict[str, torch.Tensor]) -> None:
        """After each step; its terms become a row every LOG_SECONDS and at a stage's first step."""
        if not self.shown:
            return
        state, now = self.state, time.monotonic()
        if now - self._logged > LOG_SECONDS or state.stage_step == 1:
            self._logged = now
            stepping = max(state.stepping_seconds, 1e-9)
            row = {
                **self._place(),
                "steps_per_second": round(state.step / stepping, 3),
                "waiting_for_data": round(state.waiting_seconds / stepping, 4),
                **{name: float(value) for name, value in terms.items()},
            }
            self._append(row)
            for name, value in row.items():
                if name not in ("stage", "step"):
                    self.writer.add_scalar(f"train/{name}", value, state.step)
            self._loss = f"loss {row['loss']:.3f}"
            self.draw()
        elif now - self._drawn > BAR_SECONDS and self.bar.fp.isatty():
            self.draw()

    def validation(self, row: dict[str, float], shown: torch.Tensor) -> None:
        """A row of `validate`, which becomes part of the run's history, and its picture."""
        row = {**self._place(), **row}
        self.state.history.append(row)
        self._append(row)
        for name, value in row.items():
            if name.startswith("val_"):
                self.writer.add_scalar(name.replace("val_", "val/"), value, self.state.step)
        if len(shown) in (1, 3):
            self.writer.add_image("val/original_and_decoded", (shown + 1) / 2, self.state.step)

    def _place(self) -> dict:
        return {"stage": self.stage, "step": self.state.step, "minutes": round(self.state.seconds / 60, 3)}

    def _append(self, row: dict) -> None:
        with open(self.folder / "history.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")
