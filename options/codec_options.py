"""Options of the scripts that read and write signals and .bpgan files."""

from pathlib import Path

from models.config import QUALITIES
from utils.search.config import METHODS, OBJECTIVES

from .base_options import Parser, in_range

CODER_NAMES = ("huffman", "context")


def _add_files(parser: Parser, output: str, what: str) -> None:
    add = parser.add_argument
    add("--input", type=Path, nargs="+", default=None, metavar="FILE|DIR", help=what)
    add("--output", type=Path, default=Path(output), metavar="DIR", help="where results go")
    add(
        "--checkpoint",
        type=Path,
        nargs="+",
        default=None,
        metavar="FILE",
        help="trained weights, one file a kind of signal (else those in checkpoints/)",
    )


def _add_overwrite(parser: Parser) -> None:
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="do again what an earlier run with the same settings finished in --output",
    )


def _add_report(parser: Parser) -> None:
    parser.add_argument(
        "--report",
        action="store_true",
        help="also write report.html: originals and decoded files to look at and listen to",
    )


def _add_coder(parser: Parser) -> None:
    parser.add_argument(
        "--entropy_coder", choices=CODER_NAMES, default=None, help="(else the one the checkpoint names)"
    )


def compress_parser() -> Parser:
    parser = Parser("Compress images and speech: search, code, write .bpgan files, decode them again, measure.")
    _add_files(parser, "results/compressed", "files or folders (else the built-in samples)")
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
    parser.add_argument("--iterations", type=in_range(int, 0, 100000), default=100, help="of the search")
    parser.add_argument(
        "--batch_size",
        type=in_range(int, 1, 4096),
        default=8,
        help="files in memory; small ones of one size are searched together",
    )
    _add_coder(parser)
    _add_overwrite(parser)
    _add_report(parser)
    return parser


def evaluate_parser() -> Parser:
    parser = Parser("Encode, quantize, code and decode without search; measure.")
    _add_files(parser, "results/test", "files or folders (else the built-in samples)")
    parser.add_argument(
        "--quality",
        type=in_range(float, 1, QUALITIES),
        nargs="+",
        default=[3.0],
        help="one or several; each gets a folder of its own",
    )
    _add_coder(parser)
    _add_realism(parser)
    _add_overwrite(parser)
    _add_report(parser)
    return parser


def decompress_parser() -> Parser:
    parser = Parser("Decode .bpgan files to PNG and WAV.")
    _add_files(parser, "results/decoded", ".bpgan files or folders of them")
    _add_realism(parser)
    return parser


def _add_realism(parser: Parser) -> None:
    parser.add_argument(
        "--realism",
        type=in_range(float, 0.0, 1.0),
        default=0.0,
        help="0: as faithful as can be, 1: as realistic, weights mixed between",
    )
