"""Tiny models and checkpoints, whose tests run in milliseconds."""

from pathlib import Path

import torch

from data import build_kind, kind_class
from models.bpgan import BPGAN, build_generator
from models.config import ModelConfig
from models.discriminator import Discriminator
from utils.codec.checkpoint import Checkpoint, save_checkpoint
from utils.codec.codec import load_codec
from utils.training.fitting import fit_coders


def tiny_config(signal: str, **changes):
    """A model of a few thousand weights, whose tests run in milliseconds."""
    values = dict(
        in_channels={"image": 3, "speech": 1}[signal],
        latent_channels=16,
        latent_rows=8 if signal == "speech" else 0,
        context_groups=(4, 4, 8),
        context_hidden=8,
        encoder_widths=(16, 16, 16),
        encoder_depths=(1, 1, 1),
        generator_widths=(16, 16, 16),
        generator_depths=(1, 1, 1),
        linear_path=True,
        quality_scales=True,
    )
    return ModelConfig(signal=signal, **{**values, **changes})


def randomize_context(context) -> None:
    """Reasonable random weights: at its start the last layer is zero and the context without effect."""
    with torch.no_grad():
        fan_in = context.last_mask.flatten(1).sum(1).clamp_min(1).view(-1, 1, 1, 1)
        context.last.weight.normal_().mul_(0.4 / fan_in.sqrt())
        for parameter in (context.first.bias, context.second.bias, context.quality_bias, context.last.bias):
            parameter.normal_(std=0.1)
        if context.row_bias is not None:
            context.row_bias.normal_(std=0.1)
        if context.leading is not None:
            context.leading.weight.normal_(std=0.1)
        if context.first_scale is not None:
            for scale in (context.first_scale, context.second_scale):
                scale.uniform_(0.7, 1.4)
            context.second_quality_bias.normal_(std=0.1)
        channels = sum(context.groups)
        context.prior[:, channels:] = torch.linspace(-1.0, 1.0, len(context.prior))[:, None]


def tiny_model(signal: str, seed: int = 0, **changes):
    """A seeded untrained model, its context model and centers with values of their own."""
    torch.manual_seed(seed)
    model = BPGAN(tiny_config(signal, **changes))
    randomize_context(model.context)
    model.codebook.centers += 0.3 * torch.rand_like(model.codebook.centers)
    return model.requires_grad_(False)


def tiny_checkpoint(signal: str, seed: int = 0, with_realistic: bool = True, **changes):
    """`Checkpoint` of a tiny model, its tables fitted to waves and noise; see `tiny_checkpoints`."""
    model = tiny_model(signal, seed, **changes)
    rows, columns = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
    waves = torch.sin(columns / 7) * torch.cos(rows / 11)
    x = (0.5 * waves + 0.2 * torch.randn(2, model.config.in_channels, 128, 128)).clamp(-1, 1)
    tables, _ = fit_coders(model, [x])
    realistic = None
    if with_realistic:
        start = build_generator(model.config, texture=signal == "image").state_dict() | model.generator.state_dict()
        realistic = {name: weight + 0.05 * torch.randn_like(weight) for name, weight in start.items()}
    discriminator = Discriminator(model.config.in_channels, scales=3).state_dict() if with_realistic else None
    return Checkpoint(
        model.config,
        build_kind(signal, kind_class(signal).new_settings if model.config.linear_path else {}).settings,
        model.state_dict(),
        realistic,
        discriminator,
        tables,
        "context",
        {"made by": "tests"},
    )


def tiny_codecs(folder: Path) -> list:
    """A tiny codec of each kind of signal, its checkpoint KIND.safetensors in the folder: for the long runs."""
    codecs = []
    for kind in ("image", "speech"):
        save_checkpoint(folder / f"{kind}.safetensors", tiny_checkpoint(kind))
        codecs.append(load_codec(folder / f"{kind}.safetensors"))
    return codecs
