"""All networks of a run: the model, its moving average, and those of the adversarial stage."""

import copy

import numpy as np
import torch
from torch import nn

from data import build_kind, kind_class
from data.dataset import PictureSet
from models.bpgan import BPGAN, build_generator
from models.config import ModelConfig
from models.discriminator import Discriminator, ProjectedDiscriminator, WaveformDiscriminator
from models.efficientnet import WIDTHS, picture_features
from models.quality import move_qualities
from models.texture import has_texture
from models.vgg16 import load_vgg16
from utils.codec.checkpoint import Checkpoint, load_strictly
from utils.codec.weights import load_weights
from utils.precision import autocast

from .linear_path import start_linear_path
from .trunk import start_trunk

LINEAR_PATH_CROPS = 640  # that a linear path starts from
TRUNK_CROPS = 320  # that the layers around a trunk are fitted to


class Networks:
    """`model` is trained; `average`, its moving average, is what validation, search and checkpoints use.

    The others are None until a stage or a checkpoint brings them: `realistic` and `realistic_average`, and of the
    discriminators either `projected_discriminator`, for photographs in color, or `discriminator` and, for kinds that are
    heard, `waveform_discriminator`. All are in the saved state. Of the discriminators a checkpoint holds `discriminator`
    alone, which the search's perceptual objective needs.
    """

    DISCRIMINATORS = ("discriminator", "waveform_discriminator", "projected_discriminator")
    NAMES = ("model", "average", "realistic", "realistic_average", *DISCRIMINATORS)

    def __init__(
        self, config: ModelConfig, device: torch.device, seed: int, *, adversarial: bool = False, vgg16: bool = False
    ):
        """The seed fixes the weights, the same in every process.

        `adversarial`: whether there will be a stage of that name. With `vgg16` it compares VGG16's features. Raises
        ValueError where a network that it needs cannot be had: now, not after the hours of the stages before.
        """
        self.config, self.device, self.seed = config, device, seed
        self.has_colors = kind_class(config.signal).has_colors
        if vgg16 and not self.has_colors:
            raise ValueError(f"--vgg16 is for photographs in color, {config.signal} has none: leave it out")
        if adversarial and self.has_colors:
            picture_features(device)
        self.vgg16 = load_vgg16(device) if vgg16 else None
        torch.manual_seed(seed)
        self.model = BPGAN(config).to(device, memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.model).requires_grad_(False).eval()
        self.realistic: nn.Module | None = None
        self.realistic_average: nn.Module | None = None
        self.discriminator: nn.Module | None = None
        self.waveform_discriminator: nn.Module | None = None
        self.projected_discriminator: nn.Module | None = None

    def autocast(self) -> torch.autocast:
        return autocast(self.device)

    def build_realistic(self, texture: bool) -> None:
        """A second generator, equal to the first one but for the texture, if it is to have any, and discriminators."""
        with torch.random.fork_rng(devices=[]):  # the same weights in every process
            torch.default_generator.manual_seed(self.seed)
            realistic = build_generator(self.config, texture)
            load_strictly(realistic, {**realistic.state_dict(), **self.model.generator.state_dict()}, "the generator")
            self.realistic = realistic.to(self.device, memory_format=torch.channels_last)
            self.realistic_average = copy.deepcopy(self.realistic).requires_grad_(False)
            if self.has_colors:
                projected = ProjectedDiscriminator(WIDTHS, self.config.latent_channels)
                self.projected_discriminator = projected.to(self.device, memory_format=torch.channels_last)
                return
            self.discriminator = Discriminator(self.config.in_channels).to(self.device)
            if kind_class(self.config.signal).has_waveforms:
                self.waveform_discriminator = WaveformDiscriminator().to(self.device)

    def start_linear_path(self, data: PictureSet) -> None:
        """The model's linear path and what goes with it, from crops that are the same in every process."""
        rng = np.random.default_rng(0)
        pictures = torch.cat([data.batch(LINEAR_PATH_CROPS // 8, rng) for _ in range(8)]).to(self.device)
        start_linear_path(self.model, pictures)
        self.average.load_state_dict(self.model.state_dict())

    def start_trunk(self, checkpoint: Checkpoint, data: PictureSet) -> None:
        """The residual blocks of a checkpoint of the same widths, after `start_linear_path`."""
        old = BPGAN(checkpoint.config).requires_grad_(False)
        load_weights(old, checkpoint)
        old.eval().to(self.device, memory_format=torch.channels_last)
        rng = np.random.default_rng(1)
        pictures = torch.cat([data.batch(TRUNK_CROPS // 10, rng) for _ in range(10)]).to(self.device)
        old_kind = build_kind(checkpoint.config.signal, checkpoint.signal_settings)
        start_trunk(self.model, data.kind, old, old_kind, pictures)
        self.average.load_state_dict(self.model.state_dict())

    def adopt_model(self, checkpoint: Checkpoint) -> None:
        """Weights of a checkpoint of the same sizes; its qualities may span other rates."""
        for module in (self.model, self.average):
            load_weights(module, checkpoint)
            move_qualities(module, checkpoint.config, self.config)

    def adopt_realistic(self, checkpoint: Checkpoint) -> None:
        """The checkpoint's realistic generator, and its discriminator where such a one judges this kind of pictures.

        Each is built where there is none yet.
        """
        if self.realistic is None:
            if not checkpoint.realistic:
                return
            self.build_realistic(has_texture(checkpoint.realistic))
            self.waveform_discriminator = self.projected_discriminator = None
            if not checkpoint.discriminator:
                self.discriminator = None
        if checkpoint.realistic:
            for module in (self.realistic, self.realistic_average):
                # textures that the checkpoint has none of start anew
                weights = {**module.state_dict(), **checkpoint.realistic}
                load_strictly(module, weights, "the checkpoint's realistic generator")
                move_qualities(module, checkpoint.config, self.config)
        if checkpoint.discriminator and self.discriminator is not None:
            load_strictly(self.discriminator, checkpoint.discriminator, "the checkpoint's discriminator")

    def modules(self) -> dict[str, nn.Module]:
        """Those that there are, by name."""
        return {name: getattr(self, name) for name in self.NAMES if getattr(self, name) is not None}

    def weights(self) -> dict[str, dict]:
        return {name: module.state_dict() for name, module in self.modules().items()}

    def restore(self, weights: dict[str, dict]) -> None:
        """What `weights()` gave, and the same modules: others are built or removed."""
        if self.realistic is None and "realistic" in weights:
            self.build_realistic(has_texture(weights["realistic"]))
        for name in self.DISCRIMINATORS:
            if name not in weights:
                setattr(self, name, None)
        if weights.keys() != self.modules().keys():
            raise KeyError(f"networks {sorted(weights)}, not {sorted(self.modules())}")
        for name, module in self.modules().items():
            module.load_state_dict(weights[name])
