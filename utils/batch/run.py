"""Work on many files: what fails is named and the others go on, what is done is never lost."""

import errno
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from utils import distributed
from utils.console import one_line

from .inputs import Item

BATCH_BYTES = 1 << 23  # files that are opened at once, one alone may be larger
_HOPELESS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # no other file of the batch would fare better

# A block for the work on an item: an error that concerns this file alone becomes one line, and the batch goes on.
Guard = Callable[[Item], AbstractContextManager[None]]
# Items that are in memory together, and their guard -> each item that is finished, with its row of the table.
Work = Callable[[list[Item], Guard], Iterator[tuple[Item, dict]]]


@dataclass(frozen=True)
class BatchResult:
    """What became of a batch. Of several processes, the first one has the results of all."""

    rows: list[dict]  # a row of each file that was done, in the items' order
    failures: list[Path]  # files that could not be done, in the items' order
    interrupted: bool = False  # by the user; what is in `rows` is whole
    untried: int = 0  # files that were left, where the batch ended early

    @property
    def exit_code(self) -> int:
        """130 is what shells use for a program that was interrupted."""
        return 130 if self.interrupted else 1 if self.failures or self.untried else 0


def run_batch(
    items: Iterable[Item], work: Work, description: str, batch_size: int = 1, quiet: bool = False
) -> BatchResult:
    """Do this process's share of the items, `batch_size` at a time.

    A file that fails is named on standard error and the others go on; where the disk is full they
    would all fail, so the batch ends. So it does when the user interrupts it.
    """
    mine = distributed.share(list(enumerate(items)))
    numbers = {item: number for number, item in mine}
    done: dict[int, dict] = {}
    failed: dict[int, Path] = {}
    silent = len(mine) < 2 or not shows_bars(quiet)
    interrupted = False
    with tqdm(desc=description, total=len(mine), file=sys.stderr, disable=silent) as bar:

        @contextmanager
        def guard(item: Item) -> Iterator[None]:
            try:
                yield
            except (ValueError, OSError, MemoryError, RuntimeError) as error:
                if not _concerns_one_file(error):
                    raise
                with tqdm.external_write_mode(sys.stderr):  # a line of its own, not the bar's
                    print(f"error: {one_line(error, item.path)}", file=sys.stderr)
                failed[numbers[item]] = item.path
                bar.update()
                if isinstance(error, OSError) and error.errno in _HOPELESS:
                    raise _Hopeless from None

        try:
            for group in _groups([item for _, item in mine], batch_size):
                for item, row in work(group, guard):
                    done[numbers[item]] = row
                    bar.update()
        except _Hopeless:
            pass
        except KeyboardInterrupt:
            interrupted = True
    # An interrupted process does not wait for the others: some may be in the middle of a search.
    gathered = [(done, failed, len(mine))] if interrupted else distributed.gather((done, failed, len(mine)))
    rows = {number: row for part, _, _ in gathered for number, row in part.items()}
    failures = {number: path for _, part, _ in gathered for number, path in part.items()}
    untried = sum(count for _, _, count in gathered) - len(rows) - len(failures)
    return BatchResult(
        [rows[number] for number in sorted(rows)], [failures[n] for n in sorted(failures)], interrupted, untried
    )


def shows_bars(quiet: bool) -> bool:
    """Whether this process shows bars: on a terminal alone, since in a log they are lines that cannot be read."""
    return not quiet and distributed.world()[0] == 0 and sys.stderr.isatty()


class _Hopeless(Exception):
    """Every other file would fail as this one did."""


def _concerns_one_file(error: Exception) -> bool:
    """Whether other files may fare better. PyTorch has a class for a lack of memory on a GPU, and a text on a CPU."""
    if not isinstance(error, RuntimeError):
        return True
    import torch  # here, since not all work of this kind needs it

    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def attempt_together(function: Callable[[], list]) -> list | None:
    """The function's result for several files, or None where it fails for one: trying each alone shows for which."""
    try:
        return function()
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        if not _concerns_one_file(error):
            raise
        return None


def one_by_one(function: Callable[[Item], dict]) -> Work:
    """Work on single items, for `run_batch`."""

    def work(items: list[Item], guard: Guard) -> Iterator[tuple[Item, dict]]:
        for item in items:
            with guard(item):
                yield item, function(item)

    return work


def _groups(items: list[Item], batch_size: int) -> Iterator[list[Item]]:
    """Runs of at most `batch_size` items, shorter where the files are large: all of a run are in memory."""
    group, size = [], 0
    for item in items:
        n_bytes = item.path.stat().st_size if item.path.is_file() else 0
        if group and (len(group) == batch_size or size + n_bytes > BATCH_BYTES):
            yield group
            group, size = [], 0
        group, size = [*group, item], size + n_bytes
    if group:
        yield group
