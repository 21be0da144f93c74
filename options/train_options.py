"""Options of train.py."""

from pathlib import Path

from data import KINDS
from models.config import TRAINED_OBJECTIVES
from utils.training.schedule import STAGES

from .base_options import Parser, in_range


def train_parser() -> Parser:
    """The command line of train.py."""
    parser = Parser("Train encoder, generator, codebook and entropy tables; then the realistic generator.")
    add = parser.add_argument
    add("--signal", choices=tuple(KINDS), required=True, help="kind of signal")
    add(
        "--dataroot",
        type=Path,
        nargs="+",
        default=None,
        help="folders of training files; without it, images/train or speech/train under $BPGAN_DATA is taken",
    )
    add(
        "--valroot",
        type=Path,
        nargs="+",
        default=None,
        help="folders of validation files; without it, images/val or speech/val under $BPGAN_DATA is taken",
    )
    add("--name", default=None, help="the run's folder under --runs; without it, the signal's name is taken")
    add("--runs", type=Path, default=Path("runs"), help="where the folders of all runs are")
    add("--stages", nargs="+", choices=tuple(STAGES), default=list(STAGES), help="what to train, in this order")
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--minutes",
        type=in_range(float, 0.01, 1e6),
        default=120.0,
        help="length of the whole run by the clock, with validation and the ends of stages",
    )
    length.add_argument(
        "--steps",
        type=in_range(int, 1, 10**9),
        default=None,
        help="length of the whole run in steps; it takes the place of --minutes",
    )
    add("--resume", action="store_true", help="go on from the run's last saved state")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--init", type=Path, default=None, help="start from the weights of this checkpoint")
    start.add_argument(
        "--trunk",
        type=Path,
        default=None,
        help="start from the residual blocks of this checkpoint, whose latent or picture may be another",
    )
    add(
        "--objective",
        choices=TRAINED_OBJECTIVES,
        default=None,
        help="the distortion that counts beside the bits, ms_ssim for images only; without it, that of --init, or mse",
    )
    add("--batch_size", type=in_range(int, 1, 4096), default=8, help="crops per step and process")
    add(
        "--learning_rate",
        type=in_range(float, 0.0, 1.0),
        default=2e-3,
        help="peak of the stage joint; each other stage has a fixed fraction of it, also where it comes first",
    )
    add("--optimizer", choices=("soap", "adamw"), default="soap", help="soap learns more per minute")
    add(
        "--width",
        type=in_range(float, 0.0625, 8.0),
        default=1.0,
        help="scales the number of channels of encoder and generator",
    )
    add(
        "--lmbda_low",
        type=in_range(float, 1e-6, 10.0),
        default=None,
        help="rate weight of quality 1; without it, that of --init, or the default of the kind",
    )
    add(
        "--lmbda_high",
        type=in_range(float, 1e-6, 10.0),
        default=None,
        help="rate weight of quality 8; without it, that of --init, or the default of the kind",
    )
    add(
        "--vgg16",
        action="store_true",
        help="images: the adversarial stage compares features of VGG16, whose weights torchvision downloads (528 MB), "
        "in place of EfficientNet-Lite0's",
    )
    add(
        "--validate_every",
        type=in_range(float, 0.0, 1e6),
        default=5.0,
        help="minutes from one validation to the next; with 0, validation is at the ends of stages only",
    )
    add(
        "--val_files",
        type=in_range(int, 1, 10**6),
        default=8,
        help="number of validation files, the first ones by name",
    )
    return parser
