"""What further yardsticks share: scores of decoded files by other networks, kept point by point, and their table.

A yardstick is a network, or a pair of them, that judges a decoded file: a recognizer of words, a
classifier of pictures. Its points are kept in points.csv as those of `common.py`, and their key holds
the yardstick's own version beside the codec's. A table has a row for each codec and setting at which
every file was judged, with 95 % bootstrap intervals over the files.

The networks come with packages of the extra `benchmarks` (pyproject.toml). The codec needs none of
them, and a yardstick whose package is missing says in one line what to install.
"""

import dataclasses
import hashlib
import io
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import numpy as np

from options.base_options import Parser, in_range
from utils.batch.conditions import caption
from utils.files import replacing

from . import tables
from .common import (
    KEY,
    Benchmark,
    Codec,
    Coded,
    Points,
    Source,
    benchmark_parser,
    coded_by,
    find_codecs,
    inputs_of,
    measure_all,
    note_run,
    write_rows,
)
from .intervals import interval, resample, weighted_means

ORIGINAL = "original"
EXTRA = "pip install -r benchmarks/requirements.txt"


@dataclass(frozen=True)
class Figure:
    """A column of a yardstick's table: a sum over files divided by another, or by their number."""

    numerator: str
    denominator: str | None = None
    scale: float = 1.0


@dataclass(frozen=True)
class Sample:
    """A decoded file that is judged."""

    source: Source
    key: tuple  # of its point
    original: np.ndarray
    decoded: np.ndarray


@dataclass(frozen=True)
class Yardstick:
    """How decoded files are judged."""

    benchmark: Benchmark
    version: str  # of the networks that judge, as a part of each point's key
    columns: tuple[str, ...]  # of a point
    figures: dict[str, Figure]  # of the table, by their name in the CSV file and in `tables.HEADINGS`
    score: Callable[[Sample], dict[str, float]]  # -> values of `columns`
    # Figures that are no sum over files: (original, codec, setting, sources) -> values and bounds by name.
    pooled_figures: tuple[str, ...] = ()
    pooled: Callable[[Codec, Codec, str, list[Source]], dict[str, float]] | None = None

    @property
    def point_columns(self) -> tuple[str, ...]:
        return (*KEY, "bytes", self.benchmark.kind.rate_unit, *self.columns)


def need(module: str, package: str | None = None) -> tuple[ModuleType, str]:
    """-> (a module of the extra, its package and version). Raises ValueError with what to install."""
    package = package or module.replace("_", "-")
    try:
        return import_module(module), f"{package} {version(package)}"
    except ImportError as error:
        raise ValueError(f"{package} cannot be loaded ({error}); {EXTRA}") from None


def digest(path: Path) -> str:
    """The first digits of the SHA-256 of a file of weights."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def the_original(benchmark: Benchmark) -> Codec:
    """The signal itself, counted in 8 bits per color or 16 bits per sample of sound: what the others are held against."""
    sample_bytes = {"image": 1, "speech": 2}[benchmark.kind.name]

    def encode(signal: np.ndarray, _) -> Coded:
        file = io.BytesIO()
        np.save(file, signal)
        return Coded(file.getvalue(), sample_bytes * signal.size)

    return Codec(
        ORIGINAL,
        f"original, {8 * sample_bytes} bit",
        (f"{8 * sample_bytes}-bit",),
        "",
        encode,
        lambda data, _: np.load(io.BytesIO(data), allow_pickle=False),
    )


def yardstick_parser(benchmark: Benchmark, description: str, n_settings: int) -> Parser:
    """Options of a yardstick: this codec without search at its lower qualities, the others' lowest settings."""
    parser = benchmark_parser(benchmark, description)
    parser.set_defaults(iterations=[0], quality=[1.0, 2.0, 3.0, 4.0, 5.0])
    parser.add_argument(
        "--lowest",
        type=in_range(int, 1, 100),
        default=n_settings,
        help="of the other codecs the settings of the lowest rates, how many",
    )
    return parser


def lowest(codecs: list[Codec], n_settings: int) -> list[Codec]:
    """The other codecs at their settings of the lowest rates alone: yardsticks of meaning say most there."""
    return [
        codec if codec.ours else dataclasses.replace(codec, settings=codec.settings[:n_settings]) for codec in codecs
    ]


def judged(codecs: list[Codec], yardstick: Yardstick) -> list[Codec]:
    """The codecs, whose points are this yardstick's."""
    return [
        dataclasses.replace(
            codec,
            version=f"{codec.version} {yardstick.version}".strip(),
            coded_as=codec.coded_as or (codec.name, codec.version),
        )
        for codec in codecs
    ]


def judge(yardstick: Yardstick, codec: Codec, setting: str, source: Source, coded_folder: Path | None) -> dict:
    """Encode (or take what is kept), decode, score -> a row of points.csv."""
    kind = yardstick.benchmark.kind
    original = kind.read(source.item.path)
    coded = coded_by(codec, setting, source, original, None if codec.name == ORIGINAL else coded_folder)
    decoded = codec.finish(original, codec.decode(coded.data, setting))
    return {
        **dict(zip(KEY, source.key(codec, setting))),
        "bytes": coded.counted,
        kind.rate_unit: kind.rate(coded.counted, kind.size(original)),
        **yardstick.score(Sample(source, source.key(codec, setting), original, decoded)),
    }


def table_rows(yardstick: Yardstick, codecs: list[Codec], sources: list[Source], points: Points) -> list[dict]:
    """A row for each setting at which every file was judged: rate, figures and their intervals.

    The first codec is the original.
    """
    rows = []
    unit = yardstick.benchmark.kind.rate_unit
    for codec in codecs:
        for setting in codec.settings:
            mine = [points.get(source.key(codec, setting)) for source in sources]
            if None in mine:
                continue
            row = {
                "codec": codec.name,
                "label": codec.label,
                "setting": setting,
                "files": len(mine),
                unit: sum(each[unit] for each in mine) / len(mine),
            }
            for name, figure in yardstick.figures.items():
                row |= figure_values(name, figure, mine)
            if yardstick.pooled:
                row |= yardstick.pooled(codecs[0], codec, setting, sources)
            rows.append(row)
    return rows


def figure_values(name: str, figure: Figure, rows: list[dict]) -> dict[str, float]:
    """A figure over the points of all files, with its bounds; files where it is nan do not count."""
    above = np.array([row[figure.numerator] for row in rows], dtype=float)
    below = np.array([1.0 if figure.denominator is None else row[figure.denominator] for row in rows])
    there = np.isfinite(above) & np.isfinite(below)
    both = np.where(there, [above, below], 0.0)

    def ratio(pair) -> float:
        return figure.scale * pair[0] / pair[1] if pair[1] else math.nan

    value = ratio(both.sum(axis=1))
    drawn = [ratio(pair) for pair in weighted_means(both, resample(len(rows)))]
    bounds = interval(value, drawn)
    return {name: bounds.value, f"{name}_low": bounds.low, f"{name}_high": bounds.high}


def table(yardstick: Yardstick, rows: list[dict]) -> str:
    """The Markdown table of a yardstick's rows."""
    columns = ("label", "setting", yardstick.benchmark.kind.rate_unit, *yardstick.figures, *yardstick.pooled_figures)
    return tables.simple(rows, columns)


def run(yardstick: Yardstick, sources: list[Source], options, name: str) -> tuple[list[dict], int]:
    """Judge every point that is not there yet and write NAME.csv and NAME.md -> (rows, exit code).

    Exit code 1: a codec or a point failed; 130: interrupted, what is measured is kept.
    """
    codecs, broken = find_codecs(yardstick.benchmark, options.codecs, options)
    codecs = judged([the_original(yardstick.benchmark), *lowest(codecs, options.lowest)], yardstick)
    points = Points(options.output / "points.csv", yardstick.point_columns)
    conditions = note_run(yardstick.benchmark, codecs, options)
    interrupted, failures = False, 0
    try:
        failures = measure_all(
            codecs,
            sources,
            points,
            lambda codec, setting, source: judge(yardstick, codec, setting, source, options.coded),
            options,
        )
    except KeyboardInterrupt:
        interrupted = True
        print("interrupted; the points so far are kept, the same command goes on from them", file=sys.stderr)
    rows = table_rows(yardstick, codecs, sources, points)
    if rows:
        write_rows(options.output / f"{name}.csv", rows)
        about = caption(conditions, len(sources), inputs_of(yardstick.benchmark, options))
        write_table(options.output / f"{name}.md", f"{table(yardstick, rows)}\nOver {about}.\n")
        print(f"{options.output}: points.csv, {name}.csv, {name}.md")
    return rows, 130 if interrupted else 1 if failures or broken else 0


def write_table(path: Path, text: str) -> None:
    """Write a table, and show it."""
    with replacing(path) as temporary:
        temporary.write_text(text)
    print(text)
