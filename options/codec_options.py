"""Options of the scripts that read and write signals and .bpgan files."""

import argparse
import math
from pathlib import Path

from models.config import QUALITIES
from utils.entropy import CODERS
from utils.search.config import METHODS, OBJECTIVES

from .base_options import Parser, in_range


class FilesParser(Parser):
    """A Parser of files in and files out: as IN OUT, or as --input and --output."""

    def __init__(self, description: str, output: str, what: str):
        """`output`: where results go by default; `what`: what the inputs are."""
        super().__init__(description)
        add = self.add_argument
        add("files", type=Path, nargs="*", metavar="IN OUT", help="the same as --input IN --output OUT")
        add("--input", type=Path, nargs="+", default=None, metavar="FILE|DIR", help=what)
        add(
            "--output",
            type=Path,
            default=Path(output),
            metavar="DIR|FILE",
            help="where results go: a folder, or for one input the file that is made of it",
        )
        add(
            "--checkpoint",
            type=Path,
            nargs="+",
            default=None,
            metavar="FILE",
            help="trained weights, one file per kind of signal; without it, those in checkpoints/ are used",
        )
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
        files = options.files
        del options.files
        if files:
            if len(files) != 2 or options.input is not None or options.output != self.get_default("output"):
                self.error("give one IN and one OUT, or --input and --output for any number of files")
            options.input, options.output = files[:1], files[1]
        return options


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


def compress_parser() -> Parser:
    parser = FilesParser(
        "Compress images and speech: search, code, write .bpgan files, decode them again, measure.",
        "results/compressed",
        "files or folders; without it, the built-in samples are used",
    )
    rate = parser.add_mutually_exclusive_group()
    rate.add_argument(
        "--quality",
        type=in_range(float, 1, QUALITIES),
        default=3.0,
        help=f"1 (smallest files) to {QUALITIES}, fractions too",
    )
    rate.add_argument(
        "--target_bpp",
        type=in_range(float, 1e-4, 24.0),
        default=None,
        help="bits per pixel that no image's file exceeds",
    )
    rate.add_argument(
        "--target_kbps",
        type=in_range(float, 1e-3, 256.0),
        default=None,
        help="kilobits per second that no recording's file exceeds",
    )
    rate.add_argument(
        "--target_psnr",
        type=in_range(float, 1.0, 100.0),
        default=None,
        help="dB that every decoded image reaches, at the lowest quality that does",
    )
    parser.add_argument(
        "--objective",
        choices=OBJECTIVES,
        default="mse",
        help="the distortion that the search weighs against bits; ms_ssim: images only; "
        "perceptual: features of the discriminator and of VGG16, where there are any",
    )
    parser.add_argument("--search", choices=METHODS, default="admm", help="how latents are searched")
    parser.add_argument(
        "--iterations", type=in_range(int, 0, 100000), default=100, help="of the search: more take longer and save bits"
    )
    parser.add_argument(
        "--batch_size",
        type=in_range(int, 1, 4096),
        default=8,
        help="files in memory; small ones of one size are searched together",
    )
    _add_coder(parser)
    parser.add_argument(
        "--no_decode", action="store_true", help="write the .bpgan files alone: nothing is decoded and scored"
    )
    _add_overwrite(parser, _OVERWRITE_RESULTS)
    _add_report(parser)
    return parser


def evaluate_parser() -> Parser:
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
        help="one or several; each gets a folder of its own",
    )
    _add_coder(parser)
    _add_realism(parser)
    _add_overwrite(parser, _OVERWRITE_RESULTS)
    _add_report(parser)
    return parser


def decompress_parser() -> Parser:
    parser = FilesParser("Decode .bpgan files to PNG and WAV.", "results/decoded", ".bpgan files or folders of them")
    _add_realism(parser)
    _add_overwrite(parser, "replace files in --output that differ from the decoded ones")
    return parser


def _add_realism(parser: Parser) -> None:
    parser.add_argument(
        "--realism",
        type=in_range(float, 0.0, 1.0),
        default=0.0,
        help="0: as faithful as can be, 1: as realistic, weights mixed between",
    )
