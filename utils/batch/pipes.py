"""One file to one file: `IN OUT.bpgan`, `IN.bpgan OUT.png`, and `-` for standard input and output."""

import argparse
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from data import KINDS, build_kind, kind_class
from utils.codec.bitstream import read_file
from utils.codec.info import describe
from utils.codec.limits import Limits
from utils.console import called
from utils.files import put_in_place, temporary_beside

from .inputs import SUFFIX, suffixes

PIPE = Path("-")


def suffix_by_content(path: Path, options: argparse.Namespace) -> str:
    """A suffix of the first kind of signal that can read the file. Raises ValueError where none can."""
    reasons = []
    for name in KINDS:
        kind = build_kind(name)
        kind.max_extent = Limits.of_options(options).of(kind)
        try:
            with _without_warnings():  # the work reads the file again, and they are for its user once
                kind.read(path)
        except ValueError as error:
            reasons.append(f"{name}: {str(error).removeprefix(f'{path}: ')}")
            continue
        return kind.suffixes[0]
    raise ValueError(f"standard input: nothing that can be read as {' or '.join(KINDS)} ({'; '.join(reasons)})")


@contextmanager
def _without_warnings():
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def output_suffix(path: Path) -> str | None:
    """The suffix of what a .bpgan file decodes to; None where it cannot be told, which the decoder says in its words."""
    try:
        return kind_class(describe(read_file(path), {})["signal"]).output_suffix
    except (OSError, ValueError):
        return None


@dataclass(frozen=True)
class Direction:
    """What goes into a script and what comes out."""

    suffix_of: Callable[[Path, argparse.Namespace], str]  # a suffix for standard input's content
    result_of: Callable[[Path], str | None]  # the suffix of what becomes of a file
    is_result: Callable[[str], bool]  # whether a suffix in lower case can be a result's


TO_PACKED = Direction(suffix_by_content, lambda path: SUFFIX, lambda suffix: suffix == SUFFIX)
FROM_PACKED = Direction(lambda path, options: SUFFIX, output_suffix, lambda suffix: suffix in suffixes())


def one_file(work: Callable[[argparse.Namespace], int], direction: Direction) -> Callable[[argparse.Namespace], int]:
    """A script's `work` on folders -> the same, which also takes `-`, and a file as --output.

    An --output that is no folder counts as a file if it has the suffix of a result. Whether it can be written is
    found out before the work, which is then done in a temporary folder, whose one result is taken. Standard input is
    kept in a temporary file, with the suffix that is found for it. Where standard output takes the result, everything
    that is printed goes to standard error.
    """

    def run(options: argparse.Namespace) -> int:
        inputs, output = options.input or [], options.output
        reading, writing = PIPE in inputs, output == PIPE
        to_file = not writing and direction.is_result(output.suffix.lower()) and not output.is_dir()
        if not (reading or writing or to_file):
            return work(options)
        if len(inputs) != 1 or inputs[0].is_dir():
            what = f"--output {output} is one file" if to_file else "- stands for one file"
            raise ValueError(f"{what}: give one --input that is no folder")
        if (writing or to_file) and getattr(options, "report", False):
            raise ValueError(f"--report needs a folder as --output, not {output}")
        if to_file:
            _check_target(output, inputs[0], options.overwrite)
            with temporary_beside(output):
                pass  # an error now, not after the search
        options = argparse.Namespace(**vars(options))
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            if writing:
                stack.enter_context(redirect_stdout(sys.stderr))
            if reading:
                options.input = [_keep(folder / "stdin", lambda path: direction.suffix_of(path, options))]
                stack.enter_context(called(options.input[0], "standard input"))
            if to_file:
                _check_suffix(output, direction.result_of(options.input[0]))
            if writing or to_file:
                options.output = folder / "results"
                options.result_name = "standard output" if writing else str(output)
            code = work(options)
            result = _only_result(options.output, direction) if code == 0 and (writing or to_file) else None
            if result and to_file:
                _put(result, output, options.overwrite)
            data = result.read_bytes() if result and writing else b""
        if data:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        return code

    return run


def _keep(path: Path, suffix_of: Callable[[Path], str]) -> Path:
    """Standard input's content in a file named for what it is."""
    with open(path, "wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    with called(path, "standard input"):
        return path.rename(path.with_suffix(suffix_of(path)))


def _check_target(target: Path, source: Path, overwrite: bool) -> None:
    """Raises ValueError where the result would replace what it must not: before any work."""
    if not os.path.lexists(target):
        return
    if source.exists() and target.exists() and target.samefile(source):
        raise ValueError(f"{source}: its result would overwrite it, choose another output")
    if not overwrite:
        raise ValueError(_is_there(target))


def _check_suffix(target: Path, suffix: str | None) -> None:
    if suffix and target.suffix.lower() != suffix:
        raise ValueError(f"{target}: this file decodes to {suffix}; name it {target.with_suffix(suffix)}")


def _only_result(folder: Path, direction: Direction) -> Path | None:
    """The result of work that went well; None where the work makes none, as --info."""
    results = [path for path in folder.glob("*") if direction.is_result(path.suffix.lower())]
    return results[0] if results else None


def _put(result: Path, target: Path, overwrite: bool) -> None:
    with temporary_beside(target) as temporary:
        shutil.copyfile(result, temporary)
        try:
            put_in_place(temporary, target, overwrite)
        except FileExistsError:  # it has come meanwhile
            raise ValueError(_is_there(target)) from None


def _is_there(path: Path) -> str:
    return f"{path}: is there already; choose another output, or add --overwrite to replace it"
