"""How signals are encoded, as data; without PyTorch, for whoever only names it."""

from dataclasses import dataclass, field

from utils.search.config import SearchConfig, preset


@dataclass(frozen=True)
class Settings:
    """How signals are encoded, beside the quality.

    search         the method with all its settings, its iterations and its objective
    entropy_coder  its name; None takes the checkpoint's default
    seed           of the search's random draws
    """

    search: SearchConfig = field(default_factory=SearchConfig)
    entropy_coder: str | None = None
    seed: int = 0

    @classmethod
    def of(
        cls,
        method: str = "admm",
        iterations: int | None = None,
        objective: str = "mse",
        entropy_coder: str | None = None,
        seed: int = 0,
    ) -> "Settings":
        """The preset of a search method by its name; see `utils.search.config.preset`. Raises ValueError for another."""
        return cls(preset(method, iterations, objective), entropy_coder, seed)


DEFAULT = Settings()
