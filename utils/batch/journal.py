"""What a batch has finished, so that the same batch started again does only the rest.

OUTPUT/rows.jsonl holds a line a finished file: a key of everything that its results depend on, the
results' sizes and checksums, and its row of metrics.csv. Lines are appended and synced one by one;
a line that a kill or a full disk cut short is passed over.
"""

import argparse
import hashlib
import json
import os
import zlib
from functools import lru_cache
from pathlib import Path

NAME = "rows.jsonl"
_ROOT = Path(__file__).resolve().parents[2]
# The checkpoint counts by its digest (its fingerprint leaves the realistic generator out), the input file
# by file.
_NO_MATTER = ("input", "output", "checkpoint", "overwrite", "report", "dry_run", "verbose", "argv", "batch_size")
_PROGRAM = ("data", "models", "utils")  # what results depend on


def settings_of(options: argparse.Namespace, **changes) -> dict:
    """A script's options as a journal's settings: all but those that no result depends on."""
    return {**{name: value for name, value in vars(options).items() if name not in _NO_MATTER}, **changes}


class Journal:
    """The finished files of one output folder."""

    def __init__(self, folder: Path, settings: dict, overwrite: bool = False):
        """`settings`: all that changes results, as plain values; `overwrite`: take nothing as finished."""
        self.folder, self.settings = Path(folder), settings
        self.path = self.folder / NAME
        self._records = {} if overwrite else _read(self.path)

    def key(self, source: Path, stem: Path, checkpoint: str) -> str:
        """Hexadecimal digest of a source file as it is now, its place, settings, program, and the checkpoint's digest."""
        state = source.stat()
        parts = [
            str(source.resolve()),
            state.st_size,
            state.st_mtime_ns,
            stem.as_posix(),
            checkpoint,
            self.settings,
            _program(),
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    def find(self, key: str) -> dict | None:
        """The row of what was finished under that key, if its results are still there and whole."""
        record = self._records.get(key)
        if record is None:
            return None
        try:
            for name, expected in record["files"].items():
                if _checksum(self.folder / name) != expected:
                    return None
        except OSError:
            return None
        return record["row"]

    def add(self, key: str, row: dict, files: list[Path]) -> None:
        """Note that `files`, below the folder, are written whole. Raises OSError where that fails."""
        record = {
            "key": key,
            "row": row,
            "files": {path.relative_to(self.folder).as_posix(): _checksum(path) for path in files},
        }
        line = json.dumps(record).encode() + b"\n"
        # One write to a file open for appending, so that processes do not cut into each other's lines.
        number = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            end = os.lseek(number, 0, os.SEEK_END)
            if end and os.pread(number, 1, end - 1) != b"\n":  # a line that was cut short
                line = b"\n" + line
            if os.write(number, line) < len(line):
                raise OSError(f"{self.path}: a line could not be written whole, the disk is full")
            os.fsync(number)
        finally:
            os.close(number)


def _read(path: Path) -> dict[str, dict]:
    """Records by key, the last of each; lines that are none are passed over."""
    records = {}
    try:
        with open(path, "rb") as file:
            for line in file:
                try:
                    record = json.loads(line)
                    if isinstance(record["row"], dict) and isinstance(record["files"], dict):
                        records[record["key"]] = record
                except (ValueError, KeyError, TypeError, RecursionError):
                    continue
    except FileNotFoundError:
        pass
    return records


def _checksum(path: Path) -> list[int]:
    """[bytes, CRC-32]."""
    size = crc = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return [size, crc]


@lru_cache
def _program() -> str:
    """Digest of the sources that results depend on: figures of another program are none of this one's."""
    digest = hashlib.sha256()
    for folder in _PROGRAM:
        for path in sorted((_ROOT / folder).rglob("*.py")):
            digest.update(path.relative_to(_ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
