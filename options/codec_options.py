"""Options of the scripts that read and write signals and .bpgan files."""

import argparse
import math
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from data import KINDS, Kind, kind_class
from models.config import QUALITIES
from utils.codec.targets import Target, metrics_of
from utils.entropy import CODERS
from utils.search.config import METHODS, OBJECTIVES, preset

from .base_options import Parser, in_range


class FilesParser(Parser):
    """A Parser of files in and files out: as IN OUT, or as --input and --output."""

    def __init__(self, description: str, output: str, what: str):
        """`output`: where results go by default; `what`: what the inputs are."""
        super().__init__(description)
        add = self.add_argument
        add("files", type=Path, nargs="*", metavar="IN OUT", help="the same as --input IN --output OUT")
        self.add_inputs(what)
        add(
            "--output",
            type=Path,
            default=Path(output),
            metavar="DIR|FILE",
            help="where results go: a folder, or for one input the file that is made of it",
        )
        self.add_checkpoints()
        for name, what in (("--max_pixels", "picture, in pixels"), ("--max_seconds", "recording, in seconds")):
            add(
                name,
                type=in_range(float, 1e-3, math.inf),
                default=None,
                help=f"the largest {what}; larger ones are refused before they are read. Without it, the "
                "limit is the default that sender and receiver share",
            )
        add("--quiet", action="store_true", help="print errors only")
        self.set_defaults(result_name=None)  # what the result is called where it is made in a temporary folder

    def parse(self, argv: list[str] | None) -> argparse.Namespace:
        options = super().parse(argv)
        files = [*options.files, *self._behind_checkpoints(options)]
        del options.files
        self.take_files(files, options)
        return options

    def _behind_checkpoints(self, options: argparse.Namespace) -> list[Path]:
        """Takes IN and OUT out of the words after --checkpoint, which may have several values."""
        if not options.checkpoint:
            return []
        first, *more = options.checkpoint
        options.checkpoint = [first, *(path for path in more if path.suffix == ".safetensors")]
        return [path for path in more if path.suffix != ".safetensors"]

    def take_files(self, files: list[Path], options: argparse.Namespace) -> None:
        """Read the words that belong to no option."""
        if files:
            if len(files) != 2 or options.input is not None or options.output != self.get_default("output"):
                self.error("give one IN and one OUT, or --input and --output for any number of files")
            options.input, options.output = files[:1], files[1]


def _add_overwrite(parser: Parser, what: str) -> None:
    parser.add_argument("--overwrite", action="store_true", help=what)


_OVERWRITE_RESULTS = "do again what an earlier run finished in --output, and replace files that are not its own"


def _add_report(parser: Parser) -> None:
    parser.add_argument(
        "--report",
        action="store_true",
        help="also write report.html: originals and decoded files to look at and listen to",
    )


def _add_coder(parser: Parser) -> None:
    parser.add_argument(
        "--entropy_coder",
        choices=CODERS,
        default=None,
        help="how symbols become bits; without it, the checkpoint's own choice is used",
    )


# The metrics of targets, as `utils.codec.targets.Target` names them: the option's name, the type of its value, and what
# it asks for. Each kind of signal says which of them it has.
_TARGETS = {
    "bytes": ("--target_bytes", in_range(int, 1, 2**31), "bytes that each file may have, met from below"),
    "bpp": ("--target_bpp", in_range(float, 1e-4, 24.0), "bits per pixel of each image's file, met from below"),
    "kbps": (
        "--target_kbps",
        in_range(float, 1e-3, 256.0),
        "kilobits per second of each recording's file, met from below",
    ),
    "psnr_db": ("--target_psnr", in_range(float, 1.0, 100.0), "dB that every decoded image reaches"),
    "ms_ssim": ("--target_ms_ssim", in_range(float, 0.0, 1.0), "MS-SSIM that every decoded image reaches"),
    "pesq_wb": ("--target_pesq", in_range(float, 1.0, 4.64), "wideband PESQ that every decoded recording reaches"),
}


def targets_of(options: argparse.Namespace) -> dict[str, float]:
    """The targets that were given, by their metrics."""
    values = {metric: getattr(options, name.removeprefix("--")) for metric, (name, _, _) in _TARGETS.items()}
    return {metric: value for metric, value in values.items() if value is not None}


def target_for(options: argparse.Namespace, kind: Kind) -> Target | None:
    """The target for a kind of signal; None where no target was given.

    Raises ValueError where there are targets, but none for this kind.
    """
    given = targets_of(options)
    if not given:
        return None
    for metric in _of_kind(given, kind):
        return Target(metric, given[metric])
    raise ValueError(
        f"{_options_of(given)} does not apply to {kind.name}: a target for {kind.name} is one of "
        f"{_options_of(_of_kind(_TARGETS, kind), ', ')}"
    )


def target_function(options: argparse.Namespace) -> Callable[[Kind], Target | None] | None:
    """`target_for` with these options; None where no target was given."""
    return partial(target_for, options) if targets_of(options) else None


def _of_kind(metrics: Iterable[str], kind: Kind | type[Kind]) -> list[str]:
    return [metric for metric in metrics if metric in metrics_of(kind)]


def _options_of(metrics: Iterable[str], separator: str = " and ") -> str:
    return separator.join(_TARGETS[metric][0] for metric in metrics)


class CompressParser(FilesParser):
    """A Parser that allows one target per kind of signal, none beside --quality, and a trace with its own suffix."""

    def parse(self, argv: list[str] | None) -> argparse.Namespace:
        options = super().parse(argv)
        if options.trace is not None and options.trace.suffix != ".jsonl":
            self.error(f"--trace {options.trace}: is a file of JSON lines; name it FILE.jsonl")
        given = targets_of(options)
        # As argparse tells for exclusive options: what was parsed is another object than the default.
        if given and options.quality is not self.get_default("quality"):
            self.error(f"--quality is not allowed with {_options_of(given)}")
        for name in KINDS if len(given) > 1 else ():
            same = _of_kind(given, kind_class(name))
            if len(same) > 1:
                self.error(f"{_options_of(same)} are both for {name}: give one target for each kind of signal")
        return options


def compress_parser() -> Parser:
    """The command line of Compression_ADMM.py."""
    parser = CompressParser(
        "Compress images and speech: search, code, write .bpgan files, decode them again, measure.",
        "results/compressed",
        "files or folders; without it, the built-in samples are used",
    )
    parser.add_argument(
        "--quality",
        type=in_range(float, 1, QUALITIES),
        default=3.0,
        help=f"1 (smallest files) to {QUALITIES}, fractions too",
    )
    for name, kind, what in _TARGETS.values():
        parser.add_argument(name, type=kind, default=None, metavar="N", help=f"in place of --quality: {what}")
    parser.add_argument(
        "--objective",
        choices=OBJECTIVES,
        default=None,
        help="the distortion that the search weighs against bits; without it, what the checkpoint is trained for. "
        "ms_ssim: images only, with weights of its own in checkpoints/; pesq: speech "
        "only; perceptual: features, of EfficientNet-Lite0 for images, of the checkpoint's discriminator for speech",
    )
    _add_realism(
        parser,
        "of the decoded copies, and of the generator that the search goes through: give the same to Decompression.py; ",
    )
    parser.add_argument("--search", choices=METHODS, default="admm", help="how latents are searched")
    parser.add_argument(
        "--iterations",
        type=in_range(int, 0, 100000),
        default=None,
        help="iterations of the search: more of them take longer and save bits; without it, the method's own number, of "
        f"admm {preset('admm').iterations}",
    )
    parser.add_argument(
        "--batch_size",
        type=in_range(int, 1, 4096),
        default=8,
        help="files in memory; small ones of one size are searched together",
    )
    _add_coder(parser)
    _add_exact(parser)
    parser.add_argument(
        "--trace",
        type=Path,
        default=None,
        metavar="FILE.jsonl",
        help="also write distortion, bits, cost and penalty of every iteration of each file's search to this file",
    )
    parser.add_argument(
        "--no_decode", action="store_true", help="write the .bpgan files alone: nothing is decoded and scored"
    )
    parser.add_argument(
        "--keep_metadata",
        action="store_true",
        help="keep the EXIF data of pictures, which may say where they were taken, and their color profile",
    )
    _add_overwrite(parser, _OVERWRITE_RESULTS)
    _add_report(parser)
    return parser


def evaluate_parser() -> Parser:
    """The command line of test.py."""
    parser = FilesParser(
        "Encode, quantize, code and decode without search; measure.",
        "results/test",
        "files or folders; without it, the built-in samples are used",
    )
    parser.add_argument(
        "--quality",
        type=in_range(float, 1, QUALITIES),
        nargs="+",
        default=[3.0],
        help="one or several; each of several gets a folder of its own",
    )
    _add_coder(parser)
    _add_exact(parser)
    _add_realism(parser)
    _add_overwrite(parser, _OVERWRITE_RESULTS)
    _add_report(parser)
    return parser


class DecompressParser(FilesParser):
    """A Parser that takes all words as inputs with --info, and refuses the options of decoding then."""

    def parse(self, argv: list[str] | None) -> argparse.Namespace:
        options = super().parse(argv)
        if options.json and not options.info:
            self.error("--json goes with --info")
        for name in ("output", "max_pixels", "max_seconds", "realism", "exact", "overwrite") if options.info else ():
            if getattr(options, name) != self.get_default(name):
                self.error(f"--{name} is not allowed with --info, which decodes and writes nothing")
        return options

    def take_files(self, files: list[Path], options: argparse.Namespace) -> None:
        if not options.info:
            super().take_files(files, options)
        elif files:
            options.input = [*(options.input or []), *files]


def decompress_parser() -> Parser:
    """The command line of Decompression.py."""
    parser = DecompressParser(
        "Decode .bpgan files to PNG and WAV.", "results/decoded", ".bpgan files or folders of them"
    )
    parser.add_argument(
        "--info",
        action="store_true",
        help="tell what each file holds and which checkpoint it needs, and decode nothing; all words are inputs",
    )
    parser.add_argument("--json", action="store_true", help="with --info: one JSON object per line and file")
    _add_realism(parser)
    parser.add_argument(
        "--exact",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="decode pictures to the same pixels on every machine, in two to three times the time; without either, "
        "files that were compressed with --exact are decoded so",
    )
    _add_overwrite(parser, "replace files in --output that differ from the decoded ones")
    return parser


def _add_exact(parser: Parser) -> None:
    parser.add_argument(
        "--exact",
        action="store_true",
        help="images only: code for pixels that are the same on every machine, which the receiver then shows",
    )


def _add_realism(parser: Parser, what: str = "") -> None:
    parser.add_argument(
        "--realism",
        type=in_range(float, 0.0, 1.0),
        default=0.0,
        help=f"{what}0: as faithful as possible, 1: as realistic as possible; in between, the weights are mixed",
    )
