"""Scripts as a user calls them, and what they leave behind."""

import csv
import os
import signal
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def signal_handlers_kept():
    """The scripts take over two signals; they are given back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def environment() -> dict[str, str]:
    """Of a process that a test starts: one thread, alone."""
    return {
        **{k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")},
        "OMP_NUM_THREADS": "1",
    }


def listing(folder) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def table(path) -> tuple[list[str], list[dict]]:
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        return list(reader.fieldnames), list(reader)


def one_line(code, err, *words, exit_code=None):
    """A mistake: exit code, one line that says what, no traceback."""
    assert code != 0 and (exit_code is None or code == exit_code)
    lines = err.strip().splitlines()
    assert len(lines) == 1 and "error: " in lines[0], err
    for word in words:
        assert word in lines[0], err
