"""One file through standard input and output: `-` in the place of --input and --output."""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

from data import KINDS, build_kind

PIPE = Path("-")


def suffix_by_content(path: Path) -> str:
    """A suffix of the first kind of signal that can read the file. Raises ValueError where none can."""
    for name in KINDS:
        kind = build_kind(name)
        try:
            kind.read(path)
        except ValueError:
            continue
        return kind.suffixes[0]
    raise ValueError(f"standard input: nothing that can be read as {' or '.join(KINDS)}")


def piped(work: Callable[[argparse.Namespace], int], suffix_of: Callable[[Path], str], result: str) -> Callable:
    """A script's `work` that also takes `-`: -> a function of the options that returns the exit code.

    Standard input is kept in a temporary file, with the suffix that `suffix_of` finds for it. Where
    standard output takes the result, the one file of the pattern `result`, everything that is
    printed goes to standard error.
    """

    def run(options: argparse.Namespace) -> int:
        reading, writing = PIPE in (options.input or []), options.output == PIPE
        if not (reading or writing):
            return work(options)
        if len(options.input or []) != 1 or options.input[0].is_dir():
            raise ValueError("- stands for one file: give one --input that is no folder")
        if writing and getattr(options, "report", False):
            raise ValueError("--report needs a folder as --output, not -")
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr) if writing else nullcontext():
            options = argparse.Namespace(**vars(options))
            if reading:
                kept = Path(folder, "stdin")
                with open(kept, "wb") as file:
                    shutil.copyfileobj(sys.stdin.buffer, file)
                options.input = [kept.rename(kept.with_suffix(suffix_of(kept)))]
            if writing:
                options.output = Path(folder, "results")
            code = work(options)
            results = sorted(options.output.glob(result)) if writing and code == 0 else []
            data = results[0].read_bytes() if results else b""
        if data:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        return code

    return run
