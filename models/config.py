"""Everything that fixes the shape of a model, as one value that travels with its weights."""

import dataclasses
from dataclasses import dataclass

QUALITIES = 8  # a checkpoint serves qualities 1..QUALITIES
QUALITY_STEPS = 32  # a file names its quality in steps of 1/32: about 1.3 % of rate each
STRIDE = 16  # picture samples per latent position, in both directions

TRAINED_OBJECTIVES = ("mse", "ms_ssim")  # of `utils.search.config.OBJECTIVES`, those that need no reference

# What the entropy model has in common with the integer network that stands for it in files.
KERNEL = 5  # side of the window of symbols that are seen
FEATURE_LIMIT = 63  # they are seen clamped to this range
MIN_LOG_SCALE, MAX_LOG_SCALE = -3, 4


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of encoder, generator, codebook and entropy model.

    `lmbda_low` and `lmbda_high` are the rate weights of quality 1 and 8; the ones between follow
    geometrically. They weight the squared error in 8-bit units against bits per picture sample,
    as the learned-compression literature does (loss = bpp + lmbda * 255^2 * MSE). Of another `objective` they weight
    what `utils.search.objectives` returns for it.
    """

    signal: str  # name of the kind of signal, see data/
    in_channels: int  # channels of the picture
    latent_channels: int = 128
    encoder_widths: tuple[int, int, int] = (64, 128, 192)  # at 1/4, 1/8, 1/16
    encoder_depths: tuple[int, int, int] = (1, 2, 2)  # residual blocks there
    generator_widths: tuple[int, int, int] = (64, 128, 192)
    generator_depths: tuple[int, int, int] = (2, 3, 3)
    latent_rows: int = 0  # > 0: pictures have this many latent rows, each with its own bias
    context_groups: tuple[int, ...] = (4, 4, 8, 8, 16, 16, 32, 40)  # channels decoded together
    context_hidden: int = 32  # hidden units per group and layer
    max_symbol: int = 31  # codebook: 2 * max_symbol + 1 centers, larger symbols escape
    lmbda_low: float = 0.0004
    lmbda_high: float = 0.09
    # The ones below came later: checkpoints do not name them where they are as here.
    linear_path: bool = False  # principal components of 16x16 blocks beside encoder and generator
    quality_scales: bool = False  # the quality also scales features, not only adds to them
    objective: str = "mse"  # the distortion that the model is trained for, one of TRAINED_OBJECTIVES

    def __post_init__(self):
        for field in dataclasses.fields(self):  # JSON brings lists where we want tuples
            value = getattr(self, field.name)
            if isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))
        if sum(self.context_groups) != self.latent_channels:
            raise ValueError(
                f"context_groups add up to {sum(self.context_groups)} channels, "
                f"latent_channels is {self.latent_channels}: they must agree"
            )
        if self.objective not in TRAINED_OBJECTIVES:
            raise ValueError(f"objective {self.objective!r} is not one of {', '.join(TRAINED_OBJECTIVES)}")
        if not 0 < self.lmbda_low < self.lmbda_high:
            raise ValueError(
                f"lmbda_low {self.lmbda_low:g} and lmbda_high {self.lmbda_high:g}: the first one must be positive and below "
                "the second, as quality 1 has the smallest files"
            )

    def lmbda(self, quality: float) -> float:
        """Rate weight of `quality`, 1..8, fractions too."""
        ratio = self.lmbda_high / self.lmbda_low
        return self.lmbda_low * ratio ** ((quality - 1) / (QUALITIES - 1))

    def to_dict(self) -> dict:
        """As checkpoints store it: without what came later and is as before, so that earlier ones keep their fingerprint."""
        return {name: value for name, value in dataclasses.asdict(self).items() if (name, value) not in ADDED.items()}

    @classmethod
    def from_dict(cls, values: dict) -> "ModelConfig":
        """What `to_dict` gave. Raises ValueError where a name is missing or unknown."""
        known = {field.name for field in dataclasses.fields(cls)}
        if values.keys() | ADDED.keys() != known:
            raise ValueError(f"{sorted((values.keys() | ADDED.keys()) ^ known)} differ")
        return cls(**values)


ADDED = {"linear_path": False, "quality_scales": False, "objective": "mse"}  # what came later, and as it was before
