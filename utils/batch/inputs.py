"""Which files a batch works on, where their results go, and the codecs for them."""

import argparse
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from data import KINDS, kind_class, kind_of
from data.folders import DATAROOT_VARIABLE
from utils import distributed
from utils.codec.fingerprint import shipped
from utils.codec.info import describe, shipped_for
from utils.console import as_text
from utils.files import locked, remove_leftovers, walk

from .journal import results_below

logger = logging.getLogger(__name__)

SUFFIX = ".bpgan"


@dataclass(frozen=True)
class Item:
    """An input file and where its results go, below the output folder and without a suffix."""

    path: Path
    stem: Path

    def result(self, folder: Path, suffix: str) -> Path:
        """Where its result of that suffix lies, in the folder of results."""
        return folder / self.stem.parent / (self.stem.name + suffix)


def find_inputs(inputs: list[Path], belongs: Callable[[Path], bool], results: Path | None = None) -> list[Item]:
    """Files named, and files below folders named for which `belongs` holds, sorted in each folder.

    What does not exist here is looked for in the folder of BPGAN_DATA. Linked folders are entered;
    how many files of a folder are left out is logged. Folder structure is kept. Files of one stem
    (a.png beside a.jpg) keep their suffix in the results' names; what still collides is numbered.
    `results` is a folder to which files that belong will be written. Below an input folder it is left out then, and so
    are the results of earlier runs there, unless their folder itself is named. Raises ValueError for an input that does
    not exist, for an input folder that is `results`, or if there is nothing to do.
    """
    results = results.resolve() if results else None
    found: list[tuple[Path, Path]] = []
    left_out: Counter[str] = Counter()
    earlier = _EarlierResults()
    for source in map(located, inputs):
        if not source.is_dir():
            found.append((source, Path(source.name)))
            continue
        if source.resolve() == results:
            raise ValueError(f"--output {source} is an input folder: decoded files would mix with the originals")
        is_within = results is not None and source.resolve() in results.parents
        for path in sorted(walk(source)):
            if not path.is_file() or (is_within and results in path.resolve().parents):
                continue
            if not belongs(path):
                left_out[path.suffix.lower() or "(no suffix)"] += 1
            elif not (results and earlier.have(path, source)):
                found.append((path, path.relative_to(source)))
    if distributed.world()[0] == 0:
        _tell(left_out, "of other formats")
        _tell(earlier.left_out, "that earlier runs wrote")
    if not found:
        raise ValueError(f"no files to work on in {', '.join(map(str, inputs))}")
    return _with_stems(found)


def _tell(left_out: Counter[str], which: str) -> None:
    count = left_out.total()
    if count:
        logger.warning("%d file%s %s left out: %s", count, "s" * (count != 1), which, " ".join(sorted(left_out)))


class _EarlierResults:
    """What the journals of folders below an input list, by which a second run does not take the first one's for signals."""

    def __init__(self):
        self.left_out: Counter[str] = Counter()  # folders
        self._listed: dict[Path, set[Path]] = {}

    def have(self, path: Path, source: Path) -> bool:
        """Whether a journal between `path` and the input folder `source`, whose own does not count, lists it."""
        for folder in path.relative_to(source).parents[:-1]:
            folder = source / folder
            if folder not in self._listed:
                self._listed[folder] = results_below(folder)
            if path in self._listed[folder]:
                self.left_out[str(folder)] += 1
                return True
        return False


def find_signals(options: argparse.Namespace) -> list[Item]:
    """The inputs' files of any kind of signal, as `find_inputs` has them; without inputs, the built-in samples.

    Of a folder, those are left out that a kind reads only where they are named.
    """
    return find_inputs(options.input or sample_files(), _is_signal, options.output)


def _is_signal(path: Path) -> bool:
    name = kind_of(path)
    return name is not None and path.suffix.lower() not in kind_class(name).named_suffixes


def find_packed(inputs: list[Path] | None) -> list[Item]:
    """The .bpgan files among the inputs, as `find_inputs` has them. Raises ValueError where there are none."""
    if not inputs:
        raise ValueError("--input is needed: .bpgan files, or folders of them")
    return find_inputs(inputs, lambda path: path.suffix.lower() == SUFFIX)


def located(source: Path) -> Path:
    """The input itself, or the one of this name in the folder of BPGAN_DATA."""
    base = os.environ.get(DATAROOT_VARIABLE)
    if source.exists():
        return source
    if base and Path(base, source).exists():
        return Path(base, source)
    raise ValueError(f"--input {source}: no such file or folder" + (f", nor in {base}" if base else ""))


def _with_stems(found: list[tuple[Path, Path]]) -> list[Item]:
    """(path, name below its input) -> items whose stems are all different."""
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


def suffixes() -> set[str]:
    """Suffixes of the files of any kind of signal, in lower case."""
    return {suffix for name in KINDS for suffix in kind_class(name).suffixes}


def sample_files() -> list[Path]:
    """The built-in samples of every kind."""
    if distributed.world()[0] == 0:
        logger.warning("no --input was given, so the built-in samples are used")
    return [path for name in KINDS for path in kind_class(name)().samples()]


@contextmanager
def output_folder(output: Path, items: list[Item]) -> Iterator[None]:
    """Makes the folder, keeps other runs out of it, and clears what a killed run left half-written.

    Raises OSError where it cannot be written to, ValueError where another run is at work, or where it is a file or has a
    new file's name: at once rather than after the first file's search.
    """
    if not output.is_dir() and (os.path.lexists(output) or output.suffix.lower() in {SUFFIX, *suffixes()}):
        of = "file" if os.path.lexists(output) else f"{output.suffix} file"
        raise ValueError(f"--output {output} is the name of a {of}: results of this kind go into a folder; name one")
    output.mkdir(parents=True, exist_ok=True)
    if distributed.world()[0] != 0:  # the first process has the lock for all of them
        distributed.barrier()
        yield
        return
    with locked(output):
        remove_leftovers([output, *(output / item.stem.parent for item in items)])
        distributed.barrier()
        yield


class CodecsByKind:
    """The codec of each kind of signal; those in checkpoints/ are loaded when first needed."""

    def __init__(self, paths: list[Path] | None, load: Callable[[Path], object], objective: str | None = None):
        """`paths`: checkpoints that are loaded now and are the only ones then; None: those in checkpoints/, of two for a
        kind the one for this objective.

        Raises ValueError for two of one kind.
        """
        self._load, self._objective = load, objective
        self._loaded: list[tuple[Path, object]] = []
        self._given = paths is not None
        for path in paths or []:
            self._keep(path)

    def of(self, kind: str):
        """Raises ValueError where there is none for this kind."""
        if not self._of(kind):
            if self._given:
                raise ValueError(f"none of the given checkpoints is for {kind}")
            self._keep(shipped(kind, self._objective))
        return self._of(kind)[0]

    def _of(self, kind: str) -> list:
        return [codec for _, codec in self._loaded if codec.kind.name == kind]

    def _keep(self, path: Path) -> None:
        codec = self._load(path)
        for other, loaded in self._loaded:
            self._check_both(path, codec, other, loaded)
        self._loaded.append((path, codec))

    def _check_both(self, path: Path, codec, other: Path, loaded) -> None:
        if codec.kind.name == loaded.kind.name:
            raise ValueError(f"--checkpoint {other} and {path} are both for {codec.kind.name}: give one of them")

    def used(self) -> list[dict[str, str]]:
        """The checkpoints that are loaded, as `conditions_of` takes them."""
        return [checkpoint_used(path, codec) for path, codec in self._loaded]


class DecodersByFile(CodecsByKind):
    """The decoder of each .bpgan file. There may be several of one kind, since files need the weights they were made with."""

    def _check_both(self, path: Path, codec, other: Path, loaded) -> None:
        """Any two go together."""

    def of_file(self, data: bytes):
        """The decoder by the kind and the checkpoint in the file's header; of none that fits, another of this kind.

        Raises BitstreamError for another kind, or damage. That a checkpoint does not fit, the decoder says.
        """
        facts = describe(data, {})
        signal, weights = facts["signal"], facts["fingerprint"]
        if not self._given and not self._fitting(signal, weights):
            path = shipped_for(weights, signal)
            if path not in (other for other, _ in self._loaded):
                self._keep(path)
        return next(iter(self._fitting(signal, weights)), None) or self.of(signal)

    def _fitting(self, kind: str, weights: str) -> list:
        return [codec for codec in self._of(kind) if codec.fingerprint.hex() == weights]


def checkpoint_used(path: Path, codec) -> dict[str, str]:
    """What `conditions_of` is told of a checkpoint file and the codec, or decoder, that was made from it."""
    return {"signal": codec.kind.name, "file": as_text(path.name), "fingerprint": codec.fingerprint.hex()}
