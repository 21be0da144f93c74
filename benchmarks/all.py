"""Every benchmark on the same files, one after the other: tables, plots and a page to look and listen.

    python -m benchmarks.all --input DIR --output results/benchmarks

Each part is a benchmark of its own in a folder of its own (`images`, `words`, ...), with the points, tables and plots
that it writes when it is called alone with the arguments that `PARTS` names. What one part codes the others take:
coded files are kept in `coded`. The same command goes on from what is there, after an interrupt too; a part that
fails is named, and the others go on. `page.html` at the end has the tables, the curves, pictures side by side and players.
`python -m benchmarks.tables --input results/benchmarks` takes the tables into the documentation.

Pictures among the inputs go to the parts for pictures, recordings to those for speech; pictures that carry a class
and are held out of training (benchmarks.classes) to that part alone. Without --input each part takes its
test set below the folder that BPGAN_DATA names. Clean prompts (benchmarks.words) are taken where --prompts are.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data import kind_of
from data.folders import is_held_out
from models.config import QUALITIES
from options.base_options import Parser, in_range
from utils.batch.inputs import find_inputs
from utils.console import fail

from . import classes, cost, images, page, perceptual, speech, voices, words

PROMPTS = Path("/usr/share/asterisk/sounds/en_US_f_Allison")
# Whose curves the plot of MS-SSIM shows.
SHOWN_IN_MS_SSIM = ("bpgan", "jpeg", "webp", "avif", "av1", "heic", "hevc", "jpeg-xl")


@dataclass(frozen=True)
class Part:
    """A benchmark, what it takes, and what it is called with beside the options that all share."""

    main: Callable[[list[str]], int]
    takes: str  # "image", "speech", "labeled", "prompts": key of the sorted inputs
    about: str
    arguments: tuple[str, ...] = ()
    searched: bool = True  # --iterations are for it; other parts have their own, or judge what needs no search


PARTS = {
    "images": Part(images.main, "image", "rate and quality of pictures", ("--realism", "0", "1")),
    "images_ms_ssim": Part(
        images.main,
        "image",
        "weights and a search for MS-SSIM",
        ("--objective", "ms_ssim", "--iterations", "0", "25", "--codecs", *SHOWN_IN_MS_SSIM),
        searched=False,
    ),
    "perceptual": Part(perceptual.main, "image", "distances as networks see them", searched=False),
    "classes": Part(classes.main, "labeled", "classes recognized in pictures", searched=False),
    "speech": Part(speech.main, "speech", "rate and quality of speech"),
    "speech_pesq": Part(
        speech.main,
        "speech",
        "a search for what PESQ hears",
        ("--objective", "pesq", "--iterations", "25", "100", "--quality", "1", "2", "3", "4", "--codecs", "bpgan"),
        searched=False,
    ),
    "words": Part(words.main, "speech", "words understood in recordings", searched=False),
    "prompts": Part(
        words.main, "prompts", "words understood in clean prompts", ("--words", "10", "--limit", "48"), searched=False
    ),
    "voices": Part(voices.main, "speech", "whose voice, and how natural", ("--limit", "24"), searched=False),
    "cost_image": Part(cost.main, "image", "seconds and memory for pictures", ("--signal", "image")),
    "cost_speech": Part(cost.main, "speech", "seconds and memory for speech", ("--signal", "speech")),
}


def sort_inputs(inputs: list[Path] | None) -> dict[str, list[str] | None]:
    """Files by who takes them; None: each part's own test set. Raises ValueError as `find_inputs` does."""
    if not inputs:
        return {"image": None, "speech": None, "labeled": None}
    found: dict[str, list[str] | None] = {"image": [], "speech": [], "labeled": []}
    for item in find_inputs(inputs, lambda path: kind_of(path) in ("image", "speech")):
        found["labeled" if is_held_out(item.path) else kind_of(item.path)].append(str(item.path))
    return found


def arguments_of(name: str, part: Part, files: list[str] | None, options) -> list[str]:
    """The command line of a part."""
    words = [*part.arguments, "--output", str(options.output / name), "--coded", str(options.output / "coded")]
    words += ["--device", options.device, "--seed", str(options.seed)]
    if part.takes == "prompts":
        words += ["--prompts", str(options.prompts)]
        words += ["--prompt_texts", str(options.prompt_texts)] if options.prompt_texts else []
    elif files:
        words += ["--input", *files]
    checkpoint = options.image_checkpoint if part.takes in ("image", "labeled") else options.speech_checkpoint
    words += ["--checkpoint", str(checkpoint)] if checkpoint else []
    words += ["--iterations", *map(str, options.iterations)] if part.searched else []
    words += ["--quality", *map(str, options.quality)] if options.quality and part.main is not cost.main else []
    words += ["--limit", str(options.limit)] if options.limit else []
    return words


def page_arguments(sorted_files: dict[str, list[str] | None], options) -> list[str]:
    """The command line of the page at the end: a few files of each kind, and all tables and plots."""
    files = [name for kind in ("image", "speech") for name in sorted_files[kind] or []]
    words = ["--output", str(options.output / "page.html"), "--results", str(options.output)]
    words += ["--device", options.device, "--seed", str(options.seed), "--iterations", str(max(options.iterations))]
    words += ["--input", *files] if files else []
    given = [path for path in (options.image_checkpoint, options.speech_checkpoint) if path]
    words += ["--checkpoint", *map(str, given)] if given else []
    words += ["--quality", *map(str, options.quality)] if options.quality else []
    return [*words, "--limit", str(min(4, options.limit or 4))]


def run(options) -> int:
    """-> exit code: 1 if a part failed, 130 if interrupted; what is measured is kept."""
    files = sort_inputs(options.input) | {"prompts": None}
    parts, failed = {}, []
    for name in options.parts:
        part = PARTS[name]
        if files[part.takes] == []:
            print(f"{name} is skipped: no input is for it ({part.about})", file=sys.stderr)
        elif part.takes == "prompts" and not options.prompts.is_dir():
            print(
                f"{name} is skipped: {options.prompts} is no folder; apt-get install asterisk-core-sounds-en-g722 "
                "asterisk-core-sounds-en, or name one with --prompts",
                file=sys.stderr,
            )
        else:
            parts[name] = part
    for number, (name, part) in enumerate(parts.items(), 1):
        print(f"part {number} of {len(parts)}, {name}: {part.about}", file=sys.stderr)
        code = part.main(arguments_of(name, part, files[part.takes], options))
        if code == 130:
            return code
        failed += [name] * (code != 0)
    if any(files[kind] != [] for kind in ("image", "speech")):
        print("the page", file=sys.stderr)
        code = page.main(page_arguments(files, options))
        if code == 130:
            return code
        failed += ["page"] * (code != 0)
    if failed:
        return fail(ValueError(f"not all was measured: {', '.join(failed)}; see above"))
    print(f"{options.output}: {', '.join(parts)}, page.html")
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = Parser("Every benchmark on the same files, and a page of the results.")
    add = parser.add_argument
    parser.add_inputs(
        "pictures, recordings or folders; without it, the test sets below the folder that BPGAN_DATA names are taken"
    )
    add("--output", type=Path, default=Path("results/benchmarks"), metavar="DIR", help="where all of it goes")
    add("--parts", nargs="+", choices=tuple(PARTS), default=list(PARTS), help="which benchmarks run")
    for kind in ("image", "speech"):
        add(
            f"--{kind}_checkpoint",
            type=Path,
            default=None,
            metavar="FILE",
            help="trained weights; without it, those in checkpoints/ are used",
        )
    add("--iterations", type=in_range(int, 0, 100000), nargs="+", default=[0, 25, 100], help="of this codec's search")
    add(
        "--quality",
        type=in_range(float, 1, QUALITIES),
        nargs="+",
        default=None,
        help="of this codec; without it, each benchmark's own",
    )
    add("--limit", type=in_range(int, 1, 10**9), default=None, help="only the first files of each part")
    add("--prompts", type=Path, default=PROMPTS, metavar="DIR", help="clean prompts in G.722")
    add(
        "--prompt_texts",
        type=Path,
        default=None,
        metavar="FILE",
        help="what is said in them; without it, Debian's texts",
    )
    return parser.run(argv, run)


if __name__ == "__main__":
    sys.exit(main())
