"""A page to look and listen: originals, this codec at several qualities, others at the same bytes.

    python -m benchmarks.page --input DIR --output results/page.html

Each of the others runs at the setting that gives the fewest bytes that are no fewer than this codec's;
one that cannot go as low is shown at its lowest. With --results the page begins with the tables and plots of
what was measured. Settings and what counts as bytes are those of
benchmarks.images and benchmarks.speech. A version of a picture of 768x512 takes some 0.4 MB on the page, one of
a sentence 0.2 MB: with the defaults some 25 MB in all.
"""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data import KINDS, kind_of
from data.corpora import default_dataroot
from models.config import QUALITIES
from options.base_options import Parser, in_range
from utils.batch.conditions import caption, conditions_of
from utils.batch.inputs import CodecsByKind, find_inputs
from utils.batch.page import Page, Version, original_version, writing_page
from utils.codec.settings import Settings
from utils.console import fail, pick_device
from utils.files import walk

from . import images, speech, tables
from .common import OURS, Codec, at_size, find_codecs

log = logging.getLogger(__name__)

BENCHMARKS = {module.BENCHMARK.kind.name: module.BENCHMARK for module in (images, speech)}
OTHERS = [name for benchmark in BENCHMARKS.values() for name in benchmark.codecs if name != OURS]


class Table:
    """The versions of one signal, and how many of them failed."""

    def __init__(self, codec, others: list[Codec], options):
        self.codec, self.others, self.options = codec, others, options
        self.failures = 0

    def versions(self, original: np.ndarray, n_bytes: int) -> Iterator[Version]:
        """The original, then by rising quality this codec, faithful and realistic, and the others at its bytes."""
        yield original_version(self.codec.kind, original, n_bytes)
        seen = set()
        for quality in sorted(set(self.options.quality)):
            method = "admm" if self.options.iterations else "none"
            data = self.codec.compress(
                original, quality, Settings.of(method, self.options.iterations, seed=self.options.seed)
            )
            for realism, word in ((0.0, ""), (1.0, ", realistic")):
                if realism == 0 or self.codec.has_realistic:
                    yield self._version(
                        f"BPGAN, quality {quality:g}{word}", original, self.codec.decompress(data, realism), len(data)
                    )
            for other in self.others:
                try:
                    setting, coded = at_size(other, original, len(data))
                    if (other.name, setting) not in seen:
                        seen.add((other.name, setting))
                        decoded = other.finish(original, other.decode(coded.data, setting))
                        yield self._version(f"{other.label} at {setting}", original, decoded, coded.counted)
                except Exception as error:  # another codec's library may raise anything
                    self.failures += 1
                    fail(error, f"{other.name}: ")
                    log.info("where it failed", exc_info=True)

    def _version(self, label: str, original: np.ndarray, decoded: np.ndarray, n_bytes: int) -> Version:
        kind = self.codec.kind
        return Version(
            label,
            kind.preview(decoded, original),
            {
                "bytes": n_bytes,
                kind.rate_unit: kind.rate(n_bytes, kind.size(original)),
                **kind.score(original, decoded),
            },
        )


def add_results(page: Page, folder: Path) -> None:
    """The plots (PNG) and then the tables (Markdown) that benchmarks wrote below a folder, by their part and name."""
    for path in sorted(walk(folder), key=lambda path: (path.suffix == ".md", path)):
        title = path.relative_to(folder).with_suffix("").as_posix()
        if path.suffix == ".md":
            for lines in tables.parsed(path.read_text()):
                page.add_table(title, lines)
        elif path.suffix == ".png":
            page.add_plot(title, path.read_bytes())


def run(options) -> int:
    """-> exit code: 1 if a file or a codec failed; the page then lacks these."""
    from tqdm import tqdm

    from utils.codec.codec import load_codec

    device = pick_device(options.device)
    inputs = options.input or [default_dataroot(kind, "test") for kind in KINDS]
    items = find_inputs(inputs, lambda path: kind_of(path) in BENCHMARKS)
    by_kind = {kind: [item for item in items if kind_of(item.path) == kind][: options.limit] for kind in BENCHMARKS}
    codecs = CodecsByKind(options.checkpoint, lambda path: load_codec(path, device))
    failures = 0
    tables = {}
    for kind, mine in by_kind.items():
        if mine:
            benchmark = BENCHMARKS[kind]
            others, broken = find_codecs(benchmark, [n for n in options.codecs if n in benchmark.codecs], options)
            failures += broken
            tables[kind] = Table(codecs.of(kind), others, options)
    searched = f"after {options.iterations} iterations of search" if options.iterations else "without search"
    introduction = (
        f"BPGAN {searched}, and other codecs at the same bytes: the smallest file that is no smaller "
        "than BPGAN's, or the smallest there is. Bytes of other speech codecs are without containers. "
        + caption(conditions_of(options, device, codecs.used()), sum(map(len, by_kind.values())), inputs)
    )
    with writing_page(options.output, "BPGAN beside other codecs", introduction) as page:
        if options.results:
            add_results(page, options.results)
        for item in tqdm([item for kind in tables for item in by_kind[kind]], file=sys.stderr):
            table = tables[kind_of(item.path)]
            try:
                original = table.codec.kind.read(item.path)
                versions = list(table.versions(original, item.path.stat().st_size))
            except (ValueError, OSError) as error:
                failures += 1
                fail(error)
                continue
            ours = [i for i, version in enumerate(versions) if version.label.startswith("BPGAN")]
            middle = ours[len(ours) // 2]
            beside = next((i for i in range(middle, len(versions)) if i not in ours), 0)
            page.add(item.stem.as_posix(), versions, left=middle, right=beside)
    failures += sum(table.failures for table in tables.values())
    print(f"{options.output}: {options.output.stat().st_size / 1e6:.1f} MB")
    return 1 if failures else 0


def main(argv: list[str] | None = None) -> int:
    parser = Parser("A page of originals, this codec at several qualities, and others at the same bytes.")
    add = parser.add_argument
    parser.add_inputs(
        "images, recordings or folders; without it, the test sets below the folder that BPGAN_DATA names are taken"
    )
    add("--output", type=Path, default=Path("results/page.html"), metavar="FILE", help="the page to write")
    parser.add_checkpoints()
    add(
        "--quality",
        type=in_range(float, 1, QUALITIES),
        nargs="+",
        default=[1.0, 3.0, 5.0],
        help="qualities of this codec",
    )
    add("--iterations", type=in_range(int, 0, 100000), default=100, help="of this codec's search; 0: no search")
    add(
        "--codecs",
        nargs="*",
        choices=OTHERS,
        default=["jpeg", "webp", "avif", "opus", "amr-wb", "codec2"],
        help="who else takes part",
    )
    add("--limit", type=in_range(int, 1, 10**6), default=4, help="only the first files of each kind")
    add(
        "--results",
        type=Path,
        default=None,
        metavar="DIR",
        help="also show the tables and plots that benchmarks wrote below this folder",
    )
    return parser.run(argv, run)


if __name__ == "__main__":
    sys.exit(main())
