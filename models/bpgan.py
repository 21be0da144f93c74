"""The assembly: encoder, gains and codebook, generator, entropy model, under one config."""

from typing import NamedTuple

import torch
from torch import nn

from .config import ModelConfig
from .entropy_model import ContextModel, logistic_bits
from .generator import Generator
from .quantizer import Codebook, Gains, straight_through_round


class ForwardResult(NamedTuple):
    """What a training step needs."""

    x_hat: torch.Tensor  # (B, C, H, W)
    bits: torch.Tensor  # (B,) estimated bits of each picture


class BPGAN(nn.Module):
    """x -E-> z -gain-> y -codebook-> symbols -centers, inverse gain-> z_hat -G-> x_hat."""

    def __init__(self, config: ModelConfig, with_encoder: bool = True):
        super().__init__()
        c = config
        self.config = config
        self.encoder = build_encoder(c) if with_encoder else None
        self.generator = build_generator(c)
        self.gains = Gains(c.latent_channels, 1.0, (c.lmbda_high / c.lmbda_low) ** 0.5, c.linear_path)
        self.codebook = Codebook(c.latent_channels, c.max_symbol)
        self.context = ContextModel(
            c.context_groups, c.context_hidden, c.latent_rows, leading=c.linear_path, scales=c.quality_scales
        )

    def analyze(self, x: torch.Tensor, quality_row: torch.Tensor) -> torch.Tensor:
        """x (B, C, H, W) in [-1, 1] -> y (B, latent_channels, H/16, W/16), float32, in steps."""
        return self.gains.scale(self.encoder(x, quality_row).float(), quality_row)

    def generate(
        self,
        y_hat: torch.Tensor,
        quality_row: torch.Tensor,
        generator: Generator | None = None,
        origin: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """y_hat in steps -> x_hat (B, C, H, W) float32, not clamped; by another generator of the same sizes if given.

        `origin`: where y_hat lies in a larger latent, as `Texture.forward` has it.
        """
        y_hat = y_hat.contiguous(memory_format=torch.channels_last)
        z_hat, features = self.gains.unscale(y_hat, quality_row), self.gains.features(y_hat, quality_row)
        return (generator or self.generator)(z_hat, quality_row, features, origin).float()

    def rate(self, symbols: torch.Tensor, quality_row: torch.Tensor) -> torch.Tensor:
        """Estimated bits (B,) of symbols (B, latent_channels, h, w), float, in the context of themselves."""
        mean, log_scale = self.context(symbols, quality_row)
        return logistic_bits(symbols, mean, log_scale).flatten(1).sum(1)

    def forward(self, x: torch.Tensor, quality_row: torch.Tensor) -> ForwardResult:
        """Training pass: generator and entropy model see rounded latents, straight through.

        The encoder's own share of the rate's gradient is taken at latents plus uniform noise, as
        rounding has none (mixed quantization, Minnen and Singh 2020; there the entropy model sees
        the noise too, and then expects symbols more spread out than those that are coded).
        """
        y = self.analyze(x, quality_row)
        y_hat = straight_through_round(y)
        noisy = y + torch.empty_like(y).uniform_(-0.5, 0.5)
        mean, log_scale = self.context(y_hat, quality_row)
        bits = logistic_bits(y_hat.detach(), mean, log_scale)
        slope = logistic_bits(noisy, mean.detach(), log_scale.detach())
        bits = bits + (slope - slope.detach())
        return ForwardResult(self.generate(y_hat, quality_row), bits.flatten(1).sum(1))


def build_encoder(config: ModelConfig) -> nn.Module:
    """An encoder of the config's sizes."""
    from .encoder import Encoder  # a receiver has no use for it and does not load it

    return Encoder(
        config.in_channels,
        config.latent_channels,
        config.encoder_widths,
        config.encoder_depths,
        config.latent_rows,
        linear=config.linear_path,
        scales=config.quality_scales,
    )


def build_generator(config: ModelConfig, texture: bool = False) -> Generator:
    """A generator of the config's sizes: the faithful one, or the realistic one beside it, which may have textures."""
    return Generator(
        config.in_channels,
        config.latent_channels,
        config.generator_widths,
        config.generator_depths,
        config.latent_rows,
        linear=config.linear_path,
        scales=config.quality_scales,
        texture=texture,
    )
