"""Rows of coded files: metrics.csv, and the table with the means."""

import csv
import math
from pathlib import Path

from data import KINDS, kind_class
from utils.console import as_text, name_of, printable
from utils.files import replacing

from .run import BatchResult

NAME = "metrics.csv"
_MAX_NAMED = 20  # failed files in the last line; each one was named when it failed


def columns_of(rows: list[dict]) -> list[str]:
    """The columns of metrics.csv in their fixed order: what was coded, its rate, its metrics, times, settings."""
    kinds = [kind_class(name) for name in KINDS if any(row["signal"] == name for row in rows)]
    dimensions = dict.fromkeys(name for kind in kinds for name in kind().dimensions((1, 1)))
    middle = [kind.rate_unit for kind in kinds] + [name for kind in kinds for name in kind.metric_names]
    return [
        "file",
        "signal",
        *dimensions,
        "original_bytes",
        "bytes",
        *middle,
        "encode_seconds",
        "decode_seconds",
        "search",
        "iterations",
        "objective",
        "seed",
        "entropy_coder",
        "quality",
        "realism",
        "exact",
    ]


def write_metrics(rows: list[dict], path: Path) -> None:
    """metrics.csv in UTF-8, one row per file; what is not known (a score that was not asked for) is empty."""
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns_of(rows), restval="", extrasaction="ignore")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: _cell(v) for k, v in row.items()})


def _cell(value):
    if isinstance(value, float):
        return f"{value:.6g}"
    return as_text(value) if isinstance(value, str) else value


def summary(result: BatchResult, n_items: int, done: str = "", reused: int = 0, kept: int = 0) -> str:
    """How many of how many files were done, in which way, and which were not."""
    parts = [f"{len(result.rows)} of {n_items} files {done}".rstrip()]
    if reused:
        parts.append(f"{reused} of them by an earlier run")
    if kept:
        parts.append(f"and {kept} of earlier runs that {'are' if kept > 1 else 'is'} still there")
    if result.failures:
        names = [printable(Path(name_of(path)).name) for path in result.failures[:_MAX_NAMED]]
        more = len(result.failures) - len(names)
        parts.append(f"failed: {' '.join(names)}" + (f" and {more} more" if more else ""))
    if result.untried:
        parts.append(f"not tried: {result.untried}")
    return ", ".join(parts)


def means_table(rows: list[dict], with_quality: bool = False) -> str:
    """One line per file, and one with the means, for each kind of signal.

    `with_quality` adds the quality, which is worth a column where it differs between files.
    """
    lines = []
    for name in KINDS:
        members = [row for row in rows if row["signal"] == name]
        if not members:
            continue
        kind = kind_class(name)
        columns = ["bytes", kind.rate_unit, *kind.metric_names, "encode_seconds", "decode_seconds"]
        if with_quality:
            columns.insert(0, "quality")
        columns = [column for column in columns if any(column in row for row in members)]
        labels = [printable(Path(row["file"]).name) for row in members]
        width = max(24, *map(len, labels))
        lines.append("  ".join([f"{name:<{width}}"] + [f"{c:>{max(8, len(c))}}" for c in columns]))
        for label, row in zip(labels, members):
            lines.append(_line(label, row, columns, width))
        if len(members) > 1:
            mean = {}
            for column in columns:
                values = [row[column] for row in members if math.isfinite(row.get(column, math.nan))]
                mean[column] = sum(values) / len(values) if values else math.nan
            lines.append(_line(f"mean of {len(members)}", mean, columns, width))
        lines.append("")
    return "\n".join(lines)


def _line(label: str, row: dict, columns: list[str], width: int) -> str:
    cells = [f"{row.get(c, math.nan):>{max(8, len(c))}.{0 if c == 'bytes' else 3}f}" for c in columns]
    return "  ".join([f"{label:<{width}}", *cells])
