"""What the search minimizes beside the bits: distortions of a decoded picture.

Each is called with pictures x in [-1, 1] and with x_hat as the generator leaves it, both (B, C, H, W), and takes x_hat
as clamped to [-1, 1]. It returns (B,) in the unit of a squared error whose full range is 1. The codec multiplies all of
them by lmbda * 255^2 and by the number of samples. For speech the squared error is that of the cube roots of the
magnitudes; checkpoints of before show decibels, and weigh them by loudness (`Kind.weights`).
`utils/search/config.py` lists the distortions by name.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import hardtanh

from models.discriminator import Discriminator
from models.losses import feature_matching, squared_error

Distortion = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# From 1 - MS-SSIM to the unit of the squared error: the ratio of the rate weights with which CompressAI trains its
# models for the two (8.73 to 0.0067 in the middle of the range).
MS_SSIM_WEIGHT = 8.73 / 0.0067 / 255**2
MIN_SSIM_SIDE, MIN_MS_SSIM_SIDE = 11, 161  # pixels; below, the window or the scales do not fit
MIN_DISTANCE_SIDE = 32  # pixels; below, a network's coarsest scale does not fit


class _ClampedError(torch.autograd.Function):
    """Mean over the samples of weights * (clamped x_hat - x)^2 / 4 -> (B,).

    The search computes it a hundred times on pictures of full size. Written out by hand it needs a third of autograd's
    passes over memory.
    """

    @staticmethod
    def forward(ctx, x_hat, x, weights):
        error = x_hat.clamp(-1, 1).float() - x
        slope = error if weights is None else error * weights
        ctx.save_for_backward(slope, x_hat)
        return (slope * error).sum((1, 2, 3)) / (4 * x_hat[0].numel())

    @staticmethod
    def backward(ctx, gradient):
        slope, x_hat = ctx.saved_tensors
        slope = slope * (gradient / (2 * x_hat[0].numel()))[:, None, None, None]
        return torch.ops.aten.hardtanh_backward(slope.to(x_hat.dtype), x_hat, -1, 1), None, None


def clamped_squared_error(x: torch.Tensor, x_hat: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """`models.losses.squared_error` of the clamped x_hat; no gradient reaches x or the weights."""
    return _ClampedError.apply(x_hat, x, weights)


@dataclass(frozen=True)
class Reference:
    """What the constructor of a distortion gets for one batch of pictures."""

    x: torch.Tensor  # (B, C, H, W), the pictures
    start: Callable[[], torch.Tensor]  # what they are where the search starts, as x_hat
    weights: Callable[[torch.Tensor], torch.Tensor | None]  # of the squared error, see `Kind.weights`
    features: Callable[[], Distortion] | None = None  # distance of features of a trained network
    disturbance: Callable[[], Distortion] | None = None  # see `Kind.disturbance`


class Objective(ABC):
    """A distortion F. An instance serves one batch of pictures and is made before their search."""

    metric: str | None = None  # it is for kinds of signal that have this metric; None: for all of them
    steady = True  # its curvature is about the same all along a search, as that of a squared error is

    def __init__(self, reference: Reference):
        """Raises ValueError where the reference lacks what the distortion needs."""
        self.weights = reference.weights

    @abstractmethod
    def __call__(self, x: torch.Tensor, x_hat: torch.Tensor) -> torch.Tensor:
        """Both (B, C, H, W) -> (B,), differentiable by x_hat."""


class SquaredError(Objective):
    """The squared error as the kind of signal weights it."""

    def __call__(self, x: torch.Tensor, x_hat: torch.Tensor) -> torch.Tensor:
        return clamped_squared_error(x, x_hat, self.weights(x))


def ms_ssim_error(x: torch.Tensor, x_hat: torch.Tensor) -> torch.Tensor:
    """1 - MS-SSIM (B,) in the unit of the squared error; x_hat is taken as it is.

    For sides below 161 pixels it is 1 - SSIM, and below 11 pixels the squared error.
    """
    from pytorch_msssim import ms_ssim, ssim

    side = min(x.shape[-2:])
    if side < MIN_SSIM_SIDE:
        return squared_error(x, x_hat)
    score = ms_ssim if side >= MIN_MS_SSIM_SIDE else ssim
    similarity = score((x_hat.float() + 1) / 2, (x.float() + 1) / 2, data_range=1.0, size_average=False)
    return MS_SSIM_WEIGHT * (1 - similarity)


class MsSsim(Objective):
    """`ms_ssim_error` of the clamped picture."""

    metric = "ms_ssim"
    steady = False

    def __call__(self, x: torch.Tensor, x_hat: torch.Tensor) -> torch.Tensor:
        return ms_ssim_error(x, hardtanh(x_hat.float()))


class RelativeDistance(Objective):
    """Squared error and a distance, each relative to what it is where the search starts.

    Where a side is shorter than 32 pixels, the error alone counts.
    """

    # Of the two terms, each of which is the squared error where the search starts. A distance that grows with the square
    # root of the squared error has half its slope there.
    error_weight: float
    distance_weight: float

    @torch.no_grad()
    def __init__(self, reference: Reference):
        """Raises ValueError where there is no such distance."""
        super().__init__(reference)
        self.error, self.distance = SquaredError(reference), self.distance_of(reference)
        x, x_hat_start = reference.x, reference.start()
        self.error_start = self.error(x, x_hat_start).clamp_min(1e-8)
        if min(x.shape[-2:]) >= MIN_DISTANCE_SIDE:
            self.distance_start = self._distance(x, x_hat_start).clamp_min(1e-8)

    @staticmethod
    @abstractmethod
    def distance_of(reference: Reference) -> Distortion:
        """The distance of pictures (B, C, H, W) in [-1, 1] -> (B,)."""

    def _distance(self, x: torch.Tensor, x_hat: torch.Tensor) -> torch.Tensor:
        return self.distance(x, hardtanh(x_hat.float()))

    def __call__(self, x: torch.Tensor, x_hat: torch.Tensor) -> torch.Tensor:
        error = self.error(x, x_hat)
        if min(x.shape[-2:]) < MIN_DISTANCE_SIDE:
            return error
        relative = self._distance(x, x_hat) / self.distance_start
        return self.error_weight * error + self.distance_weight * self.error_start * relative


class FeatureDistance(RelativeDistance):
    """Squared error and distance of features."""

    error_weight, distance_weight = 1 / 3, 4 / 3

    @staticmethod
    def distance_of(reference):
        return reference.features()


class PesqDisturbance(RelativeDistance):
    """Squared error and the disturbance of PESQ."""

    metric = "pesq_wb"
    steady = False
    # Of 0.4, 0.67 and 0.9 as the distance's share, 0.4 gave the highest PESQ on recordings of speech/val, when one
    # factor followed the curvature: with more, ADMM ended in worse places.
    error_weight, distance_weight = 0.6, 0.4

    @staticmethod
    def distance_of(reference):
        return reference.disturbance()


def discriminator_distance(discriminator: Discriminator) -> Distortion:
    """Feature matching: mean L1 distance of the discriminator's features, each relative to its size."""

    def distance(x, x_hat):
        with torch.no_grad():
            _, real = discriminator(x)
        _, fake = discriminator(x_hat)
        return feature_matching(real, fake)

    return distance
