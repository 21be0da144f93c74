"""The stages of a run by name, and how its length is divided among them; loads no PyTorch.

`STAGES` is the one list of names: options offer it, and `stages.py` has one class for each entry.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .state import RunState

WARMUP_STEPS = 100
# Seconds kept free for a stage's end (fitting, validation, checkpoint) until a first one has been timed.
EXPECTED_ENDING = 30.0


@dataclass(frozen=True)
class StageSchedule:
    """Length and learning rates of a stage."""

    name: str
    share: float  # of the run's length, before normalizing over the chosen stages
    learning_rate: float  # peak, as a fraction of --learning_rate
    final_rate: float  # the cosine ends at this fraction of the peak
    constant: float = 0.0  # progress up to which the rate stays at its peak

    def rate(self, progress: float, stage_step: int) -> float:
        """Learning rate as a fraction of --learning_rate: a linear warm-up, the peak, then a cosine to progress 1."""
        falling = min(1.0, max(0.0, progress - self.constant) / (1 - self.constant))
        cosine = self.final_rate + (1 - self.final_rate) * (1 + math.cos(math.pi * falling)) / 2
        return self.learning_rate * cosine * min(1.0, (stage_step + 1) / WARMUP_STEPS)


STAGES = {
    stage.name: stage
    for stage in (
        # A long run may so be prolonged until its last fifth begins: the moving average shows where it stands.
        StageSchedule("joint", share=0.58, learning_rate=1.0, final_rate=0.02, constant=0.8),
        StageSchedule("quantized", share=0.10, learning_rate=0.25, final_rate=0.05),
        StageSchedule("entropy", share=0.07, learning_rate=0.5, final_rate=0.02),
        StageSchedule("searched", share=0.13, learning_rate=0.25, final_rate=0.05),
        StageSchedule("adversarial", share=0.12, learning_rate=0.15, final_rate=0.1),
    )
}


class Schedule:
    """How far a run is: by its steps where `steps` is given, by the clock's `minutes` otherwise.

    By the clock each stage gets its share of the time that is left when it begins, and keeps as much of it
    free for its end as the longest end so far has taken. So fitting and validation count in --minutes.
    """

    def __init__(self, names: list[str], minutes: float | None, steps: int | None):
        self.stages = [STAGES[name] for name in names]
        self.minutes, self.steps = minutes, steps

    def stage_steps(self, index: int) -> int:
        """Steps of a stage of a run by steps."""
        share = self.stages[index].share / sum(stage.share for stage in self.stages)
        return max(1, round(self.steps * share))

    @property
    def total_steps(self) -> int | None:
        """Steps of the whole run, each stage's rounded; None for a run by the clock."""
        return None if self.steps is None else sum(self.stage_steps(i) for i in range(len(self.stages)))

    def stage_progress(self, state: RunState) -> float:
        """0 at the start of the present stage, 1 or more when its training is over; it takes one step at least."""
        if self.steps is not None:
            return state.stage_step / self.stage_steps(state.stage_index)
        if state.stage_step == 0:
            return 0.0
        return (state.seconds - state.stage_start) / max(self._seconds_of_training(state), 1e-9)

    def _seconds_of_training(self, state: RunState) -> float:
        """Seconds that the present stage trains, its end left out."""
        shares = [stage.share for stage in self.stages[state.stage_index :]]
        part = (60 * self.minutes - state.stage_start) * shares[0] / sum(shares)
        return part - min(state.longest_ending or EXPECTED_ENDING, part / 4)

    def run_progress(self, state: RunState) -> float:
        """0..1, of the whole run; never falls."""
        done = state.seconds / (60 * self.minutes) if self.steps is None else state.step / self.total_steps
        return min(1.0, done)

    def seconds_left(self, state: RunState) -> float:
        """Of the whole run: by the clock, or the steps that are left at the mean rate so far."""
        if self.steps is None:
            return max(0.0, 60 * self.minutes - state.seconds)
        return (self.total_steps - state.step) * state.seconds / max(1, state.step)
