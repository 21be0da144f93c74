"""What coding costs: seconds on one core and on two, peak memory and bytes, by the size of what is coded.

    python -m benchmarks.cost --signal image --megapixels 0.1 1 6 24
    python -m benchmarks.cost --signal speech --seconds 2 10 60 600

Each encoding and each decoding runs in a process of its own that may use so many cores and no more, whatever
library it calls. It loads what the codec needs and no more: PyTorch is in this codec's processes alone, and those that
decode have its decoder alone. Memory is the most that the process, or a program that it starts, held in a first run: with
Python, libraries and weights, but without what loading them took for a moment. Seconds are the median of --repeats runs
after that one, which compiles what is compiled; they are wall-clock time, so they are worth something on an idle
machine only.

Every size is made from the first input: a picture is scaled, a recording is repeated or cut. Sizes that would take a
codec longer than --longest, as its time at the size before says, are left out and named. Each codec runs
at one setting, the middle one of benchmarks.images and benchmarks.speech, and this codec at --quality. Points are
kept in points.csv, and cost.csv, cost.md and cost.png are made of them.
"""

import argparse
import ctypes
import dataclasses
import itertools
import math
import multiprocessing
import os
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from options.base_options import in_range
from utils.batch.conditions import caption
from utils.files import replacing
from utils.memory import keep_freed_memory

from . import common, tables
from .common import KEY, OURS, Codec, Coded, Points, Source, write_rows
from .search import BENCHMARKS
from .yardsticks import write_table

COLUMNS = ("bytes", "size", "encode_seconds", "decode_seconds", "encode_mib", "decode_mib")
SIZE_UNITS = {"image": "megapixels", "speech": "seconds"}
SPEECH_RATE = 16000  # Hz
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclasses.dataclass(frozen=True)
class Task:
    """What one process does; everything in it can be sent to one."""

    signal: str  # kind
    codec: str  # as in Benchmark.codecs
    options: argparse.Namespace  # that make this codec alone
    name: str  # of the codec itself
    setting: str
    source: Path
    size: float
    n_cores: int
    repeats: int
    data: bytes | None  # to decode; None: encode


# -- sizes -----------------------------------------------------------------------------------------


def sized(kind_name: str, signal: np.ndarray, size: float) -> np.ndarray:
    """A signal of so many megapixels or seconds: a picture is scaled, a recording is repeated or cut."""
    if kind_name == "speech":
        return np.resize(signal, max(1, round(size * SPEECH_RATE)))
    from PIL import Image

    factor = (size * 1e6 / (signal.shape[0] * signal.shape[1])) ** 0.5
    height, width = (max(1, round(side * factor)) for side in signal.shape[:2])
    return np.asarray(Image.fromarray(signal).resize((width, height), Image.Resampling.LANCZOS))


# -- a process -------------------------------------------------------------------------------------


def forget_peak() -> None:
    """The peak of this process's memory counts from here on, as Linux has it. Raises OSError where it does not."""
    ctypes.CDLL(None).malloc_trim(0)  # else what was freed before is held, and counts
    Path("/proc/self/clear_refs").write_text("5")


def peak_mib() -> float:
    """The most memory in MiB that this process held since `forget_peak`, or a program that it ran ever held.

    Its own is taken from Linux's VmHWM: ru_maxrss begins with that of the process that started this one. So does that of
    a program, which changes nothing in the larger of the two.
    """
    own = int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1])
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024


def loaded(task: Task) -> Callable[[], Coded | np.ndarray]:
    """What encodes or decodes, with all that it needs in memory. Raises ValueError, OSError."""
    if task.codec == OURS and task.data is not None:
        from utils.codec.decoder import load_decoder  # here, so that others' processes are without PyTorch

        decoder = load_decoder(task.options.checkpoint, task.options.device)
        return lambda: decoder.decompress(task.data, *task.options.realism)
    benchmark = BENCHMARKS[task.signal]
    codec = next(each for each in benchmark.codecs[task.codec](task.options) if each.name == task.name)
    if task.data is not None:
        return lambda: codec.decode(task.data, task.setting)
    signal = sized(task.signal, benchmark.kind.read(task.source), task.size)
    return lambda: codec.encode(signal, task.setting)


def _work(task: Task, pipe) -> None:
    """In a process of its own: encode or decode and send (coded, seconds, MiB), or the error."""
    if task.codec == OURS:
        keep_freed_memory()  # as its scripts do
    try:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: task.n_cores])
        code = loaded(task)
        forget_peak()
        result = code()
        mib, seconds = peak_mib(), []
        for _ in range(task.repeats):
            started = time.perf_counter()
            code()
            seconds.append(time.perf_counter() - started)
        pipe.send((result if task.data is None else None, statistics.median(seconds), mib))
    except Exception as error:  # whatever it is, the parent says it
        pipe.send(error if isinstance(error, ValueError | OSError) else ValueError(f"{type(error).__name__}: {error}"))


def in_process(task: Task) -> tuple[Coded | None, float, float]:
    """-> (what was coded, seconds, MiB). Raises ValueError, OSError as the work does."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(task.n_cores)))  # read when the libraries are loaded
    try:
        process = context.Process(target=_work, args=(task, there), daemon=True)
        process.start()
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    there.close()
    try:
        answer = here.recv()
    except EOFError:
        process.join()
        raise ValueError(f"its process ended with code {process.exitcode}; was there memory enough?") from None
    finally:
        if process.is_alive():
            process.join(5)
            process.terminate()
    if isinstance(answer, Exception):
        raise answer
    return answer


# -- points ----------------------------------------------------------------------------------------


def one_setting(codec: Codec) -> Codec:
    """A codec at its middle setting; this one keeps those it was asked for."""
    return codec if codec.ours else dataclasses.replace(codec, settings=(codec.settings[len(codec.settings) // 2],))


def placed(codec: Codec, size: float, n_cores: int) -> Codec:
    """The codec, whose points are those of one size and number of cores."""
    return dataclasses.replace(codec, version=f"{codec.version} size {size:g} cores {n_cores}".strip())


def measure(task: Task, key: tuple) -> dict:
    """A row of points.csv, by two processes. The task is to encode."""
    coded, encode_seconds, encode_mib = in_process(task)
    _, decode_seconds, decode_mib = in_process(dataclasses.replace(task, data=coded.data))
    values = (coded.counted, task.size, encode_seconds, decode_seconds, encode_mib, decode_mib)
    return {**dict(zip(KEY, key)), **dict(zip(COLUMNS, values))}


def stays(codec: Codec, points: Points, source: Source, sizes: tuple[float, float], cores: int, longest: float) -> bool:
    """Whether a codec is measured at the next of two sizes too: it took so long at the first that it would not be too long.

    Time grows as the size does. One that is left out is named; one that failed at the first size is tried again.
    """
    here = placed(codec, sizes[0], cores)
    rows = [row for setting in codec.settings if (row := points.get(source.key(here, setting)))]
    seconds = max((row["encode_seconds"] + row["decode_seconds"] for row in rows), default=0) * sizes[1] / sizes[0]
    if seconds > longest:
        print(
            f"{codec.name} is left out from {sizes[1]:g} on, with --cores {cores}: some {seconds:.0f} s, over "
            f"--longest {longest:g}",
            file=sys.stderr,
        )
    return seconds <= longest


# -- tables and plots ------------------------------------------------------------------------------


def plot(path: Path, rows: list[dict], ours: set[str], unit: str, about: str) -> None:
    """Seconds over size, encoding and decoding side by side: a color per codec, dashed lines for two cores and more.

    `ours` are the labels of this codec, whose lines are thick; `about` is the title.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.8), dpi=130, layout="constrained")
    labels = list(dict.fromkeys(row["label"] for row in rows))
    for axes, what in zip(figure.subplots(1, 2), ("encode", "decode")):
        for index, label in enumerate(labels):
            for cores in sorted({row["cores"] for row in rows}):
                mine = sorted(
                    (row["size"], row[f"{what}_seconds"])
                    for row in rows
                    if row["label"] == label and row["cores"] == cores
                )
                if mine:
                    axes.plot(
                        *zip(*mine),
                        color=colormaps["tab20"](index % 20),
                        linestyle="-" if cores == 1 else "--",
                        marker="o",
                        markersize=3.5,
                        linewidth=2.8 if label in ours else 1.1,
                        label=label if cores == min(row["cores"] for row in rows) else None,
                    )
        axes.set(xscale="log", yscale="log", xlabel=unit, ylabel=f"seconds to {what}")
        axes.grid(color="#e4e4e4", linewidth=0.7)
    figure.suptitle(about, fontsize=9)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def run(options) -> int:
    """-> exit code: 1 if a codec failed, 130 if interrupted; what is measured is kept."""
    benchmark = BENCHMARKS[options.signal]
    options.output = options.output or Path(f"results/benchmark_cost_{options.signal}")
    options.limit = 1
    unit = SIZE_UNITS[options.signal]
    sizes = options.megapixels if options.signal == "image" else options.seconds
    sources, failures = common.find_sources(benchmark, options)
    found, registered = [], {}
    for name in options.codecs if options.codecs is not None else benchmark.codecs:
        if name not in benchmark.codecs:
            raise ValueError(f"--codecs {name}: for {options.signal} there are {', '.join(benchmark.codecs)}")
        codecs, broken = common.find_codecs(benchmark, [name], options)
        failures += broken
        registered |= dict.fromkeys((codec.name for codec in codecs), name)
        found += map(one_setting, codecs)
    places: dict[tuple[str, str], tuple[float, int]] = {}

    def measure_one(codec: Codec, setting: str, source: Source) -> dict:
        size, cores = places[codec.name, codec.version]
        alone = argparse.Namespace(**{**vars(options), **codec.alone})
        task = Task(
            options.signal, registered[codec.name], alone, codec.name, setting, source.item.path, size, cores,
            options.repeats, data=None,
        )  # fmt: skip
        return measure(task, source.key(codec, setting))

    points = Points(options.output / "points.csv", (*KEY, *COLUMNS))
    conditions = common.note_run(benchmark, found, options)
    interrupted = False
    cells: dict[tuple[float, int], list[Codec]] = {}
    taking_part = dict.fromkeys(sorted(set(options.cores)), found)
    try:
        for size, next_size in itertools.pairwise([*sorted(set(sizes)), math.inf]):
            for cores, codecs in taking_part.items():
                cells[size, cores] = [placed(codec, size, cores) for codec in codecs]
                places |= {(codec.name, codec.version): (size, cores) for codec in cells[size, cores]}
                failures += common.measure_all(cells[size, cores], sources, points, measure_one, options)
                if next_size < math.inf:
                    taking_part[cores] = [
                        codec
                        for codec in codecs
                        if stays(codec, points, sources[0], (size, next_size), cores, options.longest)
                    ]
    except KeyboardInterrupt:
        interrupted = True
        print("interrupted; the points so far are kept, the same command goes on from them", file=sys.stderr)
    rows = [
        {"codec": codec.name, "label": codec.label, "setting": setting, "cores": cores}
        | {name: point[name] for name in COLUMNS}
        for (_, cores), codecs in cells.items()
        for codec in codecs
        for setting in codec.settings
        if (point := points.get(sources[0].key(codec, setting)))
    ]
    if rows:
        write_rows(options.output / "cost.csv", rows)
        about = caption(conditions, 1, common.inputs_of(benchmark, options))
        text = tables.simple(rows, ("label", "setting", "cores", *COLUMNS))
        write_table(options.output / "cost.md", f"{text}\nFrom {about}.\n")
        try:
            ours = {codec.label for codec in found if codec.ours}
            plot(options.output / "cost.png", rows, ours, unit, f"From {about}")
        except ImportError:
            print("the plot is skipped: pip install matplotlib", file=sys.stderr)
        print(f"{options.output}: points.csv, cost.csv, cost.md, cost.png")
    return 130 if interrupted else 1 if failures else 0


def main(argv: list[str] | None = None) -> int:
    parser = common.benchmark_parser(
        dataclasses.replace(BENCHMARKS["image"], codecs={}), "Seconds, memory and bytes by the size of the signal."
    )
    everyone = sorted({name for benchmark in BENCHMARKS.values() for name in benchmark.codecs})
    add = parser.add_argument
    add("--signal", choices=tuple(BENCHMARKS), required=True, help="kind of signal")
    add(
        "--codecs",
        nargs="+",
        choices=everyone,
        default=None,
        help=f"who takes part; without it, all do; {OURS} is this codec",
    )
    add(
        "--megapixels",
        type=in_range(float, 0.001, 1000),
        nargs="+",
        default=[0.1, 0.4, 1.5, 6, 24],
        help="sizes of the picture",
    )
    add(
        "--seconds",
        type=in_range(float, 0.1, 14400),
        nargs="+",
        default=[2, 10, 60, 600],
        help="lengths of the recording",
    )
    add("--cores", type=in_range(int, 1, 256), nargs="+", default=[1, 2], help="one or several")
    add(
        "--longest",
        type=in_range(float, 0.1, 1e6),
        default=60.0,
        help="seconds to encode and decode: a codec is left out at sizes that would take it longer",
    )
    add("--repeats", type=in_range(int, 1, 100), default=1, help="runs of which the median counts")
    parser.set_defaults(iterations=[0, 25], quality=[3.0], output=None)
    return parser.run(argv, run)


if __name__ == "__main__":
    sys.exit(main())
