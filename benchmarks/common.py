"""What the benchmarks of all kinds of signal share: points on disk, means, BD-rates, plots.

A point is one file, coded by one codec at one setting, and decoded again from these bytes. Points
are appended to points.csv as they come, and a point that is there is not measured again: its key
is the file's name and checksum, codec, setting, and the codec's version (for this codec: checkpoint,
entropy coder, device, seed and search). summary.csv, bd_rate.md and the plots are made from the points of all
files at one setting; a setting that lacks some files is left out of them, and named. Means and BD-rates
have 95 % bootstrap intervals over the files (`intervals.py`), and wins.csv says on how many files each
codec needs fewer bits than this one. With --coded the coded files are kept too, so that another
yardstick need not encode again.

Seconds are wall-clock time of one file in one process, including the start of an external program.
"""

import argparse
import bisect
import csv
import hashlib
import json
import logging
import math
import sys
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data import Kind, kind_of
from data.corpora import default_dataroot
from models.config import QUALITIES
from options.base_options import Parser, in_range
from utils.batch.conditions import caption, check_conditions, conditions_of, note_conditions, over_all_runs
from utils.batch.inputs import Item, find_inputs
from utils.codec.fingerprint import shipped
from utils.console import fail, pick_device
from utils.entropy import CODERS
from utils.files import replacing
from utils.metrics import bd_rate
from utils.search.config import METHODS, OBJECTIVES, SearchConfig, preset

from .intervals import Interval, interval, mean, resample, weighted_means

log = logging.getLogger(__name__)

OURS = "bpgan"
MIN_OVERLAP = 0.25  # of the shorter curve's qualities; a BD-rate over less says nothing
KEY = ("file", "crc32", "codec", "setting", "version")


class Missing(Exception):
    """A codec cannot run here; the message says what would bring it."""


@dataclass(frozen=True)
class Coded:
    """A coded signal."""

    data: bytes  # the whole file
    n_bytes: int | None = None  # what its rate is counted from, if not the whole file

    @property
    def counted(self) -> int:
        return len(self.data) if self.n_bytes is None else self.n_bytes


@dataclass(frozen=True)
class Codec:
    """A codec at all settings that are measured: one curve."""

    name: str
    label: str
    settings: tuple[str, ...]  # from low to high rate
    version: str
    encode: Callable[[np.ndarray, str], Coded]  # (signal, setting)
    decode: Callable[[bytes, str], np.ndarray]  # (whole file, setting) -> signal
    # (original, decoded) -> decoded, in place and of the original's length
    finish: Callable[[np.ndarray, np.ndarray], np.ndarray] = lambda original, decoded: decoded
    ours: bool = False
    cost: str = ""  # of decoding, if it is known
    fingerprint: str = ""  # of this codec's checkpoint
    scale: tuple[str, ...] = ()  # all settings it can be brought to a size with, if more than `settings`
    # (name, version) of the codec whose coded files these are, where only decoding differs
    coded_as: tuple[str, str] | None = None
    alone: dict = field(default_factory=dict, compare=False)  # options by which `own_codecs` makes no other one


@dataclass(frozen=True)
class Measure:
    """A quality measure that is plotted and compared."""

    column: str
    label: str
    scale: Callable[[float], float] = float  # of a mean, for curves and BD-rates


@dataclass(frozen=True)
class Curve:
    """Means of one codec over all files, or a published curve."""

    label: str
    points: list[dict]  # rate unit and measures
    group: str  # "ours", "others", "published"
    rows: tuple[list[dict], ...] = ()  # of each point the rows of its files, in the same order; published: none


@dataclass(frozen=True)
class Benchmark:
    """A kind of signal: who takes part, and what is compared."""

    kind: Kind
    output: Path  # where results go by default
    codecs: dict[str, Callable]  # name -> options -> [Codec]; may raise Missing
    measures: tuple[Measure, ...]
    references: tuple[str, ...]  # BD-rates are taken against these codecs or published curves
    published: Path
    rate_ticks: tuple[float, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        return (
            *KEY,
            "bytes",
            "file_bytes",
            self.kind.rate_unit,
            *self.kind.metric_names,
            "encode_seconds",
            "decode_seconds",
        )


# -- options ---------------------------------------------------------------------------------------


class BenchmarkParser(Parser):
    """A Parser that finds the weights: without --checkpoint those for the objective, where all searches have one."""

    def __init__(self, description: str, kind: str):
        """`kind`: of signal, where no --signal says it."""
        super().__init__(description)
        self.kind = kind

    def parse(self, argv: list[str] | None) -> argparse.Namespace:
        options = super().parse(argv)
        if options.checkpoint is None:
            objective, *others = set(options.objective)
            options.checkpoint = shipped(getattr(options, "signal", self.kind), None if others else objective)
        return options


def benchmark_parser(benchmark: Benchmark, description: str) -> Parser:
    """Options of a benchmark; --codecs only where it names some."""
    parser = BenchmarkParser(description, benchmark.kind.name)
    add = parser.add_argument
    parser.add_inputs("files or folders; without it, the test set below the folder that BPGAN_DATA names is taken")
    add("--output", type=Path, default=benchmark.output, metavar="DIR", help="where points, tables and plots go")
    add(
        "--checkpoint",
        type=Path,
        default=None,
        metavar="FILE",
        help="trained weights of this codec; without it, those in checkpoints/ for the objective are used",
    )
    add(
        "--iterations",
        type=in_range(int, 0, 100000),
        nargs="+",
        default=[0, 25, 100],
        help="numbers of iterations of this codec's search, which get a curve each; 0: no search",
    )
    add("--search", choices=METHODS, nargs="+", default=["admm"], help="methods of this codec's search")
    add(
        "--objective",
        choices=OBJECTIVES,
        nargs="+",
        default=["mse"],
        help="distortions of this codec's search, which get a curve each",
    )
    add(
        "--quality",
        type=in_range(float, 1, QUALITIES),
        nargs="+",
        default=list(range(1, QUALITIES + 1)),
        help="qualities of this codec",
    )
    if benchmark.codecs:
        add(
            "--codecs",
            nargs="+",
            choices=tuple(benchmark.codecs),
            default=list(benchmark.codecs),
            help=f"who takes part; {OURS} is this codec",
        )
    add(
        "--entropy_coder",
        choices=CODERS,
        default=None,
        help="of this codec; without it, the checkpoint's own choice is used",
    )
    add(
        "--realism",
        type=in_range(float, 0.0, 1.0),
        nargs="+",
        default=[0.0],
        help="realism of this codec's decoder, which gets a curve each",
    )
    add(
        "--search_realism",
        type=in_range(float, 0.0, 1.0),
        nargs="+",
        default=[0.0],
        help="realism of the generator that this codec's search goes through, which gets a curve each",
    )
    add("--limit", type=in_range(int, 1, 10**9), default=None, help="only the first files")
    add(
        "--coded",
        type=Path,
        default=None,
        metavar="DIR",
        help="where coded files are kept and taken from; without it, each yardstick encodes for itself",
    )
    add("--tables_only", action="store_true", help="measure nothing: tables and plots of the points that are there")
    return parser


# -- this codec ------------------------------------------------------------------------------------


def own_codecs(options) -> list[Codec]:
    """This codec, a curve for each number of iterations. Raises ValueError, OSError for the checkpoint."""
    from models.complexity import multiply_adds  # these load PyTorch, which the other codecs do without
    from utils.codec.codec import load_codec
    from utils.codec.settings import Settings

    device = pick_device(options.device)
    codec = load_codec(options.checkpoint, device)
    coder = options.entropy_coder or codec.default_coder
    version = f"{codec.fingerprint.hex()} {coder} {device.type} seed {options.seed}"
    settings = tuple(f"{quality:g}" for quality in sorted(set(options.quality)))

    cost = f"{multiply_adds(codec.config)['generator'] / 1000:.1f}"

    # Compilation and the device's start belong to no file.
    sample = codec.kind.read(codec.kind.samples()[0])
    codec.decompress(
        codec.compress(sample, 3, Settings.of(iterations=min(1, max(options.iterations)), entropy_coder=coder))
    )

    def of(search: SearchConfig, through: float, realism: float) -> Codec:
        usual = ("admm" if search.iterations else "none", "mse")
        words = [word for word, left_out in zip((search.method, search.objective), usual) if word != left_out]
        name = "-".join([OURS, *words, str(search.iterations)])
        text = f"{search.iterations} iteration{'s' * (search.iterations != 1)}" if search.iterations else "no search"
        label = ", ".join(["BPGAN", *words, text])
        # points of another version's search settings are not this one's
        own = version
        if search.iterations:
            own += f" search {zlib.crc32(repr(search).encode()):08x}"
            # What it finds depends on how it computes, by a little; points of before are of the usual way.
            own += f" by {arithmetic}" if (arithmetic := codec.tiled_search.searchable(through).arithmetic) else ""
        if search.objective == "perceptual":  # steered by the discriminator, which the fingerprint leaves out
            own += f" checkpoint {codec.digest[:16]}"
        if through:
            name, label = f"{name}-through{through:g}", f"{label} through realism {through:g}"
            own += f" through realism {through:g} {codec.digest[:16]}"
        coded_as = (name, own)
        if realism:  # the fingerprint leaves the realistic generator out
            name, label = f"{name}-realism{realism:g}", f"{label}, realism {realism:g}"
            own += f" realism {codec.digest[:16]}"
        return Codec(
            name,
            label,
            settings,
            own,
            lambda signal, setting: Coded(
                codec.compress(signal, float(setting), Settings(search, coder, options.seed, realism=through))
            ),
            lambda data, _: codec.decompress(data, realism),
            ours=True,
            cost=cost,
            fingerprint=codec.fingerprint.hex(),
            coded_as=coded_as,
            alone=dict(
                iterations=[search.iterations],
                search=[search.method],
                objective=[search.objective],
                search_realism=[through],
                realism=[realism],
            ),
        )

    searches = [preset("none", objective=codec.config.objective)] if 0 in options.iterations else []
    searches += [
        preset(method, iterations, objective)
        for objective in options.objective
        for method in options.search
        for iterations in sorted(set(options.iterations))
        if iterations and method != "none"
    ]
    if any([*options.realism, *options.search_realism]) and not codec.has_realistic:
        raise ValueError(f"{options.checkpoint} has no realistic generator; leave --realism and --search_realism at 0")
    return [
        of(search, through, realism)
        for search in searches
        for through in (sorted(set(options.search_realism)) if search.iterations else [0.0])
        for realism in sorted(set(options.realism))
    ]


# -- the conditions of a run -----------------------------------------------------------------------


def note_run(benchmark: Benchmark, codecs: Iterable[Codec], options) -> dict:
    """Adds this run to conditions.json in --output; -> its conditions, with this codec's checkpoint if it takes part.

    CPU and threads are those of all runs there, since points of earlier ones stand in the tables, too. With --tables_only
    nothing is added: conditions.json is of the runs that measured. Raises ValueError where there is such a file of
    another program.
    """
    check_conditions(options.output)
    checkpoints = [
        {"signal": benchmark.kind.name, "file": options.checkpoint.name, "fingerprint": fingerprint}
        for fingerprint in dict.fromkeys(codec.fingerprint for codec in codecs if codec.ours)
    ]
    conditions = conditions_of(options, pick_device(options.device), checkpoints)
    if not options.tables_only:
        note_conditions(options.output, conditions)
    return over_all_runs(options.output, conditions)


def inputs_of(benchmark: Benchmark, options) -> list[Path]:
    """The files and folders that are named, else the test set."""
    return options.input or [default_dataroot(benchmark.kind.name, "test")]


# -- other codecs at a given size ------------------------------------------------------------------


def at_size(codec: Codec, signal: np.ndarray, n_bytes: int) -> tuple[str, Coded]:
    """-> (setting, what it gives) of the smallest that counts at least `n_bytes`, else the largest there is.

    By bisection: where a codec's sizes do not rise with its settings all along, it may not be the very smallest.
    """
    settings = codec.scale or codec.settings
    coded = {}

    def is_enough(index: int) -> bool:
        coded[index] = codec.encode(signal, settings[index])
        return coded[index].counted >= n_bytes

    index = bisect.bisect_left(range(len(settings) - 1), True, key=is_enough)
    return settings[index], coded.get(index) or codec.encode(signal, settings[index])


# -- points on disk --------------------------------------------------------------------------------


class Points:
    """points.csv: rows are appended one by one; a torn last row is dropped when it is opened."""

    def __init__(self, path: Path, columns: tuple[str, ...]):
        """Raises ValueError if the file has other columns."""
        self.path, self.columns = path, columns
        self._rows: dict[tuple, dict] = {}
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        if lines and lines[0] != ",".join(columns) + "\n":
            raise ValueError(f"{path}: its columns are not those of this version; move the file away")
        whole = lines[:1]
        for line in lines[1:]:
            row = self._parse(line)
            if row is not None:
                self._rows[self.key(row)] = row
                whole.append(line)
        if not whole or len(whole) < len(lines):
            with replacing(path) as temporary:
                temporary.write_text("".join(whole or [",".join(columns) + "\n"]))

    def _parse(self, line: str) -> dict | None:
        """A row with its numbers as numbers; None if it is not whole."""
        cells = next(csv.reader([line]), [])
        if not line.endswith("\n") or len(cells) != len(self.columns):
            return None
        row = dict(zip(self.columns, cells))
        try:
            return {name: cell if name in KEY else float(cell) for name, cell in row.items()}
        except ValueError:
            return None

    @staticmethod
    def key(row: dict) -> tuple:
        return tuple(row[name] for name in KEY)

    def get(self, key: tuple) -> dict | None:
        return self._rows.get(key)

    def add(self, row: dict) -> None:
        with open(self.path, "a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(
                [f"{row[name]:.6g}" if isinstance(row[name], float) else row[name] for name in self.columns]
            )
        self._rows[self.key(row)] = row


# -- measuring -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """A file that is coded by all."""

    item: Item
    crc32: str

    def key(self, codec: Codec, setting: str) -> tuple:
        return self.item.stem.as_posix(), self.crc32, codec.name, setting, codec.version


def find_sources(benchmark: Benchmark, options) -> tuple[list[Source], int]:
    """-> (readable files, number of those that are not, which are named)."""
    sources, failures = [], 0
    inputs = inputs_of(benchmark, options)
    for item in find_inputs(inputs, lambda path: kind_of(path) == benchmark.kind.name)[: options.limit]:
        try:
            benchmark.kind.read(item.path)
            sources.append(Source(item, f"{zlib.crc32(item.path.read_bytes()):08x}"))
        except (ValueError, OSError) as error:
            failures += 1
            fail(error)
    if not sources:
        raise ValueError("none of the input files can be read")
    return sources, failures


def find_codecs(benchmark: Benchmark, names: Iterable[str], options) -> tuple[list[Codec], int]:
    """-> (codecs that can run here, number of those that fail). Missing programs are named, no failure."""
    codecs, failures = [], 0
    for name in names:
        try:
            codecs += benchmark.codecs[name](options)
        except Missing as missing:
            print(f"{name} is skipped: {missing}", file=sys.stderr)
        except (ValueError, OSError) as error:
            failures += 1
            fail(error, f"{name}: ")
    return codecs, failures


def coded_path(folder: Path, codec: Codec, setting: str, source: Source) -> Path:
    """Where a coded file is kept."""
    name, version = codec.coded_as or (codec.name, codec.version)
    key = "\n".join((*source.key(codec, setting)[:2], name, setting, version))
    return folder / name / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.coded"


def keep_coded(path: Path, coded: Coded) -> None:
    """The counted bytes in 8 bytes, then the coded file."""
    with replacing(path) as temporary:
        temporary.write_bytes(coded.counted.to_bytes(8, "little") + coded.data)


def read_coded(path: Path) -> Coded:
    """Invert `keep_coded`."""
    data = path.read_bytes()
    return Coded(data[8:], int.from_bytes(data[:8], "little"))


def coded_by(codec: Codec, setting: str, source: Source, original: np.ndarray, folder: Path | None) -> Coded:
    """The coded file that is kept in the folder; where there is none it is made, and kept."""
    path = folder and coded_path(folder, codec, setting, source)
    if path and path.exists():
        return read_coded(path)
    coded = codec.encode(original, setting)
    if path:
        keep_coded(path, coded)
    return coded


def timed_encoding(
    codec: Codec, setting: str, source: Source, original: np.ndarray, points: Points, folder: Path | None
) -> tuple[Coded, float]:
    """-> (coded file, seconds that it took), and keeps it in the folder, if one is given.

    Where only decoding differs from a codec whose point is there, file and seconds are that one's.
    """
    path = folder and coded_path(folder, codec, setting, source)
    if path and codec.coded_as and path.exists():
        name, version = codec.coded_as
        same = points.get((*source.key(codec, setting)[:2], name, setting, version))
        if same:
            return read_coded(path), same["encode_seconds"]
    started = time.perf_counter()
    coded = codec.encode(original, setting)
    seconds = time.perf_counter() - started
    if path:
        keep_coded(path, coded)
    return coded, seconds


def measure(kind: Kind, codec: Codec, setting: str, source: Source, points: Points, folder: Path | None = None) -> dict:
    """Encode, decode, score -> a row of points.csv; the coded file is kept in the folder, if one is given."""
    original = kind.read(source.item.path)
    coded, encode_seconds = timed_encoding(codec, setting, source, original, points, folder)
    decoding_at = time.perf_counter()
    decoded = codec.decode(coded.data, setting)
    decoded_at = time.perf_counter()
    return {
        **dict(zip(KEY, source.key(codec, setting))),
        "bytes": coded.counted,
        "file_bytes": len(coded.data),
        kind.rate_unit: kind.rate(coded.counted, kind.size(original)),
        **kind.score(original, codec.finish(original, decoded)),
        "encode_seconds": encode_seconds,
        "decode_seconds": decoded_at - decoding_at,
    }


def measure_all(
    codecs: list[Codec],
    sources: list[Source],
    points: Points,
    measure_one: Callable[[Codec, str, Source], dict],
    options,
) -> int:
    """Every point that is not there yet, setting by setting, with --tables_only none; -> number of failures."""
    todo = (
        []
        if options.tables_only
        else [
            (codec, setting, source)
            for codec in codecs
            for setting in codec.settings
            for source in sources
            if points.get(source.key(codec, setting)) is None
        ]
    )
    failures = 0
    for codec, setting, source in (bar := tqdm(todo, unit="point", file=sys.stderr, disable=not todo)):
        bar.set_description(f"{codec.name} {setting}", refresh=False)
        try:
            points.add(measure_one(codec, setting, source))
        except Exception as error:  # another codec's library may raise anything
            failures += 1
            fail(error, f"{codec.name} at {setting}, {source.item.path}: ")
            log.info("where it failed", exc_info=True)
    return failures


# -- means and comparisons -------------------------------------------------------------------------


def mean_curves(benchmark: Benchmark, codecs: list[Codec], sources: list[Source], points: Points) -> dict[str, Curve]:
    """Curves by codec name, of the settings at which every file was measured; others are named."""
    values = benchmark.columns[len(KEY) :]
    curves = {}
    for codec in codecs:
        means, files = [], []
        for setting in codec.settings:
            rows = [points.get(source.key(codec, setting)) for source in sources]
            lacking = rows.count(None)
            if lacking:
                print(
                    f"{codec.name} at {setting}: {lacking} of {len(rows)} files lack, left out of the means",
                    file=sys.stderr,
                )
                continue
            means.append(
                {
                    "codec": codec.name,
                    "setting": setting,
                    "files": len(rows),
                    **{name: mean([row[name] for row in rows]) for name in values},
                }
            )
            files.append(rows)
        if means:
            curves[codec.name] = Curve(codec.label, means, "ours" if codec.ours else "others", tuple(files))
    return curves


def published_curves(benchmark: Benchmark, sources: list[Source]) -> dict[str, Curve]:
    """The carried curves, if these are the files they were measured on; else none."""
    carried = json.loads(benchmark.published.read_text())
    if sorted(source.item.stem.name for source in sources) != sorted(carried["files"]):
        print(f"published figures are left out: they are of other files ({carried['data']})", file=sys.stderr)
        return {}
    curves = {}
    for name, entry in carried["curves"].items():
        lists = {
            column: entry[column]
            for column in (benchmark.kind.rate_unit, *benchmark.kind.metric_names)
            if column in entry
        }
        rows = [dict(zip(lists, row)) for row in zip(*lists.values())]
        curves[f"published {name}"] = Curve(f"{entry['label']} ({entry['source']})", rows, "published")
    return curves


def curve_values(curve: Curve, measure: Measure, rate_unit: str) -> tuple[list[float], list[float]]:
    """Rates and scaled qualities of the points that have both."""
    pairs = [
        (point[rate_unit], measure.scale(point[measure.column]))
        for point in curve.points
        if math.isfinite(point.get(measure.column, math.nan))
    ]
    return [rate for rate, _ in pairs], [quality for _, quality in pairs]


def compare(anchor: tuple[list, list], other: tuple[list, list]) -> float | None:
    """BD-rate; None where the curves share too little, or one has too few points or none of a measure."""
    if min(len(anchor[0]), len(other[0])) < 2:
        return None
    (low_a, high_a), (low_b, high_b) = ((min(quality), max(quality)) for _, quality in (anchor, other))
    if min(high_a, high_b) - max(low_a, low_b) < MIN_OVERLAP * min(high_a - low_a, high_b - low_b):
        return None
    try:
        return bd_rate(*anchor, *other)
    except ValueError:  # two points of one quality
        return None


def resampled_values(curve: Curve, measure: Measure, rate_unit: str, counts: np.ndarray) -> list[tuple[list, list]]:
    """`curve_values` of each resample of the files, counts (resamples, files)."""
    rates, qualities = (
        weighted_means(np.array([[row[column] for row in rows] for rows in curve.rows]), counts)
        for column in (rate_unit, measure.column)
    )
    return [
        (
            [rate for rate, quality in zip(*pair) if math.isfinite(quality)],
            [measure.scale(quality) for quality in pair[1] if math.isfinite(quality)],
        )
        for pair in zip(rates.tolist(), qualities.tolist())
    ]


def bd_interval(anchor: Curve, other: Curve, measure: Measure, rate_unit: str) -> Interval | None:
    """BD-rate with its interval over the files; None where `compare` has none.

    A published curve has no files, so that nothing beside it has an interval: drawn on one side alone, the files' own
    differences, which cancel on the same files, would stand in it.
    """
    change = compare(curve_values(anchor, measure, rate_unit), curve_values(other, measure, rate_unit))
    n_files = min(len(curve.rows[0]) if curve.rows else 0 for curve in (anchor, other))
    if change is None or n_files < 2:
        return None if change is None else Interval(change)
    counts = resample(n_files)
    pairs = zip(*(resampled_values(curve, measure, rate_unit, counts) for curve in (anchor, other)))
    drawn = (compare(*pair) for pair in pairs)
    return interval(change, [math.nan if value is None else value for value in drawn])


def bd_rows(benchmark: Benchmark, curves: dict[str, Curve]) -> list[dict]:
    """A row for each curve, reference and measure that can be compared: bd_rate.csv."""
    return [
        {
            "codec": name,
            "label": curve.label,
            "reference": reference,
            "reference_label": curves[reference].label,
            "measure": measure.column,
            "bd_rate": change.value,
            "bd_rate_low": change.low,
            "bd_rate_high": change.high,
        }
        for name, curve in curves.items()
        for reference in benchmark.references
        if reference in curves and name != reference
        for measure in benchmark.measures
        if (change := bd_interval(curves[reference], curve, measure, benchmark.kind.rate_unit)) is not None
    ]


def win_rows(benchmark: Benchmark, curves: dict[str, Curve]) -> list[dict]:
    """Every other codec against each curve of ours, file by file: wins.csv.

    The BD-rate of the other codec over ours is taken on every file alone. It wins where it needs fewer bits.
    """
    rows, unit = [], benchmark.kind.rate_unit

    def of_file(curve: Curve, measure: Measure, index: int):
        points = [files[index] for files in curve.rows]
        return curve_values(Curve(curve.label, points, curve.group), measure, unit)

    for own_name, ours in curves.items():
        if ours.group != "ours":
            continue
        for name, other in curves.items():
            if other.group != "others":
                continue
            for measure in benchmark.measures:
                changes = [
                    change
                    for index in range(len(ours.rows[0]))
                    if (change := compare(of_file(ours, measure, index), of_file(other, measure, index))) is not None
                ]
                if changes:
                    quartiles = np.percentile(changes, (25, 50, 75))
                    rows.append(
                        {
                            "codec": name,
                            "label": other.label,
                            "reference": own_name,
                            "reference_label": ours.label,
                            "measure": measure.column,
                            "files": len(changes),
                            "wins_percent": 100 * sum(change < 0 for change in changes) / len(changes),
                            **dict(zip(("bd_rate_25", "bd_rate_50", "bd_rate_75"), quartiles.tolist())),
                        }
                    )
    return rows


def bd_table(benchmark: Benchmark, curves: dict[str, Curve]) -> str:
    """A Markdown table: mean rate difference of each curve against each reference, by measure."""
    unit = benchmark.kind.rate_unit
    columns = [
        (reference, measure)
        for reference in benchmark.references
        if reference in curves
        for measure in benchmark.measures
    ]
    header = ["", unit, *(f"{measure.label} against {curves[reference].label}" for reference, measure in columns)]
    changes = {(row["codec"], row["reference"], row["measure"]): row for row in bd_rows(benchmark, curves)}
    rows = []
    for name, curve in curves.items():
        rates = [point[unit] for point in curve.points]
        cells = [curve.label, f"{min(rates):.3g} to {max(rates):.3g}"]
        for reference, measure in columns:
            row = changes.get((name, reference, measure.column))
            cells.append("0" if name == reference else "" if row is None else bd_cell(row))
        rows.append(cells)
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def bd_cell(row: dict) -> str:
    """A BD-rate and its interval as tables show them."""
    low, high = row["bd_rate_low"], row["bd_rate_high"]
    bounds = f" ({low:+.1f} to {high:+.1f})" if math.isfinite(low) else ""
    return f"{row['bd_rate']:+.1f} %{bounds}"


def times_table(codecs: list[Codec], curves: dict[str, Curve]) -> str:
    """A Markdown table: mean seconds of a file, over all settings, and the generator's cost."""
    lines = [
        "| | seconds to encode | to decode | generator, thousand multiply-adds per picture sample |",
        "|---|---:|---:|---:|",
    ]
    for codec in codecs:
        if codec.name in curves:
            seconds = [
                mean([point[name] for point in curves[codec.name].points])
                for name in ("encode_seconds", "decode_seconds")
            ]
            lines.append(f"| {codec.label} | {seconds[0]:.3f} | {seconds[1]:.3f} | {codec.cost} |")
    return "\n".join(lines) + "\n"


def write_rows(path: Path, rows: list[dict]) -> None:
    """A CSV file of rows that all have the first one's columns; without rows no file, nor one of before."""
    if not rows:
        path.unlink(missing_ok=True)
        return
    with replacing(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def summary_rows(benchmark: Benchmark, curves: dict[str, Curve]) -> list[dict]:
    """A row for each codec and setting: means, and the intervals of rate and measures."""
    rows = []
    for curve in curves.values():
        for point, files in zip(curve.points, curve.rows):
            row = {"codec": point["codec"], "label": curve.label}
            for name, value in point.items():
                row[name] = value
                if name in (benchmark.kind.rate_unit, *benchmark.kind.metric_names):
                    values = np.array([[each[name] for each in files]])
                    bounds = interval(value, weighted_means(values, resample(len(files)))[:, 0])
                    row |= {f"{name}_low": bounds.low, f"{name}_high": bounds.high}
            rows.append(row)
    return rows


# -- plots -----------------------------------------------------------------------------------------

_OURS_COLORS = ("#f4a582", "#e4572e", "#a8201a", "#67000d")
_MARKERS = "osD^v"


def plot(path: Path, benchmark: Benchmark, measure: Measure, curves: dict[str, Curve], title: str) -> None:
    """Quality over rate (logarithmic): this codec strong, others thin, published curves dashed."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    unit = benchmark.kind.rate_unit
    drawn = {name: curve_values(curve, measure, unit) for name, curve in curves.items()}
    drawn = {name: values for name, values in drawn.items() if values[0]}
    measured = [values for name, values in drawn.items() if curves[name].group != "published"]
    if not measured:
        return
    figure = Figure(figsize=(10.5, 6.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    counts = {"ours": 0, "others": 0, "published": 0}
    for name, (rates, qualities) in drawn.items():
        group = curves[name].group
        index = counts[group]
        counts[group] += 1
        style = {
            "ours": dict(
                color=_OURS_COLORS[index % len(_OURS_COLORS)],
                linewidth=2.8,
                marker=_MARKERS[index // len(_OURS_COLORS) % len(_MARKERS)],
                markersize=6,
                zorder=3,
            ),
            "others": dict(
                color=colormaps["tab10" if index < 10 else "Dark2"](index % 10),
                linewidth=1.1,
                marker=_MARKERS[index % len(_MARKERS)],
                markersize=3.5,
                zorder=2,
            ),
            "published": dict(
                color=colormaps["Dark2"](index % 8),
                linewidth=1,
                linestyle=(0, (5, 3) if index < 8 else (1, 2)),
                marker="" if len(rates) > 2 else "x",
                markersize=5,
                alpha=0.85,
                zorder=1,
            ),
        }[group]
        axes.plot(rates, qualities, label=curves[name].label, **style)

    low, high = (pick(rate for rates, _ in measured for rate in rates) for pick in (min, max))
    bottom, top = (pick(quality for _, qualities in measured for quality in qualities) for pick in (min, max))
    margin = 0.04 * (top - bottom) or 1
    axes.set(
        xscale="log",
        xlim=(low / 1.08, high * 1.08),
        ylim=(bottom - margin, top + margin),
        xlabel=unit,
        ylabel=measure.label,
    )
    axes.set_title(title, fontsize=9)
    ticks = [tick for tick in benchmark.rate_ticks if low / 1.08 <= tick <= high * 1.08]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(color="#e4e4e4", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", frameon=False, fontsize=9)
    with replacing(path) as temporary:
        figure.savefig(temporary)


# -- all together ----------------------------------------------------------------------------------


def report(
    benchmark: Benchmark, codecs: list[Codec], sources: list[Source], points: Points, output: Path, about: str
) -> None:
    """summary.csv, bd_rate.md and the plots from the points that are there; `about` names files, weights and machine."""
    measured = mean_curves(benchmark, codecs, sources, points)
    if not measured:
        return
    write_rows(output / "summary.csv", summary_rows(benchmark, measured))
    curves = measured | published_curves(benchmark, sources)
    write_rows(output / "bd_rate.csv", bd_rows(benchmark, curves))
    write_rows(output / "wins.csv", win_rows(benchmark, curves))
    table = bd_table(benchmark, curves)
    text = (
        "Mean rate difference at equal quality (BD-rate; negative: fewer bits), each over the qualities that both "
        f"curves cover, empty if those are under {MIN_OVERLAP:.0%} of the shorter curve. In parentheses: 95 % "
        f"bootstrap intervals over the files. {about}.\n\n"
        f"{table}\nMeans over files and settings, on this machine with what else ran on it:\n\n"
        f"{times_table(codecs, measured)}"
    )
    with replacing(output / "bd_rate.md") as temporary:
        temporary.write_text(text)
    print(text)
    try:
        for each in benchmark.measures:
            plot(
                output / f"{each.column}.png",
                benchmark,
                each,
                curves,
                f"Means over {about}\nmeasured here unless a source is named",
            )
    except ImportError:
        print("plots are skipped: pip install matplotlib", file=sys.stderr)
    print(f"{output}: points.csv, summary.csv, bd_rate.csv, bd_rate.md, wins.csv, plots")


def run(benchmark: Benchmark, options) -> int:
    """-> exit code: 1 if a file or a codec failed, 130 if interrupted; what is measured is kept."""
    sources, unreadable = find_sources(benchmark, options)
    codecs, broken = find_codecs(benchmark, options.codecs, options)
    points = Points(options.output / "points.csv", benchmark.columns)
    conditions = note_run(benchmark, codecs, options)
    interrupted, failures = False, 0
    try:
        failures = measure_all(
            codecs, sources, points, lambda *point: measure(benchmark.kind, *point, points, options.coded), options
        )
    except KeyboardInterrupt:
        interrupted = True
        print("interrupted; the points so far are kept, the same command goes on from them", file=sys.stderr)
    about = caption(conditions, len(sources), inputs_of(benchmark, options))
    report(benchmark, codecs, sources, points, options.output, about)
    return 130 if interrupted else 1 if unreadable or broken or failures else 0
