"""What .bpgan files hold, by their headers: what Decompression.py --info prints. PyTorch is not loaded for it."""

import argparse
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from data import KINDS, build_kind, kind_class
from models.config import QUALITY_STEPS
from utils import distributed
from utils.codec import bitstream
from utils.codec.fingerprint import CHECKPOINTS, fingerprint_of_file
from utils.console import as_text, name_of, pick_device, printable
from utils.entropy import CODERS, coder_class

from .inputs import Item, find_packed, kind_of_packed
from .run import one_by_one, run_batch

logger = logging.getLogger(__name__)

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
        return {"file": name_of(item.path), **describe(bitstream.read_file(item.path), checkpoints)}

    result = run_batch(items, one_by_one(look), "reading", quiet=True)
    if distributed.world()[0] == 0 and not options.quiet:
        for line in map(_json_line, result.rows) if options.json else _table(result.rows):
            print(line)
    if result.interrupted:
        print("interrupted", file=sys.stderr)
    return result.exit_code


def fingerprints(paths: Sequence[Path] | None) -> dict[str, list[str]]:
    """The checkpoint files that have each fingerprint (hexadecimal).

    `paths`: the files to look into, which raise ValueError where they are damaged; None: those in
    checkpoints/, of which damaged ones are logged and passed over.
    """
    found: dict[str, list[str]] = {}
    for path in sorted(CHECKPOINTS.glob("*.safetensors")) if paths is None else paths:
        try:
            fingerprint = fingerprint_of_file(path).hex()
        except ValueError as error:
            if paths is not None:
                raise
            logger.warning("%s", error)
            continue
        shown = path.relative_to(CHECKPOINTS.parent) if paths is None else path
        found.setdefault(fingerprint, []).append(shown.as_posix())
    return found


def describe(data: bytes, checkpoints: Mapping[str, Sequence[str]]) -> dict:
    """A whole .bpgan file -> what its header says, as plain values; its payload is not decoded.

    `checkpoints` are those of `fingerprints`. Raises BitstreamError for a file that is damaged, or that
    this version does not know.
    """
    kind = build_kind(kind_of_packed(data))
    usual = {known.code: known.usual_size_b for known in map(kind_class, KINDS) if known.usual_size_b is not None}
    header, _ = bitstream.unpack(data, usual)
    bitstream.check_kind(header, kind)
    coder = next((name for name in CODERS if coder_class(name).code == header.coder), None)
    if coder is None:
        raise bitstream.BitstreamError(f"entropy coder {header.coder} is unknown to this version")
    size, fingerprint = (header.size_a, header.size_b), header.fingerprint.hex()
    return {
        "signal": kind.name,
        "size": kind.size_text(size),
        **kind.dimensions(size),
        "bytes": len(data),
        "rate": kind.rate(len(data), size),
        "rate_unit": kind.rate_unit,
        "quality": 1 + header.quality_step / QUALITY_STEPS,
        "entropy_coder": coder,
        "fingerprint": fingerprint,
        "checkpoints": list(checkpoints.get(fingerprint, [])),
        "flags": [name for name in bitstream.FLAGS if getattr(header, name)],
        "sections": {name: len(content) for name, content in header.sections.items()},
    }


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
