"""Where a model with a linear path starts: at the principal components of training pictures.

Without its networks such a model is a transform codec on 16x16 blocks (Karhunen-Loeve transform), whose optimal
step is the same for all coefficients. Gains, features and the entropy model start from the same numbers, so that a
run is from its first step on where a plain network is after hundreds. Channels are in falling order of variance,
as the groups of the entropy model expect them.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from models.bpgan import BPGAN
from models.config import KERNEL, MAX_LOG_SCALE, MIN_LOG_SCALE, QUALITIES, STRIDE

# High-rate theory: of pictures in [-1, 1] with C channels the optimal step^2 of orthonormal coefficients is
# STEP * C / (3 lmbda), where the loss is bpp + lmbda * 255^2 * MSE.
STEP = 0.0016
SCALE_OF_DEVIATION = 0.55  # a logistic distribution's scale by its standard deviation
MIN_AMPLITUDE = 0.1  # of what the encoder's network can add to a coefficient that hardly varies
START_LIMITS = (MIN_LOG_SCALE + 1, MAX_LOG_SCALE - 0.5)  # of log scales: at the ends there is no slope


class Components(NamedTuple):
    """Principal components of 16x16 blocks, M of the C * 256 that there are."""

    basis: torch.Tensor  # (M, C * 256), rows orthonormal
    mean: torch.Tensor  # (C * 256,) of all blocks
    variance: torch.Tensor  # (M,) of the coefficients, falling


@torch.no_grad()
def principal_components(pictures: torch.Tensor, count: int) -> Components:
    """pictures (B, C, H, W), H and W multiples of 16."""
    blocks = F.pixel_unshuffle(pictures, STRIDE).permute(0, 2, 3, 1).flatten(0, 2).double()
    mean = blocks.mean(0)
    variance, vectors = torch.linalg.eigh((blocks - mean).T @ (blocks - mean) / len(blocks))
    basis, variance = vectors.flip(1)[:, :count].T, variance.flip(0)[:count]
    return Components(*(t.float().contiguous() for t in (basis, mean, variance.clamp_min(0))))


def _causal_predictor(coefficients: torch.Tensor, causal: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Least squares of coefficients (B, F, h, w) from those at the causal half of the window around them.

    causal (5, 5), 1 where a place is seen -> weights (F, F, 5, 5), and the variance (F,) of what is left.
    """
    channels, margin = coefficients.shape[1], KERNEL // 2
    if min(coefficients.shape[2:]) < KERNEL:  # too small to leave out the places near the edges
        coefficients = F.pad(coefficients, [margin] * 4)
    seen = F.unfold(coefficients, KERNEL).unflatten(1, (channels, KERNEL**2))[:, :, causal.flatten() > 0]
    inputs = seen.flatten(1, 2).transpose(1, 2).flatten(0, 1).double()  # (places, F * 12)
    outputs = coefficients[:, :, margin:-margin, margin:-margin].flatten(2).transpose(1, 2).flatten(0, 1).double()
    gram = inputs.T @ inputs
    ridge = 1e-3 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    solution = torch.linalg.solve(gram + ridge, inputs.T @ outputs)
    weights = coefficients.new_zeros(channels, channels, KERNEL**2)
    weights[:, :, causal.flatten() > 0] = solution.T.unflatten(1, (channels, -1)).float()
    left = (outputs - inputs @ solution).square().mean(0)
    return weights.unflatten(2, (KERNEL, KERNEL)), left.float()


@torch.no_grad()
def start_linear_path(model: BPGAN, pictures: torch.Tensor) -> None:
    """Set what a model with a linear path starts from, by training pictures (B, C, H, W) in [-1, 1]; in place."""
    config, encoder, generator, gains, context = (
        model.config,
        model.encoder,
        model.generator,
        model.gains,
        model.context,
    )
    channels, first = config.latent_channels, config.context_groups[0]
    row_mean = pictures.mean((0, 3), keepdim=True) if config.latent_rows else 0.0
    if config.latent_rows:
        encoder.row_mean.copy_(row_mean)
        generator.row_mean.copy_(row_mean)
    basis, mean, variance = principal_components(pictures - row_mean, channels)
    encoder.linear.weight.copy_(basis[:, :, None, None])
    encoder.linear.bias.copy_(-basis @ mean)
    generator.linear.weight.copy_(basis.T[:, :, None, None])
    generator.linear.bias.copy_(mean)
    encoder.amplitude.copy_(variance.sqrt().clamp_min(MIN_AMPLITUDE))

    lmbdas = torch.tensor([config.lmbda(q) for q in range(1, QUALITIES + 1)], device=basis.device)
    step = (STEP * config.in_channels / 3 / lmbdas).sqrt()[:, None]  # (8, 1)
    gains.log_gain.copy_(-step.log().expand(-1, channels))
    gains.log_inverse.copy_(step.log().expand(-1, channels))
    gains.log_feature.copy_(torch.log(step / (variance + step**2).sqrt()))

    leading, left = _causal_predictor(encoder.linear_latent(pictures)[:, :first], context.causal)
    context.leading.weight.copy_(leading)
    deviation = torch.cat([left, variance[first:]]).sqrt() / step
    context.prior[:, channels:] = torch.log(SCALE_OF_DEVIATION * deviation).clamp(*START_LIMITS)


def is_linear(name: str) -> bool:
    """Whether the parameter of this name is of a linear path, which `start_linear_path` sets."""
    return not {"linear", "leading", "row_mean"}.isdisjoint(name.split("."))
