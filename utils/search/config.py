"""What a search does, as data: its settings, and the methods with what each one sets differently.

Command lines read the names in here, so the module imports no PyTorch.
"""

from dataclasses import dataclass

OBJECTIVES = ("mse", "ms_ssim", "perceptual")  # what F measures: utils/search/objectives.py

# The methods by name, with the settings in which each differs from the defaults of SearchConfig.
# The functions that run them are named in utils/search/optimize.py.
PRESETS = {
    "admm": {},
    # Liu, Cao, Kim 2020: gradient steps on z, full dual, nearest centers, no rate, constant mu
    "paper": dict(penalty=3.0),
    "sga": {},  # stochastic Gumbel annealing (Yang, Bamler, Mandt 2020)
    "ste": dict(learning_rate=0.005, judge_from=0.0),  # straight-through estimate of the rounding's slope
    # normalized iterative hard thresholding (Blumensath and Davies 2010): a step of measured length, then the projection
    "iht": dict(noise_until=0.0),
    "round": {},  # back-propagation without rounding, rounded at the end
    "none": dict(iterations=0),  # encode-and-round
}
METHODS = tuple(PRESETS)


@dataclass(frozen=True)
class SearchConfig:
    """What a method does, as data. Defaults were tuned on crops of images/val and speech/val (docs/how_it_works.md)."""

    method: str = "admm"
    iterations: int = 100  # back-propagations through the generator
    objective: str = "mse"  # one of OBJECTIVES; the search itself is given F as a function
    # admm and iht
    penalty: float = 0.85  # mu, as a fraction of the curvature; of `paper`: in bits
    relaxation: float = 1.75  # of a new target that enters z, over the square root of the iterations
    noise: tuple[float, float] = (3.0, 0.3)  # T of the q-step in bits, geometric, start and end
    noise_until: float = 0.85  # fraction of the iterations; after it only what lowers J is taken
    # the others: Adam on z
    learning_rate: float = 0.03  # against a step of 1
    temperature: tuple[float, float] = (0.5, 0.15)  # of the relaxed rounding, start and end
    cooling_from: float = 0.2  # fraction of the iterations from which it falls
    judge_every: int = 10  # iterations between looks at quantized candidates,
    judge_from: float = 0.5  # from this fraction on: before, the relaxation is too soft to win

    def __post_init__(self):
        _check_name("search method", self.method, METHODS)
        _check_name("objective", self.objective, OBJECTIVES)
        if min(self.penalty, self.learning_rate, self.relaxation, *self.noise) <= 0:
            raise ValueError(
                f"penalty {self.penalty}, relaxation {self.relaxation}, noise {self.noise} and learning rate "
                f"{self.learning_rate} must be positive"
            )
        if self.iterations < 0:
            raise ValueError(f"{self.iterations} iterations: 0 or more are possible")


def preset(method: str, iterations: int | None = None, objective: str = "mse") -> SearchConfig:
    """The configuration of a method; `iterations` replaces its default, except for "none", which has none."""
    _check_name("search method", method, METHODS)
    values = {"method": method, "objective": objective, **PRESETS[method]}
    if iterations is not None and method != "none":
        values["iterations"] = iterations
    return SearchConfig(**values)


def _check_name(what: str, name: str, names: tuple[str, ...]) -> None:
    if name not in names:
        raise ValueError(f"{what} {name!r} is not one of {', '.join(names)}")
