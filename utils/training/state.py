"""What a run counts, and the file from which it resumes."""

import dataclasses
import pickle
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from utils.files import replacing

FORMAT = 3  # of a state file: another one is refused in one line


@dataclass
class RunState:
    """Counters and the source of chance of one process."""

    rng: np.random.Generator  # draws crops, qualities and searched batches
    stage_index: int = 0  # which of the run's stages
    stage_step: int = 0  # optimizer steps of this stage
    step: int = 0  # optimizer steps of the run
    seconds: float = 0.0  # of the run by the clock, validation and the stages' ends among them
    stage_start: float = 0.0  # `seconds` when this stage began
    stepping_seconds: float = 0.0  # of the steps alone
    waiting_seconds: float = 0.0  # of the steps, those that waited for crops
    longest_ending: float = 0.0  # seconds of the longest end of a stage so far
    history: list[dict] = field(default_factory=list)  # rows of validation

    def begin_stage(self, index: int) -> None:
        self.stage_index, self.stage_step, self.stage_start = index, 0, self.seconds

    def to_dict(self) -> dict:
        """Every field as a plain value."""
        values = {name.name: getattr(self, name.name) for name in dataclasses.fields(self)}
        return {**values, "rng": self.rng.bit_generator.state}

    def restore(self, saved: dict) -> None:
        """Set every field; a dictionary without one of them, or with another type there, raises an exception."""
        for name, value in self.to_dict().items():
            if type(saved[name]) is not type(value):
                raise TypeError(f"{name} is {saved[name]!r:.40}")
        for name in self.to_dict():
            if name != "rng":
                setattr(self, name, saved[name])
        self.rng.bit_generator.state = saved["rng"]


def save_state(path: Path, contents: dict) -> None:
    """Write a state file; an existing one is replaced whole."""
    with replacing(path) as temporary:
        torch.save({"format": FORMAT, **contents}, temporary)


def load_state(path: Path, device) -> dict:
    """A state file's contents, tensors on the device. Raises ValueError with what to do where it is damaged or
    of another version."""
    with damage_in_one_line(path):
        contents = torch.load(path, map_location=device, weights_only=True)
        if not isinstance(contents, dict):
            raise TypeError(f"a {type(contents).__name__} instead of a state")
    if contents.get("format") != FORMAT:
        raise ValueError(
            f"{path} was saved by another version of train.py (format {contents.get('format', 1)}, this one reads "
            f"{FORMAT}): {what_instead(path)}"
        )
    return contents


@contextmanager
def damage_in_one_line(path: Path):
    """Whatever a damaged state file makes go wrong in the block ends in one ValueError that says what to do."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:  # damage has no type of its own: torch, zipfile and pickle raise what they meet
        if isinstance(error, pickle.UnpicklingError):
            reason = "not a file of torch.save"
        elif isinstance(error, KeyError):
            reason = f"{error} is missing"
        else:
            reason = (" ".join(str(error).split()) or type(error).__name__)[:100]
        raise ValueError(f"{path} is damaged ({reason}): {what_instead(path)}") from None


def what_instead(path: Path) -> str:
    """What to do where a run cannot resume."""
    checkpoint = path.parent / "checkpoint.safetensors"
    if checkpoint.is_file():
        return f"start a run of another --name, with --init {checkpoint} for the weights of its last finished stage"
    return "start a run of another --name, or delete this run's folder"
