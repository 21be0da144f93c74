"""What a search does, as data: its settings, and the names of methods and distortions.

Command lines read the names in here, so the module imports no PyTorch. A new method or distortion is one module and
one line here.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module

# The distortions by name: module and class (`utils.search.objectives.Objective`).
OBJECTIVES = {
    "mse": ("utils.search.objectives", "SquaredError"),
    "ms_ssim": ("utils.search.objectives", "MsSsim"),
    "perceptual": ("utils.search.objectives", "FeatureDistance"),
    "pesq": ("utils.search.objectives", "PesqDisturbance"),
}

# The methods by name: module and function, and the settings in which each differs from the defaults of SearchConfig.
METHODS = {
    "admm": ("utils.search.admm", "admm", {}),
    # Liu, Cao, Kim 2020: gradient steps on z, full dual, nearest centers, no rate, constant mu
    "paper": ("utils.search.rivals", "paper", dict(penalty=3.0)),
    # stochastic Gumbel annealing (Yang, Bamler, Mandt 2020)
    "sga": ("utils.search.rivals", "sga", {}),
    # straight-through estimate of the rounding's slope
    "ste": ("utils.search.rivals", "ste", dict(learning_rate=0.005, judge_from=0.0)),
    # normalized iterative hard thresholding (Blumensath and Davies 2010): a step of measured length, then projection
    "iht": ("utils.search.admm", "iht", dict(noise_until=0.0)),
    # back-propagation without rounding, rounded at the end
    "round": ("utils.search.rivals", "round_at_the_end", {}),
    # encode-and-round
    "none": ("utils.search.rivals", "encode_and_round", dict(iterations=0)),
}


def objective_class(name: str) -> type:
    """The class of a distortion; its module is imported only when it is needed."""
    module, cls = OBJECTIVES[name]
    return getattr(import_module(module), cls)


def objectives_for(metrics: Iterable[str]) -> list[str]:
    """Names of the distortions for a kind of signal with these metrics (`Kind.metric_names`)."""
    return [name for name in OBJECTIVES if objective_class(name).metric in (None, *metrics)]


def solver(method: str) -> Callable:
    """The function of a method (`utils.search.optimize.Solver`); its module is imported only when it is needed."""
    module, function, _ = METHODS[method]
    return getattr(import_module(module), function)


@dataclass(frozen=True)
class SearchConfig:
    """What a method does, as data. Defaults were tuned on crops of images/val and speech/val (docs/how_it_works.md)."""

    method: str = "admm"
    iterations: int = 100  # back-propagations through the generator
    # One of OBJECTIVES; the search itself is given F as a function. None stands for what the model is trained for, until
    # a codec puts that in its place.
    objective: str | None = "mse"
    # admm and iht
    penalty: float = 0.85  # mu, as a fraction of the curvature; of `paper`: in bits
    relaxation: float = 1.75  # over the square root of the iterations: the share of a proposal that enters the target
    noise: tuple[float, float] = (3.0, 0.3)  # bits; T of the q-step at the start and at the end, geometric in between
    noise_until: float = 0.85  # fraction of the iterations; after it only what lowers J is taken
    # the others: Adam on z
    learning_rate: float = 0.03  # in quantization steps
    temperature: tuple[float, float] = (0.5, 0.15)  # of the relaxed rounding, start and end
    cooling_from: float = 0.2  # fraction of the iterations from which it falls
    judge_every: int = 10  # iterations from one look at quantized candidates to the next
    judge_from: float = (
        0.5  # fraction of the iterations before the first look; earlier, the relaxation is too soft to win
    )

    def __post_init__(self):
        _check_name("search method", self.method, METHODS)
        if self.objective is not None:
            _check_name("objective", self.objective, OBJECTIVES)
        if min(self.penalty, self.learning_rate, self.relaxation, *self.noise) <= 0:
            raise ValueError(
                f"penalty {self.penalty}, relaxation {self.relaxation}, noise {self.noise} and learning rate "
                f"{self.learning_rate} must be positive"
            )
        if self.iterations < 0:
            raise ValueError(f"{self.iterations} iterations: 0 or more are possible")


def preset(method: str, iterations: int | None = None, objective: str | None = "mse") -> SearchConfig:
    """The configuration of a method; `iterations` replaces its default, except for "none", which has none."""
    _check_name("search method", method, METHODS)
    _, _, settings = METHODS[method]
    values = {"method": method, "objective": objective, **settings}
    if iterations is not None and method != "none":
        values["iterations"] = iterations
    return SearchConfig(**values)


def _check_name(what: str, name: str, names: Iterable[str]) -> None:
    if name not in names:
        raise ValueError(f"{what} {name!r} is not one of {', '.join(names)}")
