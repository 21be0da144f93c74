"""Code files, decode them again from disk, measure: what Compression_ADMM.py and test.py have in common."""

import argparse
import dataclasses
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data import KINDS, Kind, kind_of
from options.base_options import save_options
from utils import distributed
from utils.codec.bitstream import read_file
from utils.codec.codec import NO_METADATA, Codec, Encoded, Metadata, load_codec
from utils.codec.limits import Limits
from utils.codec.observing import SearchStep
from utils.codec.settings import Settings
from utils.codec.targets import Target
from utils.console import fail, name_of, pick_device, printable
from utils.files import checksum, put_in_place, temporary_beside

from . import tables
from .conditions import caption, check_conditions, conditions_of, note_conditions
from .inputs import SUFFIX, CodecsByKind, Item, find_signals, output_folder, suffixes
from .journal import Journal, not_ours, settings_of
from .page import Run, write_report
from .progress import Progress, Trace
from .run import BatchResult, Guard, attempt_together, run_batch

logger = logging.getLogger(__name__)

OPTIONS_NAME, REPORT_NAME = "options.json", "report.html"

WARM_UP_SIZE = 192  # both numbers of the signal's size; the second one is the kind's usual one, where it has one
WARM_UP_ITERATIONS = 2  # at most


@dataclass(frozen=True)
class Plan:
    """How a batch is coded, beside the qualities."""

    settings: Settings
    # For each kind of signal its target, in place of a quality; it raises ValueError for a kind without one. Every
    # signal is then coded alone at a quality of its own, and the printed table shows the quality.
    target_of: Callable[[Kind], Target | None] | None = None
    batch_size: int = 1  # files in memory
    decode: bool = True  # False: nothing is decoded and scored
    trace: Path | None = None  # where every iteration of the searches is kept
    keep_metadata: bool = False


def code_files(options: argparse.Namespace, qualities: Sequence[float], plan: Plan) -> int:
    """Every input, or without inputs the built-in samples, at every quality; tables, report; -> exit code.

    Several qualities get a folder each.
    """
    if options.report and not plan.decode:
        raise ValueError("--report shows decoded files: leave --no_decode out")
    if plan.trace is not None and plan.trace.name == Journal.name:
        raise ValueError(
            f"--trace {plan.trace}: a file of this name keeps account of an output folder; choose another name"
        )

    def say(line: str) -> None:
        if line and not options.quiet:
            print(line)

    device, limits = distributed.start(pick_device(options.device)), Limits.of_options(options)
    objective = plan.settings.search.objective
    codecs = CodecsByKind(options.checkpoint, lambda path: load_codec(path, device, limits), objective)
    items = find_signals(options)
    is_first = distributed.world()[0] == 0
    folders = dict.fromkeys(qualities, options.output)
    if len(qualities) > 1:
        folders = {quality: options.output / f"quality_{quality:g}" for quality in qualities}
    exit_codes, runs, summary = [], [], ""
    with ExitStack() as stack:
        for folder in dict.fromkeys([options.output, *folders.values()]):
            stack.enter_context(output_folder(folder, items))
        if is_first and not options.overwrite:
            _check_own_files(options.output, folders.values())
        for folder in folders.values():
            check_conditions(folder)
        progress = Progress(Trace(plan.trace, options.overwrite) if plan.trace else None, options.quiet)
        for quality, folder in folders.items():
            journal = Journal(folder, settings_of(options, device=device.type, quality=quality), options.overwrite)
            coding = Coding(folder, codecs, journal, plan, quality, progress)
            name = f"quality {quality:g}" if len(qualities) > 1 else "compressing"
            result = run_batch(items, coding, name, plan.batch_size, options.quiet)
            exit_codes.append(result.exit_code)
            if result.rows:
                runs.append(Run(folder, result.rows, plan.settings.realism))
            if is_first:
                say(summary)
                conditions = conditions_of(options, device, codecs.used())
                code, summary = _write_results(options, result, coding, len(items), conditions)
                exit_codes.append(code)
            if result.interrupted:
                break
        else:
            if options.report and runs and is_first:
                code, line = _write_page(options, items, codecs, runs, conditions)
                exit_codes.append(code)
                say(line)
    say(summary)  # the very last, since it repeats which files failed
    if 130 in exit_codes:
        print("interrupted; what is listed above is whole", file=sys.stderr)
    return max(exit_codes)


def _check_own_files(output: Path, folders: Sequence[Path]) -> None:
    """Raises ValueError where the tables would replace files of a folder that no run has worked in."""
    for folder in {output, *folders}:
        known = [folder] if folder != output else [output, *folders]
        if any((other / Journal.name).exists() for other in known):
            continue
        for name in (tables.NAME, OPTIONS_NAME, REPORT_NAME):
            if (folder / name).exists():
                raise ValueError(not_ours(folder / name))


def _write_results(
    options: argparse.Namespace, result: BatchResult, coding: "Coding", n_items: int, conditions: dict
) -> tuple[int, str]:
    """The table with the means, metrics.csv, options, conditions; -> exit code, and a line that sums up the batch.

    The table comes first: it needs no disk.
    """
    if result.rows and not options.quiet:
        print(tables.means_table(result.rows, with_quality=coding.plan.target_of is not None), end="")
    code, kept, where = 0, 0, options.result_name
    if where is None:
        where = str(coding.output / tables.NAME)
        files = {row["file"] for row in result.rows}
        others = [row for row in coding.journal.rows() if row["file"] not in files and row["signal"] in KINDS]
        kept = len(others)
        try:
            if result.rows:
                tables.write_metrics(result.rows + others, coding.output / tables.NAME)
                save_options(options, options.output / OPTIONS_NAME)
            if len(result.rows) > coding.n_reused:
                note_conditions(coding.output, conditions)
        except OSError as error:
            code = fail(error)
    return code, f"{printable(where)}: {tables.summary(result, n_items, reused=coding.n_reused, kept=kept)}"


def _write_page(
    options: argparse.Namespace, items: Sequence[Item], codecs: CodecsByKind, runs: Sequence[Run], conditions: dict
) -> tuple[int, str]:
    """report.html; -> exit code, and a line that says what it shows."""
    path = options.output / REPORT_NAME
    try:
        shown = write_report(path, items, codecs, runs, caption(conditions, len(items), options.input))
    except (ValueError, OSError) as error:
        return fail(error), ""
    return 0, f"{printable(str(path))}: {shown}"


@dataclass(frozen=True)
class _Job:
    """A signal that is to be coded."""

    item: Item
    codec: Codec
    original: np.ndarray
    metadata: Metadata  # of the original, where it is to be kept
    key: str  # in the journal
    targets: list[Path]  # the file, and what it decodes to where that is wanted
    coded: dict | None  # the row of an earlier run whose file is whole: only the decoding is left


@dataclass
class Coding:
    """Work of `run_batch`: encode signals, write them, decode the files from disk, write and measure that.

    What the journal holds of an earlier run is not done again.
    """

    output: Path
    codecs: CodecsByKind
    journal: Journal
    plan: Plan
    quality: float
    progress: Progress
    n_reused: int = 0  # rows of this process that an earlier run had finished
    _told: bool = False  # that results of earlier runs are replaced
    _warmed: set[str] = field(default_factory=set)  # kinds whose codec has coded something

    def __call__(self, items: list[Item], guard: Guard) -> Iterator[tuple[Item, dict]]:
        jobs: dict[Codec, list[_Job]] = {}
        for item in items:
            with guard(item):
                opened = self._open(item)
                if not isinstance(opened, _Job):
                    self.n_reused += 1
                    yield item, opened
                elif opened.coded:
                    yield item, self._finish_coded(opened)
                else:
                    jobs.setdefault(opened.codec, []).append(opened)
        for codec, members in jobs.items():
            self._warm(codec)
            for places in codec.together([job.original for job in members]):
                yield from self._code([members[place] for place in places], guard)

    def _open(self, item: Item) -> _Job | dict:
        """What is to be done for a file, or its row where it is done."""
        name = kind_of(item.path)
        if name is None:
            known = ", ".join(sorted(suffixes()))
            raise ValueError(f"{item.path}: suffix {item.path.suffix or '(none)'} is not one of {known}")
        codec = self.codecs.of(name)
        key, file = self.journal.key(item.path, item.stem, codec.digest), name_of(item.path)
        results = (SUFFIX, codec.kind.output_suffix) if self.plan.decode else (SUFFIX,)
        targets = [item.result(self.output, suffix) for suffix in results]
        finished = self.journal.find(key, file, targets)
        if finished:
            return finished
        for target in targets:
            if target.exists() and target.samefile(item.path):
                raise ValueError(f"{item.path}: its results would overwrite it, choose another --output")
            self.journal.check(target)
        coded = self.journal.find(key, file, targets[:1])
        if not coded:
            self._tell_of_replaced(targets[0])
        return _Job(item, codec, *_read(codec.kind, item.path, self.plan.keep_metadata), key, targets, coded)

    def _tell_of_replaced(self, target: Path) -> None:
        """Warn once where an earlier run left results that this one will replace, as it had other options."""
        if target.exists() and not self.journal.overwrite and not self._told:
            self._told = True
            logger.warning(
                "%s: has results of other options, another input or another version of this program, which are replaced; "
                "choose another --output to keep them",
                self.output,
            )

    def _code(self, group: list[_Job], guard: Guard) -> Iterator[tuple[Item, dict]]:
        """Signals that go together; each file is written as soon as it is coded."""
        encoded = None
        if len(group) > 1 and self.plan.target_of is None:
            encoded = attempt_together(lambda: self._encode(group))
        for place, job in enumerate(group):
            with guard(job.item):
                result, steps = encoded[place] if encoded else self._encode([job])[0]
                yield job.item, self._finish(job, result, steps)

    def _encode(self, group: list[_Job]) -> list[tuple[Encoded, list[SearchStep]]]:
        """What each signal was coded to, and the steps of its search that a trace is to have."""
        codec, signals = group[0].codec, [job.original for job in group]
        target = self.plan.target_of(codec.kind) if self.plan.target_of else None
        with self.progress.searching([name_of(job.item.path) for job in group]) as searching:
            encoded = codec.encode_batch(
                signals,
                target or self.quality,
                self.plan.settings,
                observe=searching.observe,
                metadata=[job.metadata for job in group],
            )
        return list(zip(encoded, searching.steps))

    def _finish(self, job: _Job, encoded: Encoded, steps: list[SearchStep]) -> dict:
        """Write the file, decode it from disk, write and measure that; -> its row.

        All is written under temporary names, then noted in trace and journal, then put in place.
        """
        kind = job.codec.kind
        n_bytes, size = len(encoded.data), kind.size(job.original)
        row = {
            "file": name_of(job.item.path),
            "signal": kind.name,
            **kind.dimensions(size),
            "original_bytes": job.item.path.stat().st_size,
            "bytes": n_bytes,
            kind.rate_unit: kind.rate(n_bytes, size),
        }
        with ExitStack() as stack:
            temporaries = [stack.enter_context(temporary_beside(target)) for target in job.targets]
            temporaries[0].write_bytes(encoded.data)
            written = [checksum(encoded.data)]
            if self.plan.decode:
                row |= self._decode(job, temporaries[0], temporaries[1])
                written.append(checksum(temporaries[1]))
            row |= {
                "encode_seconds": encoded.seconds,
                "search": encoded.search,
                "iterations": encoded.iterations,
                "objective": encoded.objective,
                "seed": encoded.seed,
                "entropy_coder": encoded.coder,
                "quality": encoded.quality,
                "realism": self.plan.settings.realism,
                "exact": int(self.plan.settings.exact),
            }
            self.progress.keep(row["file"], encoded.search, steps)
            self.journal.add(job.key, row, dict(zip(job.targets, written)))
            for temporary, target in zip(temporaries, job.targets):
                put_in_place(temporary, target)
        return row

    def _finish_coded(self, job: _Job) -> dict:
        """Decode a file that an earlier run coded, write and measure that; -> its row."""
        packed, target = job.targets
        with temporary_beside(target) as temporary:
            row = {**job.coded, **self._decode(job, packed, temporary)}
            self.journal.add(job.key, row, {packed: checksum(packed), target: checksum(temporary)})
            put_in_place(temporary, target)
        return row

    def _decode(self, job: _Job, packed: Path, output: Path) -> dict:
        """Decode a file from disk, write what comes out; -> its scores and seconds, as the row has them."""
        codec, started = job.codec, time.perf_counter()
        data = read_file(packed)
        decoded = codec.decompress(data, self.plan.settings.realism)
        seconds = time.perf_counter() - started
        codec.kind.write(output, decoded, **codec.metadata(data))
        return {**codec.kind.score(job.original, decoded), "decode_seconds": seconds}

    def _warm(self, codec: Codec) -> None:
        """Code and decode a small signal, so that what is compiled and set up once is in no file's seconds."""
        kind = codec.kind
        if kind.name in self._warmed:
            return
        self._warmed.add(kind.name)
        size = (WARM_UP_SIZE, kind.usual_size_b or WARM_UP_SIZE)
        search = self.plan.settings.search
        short = dataclasses.replace(search, iterations=min(search.iterations, WARM_UP_ITERATIONS))
        settings = dataclasses.replace(self.plan.settings, search=short)
        picture = np.zeros((kind.channels, *kind.picture_shape(size)), np.float32)
        # What is wrong with the settings, or with the machine, is told of the first file.
        with suppress(ValueError, RuntimeError, MemoryError):
            codec.decompress(
                codec.compress(kind.from_picture(picture, size, 0), self.quality, settings), settings.realism
            )


def _read(kind: Kind, path: Path, keep_metadata: bool) -> tuple[np.ndarray, Metadata]:
    """`kind.read`; whatever else a library raises on a stranger's file becomes an error of this file."""
    try:
        return kind.read_with_metadata(path) if keep_metadata else (kind.read(path), NO_METADATA)
    except (ValueError, OSError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f"{path}: cannot be read ({type(error).__name__}: {error})") from error
