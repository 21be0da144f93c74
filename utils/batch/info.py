"""What Decompression.py --info prints: the facts of `utils.codec.info` for every file. PyTorch is not loaded for it."""

import argparse
import json
import sys

from utils import distributed
from utils.codec.bitstream import read_file
from utils.codec.info import describe, fingerprints
from utils.console import as_text, name_of, pick_device, printable

from .inputs import Item, find_packed
from .run import one_by_one, run_batch

_HEADINGS = (
    "file",
    "signal",
    "size",
    "bytes",
    "rate",
    "quality",
    "coder",
    "fingerprint",
    "checkpoint",
    "flags",
    "sections",
)
_NUMBERS = ("bytes", "rate", "quality")  # headings of columns that are aligned on the right


def show_info(options: argparse.Namespace) -> int:
    """A line for every input, as a table or as JSON; -> exit code. Nothing is decoded, and nothing is written."""
    if distributed.world()[1] > 1:
        distributed.start(pick_device("cpu"))
    items = find_packed(options.input)
    checkpoints = fingerprints(options.checkpoint)

    def look(item: Item) -> dict:
        return {"file": name_of(item.path), **describe(read_file(item.path), checkpoints)}

    result = run_batch(items, one_by_one(look), "reading", quiet=True)
    if distributed.world()[0] == 0 and not options.quiet:
        for line in map(_json_line, result.rows) if options.json else _table(result.rows):
            print(line)
    if result.interrupted:
        print("interrupted", file=sys.stderr)
    return result.exit_code


def _json_line(row: dict) -> str:
    texts = {"file": as_text(row["file"]), "checkpoints": [as_text(name) for name in row["checkpoints"]]}
    return json.dumps({name: texts.get(name, value) for name, value in row.items() if name != "size"})


def _table(rows: list[dict]) -> list[str]:
    """Lines with aligned columns; none for no rows."""
    lines = [_HEADINGS, *map(_cells, rows)] if rows else []
    widths = [max(map(len, column)) for column in zip(*lines)]
    right = [heading in _NUMBERS for heading in _HEADINGS]
    return [
        "  ".join(f"{cell:{'>' if end else '<'}{width}}" for cell, width, end in zip(line, widths, right)).rstrip()
        for line in lines
    ]


def _cells(row: dict) -> tuple[str, ...]:
    return (
        printable(row["file"]),
        row["signal"],
        row["size"],
        str(row["bytes"]),
        f"{row['rate']:.3f} {row['rate_unit']}",
        f"{row['quality']:g}",
        row["entropy_coder"],
        row["fingerprint"],
        printable(", ".join(row["checkpoints"])) or "none here",
        " ".join(row["flags"]) or "-",
        ", ".join(f"{name} {n_bytes}" for name, n_bytes in row["sections"].items()) or "-",
    )
