"""Many files in, many files out: what the scripts that code signals have in common."""

import csv
import errno
import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from data import KINDS, kind_class, kind_of
from utils import distributed
from utils.codec.bitstream import BitstreamError, kind_of_file, read_file, write_file
from utils.codec.checkpoint import CHECKPOINTS
from utils.console import fail
from utils.files import remove_leftovers, replacing

from .journal import Journal

SUFFIX = ".bpgan"
BATCH_BYTES = 1 << 23  # files that are opened at once, one alone may be larger
HOPELESS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # no other file of the batch would fare better


@dataclass(frozen=True)
class Item:
    """An input file and where its results go, below the output folder and without a suffix."""

    path: Path
    stem: Path


def find_inputs(inputs: list[Path], belongs: Callable[[Path], bool], results: Path | None = None) -> list[Item]:
    """Files named, and files below folders named for which `belongs` holds, sorted in each folder.

    Folder structure is kept. Files of one stem (a.png beside a.jpg) keep their suffix in the
    results' names; what still collides is numbered. `results` is a folder to which files that
    belong will be written: below an input folder it is left out. Raises ValueError for an input
    that does not exist, for an input folder that is `results`, or if there is nothing to do.
    """
    results = results.resolve() if results else None
    found: list[tuple[Path, Path]] = []
    for source in inputs:
        if source.is_dir():
            if source.resolve() == results:
                raise ValueError(f"--output {source} is an input folder: decoded files would mix with the originals")
            found += [
                (path, path.relative_to(source))
                for path in sorted(source.rglob("*"))
                if path.is_file()
                and belongs(path)
                and not any(part.startswith(".") for part in path.relative_to(source).parts)
                and not (results and results in path.resolve().parents)
            ]
        elif source.exists():
            found.append((source, Path(source.name)))
        else:
            raise ValueError(f"--input {source}: no such file or folder")
    if not found:
        raise ValueError(f"no files to work on in {', '.join(map(str, inputs))}")
    stems = Counter(name.with_suffix("") for _, name in found)
    taken: set[Path] = set()
    items = []
    for path, name in found:
        wanted = stem = name.with_suffix("") if stems[name.with_suffix("")] == 1 else name
        number = 2
        while stem in taken:
            stem, number = wanted.with_name(f"{wanted.name}-{number}"), number + 1
        taken.add(stem)
        items.append(Item(path, stem))
    return items


def prepare_output(output: Path, items: list[Item]) -> None:
    """Make the folder, see that it can be written to, and clear what a killed run left half-written.

    Raises OSError in the first place rather than after the first file's search.
    """
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=output):
        pass
    if distributed.world()[0] == 0:
        remove_leftovers(output / item.stem.parent for item in items)
        remove_leftovers([output])
    distributed.barrier()


def sample_files() -> list[Path]:
    """The built-in samples of every kind."""
    return [path for name in KINDS for path in kind_class(name)().samples()]


class Checkpoints:
    """The checkpoint of each kind of signal, loaded when first needed."""

    def __init__(self, paths: list[Path] | None, load: Callable[[Path], object]):
        self._load = load
        self._loaded: dict[str, object] = {}
        self._given = paths is not None
        if paths is not None:
            for path in paths:
                codec = load(path)
                self._loaded[codec.kind.name] = codec

    def of(self, kind: str):
        """Raises ValueError where there is none for this kind."""
        if kind not in self._loaded:
            if self._given:
                raise ValueError(f"none of the given checkpoints is for {kind}")
            self._loaded[kind] = self._load(CHECKPOINTS / f"{kind}.safetensors")
        return self._loaded[kind]

    def of_file(self, data: bytes):
        """The checkpoint for a .bpgan file, by the kind in its header. Raises BitstreamError."""
        code = kind_of_file(data)
        for name in KINDS:
            if kind_class(name).code == code:
                return self.of(name)
        raise BitstreamError(f"kind of signal {code} is unknown to this version")


# What work on some items gives, as it comes: an item's place among them, and its row or the error it met.
Outcomes = Iterator[tuple[int, dict | Exception]]


def run_batch(
    items: Iterable[Item], work: Callable[[list[Item]], Outcomes], description: str, batch_size: int = 1
) -> tuple[list[dict], int]:
    """Do this process's share of the items, `batch_size` at a time; -> (rows of all processes on the
    first one, failures).

    Rows are in the items' order. A file that fails is named on standard error and the others go
    on; where the disk is full they would all fail, so the batch ends and what is left of it counts
    as failed. KeyboardInterrupt ends the batch; the rows so far are returned by `Interrupted`.
    """
    rows, failures = [], 0
    mine = distributed.share(list(enumerate(items)))
    rank, _ = distributed.world()
    outcomes = (
        some[place] + (outcome,)
        for some in _runs(mine, batch_size)
        for place, outcome in work([item for _, item in some])
    )
    try:
        for done, (number, item, outcome) in enumerate(
            tqdm(outcomes, desc=description, total=len(mine), file=sys.stderr, disable=rank != 0 or len(mine) < 2)
        ):
            if not isinstance(outcome, Exception):
                rows.append((number, outcome))
                continue
            hopeless = isinstance(outcome, OSError) and outcome.errno in HOPELESS
            failures += len(mine) - done if hopeless else 1
            with tqdm.external_write_mode(sys.stderr):  # a line of its own, not the bar's
                fail(outcome, "" if str(item.path) in str(outcome) else f"{item.path}: ")
            if hopeless:
                break
    except KeyboardInterrupt:
        raise Interrupted(_in_order(rows)) from None
    gathered = distributed.gather((rows, failures))
    return _in_order([pair for part, _ in gathered for pair in part]), sum(count for _, count in gathered)


def _in_order(rows: list[tuple[int, dict]]) -> list[dict]:
    return [row for _, row in sorted(rows, key=lambda pair: pair[0])]


def _runs(pairs: list[tuple[int, Item]], batch_size: int) -> Iterator[list[tuple[int, Item]]]:
    """Runs of at most `batch_size` items, shorter where the files are large: all of a run are in memory."""
    some, size = [], 0
    for pair in pairs:
        mine = pair[1].path.stat().st_size if pair[1].path.is_file() else 0
        if some and (len(some) == batch_size or size + mine > BATCH_BYTES):
            yield some
            some, size = [], 0
        some, size = [*some, pair], size + mine
    if some:
        yield some


def one_by_one(work: Callable[[Item], dict]) -> Callable[[list[Item]], Outcomes]:
    """Work on single items, for `run_batch`."""
    return lambda items: ((place, attempt(work, item)) for place, item in enumerate(items))


def attempt(function: Callable, *arguments):
    """What the function returns, or the error that it meets in one file and that leaves the others alone."""
    try:
        return function(*arguments)
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _is_out_of_memory(error):
            raise
        # Without the frames it went through: they hold the signals and latents of what failed, and a retry needs the memory.
        return error.with_traceback(None)


def _is_out_of_memory(error: RuntimeError) -> bool:
    """PyTorch has a class of its own for this on a GPU, and only a text on a CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


class Interrupted(Exception):
    """The user stopped the batch; `rows` holds what was finished, in the items' order."""

    def __init__(self, rows: list[dict]):
        super().__init__("interrupted")
        self.rows = rows


@dataclass(frozen=True)
class _Job:
    """A signal that is to be coded."""

    item: Item
    codec: object
    original: object
    key: str  # in the journal
    targets: list[Path]  # the file, and what it decodes to


def code_files(
    items: list[Item], output: Path, codecs: Checkpoints, encode: Callable, journal: Journal, realism: float = 0.0
) -> Outcomes:
    """Encode signals, write them, decode the files from disk, write and measure that; -> their rows.

    `encode` is given a codec and signals and returns what `Codec.encode_batch` does, or errors in
    its places; where it gives them one by one, each is written before the next is coded. What the
    journal holds of an earlier run is not done again; its row says "reused".
    """
    opened = [attempt(_open, item, output, codecs, journal) for item in items]
    jobs: dict[object, list[int]] = {}
    for place, job in enumerate(opened):
        if isinstance(job, _Job):
            jobs.setdefault(job.codec, []).append(place)
        else:
            yield place, job
    for codec, places in jobs.items():
        for group in codec.together([opened[place].original for place in places]):
            some = [opened[places[member]] for member in group]
            encoded = attempt(encode, codec, [job.original for job in some])
            if isinstance(encoded, Exception):
                encoded = (
                    [encoded]
                    if len(some) == 1
                    else [  # whose fault it was shows when each is alone
                        attempt(lambda: encode(codec, [job.original])[0]) for job in some
                    ]
                )
            for member, job, result in zip(group, some, encoded):
                yield (
                    places[member],
                    (result if isinstance(result, Exception) else attempt(_finish, job, result, journal, realism)),
                )


def _open(item: Item, output: Path, codecs: Checkpoints, journal: Journal) -> _Job | dict:
    """What is to be done for a file, or its row where it is done."""
    kind = kind_of(item.path)
    if kind is None:
        known = ", ".join(sorted(suffix for name in KINDS for suffix in kind_class(name).suffixes))
        raise ValueError(f"{item.path}: suffix {item.path.suffix or '(none)'} is not one of {known}")
    codec = codecs.of(kind)
    kind = codec.kind
    key = journal.key(item.path, item.stem, codec.digest)
    finished = journal.find(key)
    if finished:
        return {**finished, "file": item.path.as_posix(), "reused": True}
    targets = [output / item.stem.parent / (item.stem.name + suffix) for suffix in (SUFFIX, kind.output_suffix)]
    for target in targets:
        if target.exists() and target.samefile(item.path):
            raise ValueError(f"{item.path}: its results would overwrite it, choose another --output")
    return _Job(item, codec, kind.read(item.path), key, targets)


def _finish(job: _Job, encoded, journal: Journal, realism: float) -> dict:
    """Write the file of an `Encoded`, decode it from disk, write and measure that; -> its row."""
    codec, kind = job.codec, job.codec.kind
    write_file(job.targets[0], encoded.data)
    data = read_file(job.targets[0])
    started = time.perf_counter()
    decoded = codec.decompress(data, realism)
    decode_seconds = time.perf_counter() - started
    kind.write(job.targets[1], decoded)
    row = {
        "file": job.item.path.as_posix(),
        "signal": kind.name,
        "bytes": len(data),
        kind.rate_unit: kind.rate(len(data), kind.size(job.original)),
        **kind.score(job.original, decoded),
        "encode_seconds": encoded.seconds,
        "decode_seconds": decode_seconds,
        "search": encoded.search,
        "iterations": encoded.iterations,
        "entropy_coder": encoded.coder,
        "quality": encoded.quality,
    }
    journal.add(job.key, row, job.targets)
    return row


def columns_of(rows: list[dict]) -> list[str]:
    """The contract's order: what was coded, its rate, its metrics, times, settings."""
    kinds = [kind_class(name) for name in KINDS if any(row["signal"] == name for row in rows)]
    middle = [kind.rate_unit for kind in kinds] + [name for kind in kinds for name in kind.metric_names]
    return [
        "file",
        "signal",
        "bytes",
        *middle,
        "encode_seconds",
        "decode_seconds",
        "search",
        "iterations",
        "entropy_coder",
        "quality",
    ]


def write_metrics(rows: list[dict], path: Path) -> None:
    """metrics.csv: one row a file."""
    with replacing(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, columns_of(rows), restval="")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})


def write_results(rows: list[dict], n_items: int, output: Path) -> None:
    """metrics.csv, the table with the means, and how many of how many files it holds.

    `rows` may be fewer than `n_items`; "reused" in them is left out of the tables.
    """
    reused = sum(row.pop("reused", False) for row in rows)
    if rows:
        write_metrics(rows, output / "metrics.csv")
        print(means_table(rows), end="")
    print(
        f"{output / 'metrics.csv'}: {len(rows)} of {n_items} files"
        + (f", {reused} of them by an earlier run" if reused else "")
    )


def means_table(rows: list[dict]) -> str:
    """A line a file, and one with the means, for each kind of signal."""
    lines = []
    for name in KINDS:
        mine = [row for row in rows if row["signal"] == name]
        if not mine:
            continue
        kind = kind_class(name)
        columns = ["bytes", kind.rate_unit, *kind.metric_names, "encode_seconds", "decode_seconds"]
        width = max(24, *(len(Path(row["file"]).name) for row in mine))
        lines.append("  ".join([f"{name:<{width}}"] + [f"{c:>{max(8, len(c))}}" for c in columns]))
        for row in mine:
            lines.append(_line(Path(row["file"]).name, row, columns, width))
        if len(mine) > 1:
            mean = {}
            for column in columns:
                values = [row[column] for row in mine if math.isfinite(row[column])]
                mean[column] = sum(values) / len(values) if values else math.nan
            lines.append(_line(f"mean of {len(mine)}", mean, columns, width))
        lines.append("")
    return "\n".join(lines)


def _line(label: str, row: dict, columns: list[str], width: int) -> str:
    cells = [f"{row[c]:>{max(8, len(c))}.0f}" if c == "bytes" else f"{row[c]:>{max(8, len(c))}.3f}" for c in columns]
    return "  ".join([f"{label:<{width}}", *cells])
