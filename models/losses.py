"""Losses: plain functions, unweighted terms by name, one table of weights with the same keys."""

import torch
import torch.nn.functional as F


def squared_error(x: torch.Tensor, x_hat: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Mean squared error (B,) of pictures in [-1, 1], in units of the full range: 0..1.

    `weights`, of x's shape, multiply each sample's error; None weighs all alike.
    """
    error = F.mse_loss(x_hat.float(), x.float(), reduction="none")
    if weights is not None:
        error = weights * error
    return error.flatten(1).mean(1) / 4


def rate_distortion(x, bits, lmbda, distortion) -> dict[str, torch.Tensor]:
    """The loss bpp + lmbda * 255^2 * distortion and its bpp, each (B,), of pictures x (B, C, H, W).

    bits, lmbda and distortion are (B,). bpp counts the bits over the H * W positions of a picture.
    """
    bpp = bits / (x.shape[-2] * x.shape[-1])
    return {"loss": bpp + lmbda * 255**2 * distortion, "bpp": bpp}


def discriminator_hinge(real: list[torch.Tensor], fake: list[torch.Tensor]) -> torch.Tensor:
    """Hinge loss of the discriminator, mean over its scales; logits of any shape."""
    return sum(F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in zip(real, fake)) / len(real)


def generator_hinge(fake: list[torch.Tensor]) -> torch.Tensor:
    """Hinge loss of the generator, mean over the discriminator's scales; logits of any shape."""
    return -sum(f.mean() for f in fake) / len(fake)


def feature_matching(real: list[torch.Tensor], fake: list[torch.Tensor]) -> torch.Tensor:
    """Mean relative distance (B,) over the discriminator's features."""
    return sum(relative_distance(r, f) for r, f in zip(real, fake)) / len(real)


def relative_distance(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Features (B, ...) -> (B,): mean L1 distance relative to the mean size of the real ones."""
    real = real.detach().float().flatten(1)
    return (fake.float().flatten(1) - real).abs().mean(1) / real.abs().mean(1).clamp_min(1e-3)


def texture_distance(real: torch.Tensor, fake: torch.Tensor, window: int) -> torch.Tensor:
    """Features (B, N, h, w) -> (B,): how far mean and deviation within windows are apart, relative to the real ones' size.

    Textures of the same look agree in these, although no two samples do (Qiu et al. 2024, "Wasserstein distortion").
    """
    return relative_distance(local_statistics(real.detach(), window), local_statistics(fake, window))


def finest_bands(x: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) -> (B, 3 C, H-1, W-1): what neighboring samples differ by along rows, columns and both (Haar's bands)."""
    left, right = x[..., :-1], x[..., 1:]
    sums, differences = left + right, left - right
    across = [sums[..., :-1, :] - sums[..., 1:, :], differences[..., :-1, :] - differences[..., 1:, :]]
    return torch.cat([differences[..., :-1, :] + differences[..., 1:, :], *across], dim=1) / 2


def pattern_distance(real: torch.Tensor, fake: torch.Tensor, period: int) -> torch.Tensor:
    """Bands (B, N, H, W) -> (B,): how far mean and deviation of the places within squares of a period are apart, relative
    to the real ones' size.

    In photographs no place differs from the others. In a generator's pictures those do where its upsampling leaves a
    weave, or edges between its blocks.
    """

    def statistics(x: torch.Tensor) -> torch.Tensor:
        rows, columns = (size // period * period for size in x.shape[2:])
        places = F.pixel_unshuffle(x[..., :rows, :columns].float(), period).flatten(2)
        return torch.stack([places.mean(2), places.std(2)])

    return relative_distance(*(statistics(x).transpose(0, 1) for x in (real, fake)))


def local_statistics(x: torch.Tensor, window: int) -> torch.Tensor:
    """(B, N, h, w) -> (B, 2N, h', w'), float32: mean and deviation in windows that overlap by half."""
    x = x.float()
    mean, power = (F.avg_pool2d(y, window, window // 2) for y in (x, x * x))
    return torch.cat([mean, (power - mean * mean).clamp_min(0).add(1e-4).sqrt()], dim=1)


def weighted_sum(terms: dict[str, torch.Tensor], weights: dict[str, float]) -> torch.Tensor:
    """The loss terms times their weights, summed. Raises KeyError where the two do not have the same names."""
    if terms.keys() != weights.keys():
        raise KeyError(f"loss terms {sorted(terms)} and weights {sorted(weights)} differ")
    return sum(weights[name] * terms[name] for name in terms)
