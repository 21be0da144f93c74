"""Trainers of tiny models on a few small files."""

from pathlib import Path

import torch

from data import build_kind, kind_class
from data.dataset import PictureSet
from data.images import ImageKind
from data.speech import SpeechKind
from tests.helpers.models import tiny_config
from utils.training import fitting
from utils.training import stages as stages_module
from utils.training.schedule import STAGES
from utils.training.trainer import Settings, Trainer

N_BATCHES = 2  # of the fits, here
SMALL = (  # small crops, short fits and searches
    (ImageKind, "crop_shape", (64, 64)),
    (SpeechKind, "crop_shape", (128, 128)),
    (fitting, "FITTING_BATCHES", N_BATCHES),
    (fitting, "FITTING_CROPS", 4),
    (stages_module, "SEARCH_ITERATIONS", 3),
)


def new_kind(name: str):
    """A kind with the settings of the models that are trained from now on."""
    return build_kind(name, kind_class(name).new_settings)


def picture_set(roots, kind="image", cls=PictureSet) -> PictureSet:
    return cls(new_kind(kind), sorted(roots[kind].iterdir()), progress=False)


def make_trainer(folder, kind="image", stages=tuple(STAGES), steps=6, device="cpu", config=None, **changes) -> Trainer:
    values = dict(stages=tuple(stages), batch_size=2, learning_rate=1e-3, steps=steps, validate_every=0.0)
    Path(folder).mkdir(parents=True, exist_ok=True)
    settings, description = Settings(**{**values, **changes}), {"command": "test"}
    return Trainer(config or tiny_config(kind), new_kind(kind), folder, settings, torch.device(device), description)
