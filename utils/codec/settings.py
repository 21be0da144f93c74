"""How signals are encoded, as data. Command lines read it, so the module imports no PyTorch."""

from dataclasses import dataclass, field

from models.config import QUALITIES, QUALITY_STEPS
from utils.search.config import SearchConfig, preset


@dataclass(frozen=True)
class Settings:
    """How signals are encoded, beside the quality.

    search         the method with all its settings, its iterations and its objective; None as the objective takes that
                   which the checkpoint is trained for
    entropy_coder  its name; None takes the checkpoint's default
    seed           of the search's random draws
    exact          the pixels that a search is judged by, and that the receiver shows, are those of the exact generator,
                   the same on every machine; images only
    realism        0 to 1: of the generator that the search goes through, and that its result is judged by. It is for
                   files that will be decoded at that realism, which no file says
    """

    search: SearchConfig = field(default_factory=lambda: SearchConfig(objective=None))
    entropy_coder: str | None = None
    seed: int = 0
    exact: bool = False
    realism: float = 0.0

    @classmethod
    def of(
        cls,
        method: str = "admm",
        iterations: int | None = None,
        objective: str | None = None,
        entropy_coder: str | None = None,
        seed: int = 0,
        exact: bool = False,
        realism: float = 0.0,
    ) -> "Settings":
        """The preset of a search method by its name (`utils.search.config.preset`). Raises ValueError for another."""
        return cls(preset(method, iterations, objective), entropy_coder, seed, exact, realism)


DEFAULT = Settings()


def quality_step(quality: float) -> int:
    """Quality 1..8 -> the integer 0..224 that a file names it by. Raises ValueError out of range."""
    if not 1 <= quality <= QUALITIES:
        raise ValueError(f"quality {quality:g} is outside 1 to {QUALITIES}")
    return round((quality - 1) * QUALITY_STEPS)


def quality_at(step: int) -> float:
    """The quality 1..8 that a file names by an integer: the inverse of `quality_step`."""
    return 1 + step / QUALITY_STEPS
