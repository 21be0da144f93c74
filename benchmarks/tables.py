"""Tables of the documentation, from the CSV files that the benchmarks wrote.

    python -m benchmarks.tables                              # docs/results.md from docs/measured/
    python -m benchmarks.tables --input results/benchmarks   # takes what was measured into docs/measured/ first

A table stands between two comments. The first says where its rows come from, and which:

    <!-- table images/summary codec=bpgan-0 columns=setting,bpp,psnr_db -->
    <!-- end of table -->

`images/summary` is docs/measured/images/summary.csv. `NAME=VALUE` keeps the rows whose column NAME has one of the
values, which commas separate. `columns` names the columns; a column NAME beside which NAME_low and NAME_high exist is
shown with its interval. `rows` and `across` make a table of two directions: a row for each value of one column, a
column for each value of another, and `columns` in the cells. A test compares the page with the files.
"""

import csv
import math
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from options.base_options import Parser
from utils.batch.page import heading
from utils.files import replacing

DOCS = Path(__file__).resolve().parent.parent / "docs"
MEASURED = "measured"  # beside the page
BLOCK = re.compile(r"(<!-- table (.*?) -->\n).*?(<!-- end of table -->)", re.S)
# Headings and formats of columns that the page of `utils/batch/page.py` does not have.
HEADINGS = {
    "label": ("", ""),
    "setting": ("setting", ""),
    "reference_label": ("against", ""),
    "measure": ("measure", ""),
    "cores": ("cores", ""),
    "files": ("files", ""),
    "pairs": ("pairs", ""),
    "size": ("megapixels or seconds", "g"),
    "encode_seconds": ("seconds to encode", ".2f"),
    "decode_seconds": ("seconds to decode", ".2f"),
    "encode_mib": ("MiB to encode", ".0f"),
    "decode_mib": ("MiB to decode", ".0f"),
    "bd_rate": ("BD-rate, %", "+.1f"),
    "bd_rate_25": ("quarter of the files below, %", "+.0f"),
    "bd_rate_50": ("median, %", "+.0f"),
    "bd_rate_75": ("quarter above, %", "+.0f"),
    "wins_percent": ("files won, %", ".0f"),
    "wer": ("WER, %", ".1f"),
    "dwer": ("dWER, %", ".1f"),
    "speaker_similarity": ("speaker similarity", ".3f"),
    "sig": ("SIG", ".2f"),
    "bak": ("BAK", ".2f"),
    "ovrl": ("OVRL", ".2f"),
    "accuracy": ("accuracy, %", ".1f"),
    "agreement": ("agreement with the original, %", ".1f"),
    "feature_distance": ("feature distance", ".4f"),
    "lpips": ("LPIPS", ".3f"),
    "dists": ("DISTS", ".3f"),
    "frechet": ("Fréchet distance", ".2f"),
}


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file. Raises ValueError without one."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; python -m benchmarks.tables --input DIR brings it") from None


def cell(row: dict, column: str) -> str:
    """A value with its interval, as its column is rounded; what is no number stays as it is."""
    text = str(row.get(column, ""))
    _, rounding = HEADINGS.get(column) or heading(column)
    try:
        found = (row.get(f"{column}{end}", "") for end in ("", "_low", "_high"))
        value, low, high = (math.nan if number in ("", None) else float(number) for number in found)
    except ValueError:
        return text
    if not rounding or not math.isfinite(value):
        return "" if text == "nan" else text
    bounds = f" ({low:{rounding}} to {high:{rounding}})" if math.isfinite(low) else ""
    return f"{value:{rounding}}{bounds}"


def markdown(lines: list[list[str]]) -> str:
    """A Markdown table: the first line is the head; the first column is text."""
    lines = [lines[0], ["---"] + ["---:"] * (len(lines[0]) - 1), *lines[1:]]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def simple(rows: list[dict], columns: Sequence[str]) -> str:
    """A Markdown table of these columns, a line for each row."""
    heads = [(HEADINGS.get(column) or heading(column))[0] for column in columns]
    return markdown([heads, *([cell(row, column) for column in columns] for row in rows)])


def parsed(text: str) -> list[list[list[str]]]:
    """The tables of a Markdown text -> for each its lines of cells, without the line below the head."""
    found = re.findall(r"(?:^\|.*\|\n?)+", text, re.M)
    lines = ([[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()] for block in found)
    return [[line for index, line in enumerate(block) if index != 1] for block in lines]


def table(spec: str, folder: Path) -> str:
    """What stands between the comments. Raises ValueError for a table that cannot be made."""
    name, *words = spec.split()
    wanted = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign:
            raise ValueError(f"table {name}: {word!r} is not NAME=VALUE")
        wanted[key] = value.split(",")
    rows = read_rows(folder / f"{name}.csv")
    columns, along, across = (wanted.pop(key, None) for key in ("columns", "rows", "across"))
    unknown = [key for key in [*wanted, *(columns or []), *(along or []), *(across or [])] if key not in rows[0]]
    if unknown or not columns:
        raise ValueError(f"table {name}: {', '.join(unknown) or 'columns'}: there are {', '.join(rows[0])}")
    rows = [row for row in rows if all(row[key] in values for key, values in wanted.items())]
    if not rows:
        raise ValueError(f"table {name}: no row has {' '.join(words)}")
    if not across:
        return simple(rows, columns)
    places = list(dict.fromkeys(tuple(row[key] for key in across) for row in rows))
    lines: dict[tuple, dict[tuple, str]] = {}
    for row in rows:
        line = lines.setdefault(tuple(row[key] for key in along), {})
        line[tuple(row[key] for key in across)] = " / ".join(cell(row, column) + unit_of(column) for column in columns)
    heads = [*(HEADINGS[key][0] for key in along), *(" against ".join(map(named, place)) for place in places)]
    return markdown([heads, *([*names, *(line.get(place, "") for place in places)] for names, line in lines.items())])


def unit_of(column: str) -> str:
    """What follows a value where its heading, which has the unit, is not shown."""
    unit = HEADINGS.get(column, ("",))[0].partition(", ")[2]
    return f" {unit}" if unit else ""


def named(value: str) -> str:
    """A measure or a codec in a heading."""
    return heading(value)[0].removesuffix(" (dB)")


def rewritten(text: str, folder: Path) -> str:
    """A page with its tables made anew. Raises ValueError as `table` does."""
    return BLOCK.sub(lambda block: f"{block[1]}\n{table(block[2], folder)}\n{block[3]}", text)


def take(measured: Path, folder: Path) -> list[Path]:
    """Copy the tables that the benchmarks wrote below a folder, but not their points -> what was copied."""
    found = [path for path in sorted(measured.glob("*/*.csv")) if path.name != "points.csv"]
    if not found:
        raise ValueError(f"{measured}: no tables in it; python -m benchmarks.all --output {measured} writes them")
    for path in found:
        with replacing(folder / path.relative_to(measured)) as temporary:
            shutil.copyfile(path, temporary)
    return found


def run(options) -> int:
    folder = options.page.parent / MEASURED
    text = options.page.read_text()
    if options.input:
        for path in take(options.input, folder):
            print(f"{folder / path.relative_to(options.input)}")
    new = rewritten(text, folder)
    with replacing(options.page) as temporary:
        temporary.write_text(new)
    print(f"{options.page}: {len(BLOCK.findall(new))} tables")
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = Parser("Tables of the documentation, from what was measured.")
    add = parser.add_argument
    add("--input", type=Path, default=None, metavar="DIR", help="what benchmarks.all wrote, else what the page has")
    add("--page", type=Path, default=DOCS / "results.md", metavar="FILE", help="the page whose tables are made")
    return parser.run(argv, run)


if __name__ == "__main__":
    sys.exit(main())
