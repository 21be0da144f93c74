"""What the search is worth: methods against each other at the same numbers of iterations.

    python -m benchmarks.search --signal image --crop 256 --limit 6 --quality 2 4 6

Whole files of every method, number of iterations and quality; BD-rate over the same model without
search (negative: fewer bits), and the mean seconds of an encoding. --crop takes the middle of every
picture (pixels) or recording (seconds), which makes the comparison affordable on a small machine.
"""

import copy
import dataclasses
import sys
from pathlib import Path

from options.base_options import in_range
from utils.batch.conditions import caption
from utils.files import replacing
from utils.search.config import METHODS

from . import common, images, speech
from .common import OURS, Benchmark, Curve

BENCHMARKS = {"image": images.BENCHMARK, "speech": speech.BENCHMARK}
SPEECH_RATE = 16000  # Hz


def cropped(benchmark: Benchmark, crop: float) -> Benchmark:
    """The same benchmark on the middle of every signal: crop x crop pixels, or so many seconds."""
    benchmark = dataclasses.replace(benchmark, kind=copy.copy(benchmark.kind))  # whose reader is changed below
    read = benchmark.kind.read

    def read_middle(path: Path):
        whole = read(path)
        limits = (crop, crop) if benchmark.kind.name == "image" else (crop * SPEECH_RATE,)
        parts = []
        for have, limit in zip(whole.shape, limits):
            take = min(have, int(limit))
            parts.append(slice((have - take) // 2, (have - take) // 2 + take))
        return whole[tuple(parts)]

    benchmark.kind.read = read_middle
    return benchmark


def comparison(benchmark: Benchmark, curves: dict[str, Curve]) -> list[dict]:
    """A row for each searched curve: label, seconds, and BD-rate over no search for every measure."""
    unit, anchor, rows = benchmark.kind.rate_unit, curves[f"{OURS}-0"], []
    for name, curve in curves.items():
        if name == f"{OURS}-0":
            continue
        row = {
            "curve": curve.label.removeprefix("BPGAN, "),
            "seconds": sum(point["encode_seconds"] for point in curve.points) / len(curve.points),
        }
        for measure in benchmark.measures:
            row[measure.column] = common.compare(
                common.curve_values(anchor, measure, unit), common.curve_values(curve, measure, unit)
            )
        rows.append(row)
    return rows


def plot(path: Path, benchmark: Benchmark, rows: list[dict], about: str) -> None:
    """BD-rate against seconds, a line for each method; one panel for each measure; `about` is their title."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(benchmark.measures), figsize=(11, 4.2), squeeze=False)
    for axis, measure in zip(axes[0], benchmark.measures):
        lines: dict[str, list] = {}
        for row in rows:
            words = row["curve"].split(", ")
            lines.setdefault(", ".join(words[:-1]) or "admm", []).append((row["seconds"], row[measure.column]))
        for label, points in lines.items():
            points = sorted(point for point in points if point[1] is not None)
            axis.plot(*zip(*points), marker="o", markersize=4, label=label) if points else None
        axis.axhline(0, color="gray", linewidth=0.8)
        axis.set_xscale("log")
        axis.set_xlabel("seconds to encode, mean")
        axis.set_ylabel(f"BD-rate over no search, % ({measure.label})")
        axis.grid(alpha=0.3)
    if axes[0][0].get_legend_handles_labels()[0]:  # of methods that were measured at all
        axes[0][0].legend()
    figure.suptitle(about, fontsize=9)
    figure.tight_layout()
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    plt.close(figure)


def run(options) -> int:
    benchmark = BENCHMARKS[options.signal]
    if options.crop:
        benchmark = cropped(benchmark, options.crop)
    if 0 not in options.iterations:
        options.iterations.append(0)
    options.output = options.output or Path(f"results/benchmark_search_{options.signal}")
    sources, failures = common.find_sources(benchmark, options)
    codecs = common.own_codecs(options)
    if options.crop:  # points of other parts of the files are not these
        codecs = [dataclasses.replace(codec, version=f"{codec.version} crop {options.crop:g}") for codec in codecs]
    points = common.Points(options.output / "points.csv", benchmark.columns)
    conditions = common.note_run(benchmark, codecs, options)
    failures += common.measure_all(
        codecs, sources, points, lambda *point: common.measure(benchmark.kind, *point, points), options
    )
    curves = common.mean_curves(benchmark, codecs, sources, points)
    if f"{OURS}-0" not in curves:
        raise ValueError("without the points of no search there is nothing to compare with")
    rows = comparison(benchmark, curves)
    names = [measure.label for measure in benchmark.measures]
    lines = [
        "| search | seconds | " + " | ".join(f"BD-rate, {name}" for name in names) + " |",
        "|---" + "|---:" * (1 + len(names)) + "|",
    ]
    for row in rows:
        cells = ["" if row[m.column] is None else f"{row[m.column]:+.1f} %" for m in benchmark.measures]
        lines.append(f"| {row['curve']} | {row['seconds']:.2f} | " + " | ".join(cells) + " |")
    about = caption(conditions, len(sources), common.inputs_of(benchmark, options))
    if options.crop:
        about += f"; the middle of each, {options.crop:g} {'pixels a side' if options.signal == 'image' else 'seconds'}"
    text = "\n".join([*lines, "", f"Means over {about}."]) + "\n"
    with replacing(options.output / "search.md") as temporary:
        temporary.write_text(text)
    print(text, end="")
    try:
        plot(options.output / "search.png", benchmark, rows, f"Means over {about}")
    except ImportError:
        print("the plot is skipped: pip install matplotlib", file=sys.stderr)
    return 1 if failures else 0


def main(argv: list[str] | None = None) -> int:
    parser = common.benchmark_parser(
        dataclasses.replace(images.BENCHMARK, codecs={}),  # none but this one
        "Methods of search against each other and against none.",
    )
    parser.add_argument("--signal", choices=tuple(BENCHMARKS), required=True, help="kind of signal")
    parser.add_argument(
        "--crop",
        type=in_range(float, 0.1, 1e6),
        default=None,
        help="only the middle of each signal: pixels a side, or seconds",
    )
    parser.set_defaults(
        search=[method for method in METHODS if method != "none"],
        iterations=[0, 10, 25, 50, 100, 250],
        quality=[2.0, 4.0, 6.0],
        output=None,
    )
    return parser.run(argv, run)


if __name__ == "__main__":
    sys.exit(main())
