"""Train encoder, generator, codebook and entropy tables; then the realistic generator."""

import dataclasses
import shlex
import sys
from pathlib import Path

from data import build_kind
from data.corpora import default_dataroot, is_timit, list_files, timit_files
from data.dataset import PictureSet
from models.config import ModelConfig
from options.base_options import save_options
from options.train_options import train_parser
from utils import distributed
from utils.codec.checkpoint import load_checkpoint
from utils.console import pick_device
from utils.files import remove_leftovers
from utils.training.trainer import Trainer

# What differs between kinds of signal in size and range: first choices, not yet tuned.
CONFIGS = {
    "image": dict(in_channels=3, latent_channels=128),
    "speech": dict(
        in_channels=1,
        latent_channels=96,
        latent_rows=8,
        encoder_widths=(48, 96, 160),
        generator_widths=(48, 96, 160),
        context_groups=(4, 4, 8, 8, 16, 16, 16, 24),
        lmbda_low=0.00025,
        lmbda_high=0.01,
    ),
}


def model_config(options) -> ModelConfig:
    """The kind's configuration with what the command line changes."""
    config = ModelConfig(signal=options.signal, **CONFIGS[options.signal])
    changes = {name: getattr(options, name) for name in ("lmbda_low", "lmbda_high") if getattr(options, name)}
    for name in ("encoder_widths", "generator_widths"):
        changes[name] = tuple(max(8, round(n * options.width / 8) * 8) for n in getattr(config, name))
    return dataclasses.replace(config, **changes)


def starting_config(config: ModelConfig, options) -> ModelConfig:
    """The checkpoint's configuration; of it only the range of rates can still be changed."""
    if config.signal != options.signal:
        raise ValueError(f"--init: a checkpoint for {config.signal}, --signal says {options.signal}")
    if options.width != 1.0:
        raise ValueError("--width does not go with --init: the checkpoint's widths are kept")
    changes = {name: getattr(options, name) for name in ("lmbda_low", "lmbda_high") if getattr(options, name)}
    return dataclasses.replace(config, **changes)


def gather(roots: list[Path], kind, split: str) -> list[Path]:
    """Files of the kind in the given folders; ValueError where there are none."""
    files = []
    for root in roots:
        if kind.name == "speech" and is_timit(root):
            files += timit_files(root, "train" if split == "train" else "test")
        else:
            files += list_files(root, kind)
    if not files:
        raise ValueError(f"no {kind.name} files under {', '.join(map(str, roots))}")
    return files


def run(options) -> int:
    if options.minutes is None and options.steps is None:
        options.minutes = 120.0
    device = distributed.start(pick_device(options.device))
    rank, _ = distributed.world()
    start = load_checkpoint(options.init) if options.init else None
    config = starting_config(start.config, options) if start else model_config(options)
    kind = build_kind(config.signal, start.signal_settings if start else {})
    train_roots = options.dataroot or [default_dataroot(kind.name, "train")]
    val_roots = options.valroot or [default_dataroot(kind.name, "val")]
    files = gather(train_roots, kind, "train")
    val_files = gather(val_roots, kind, "val")[: options.val_files] if rank == 0 else []
    folder = options.runs / (options.name or options.signal)
    if any(folder.glob("state*.pt")) and not options.resume:
        raise ValueError(f"{folder} holds a run already: go on with --resume, or choose another --name")
    save_options(options, folder / "options.json")
    if rank == 0:
        remove_leftovers([folder])

    data = PictureSet(kind, files, device, progress=rank == 0)
    validation = PictureSet(kind, val_files, device, progress=False) if rank == 0 else None
    trainer = Trainer(
        config,
        kind,
        folder,
        options.stages,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        optimizer=options.optimizer,
        minutes=options.minutes,
        steps=options.steps,
        validate_every=options.validate_every,
        device=device,
        seed=options.seed,
        compile_step=options.compile,
        description={
            "command": shlex.join(["python", "train.py", *options.argv]),
            "files": len(data),
            "device": device.type,
            "data": ", ".join("/".join(root.resolve().parts[-2:]) for root in train_roots),
        },
    )
    if options.resume:
        trainer.resume()
    elif start:
        trainer.adopt(start)
    path = trainer.run(data, validation)
    print(f"wrote {path}")
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = train_parser()
    return parser.run(argv, run)


if __name__ == "__main__":
    sys.exit(main())
