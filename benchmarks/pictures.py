"""What the benchmarks of a few pictures share: their options, the image codec, and the pictures."""

from pathlib import Path

from models.config import QUALITIES
from options.base_options import Parser, in_range


def add_picture_options(parser: Parser, what: str, qualities: list[float], pictures: int) -> None:
    """--input, --checkpoint, --quality and --pictures; `what` says which pictures, the others are defaults."""
    parser.add_inputs(f"{what}; without it, the validation set below the folder that BPGAN_DATA names is taken")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=None,
        metavar="FILE",
        help="trained weights; without it, those in checkpoints/ are used",
    )
    parser.add_argument(
        "--quality", type=in_range(float, 1, QUALITIES), nargs="+", default=qualities, help="one or several"
    )
    parser.add_argument(
        "--pictures", type=in_range(int, 1, 10**6), default=pictures, help="how many, evenly spaced among the inputs"
    )


def codec_and_paths(options):
    """The codec and the paths of the pictures that the options name. Raises ValueError where there are none."""
    from data.corpora import default_dataroot
    from utils.batch.inputs import find_inputs
    from utils.codec.codec import load_codec
    from utils.codec.fingerprint import shipped
    from utils.console import pick_device

    codec = load_codec(options.checkpoint or shipped("image"), pick_device(options.device))
    inputs = options.input or [default_dataroot(codec.kind.name, "val")]
    items = find_inputs(inputs, lambda path: path.suffix.lower() in codec.kind.suffixes)
    return codec, [item.path for item in items[:: max(1, len(items) // options.pictures)][: options.pictures]]
