"""From the options of train.py to a trainer and its data."""

import dataclasses
import shlex
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from data import Kind, build_kind, kind_class
from data.corpora import default_dataroot
from data.dataset import PictureSet
from models.config import ModelConfig
from options.base_options import save_options
from utils import distributed
from utils.codec.checkpoint import load_checkpoint
from utils.console import pick_device
from utils.files import locked, remove_leftovers

from .distortion import check_objective
from .model_card import sources_of
from .trainer import Settings, Trainer
from .trunk import check_trunk


def _aims(options: Namespace) -> dict[str, float | str]:
    """What the command line says of the range of rates and of the distortion."""
    return {name: getattr(options, name) for name in ("lmbda_low", "lmbda_high", "objective") if getattr(options, name)}


def new_config(options: Namespace) -> ModelConfig:
    """The kind's configuration with what the command line changes."""
    config = ModelConfig(signal=options.signal, **kind_class(options.signal).network)
    changes = _aims(options)
    for name in ("encoder_widths", "generator_widths"):
        changes[name] = tuple(max(8, round(n * options.width / 8) * 8) for n in getattr(config, name))
    return dataclasses.replace(config, **changes)


def starting_config(config: ModelConfig, options: Namespace) -> ModelConfig:
    """The checkpoint's configuration; of it only the range of rates and the objective can still be changed."""
    if config.signal != options.signal:
        raise ValueError(f"--init: a checkpoint for {config.signal}, --signal says {options.signal}")
    if options.width != 1.0:
        raise ValueError("--width does not go with --init: the checkpoint's widths are kept")
    return dataclasses.replace(config, **_aims(options))


def list_split(roots: list[Path], kind: Kind, split: str) -> list[Path]:
    """Files of the kind in the given folders for "train" or "val"; ValueError where there are none."""
    files = [path for root in roots for path in kind.list_files(root, split)]
    if not files:
        raise ValueError(f"no {kind.name} files under {', '.join(map(str, roots))}")
    return files


def settings_of(options: Namespace) -> Settings:
    """The options that a trainer needs, by the same names."""
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(Settings)}
    return Settings(**{**values, "stages": tuple(options.stages)})


def folder_of(options: Namespace) -> Path:
    """The run's folder."""
    return options.runs / (options.name or options.signal)


@contextmanager
def run_folder(options: Namespace) -> Iterator[None]:
    """Makes the run's folder, and keeps other runs out of it while the block runs; one that stays empty goes again.

    Raises ValueError where another run is at work in it, OSError where it cannot be written to.
    """
    if distributed.world()[0]:  # the first process has the lock for all of them
        yield
        return
    folder = folder_of(options)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder):
            yield
    finally:
        with suppress(OSError):  # it holds a run
            folder.rmdir()


def build_trainer(options: Namespace) -> tuple[Trainer, PictureSet, PictureSet | None]:
    """-> a trainer ready to run, training pictures, and on the first process validation pictures.

    Writes the options into the run's folder. Raises ValueError where the options do not fit the data, the
    checkpoint or what the folder holds.
    """
    device = distributed.start(pick_device(options.device))
    rank, _ = distributed.world()
    start = load_checkpoint(options.init) if options.init else None
    config = starting_config(start.config, options) if start else new_config(options)
    check_objective(config.objective, kind_class(config.signal))
    trunk = load_checkpoint(options.trunk) if options.trunk and not options.resume else None
    if trunk:
        check_trunk(config, trunk.config)
    kind = build_kind(config.signal, start.signal_settings if start else kind_class(config.signal).new_settings)
    train_roots = options.dataroot or [default_dataroot(kind.name, "train")]
    val_roots = options.valroot or [default_dataroot(kind.name, "val")]
    files = list_split(train_roots, kind, "train")
    val_files = list_split(val_roots, kind, "val")[: options.val_files] if rank == 0 else []
    folder = folder_of(options)
    if any(folder.glob("state*.pt")) and not options.resume:
        raise ValueError(f"{folder} holds a run already: go on with --resume, or choose another --name")
    description = {
        "command": shlex.join(["python", "train.py", *options.argv]),
        "device": device.type,
        "data": ", ".join("/".join(root.resolve().parts[-2:]) for root in train_roots),
        "sources": sources_of(train_roots),
    }
    trainer = Trainer(config, kind, folder, settings_of(options), device, description)
    if start:
        trainer.keep_files_of(start)
    if options.resume:
        trainer.resume()  # what does not fit is refused before anything is written or read for minutes
    elif start:
        trainer.adopt(start)
    save_options(options, folder / "options.json")
    if rank == 0:
        remove_leftovers([folder])

    data = PictureSet(kind, files, device, progress=rank == 0)
    validation = PictureSet(kind, val_files, device, progress=False) if rank == 0 else None
    trainer.description["files"] = len(data)
    if not options.resume and not start:
        trainer.start(data, trunk)
    return trainer, data, validation
