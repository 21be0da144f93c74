"""The distortion that a model is trained for."""

from data.base import Kind
from models.config import TRAINED_OBJECTIVES, ModelConfig
from models.losses import squared_error
from utils.search.config import objectives_for
from utils.search.objectives import Distortion, ms_ssim_error


def check_objective(objective: str, kind: Kind | type[Kind]) -> None:
    """Raises ValueError for an objective that is not for this kind of signal."""
    possible = [name for name in objectives_for(kind.metric_names) if name in TRAINED_OBJECTIVES]
    if objective not in possible:
        raise ValueError(f"--objective {objective} is not for {kind.name}: possible are {', '.join(possible)}")


def trained_distortion(config: ModelConfig, kind: Kind) -> Distortion:
    """What the config's `lmbda` times 255^2 weighs against bits per sample: pictures x, x_hat (B, C, H, W) -> (B,).

    Unlike a search's, it pulls samples that are out of range back into it.
    """
    if config.objective == "ms_ssim":
        return ms_ssim_error
    return lambda x, x_hat: squared_error(x, x_hat, kind.weights(x))
