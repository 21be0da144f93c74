"""Where residual blocks start: at those of a trained model, whose latent or picture may be another.

Blocks that have learned pictures serve a new latent sooner than random ones. The layers around them depend on
picture and latent. They are fitted by least squares, so that the blocks see about what they saw before.
"""

import math

import torch
import torch.nn.functional as F

from data.base import Kind
from models.bpgan import BPGAN
from models.config import QUALITIES, ModelConfig
from models.quality import resample

ENCODER_BLOCKS = ("body4", "in8", "body8", "in16", "body16")
GENERATOR_BLOCKS = ("body16", "out16", "body8", "out8", "body4")
QUALITY_TABLES = ("quality16", "scale16", "quality8", "scale8")  # of encoder and generator, where they have them
CHUNK = 16  # pictures at a time
FITTED_PLACES = 60000  # that a layer is fitted to
SMALL_ERROR = 0.01  # of a picture in [-1, 1], for the slope of one kind's pictures by another's


def check_trunk(config: ModelConfig, old: ModelConfig) -> None:
    """Raises ValueError where the blocks of a model of the config `old` do not fit, in one line."""
    if not config.linear_path:
        raise ValueError("a trunk is for models with a linear path: without one, nothing else carries the new latent")
    for name in ("signal", "in_channels", "encoder_widths", "encoder_depths", "generator_widths", "generator_depths"):
        if getattr(config, name) != getattr(old, name):
            raise ValueError(
                f"the trunk's {name} is {getattr(old, name)}, the new model's {getattr(config, name)}: they must agree"
            )
    if config.latent_rows != old.latent_rows:
        raise ValueError(f"the trunk has {old.latent_rows} latent rows, the new model {config.latent_rows}")


@torch.no_grad()
def start_trunk(model: BPGAN, kind: Kind, old: BPGAN, old_kind: Kind, pictures: torch.Tensor) -> None:
    """Give a model, whose linear path has its start, the residual blocks of an old one; in place.

    pictures (B, C, H, W): training crops as `kind` shows them to the model; `old_kind` is that of the old model.
    """
    old_pictures = kind.shown_by(pictures, old_kind.settings)
    moved = kind.shown_by(pictures + SMALL_ERROR, old_kind.settings) - old_pictures
    weights = old_kind.weights(old_pictures)
    worth = float((moved.square() if weights is None else weights * moved.square()).mean() / SMALL_ERROR**2)
    lmbdas = torch.tensor([model.config.lmbda(q) / worth for q in range(1, QUALITIES + 1)], device=pictures.device)
    low, high = old.config.lmbda_low, old.config.lmbda_high
    # on the old model's axis, where an error and a bit are worth the same
    places = ((QUALITIES - 1) / math.log(high / low) * torch.log(lmbdas / low)).clamp(0, QUALITIES - 1)
    for new, before, names in (
        (model.encoder, old.encoder, ENCODER_BLOCKS),
        (model.generator, old.generator, GENERATOR_BLOCKS),
    ):
        for name in names:
            getattr(new, name).load_state_dict(getattr(before, name).state_dict())
        if before.row_bias is not None:
            new.row_bias.copy_(before.row_bias)
        for name in QUALITY_TABLES:
            if getattr(new, name) is not None and getattr(before, name) is not None:
                getattr(new, name).copy_(resample(getattr(before, name), places))
    # The encoder adds nothing yet: what a random layer made of trained blocks would drown the linear path.
    torch.nn.init.zeros_(model.encoder.out.weight)

    chunks = list(zip(pictures.split(CHUNK), old_pictures.split(CHUNK)))
    rows = [torch.arange(len(x), device=x.device).float() % QUALITIES for x, _ in chunks]
    encoder, generator, before = model.encoder, model.generator, old.generator

    # the encoder's first layer, from the new picture
    inputs = [F.unfold(encoder.down4(x), 3, padding=1).transpose(1, 2) for x, _ in chunks]
    outputs = [_places(old.encoder.in4(old.encoder.down4(x))) for _, x in chunks]
    _set(encoder.in4, *_fit(inputs, outputs))

    # the generator's first layer, from the new latent, which is that of the linear path alone
    latents, inputs, outputs = [], [], []
    for (x, old_x), row in zip(chunks, rows):
        y_hat = model.gains.scale(encoder.linear_latent(x), row).round()
        place = places[row.long()]
        old_y = old.gains.scale(old.encoder(old_x, place).float(), place).round()
        latents.append(y_hat)
        inputs.append(_places(model.gains.seen(y_hat, row)))
        outputs.append(_places(before.in16(old.gains.seen(old_y, place))))
    _set(generator.in16, *_fit(inputs, outputs))

    # its last layer, to what the linear path misses
    torch.nn.init.zeros_(generator.out4.weight), torch.nn.init.zeros_(generator.out4.bias)
    seen: list[torch.Tensor] = []
    hook = generator.body4.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    missed = [
        _places(F.pixel_unshuffle(x - model.generate(y_hat, row), 4))
        for (x, _), y_hat, row in zip(chunks, latents, rows)
    ]
    hook.remove()
    _set(generator.out4, *_fit([F.unfold(h, 3, padding=1).transpose(1, 2) for h in seen], missed))


def _places(grid: torch.Tensor) -> torch.Tensor:
    """(B, N, h, w) -> (B, h * w, N)."""
    return grid.flatten(2).transpose(1, 2)


def _fit(inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ridge regression of outputs (B, places, O) on inputs (B, places, I) -> weights (O, I) and bias (O,), of up to
    FITTED_PLACES places, evenly spaced."""
    x, y = (torch.cat([t.flatten(0, 1) for t in tensors]) for tensors in (inputs, outputs))
    every = -(-len(x) // FITTED_PLACES)
    x, y = x[::every].double(), y[::every].double()
    mean_x, mean_y = x.mean(0), y.mean(0)
    x, y = x - mean_x, y - mean_y
    gram = x.T @ x
    ridge = 1e-3 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    weights = torch.linalg.solve(gram + ridge, x.T @ y).T
    return weights.float(), (mean_y - weights @ mean_x).float()


def _set(conv: torch.nn.Conv2d, weights: torch.Tensor, bias: torch.Tensor) -> None:
    conv.weight.copy_(weights.view_as(conv.weight))
    conv.bias.copy_(bias)
