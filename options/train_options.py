"""Options of train.py."""

from pathlib import Path

from .base_options import KIND_NAMES, Parser, in_range

STAGE_NAMES = ("joint", "quantized", "entropy", "searched", "adversarial")


def train_parser() -> Parser:
    parser = Parser("Train encoder, generator, codebook and entropy tables; then the realistic generator.")
    add = parser.add_argument
    add("--signal", choices=KIND_NAMES, required=True, help="kind of signal")
    add(
        "--dataroot",
        type=Path,
        nargs="+",
        default=None,
        help="folders of training files (else $BPGAN_DATA/images/train or speech/train)",
    )
    add(
        "--valroot",
        type=Path,
        nargs="+",
        default=None,
        help="folders of validation files (else $BPGAN_DATA/images/val or speech/val)",
    )
    add("--name", default=None, help="the run's folder under --runs (else the signal's name)")
    add("--runs", type=Path, default=Path("runs"), help="where the folders of all runs are")
    add("--stages", nargs="+", choices=STAGE_NAMES, default=list(STAGE_NAMES), help="what to train, in this order")
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--minutes",
        type=in_range(float, 0.01, 1e6),
        default=None,
        help="length of the whole run in minutes of training",
    )
    length.add_argument("--steps", type=in_range(int, 1, 10**9), default=None, help="length of the whole run in steps")
    add("--resume", action="store_true", help="go on from the run's last saved state")
    add("--init", type=Path, default=None, help="start from the weights of this checkpoint")
    add("--batch_size", type=in_range(int, 1, 4096), default=8, help="crops a step and process")
    add(
        "--learning_rate",
        type=in_range(float, 0.0, 1.0),
        default=2e-3,
        help="peak of the first stage; the later ones use fixed fractions of it",
    )
    add("--optimizer", choices=("soap", "adamw"), default="soap", help="soap learns more a minute")
    add(
        "--width",
        type=in_range(float, 0.0625, 8.0),
        default=1.0,
        help="scales the number of channels of encoder and generator",
    )
    add("--lmbda_low", type=in_range(float, 1e-6, 10.0), default=None, help="rate weight of quality 1")
    add("--lmbda_high", type=in_range(float, 1e-6, 10.0), default=None, help="rate weight of quality 8")
    add("--validate_every", type=in_range(float, 0.0, 1e6), default=5.0, help="minutes; 0: only at stage ends")
    add("--val_files", type=in_range(int, 1, 10**6), default=8, help="validation files, the first ones by name")
    add("--compile", action="store_true", help="torch.compile the training step")
    return parser
