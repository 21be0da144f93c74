"""Searches while they work: a bar for whoever waits, and a trace of every iteration for whoever studies them."""

import json
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from utils import distributed
from utils.codec.observing import Observe, SearchStep
from utils.console import as_text, printable
from utils.files import append_lines, replacing

from .journal import not_ours
from .run import shows_bars

BAR_SECONDS = 2.0  # searches that take less show no bar
_MAX_NAME = 32  # characters of a file's name in a bar
_MAX_LINE = 4096  # bytes; the lines of a trace have some 400
_START = b'{"file"'  # of every line of a trace, and of no line of a journal


class Trace:
    """The file of --trace: a JSON object per line, one for each iteration of each file's searches.

    The lines of a file are appended together, when it is coded: a run that resumes adds those of the
    files that it still has to search.
    """

    def __init__(self, path: Path, overwrite: bool = False):
        """Begins the file, or goes on with it; `overwrite` begins it anew, whatever it was.

        Raises ValueError where it is there and no trace, OSError where it cannot be written.
        """
        self.path = path
        if distributed.world()[0] == 0:
            if overwrite:
                with replacing(path):
                    pass
            elif os.path.lexists(path):
                _go_on(path)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                append_lines(path, b"")  # what is wrong with the path shows before any work
        distributed.barrier()

    def add(self, file: str, search: str, steps: Sequence[SearchStep]) -> None:
        """The steps of a file that was coded by a search method. Raises OSError where the disk is full."""
        if steps:
            lines = [json.dumps(_record(file, search, step), allow_nan=False) for step in steps]
            append_lines(self.path, "".join(f"{line}\n" for line in lines).encode())


def _record(file: str, search: str, step: SearchStep) -> dict:
    """A line of a trace; a number that JSON lacks is null."""
    values = step._asdict()
    del values["signal"]
    if step.trial is None:
        del values["trial"]
    values["seconds"] = round(step.seconds, 4)
    numbers = {k: v if not isinstance(v, float) or math.isfinite(v) else None for k, v in values.items()}
    return {"file": as_text(file), "search": search, **numbers}


def _go_on(path: Path) -> None:
    """Check that the file is a trace, and drop its last line where that was cut short."""
    if path.is_symlink() or not path.is_file():
        raise ValueError(not_ours(path))
    with open(path, "rb+") as file:
        if file.read(len(_START)) not in (b"", _START):
            raise ValueError(not_ours(path))
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _MAX_LINE))
        torn = file.read().rpartition(b"\n")[2]
        file.truncate(size - len(torn))


class Searching:
    """What observes the searches of the signals that are encoded together."""

    def __init__(self, names: Sequence[str], shown: bool, traced: bool):
        self.names, self.shown, self.traced = names, shown, traced
        self.steps: list[list[SearchStep]] = [[] for _ in names]  # of each signal, for the trace
        self._now: dict[int, SearchStep] = {}  # the last step of each signal
        self._started = time.monotonic()
        self._bar: tqdm | None = None

    @property
    def observe(self) -> Observe | None:
        """None where nobody looks, so that nothing is computed for it."""
        return self._see if self.shown or self.traced else None

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()

    def _see(self, step: SearchStep) -> None:
        if self.traced:
            self.steps[step.signal].append(step)
        if self.shown:
            self._draw(step)

    def _draw(self, step: SearchStep) -> None:
        before, self._now[step.signal] = self._now.get(step.signal), step
        if before is None or before.trial != step.trial:  # each trial has a bar of its own
            self.close()
            self._bar = self._new_bar(step)
        steps = self._now.values()
        n_bytes = sum(each.bits for each in steps) / 8
        decibels = sum(each.distortion_db for each in steps) / len(steps)
        self._bar.set_description_str(self._title(step), refresh=False)
        self._bar.set_postfix_str(f"{n_bytes:.0f} bytes, {decibels:.2f} dB", refresh=False)
        done = (step.tile - 1) * step.iterations + step.iteration
        self._bar.update(max(0, done - self._bar.n))

    def _new_bar(self, step: SearchStep) -> tqdm:
        waited = time.monotonic() - self._started
        return tqdm(
            desc=self._title(step),
            total=step.tiles * step.iterations,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| iteration {n_fmt} of {total_fmt} [{elapsed}<{remaining}{postfix}]",
            delay=max(0.0, BAR_SECONDS - waited),
            miniters=1,
            leave=False,
            dynamic_ncols=True,
            file=sys.stderr,
        )

    def _title(self, step: SearchStep) -> str:
        name = printable(Path(self.names[0]).name)
        parts = [name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 3]}..."]
        if len(self.names) > 1:
            parts[0] += f" and {len(self.names) - 1} more"
        if step.trial is not None:
            parts.append(f"trial {step.trial}")
        if step.tiles > 1:
            parts.append(f"tile {step.tile} of {step.tiles}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Progress:
    """How the searches of a batch are observed."""

    trace: Trace | None = None
    quiet: bool = True

    @contextmanager
    def searching(self, names: Sequence[str]) -> Iterator[Searching]:
        """While the block runs, the searches of the signals of these names may show a bar."""
        searching = Searching(names, shows_bars(self.quiet), self.trace is not None)
        try:
            yield searching
        finally:
            searching.close()

    def keep(self, file: str, search: str, steps: Sequence[SearchStep]) -> None:
        """Writes a file's steps to the trace, if there is one."""
        if self.trace is not None:
            self.trace.add(file, search, steps)
