"""Trained weights in a model for other rates, or with more latent channels, which starts out doing what they did."""

import dataclasses
import math

import torch

from .bpgan import BPGAN
from .config import QUALITIES, ModelConfig
from .generator import Generator
from .quality import resample

NEW_DEVIATION = 2.0     # of a new channel at the best quality, in steps, where features have a variance of 1
DEAD_DEVIATION = 0.7    # the same of an old one below which its symbols are all zero; others have 1 and more


@torch.no_grad()
def move_qualities(model: torch.nn.Module, old: ModelConfig, new: ModelConfig) -> None:
    """Rows of all tables by quality, taken where the old model had the new one's rate weights."""
    if (old.lmbda_low, old.lmbda_high) == (new.lmbda_low, new.lmbda_high):
        return
    places = torch.tensor([(QUALITIES - 1) * math.log(new.lmbda(q) / old.lmbda_low)
                           / math.log(old.lmbda_high / old.lmbda_low) for q in range(1, QUALITIES + 1)])
    for parameter in model.parameters():
        if parameter.dim() == 2 and len(parameter) == QUALITIES:
            parameter.copy_(resample(parameter, places.to(parameter.device)))


def widened(config: ModelConfig, latent_channels: int) -> ModelConfig:
    """The configuration with one more group of channels, decoded last, up to `latent_channels` in all.

    High rates need them: where every channel costs a bit and more at every place, and a latent that is not
    quantized at all gives pictures hardly better, it is the number of channels that limits quality (docs/training.md).
    Raises ValueError unless that is more than there are, and no more than the encoder has features for.
    """
    more, most = latent_channels - config.latent_channels, config.encoder_widths[2]
    if not 0 < more <= most:
        raise ValueError(f"{latent_channels} latent channels: the checkpoint has {config.latent_channels}, "
                         f"which can become {config.latent_channels + 1} to {config.latent_channels + most}")
    return dataclasses.replace(config, latent_channels=latent_channels,
                               context_groups=(*config.context_groups, more))


@torch.no_grad()
def widen(old: BPGAN, new: BPGAN) -> None:
    """Copies the weights of a model with its encoder into one of a config that `widened` gives.

    Channels that training let die (no symbol but zero, at any quality) start anew, like those that are added.
    """
    channels, units = old.config.latent_channels, len(old.context.first.bias)
    own, unit = torch.arange(channels), torch.arange(units)
    both = torch.cat([own, new.config.latent_channels + own])       # where the network has two of each channel
    _copy_but(new.encoder, old.encoder, "out.")
    new.encoder.out.weight[:channels], new.encoder.out.bias[:channels] = old.encoder.out.weight, old.encoder.out.bias
    for name in ("log_gain", "log_inverse"):
        getattr(new.gains, name)[:, :channels] = getattr(old.gains, name)
    new.codebook.reset()
    new.codebook.centers[:channels] = old.codebook.centers

    a, b = old.context, new.context
    b.first.weight[:units, both] = a.first.weight
    b.second.weight[:units, :units] = a.second.weight
    b.last.weight[both[:, None], unit] = a.last.weight
    for name in ("first", "second"):
        getattr(b, name).bias[:units] = getattr(a, name).bias
    b.last.bias[both] = a.last.bias
    b.quality_bias[:, :units] = a.quality_bias
    if a.row_bias is not None:
        b.row_bias[:, :units] = a.row_bias
    b.prior[:, both] = a.prior

    fresh = torch.ones(new.config.latent_channels, dtype=torch.bool)
    fresh[:channels] = _dead(old)
    _start(new, fresh)
    _copy_generator(old.generator, new.generator, fresh)


@torch.no_grad()
def widen_generator(generator: Generator, old: BPGAN, new: Generator) -> None:
    """Copies the weights of another generator for the old model's latent, the realistic one."""
    fresh = torch.ones(new.in16.in_channels, dtype=torch.bool)
    fresh[:old.config.latent_channels] = _dead(old)
    _copy_generator(generator, new, fresh)


def _dead(model: BPGAN) -> torch.Tensor:
    """Which channels (C,) have no symbol but zero."""
    return model.encoder.out.weight.flatten(1).norm(dim=1) * model.gains.log_gain[-1].exp() < DEAD_DEVIATION


def _start(model: BPGAN, fresh: torch.Tensor) -> None:
    """Channels (C,) as they begin.

    Their rows in the encoder are directions at right angles to those of all other channels: they see what these
    leave. They are quantized like the average other channel, and the entropy model starts with the
    width that this means, and sees nothing in them yet.
    """
    count, channels = int(fresh.sum()), len(fresh)
    out, gains, context = model.encoder.out, model.gains, model.context
    _, _, directions = torch.linalg.svd(out.weight[~fresh].flatten(1))      # by falling weight in the other channels
    for table in (gains.log_gain, gains.log_inverse):
        table[:, fresh] = table[:, ~fresh].mean(1, keepdim=True)
    gain = gains.log_gain[:, fresh][:, :1]
    out.weight[fresh] = NEW_DEVIATION * (-gain[-1]).exp() * directions.flip(0)[:count, :, None, None]
    out.bias[fresh] = 0
    model.codebook.centers[fresh] = torch.arange(-model.codebook.max_symbol, model.codebook.max_symbol + 1.0)

    both = fresh.repeat(2)
    context.first.weight[:, both] = 0
    context.last.weight[both], context.last.bias[both], context.prior[:, both] = 0, 0, 0
    deviation = NEW_DEVIATION * (gain - gain[-1]).exp()
    log_scale = (deviation * math.sqrt(3) / math.pi).log().clamp_min(-2.0)      # of a logistic distribution
    context.prior[:, channels:][:, fresh] = log_scale.expand(-1, count)


def _copy_generator(old: Generator, new: Generator, fresh: torch.Tensor) -> None:
    """Copies weights; fresh channels (C,) count for nothing yet."""
    _copy_but(new, old, "in16.weight")
    new.in16.weight.zero_()
    new.in16.weight[:, :old.in16.in_channels] = old.in16.weight
    new.in16.weight[:, fresh] = 0


def _copy_but(new: torch.nn.Module, old: torch.nn.Module, start: str) -> None:
    """Copies all weights whose names do not start so."""
    new.load_state_dict({**new.state_dict(), **{name: tensor for name, tensor in old.state_dict().items()
                                                if not name.startswith(start)}})
