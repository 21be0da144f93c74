"""Options that every script has, and how all of them are parsed, shown and kept."""

import argparse
import json
import logging
import os
import signal
import sys
from pathlib import Path

from utils import __version__
from utils.console import fail, printable
from utils.files import replacing

_INTERNAL = ("argv", "program", "result_name")  # in a namespace, but no options
_ROOT = Path(__file__).resolve().parents[1]


class Parser(argparse.ArgumentParser):
    """argparse with defaults in the help; a user's mistake ends in one line and exit code 2."""

    def __init__(self, description: str):
        super().__init__(description=description, formatter_class=_HelpFormatter)
        self.add_argument(
            "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto takes a GPU where there is one"
        )
        self.add_argument(
            "--seed",
            type=in_range(int, 0, 2**31 - 1),
            default=0,
            help="of random numbers: the same input, settings, seed and batch size give the same result",
        )
        self.add_argument(
            "--dry-run", action="store_true", help="check the options, print them, and stop before any work"
        )
        self.add_argument("--verbose", action="store_true", help="log every step")
        self.add_argument("--version", action="version", version=f"BPGAN {__version__}")

    def error(self, message: str):
        """End the program with one line and exit code 2."""
        self.exit(2, f"{self.prog}: error: {printable(message)} (see --help)\n")

    def parse_known_args(self, args=None, namespace=None):
        """Options may be written with hyphens or with underscores: --target-bpp is --target_bpp."""
        spelled = {_hyphened(name): name for action in self._actions for name in action.option_strings}
        words = []
        for word in sys.argv[1:] if args is None else args:
            name, sign, value = word.partition("=")
            words.append(spelled.get(_hyphened(name), name) + sign + value if word.startswith("--") else word)
        return super().parse_known_args(words, namespace)

    def parse(self, argv: list[str] | None) -> argparse.Namespace:
        """The options of a command line, by which the log is set up. A mistake ends the program: see `error`."""
        options = self.parse_intermixed_args(argv)  # options may stand between IN and OUT
        level = logging.INFO if options.verbose else logging.WARNING
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_PrintableFormatter("%(levelname)s: %(message)s"))
        logging.basicConfig(handlers=[handler], level=logging.ERROR if getattr(options, "quiet", False) else level)
        return options

    def add_inputs(self, what: str, required: bool = False) -> None:
        """--input: files and folders, None without it; `what` says which."""
        self.add_argument("--input", type=Path, nargs="+", required=required, metavar="FILE|DIR", help=what)

    def add_checkpoints(self) -> None:
        """--checkpoint: trained weights, one file per kind of signal; None without it."""
        self.add_argument(
            "--checkpoint",
            type=Path,
            nargs="+",
            metavar="FILE",
            help="trained weights, one file per kind of signal, to decode any number; without it, those in checkpoints/ "
            "are used. Of several, each ends in .safetensors; other words are IN and OUT",
        )

    def run(self, argv: list[str] | None, work) -> int:
        """Parse, then `work(options)`; -> exit code. A user's mistake is one line, never a traceback.

        Where whoever reads standard output has gone (`| head -1`), that ends the work in silence.
        """
        if hasattr(sys.stdout, "reconfigure"):  # a name that the terminal's encoding lacks must not cost the table
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            try:
                return self._run(argv, work)
            finally:
                sys.stdout.flush()  # a reader that has gone is noticed here, not at the interpreter's end
        except BrokenPipeError:
            # What is still buffered must go somewhere when the interpreter ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE

    def _run(self, argv: list[str] | None, work) -> int:
        options = self.parse(argv)
        options.argv = sys.argv[1:] if argv is None else list(argv)
        options.program = _program(Path(work.__globals__["__file__"]))
        if options.dry_run or options.verbose:
            print(self.table(options), file=None if options.dry_run else sys.stderr)
        if options.dry_run:
            return 0
        from utils import distributed
        from utils.memory import keep_freed_memory

        keep_freed_memory()

        # A shell that starts us in the background ignores SIGINT for us; SIGTERM is what schedulers send.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        try:
            return work(options)
        except BrokenPipeError:
            raise
        except (ValueError, OSError, FloatingPointError) as error:
            return fail(error)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        finally:
            distributed.stop()

    def table(self, options: argparse.Namespace) -> str:
        """Sorted options, every value that is not the default marked."""
        lines = []
        for name, value in sorted(vars(options).items()):
            if name in _INTERNAL:
                continue
            default = self.get_default(name)
            mark = "" if value == default else f"   [default: {default}]"
            lines.append(printable(f"{name:>20}: {value}{mark}"))
        return "\n".join(lines)


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


def _program(path: Path) -> list[str]:
    """The words that start a script, or a module of one of this repository's packages."""
    path = path.resolve()
    if path.parent == _ROOT or _ROOT not in path.parents:
        return ["python", path.name]
    return ["python", "-m", ".".join(path.relative_to(_ROOT).with_suffix("").parts)]


def _hyphened(name: str) -> str:
    return name.replace("_", "-")


class _PrintableFormatter(logging.Formatter):
    """Messages hold names of files; nothing in these may act on a terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))


def in_range(kind: type, low, high):
    """An argparse type: a number of that kind in [low, high]."""

    def parse(text: str):
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number of type {kind.__name__}") from None
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{value} is outside {low} to {high}")
        return value

    return parse


def save_options(options: argparse.Namespace, path: Path) -> None:
    """The resolved set as JSON, beside the results it explains."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(vars(options), indent=2, sort_keys=True, default=str) + "\n")
