"""Under which conditions results came about: conditions.json beside them, and a line of it for plots.

The file is a list with an object for each run that added to the folder's results, the newest last. A run
under the conditions of the one before takes its place.
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils import __version__
from utils.console import as_text, name_of
from utils.files import replacing

from .inputs import located

if TYPE_CHECKING:
    import torch

NAME = "conditions.json"
_ROOT = Path(__file__).resolve().parents[2]
_GIT_SECONDS = 10  # for git to answer, from a slow disk


def conditions_of(
    options: argparse.Namespace, device: "torch.device", checkpoints: Iterable[Mapping[str, str]] = ()
) -> dict:
    """The conditions of the run with these options, as plain values.

    `checkpoints` are those that it used. Each has its kind of "signal", its "file" without the folder, and its
    "fingerprint". No paths are kept but those that were typed.
    """
    import torch  # here, so that what only reads conditions does without it

    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": as_text(shlex.join([*options.program, *options.argv])),
        "checkpoints": [dict(checkpoint) for checkpoint in checkpoints],
        "device": device.type if device.type == "cpu" else torch.cuda.get_device_name(device),
        "cpu": _cpu(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "bpgan": __version__,
        **_checkout(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.machine()}",
    }


def note_conditions(folder: Path, conditions: dict) -> None:
    """Add a run to the folder's conditions.json. Raises OSError where it cannot be written."""
    runs = _read(folder / NAME) or []
    if runs and {**runs[-1], "date": ""} == {**conditions, "date": ""}:
        runs.pop()
    with replacing(folder / NAME) as temporary:
        temporary.write_text(json.dumps([*runs, conditions], indent=2) + "\n")


def over_all_runs(folder: Path, conditions: dict) -> dict:
    """Conditions whose CPU and number of threads name those of every run in the folder's conditions.json."""
    runs = _read(folder / NAME) or [conditions]
    found = {name: sorted({run[name] for run in runs if name in run}) for name in ("cpu", "threads")}
    return {**conditions, **{name: " or ".join(map(str, values)) for name, values in found.items() if values}}


def check_conditions(folder: Path) -> None:
    """Raises ValueError where the folder has a conditions.json that is not this program's: before any work."""
    path = folder / NAME
    if os.path.lexists(path) and _read(path) is None:
        raise ValueError(f"{path}: is not what this program wrote; move it away, or choose another --output")


def caption(conditions: dict, n_files: int, inputs: Sequence[Path] | None) -> str:
    """A line for plots and pages: how many files of which folders, checkpoint, machine. None: the built-in samples."""
    of = ", ".join(dict.fromkeys(map(_set_name, inputs or ()))) or "the built-in samples"
    parts = [f"{n_files} file{'s' * (n_files != 1)} of {of}"]
    parts += [f"{each['file']} {each['fingerprint']}" for each in conditions["checkpoints"]]
    if conditions["device"] != "cpu":
        parts.append(conditions["device"])
    threads = conditions["threads"]
    parts.append(f"{conditions['cpu']}, {conditions['instruction_set']}, {threads} thread{'s' * (str(threads) != '1')}")
    return "; ".join(parts)


def _set_name(source: Path) -> str:
    """The folder that an input is, or lies in, without the path to it."""
    if name_of(source) != source.as_posix():  # a copy of standard input
        return name_of(source)
    path = located(source)
    return as_text((path if path.is_dir() else path.parent).resolve().name)


def _read(path: Path) -> list[dict] | None:
    """The runs in a conditions.json; None where it is not there, or another program's."""
    try:
        runs = None if path.is_symlink() else json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return None
    is_ours = isinstance(runs, list) and all(isinstance(run, dict) and "bpgan" in run for run in runs)
    return runs if is_ours else None


@lru_cache
def _cpu() -> str:
    """The processor's name, where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@lru_cache
def _checkout() -> dict:
    """The commit of a git checkout, and whether its files differ from it; nothing outside one."""
    if not (_ROOT / ".git").exists():
        return {}
    try:
        commit, changes = (
            subprocess.run(
                ["git", "-C", _ROOT, *words], capture_output=True, text=True, check=True, timeout=_GIT_SECONDS
            ).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):  # no git, or a checkout of another user
        return {}
    return {"commit": commit, "dirty": bool(changes)}
