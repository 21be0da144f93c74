"""What a batch has finished, so that the same batch started again does only the rest.

OUTPUT/rows.jsonl, of what was compressed, and OUTPUT/decoded.jsonl, of what was decoded, hold one line per finished
file: a key of everything that its results depend on, the results' sizes and checksums as they were written, and its
row of metrics.csv. A line is appended and synced just before its results take their final names: a result in the folder
that is in no line is not this program's, and is never replaced unasked. Lines that a kill or a full disk cut short are
passed over.
"""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from data import KINDS
from utils.entropy import CODERS
from utils.files import append_lines, checksum
from utils.search.config import METHODS, OBJECTIVES

_ROOT = Path(__file__).resolve().parents[2]
# Options that no result depends on, and those whose value is in the key in another way: the checkpoint by
# its digest (its fingerprint leaves the realistic generator out), each input by its content, the qualities by each one,
# and with or without decoding by the results that are there.
_NO_MATTER = (
    "input",
    "output",
    "checkpoint",
    "overwrite",
    "report",
    "dry_run",
    "verbose",
    "quiet",
    "argv",
    "program",
    "trace",
    "batch_size",
    "no_decode",
    "result_name",
    "max_pixels",
    "max_seconds",
)
_PROGRAM = ("data", "models", "utils")
# Results do not depend on these parts of it. Whatever is new counts until it is named here.
_NOT_PROGRAM = (
    "data/augment.py",
    "data/corpora.py",
    "data/dataset.py",
    "data/download.py",
    "data/folders.py",
    "data/speech_prompts.py",
    "data/waveforms.py",
    "models/complexity.py",
    "models/vgg16.py",
    "utils/batch/conditions.py",
    "utils/batch/decode.py",
    "utils/batch/info.py",
    "utils/batch/inputs.py",
    "utils/batch/journal.py",
    "utils/batch/page.py",
    "utils/batch/pipes.py",
    "utils/batch/progress.py",
    "utils/batch/run.py",
    "utils/batch/tables.py",
    "utils/codec/info.py",
    "utils/codec/limits.py",
    "utils/codec/observing.py",
    "utils/codec/pillow_plugin.py",
    "utils/console.py",
    "utils/distributed.py",
    "utils/files.py",
    "utils/training",
)


def settings_of(options: argparse.Namespace, **changes) -> dict:
    """A script's options as a journal's settings: all but those that no result depends on."""
    return {**{name: value for name, value in vars(options).items() if name not in _NO_MATTER}, **changes}


class Journal:
    """The files of one output folder that were compressed."""

    name = "rows.jsonl"
    texts = ("file", "signal", "search", "entropy_coder")  # that every row has

    def __init__(self, folder: Path, settings: dict, overwrite: bool = False):
        """`settings`: all that changes results, as plain values; `overwrite`: take nothing as finished, replace all.

        Raises ValueError where the folder's file of this name is another program's.
        """
        self.folder, self.settings, self.overwrite = Path(folder), settings, overwrite
        self.path = self.folder / self.name
        self._records = _read(self.path, self.texts)
        self._written: dict[str, list] = {}  # name of a result -> checksums that it was ever written with
        for record in self._records.values():
            self._note(record["files"])
        if not (self._records or overwrite) and not _may_be_ours(self.path):
            raise ValueError(
                f"{self.path}: holds nothing that this program wrote; move it away, or choose another --output"
            )

    def _note(self, files: dict) -> None:
        for name, expected in files.items():
            self._written.setdefault(name, []).append(expected)

    def key(self, source: Path, stem: Path, checkpoint: str) -> str:
        """Hexadecimal digest of a source file's content, its place, settings, program, and the checkpoint's digest."""
        content = hashlib.sha256()
        with open(source, "rb") as file:
            while block := file.read(1 << 20):
                content.update(block)
        parts = [
            content.hexdigest(),
            source.suffix.lower(),  # by which its kind is told
            stem.as_posix(),
            checkpoint,
            self.settings,
            _program(),
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    def find(self, key: str, file: str, results: Iterable[Path]) -> dict | None:
        """The row of what was finished under that key, if these results of it are still there and whole.

        `file` is what the source is called now.
        """
        record = self._records.get(key)
        names = [path.relative_to(self.folder).as_posix() for path in results]
        if self.overwrite or record is None or not self._is_whole(record, names):
            return None
        if record["row"]["file"] != file:
            record["row"]["file"] = file
            self._append(record)
        return record["row"]

    def _is_whole(self, record: dict, names: Iterable[str] | None = None) -> bool:
        """Whether results of a record, by default all, lie in the folder as they were written."""
        files = record["files"]
        try:
            return all(name in files and checksum(self.folder / name) == files[name] for name in names or files)
        except (OSError, ValueError):
            return False

    def check(self, path: Path) -> None:
        """Raises ValueError where a file lies at `path`, a result's place, that this program did not write there."""
        if not (self.overwrite or self.may_replace(path)):
            raise ValueError(not_ours(path))

    def may_replace(self, path: Path) -> bool:
        """Whether nothing lies at `path`, a result's place, or what this program wrote there."""
        if not os.path.lexists(path):
            return True
        known = self._written.get(path.relative_to(self.folder).as_posix(), [])
        try:
            return not path.is_symlink() and checksum(path) in known
        except OSError:
            return False

    def rows(self) -> list[dict]:
        """Rows of all files whose results are in the folder, by whatever run; the newest row of each."""
        found, files, results = [], set(), set()
        for record in reversed(_read(self.path, self.texts).values()):
            names = set(record["files"])
            if record["row"]["file"] not in files and not names & results and self._is_whole(record):
                found.append(record["row"])
                files.add(record["row"]["file"])
                results |= names
        return found[::-1]

    def add(self, key: str, row: dict, files: dict[Path, list[int]]) -> None:
        """Note what is about to be finished: results by their paths below the folder, with the checksums of what
        was written. Raises OSError where that fails."""
        named = {path.relative_to(self.folder).as_posix(): written for path, written in files.items()}
        self._append({"key": key, "row": row, "files": named})
        self._note(named)

    def _append(self, record: dict) -> None:
        append_lines(self.path, json.dumps(record).encode() + b"\n")


class DecodingJournal(Journal):
    """The files of one output folder that were decoded."""

    name = "decoded.jsonl"
    texts = ("file",)


def results_below(folder: Path) -> set[Path]:
    """The results that journals in this folder list, whether they are still there or not."""
    listed: set[Path] = set()
    for kind in (Journal, DecodingJournal):
        with suppress(OSError):  # a file that cannot be read is none of ours
            records = _read(folder / kind.name, kind.texts).values()
            listed |= {folder / name for record in records for name in record["files"]}
    return listed


def not_ours(path: Path) -> str:
    """What a user is told whose file would be replaced."""
    return (
        f"{path}: is there already, and is not what this program wrote; move it away, choose another --output, "
        "or add --overwrite to replace it"
    )


def _may_be_ours(path: Path) -> bool:
    """Whether a file without one readable line can be a journal: one whose first line was cut short."""
    try:
        with open(path, "rb") as file:
            return file.read(6) in (b"", b'{"key"')
    except FileNotFoundError:
        return True


def _read(path: Path, texts: tuple[str, ...]) -> dict[str, dict]:
    """Records by key, the last of each, in the order of their lines; lines that are none are passed over.

    `texts` names what every row has.
    """
    records: dict[str, dict] = {}
    try:
        with open(path, "rb") as file:
            for line in file:
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if _is_record(record, texts):
                    records.pop(record["key"], None)
                    records[record["key"]] = record
    except FileNotFoundError:
        pass
    return records


def _is_record(record, texts: tuple[str, ...]) -> bool:
    """Whether it has the parts that are relied on, each of its type."""
    if not isinstance(record, dict) or not isinstance(record.get("key"), str):
        return False
    row, files = record.get("row"), record.get("files")
    return (
        isinstance(row, dict)
        and all(isinstance(row.get(name), str) for name in texts)
        and all(isinstance(value, str if name in _TEXTS else float | int) for name, value in row.items())
        and isinstance(files, dict)
        and len(files) > 0
    )


_TEXTS = ("file", "signal", "search", "objective", "entropy_coder")


@lru_cache
def _program() -> str:
    """Digest of the sources that results depend on: those of another version of the program are not reused.

    Modules of kinds, coders, methods and distortions that are registered from elsewhere count too.
    """
    digest = hashlib.sha256()
    for name in sorted({entry[0] for registry in (KINDS, CODERS, METHODS, OBJECTIVES) for entry in registry.values()}):
        path = _source_of(name)
        if path and _ROOT not in path.resolve().parents:
            digest.update(name.encode() + b"\0" + path.read_bytes())
    for folder in _PROGRAM:
        for path in sorted((_ROOT / folder).rglob("*.py")):
            name = path.relative_to(_ROOT).as_posix()
            if not any(name == left or name.startswith(f"{left}/") for left in _NOT_PROGRAM):
                digest.update(name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _source_of(module: str) -> Path | None:
    """The file of a module by its full name, which need not be loaded; None where there is none."""
    if module in sys.modules:
        place = getattr(sys.modules[module], "__file__", None)
    else:
        try:
            place = getattr(find_spec(module), "origin", None)
        except (ImportError, ValueError):
            place = None
    return Path(place) if place and Path(place).is_file() else None
