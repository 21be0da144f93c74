"""How sure a mean is: 95 % bootstrap intervals over the files that were measured.

The files are drawn again with replacement (Efron 1979, percentile intervals), always the same draws for
the same number of files. So differences between two codecs are differences on the same files. An
interval says how a figure would vary with other files of the same kind, and nothing about files of another.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

RESAMPLES = 500
LEVEL = (2.5, 97.5)  # percentiles


@dataclass(frozen=True)
class Interval:
    """A figure and the bounds of its interval; nan where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan


@lru_cache
def resample(n_files: int, resamples: int = RESAMPLES) -> np.ndarray:
    """How often each file is drawn, int (resamples, n_files); every row sums up to n_files."""
    rng = np.random.default_rng(n_files)
    return rng.multinomial(n_files, np.full(n_files, 1 / n_files), size=resamples)


def mean(values: Sequence[float]) -> float:
    """Mean of the finite values; nan without any."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def weighted_means(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Values (rows, files) -> means (resamples, rows) by how often each file is drawn, of the finite values."""
    finite = np.isfinite(values)
    totals = counts @ finite.T
    with np.errstate(invalid="ignore"):
        return np.where(totals > 0, counts @ np.where(finite, values, 0).T / np.maximum(totals, 1), math.nan)


def interval(value: float, drawn: Sequence[float]) -> Interval:
    """The figure and the percentiles of what the resamples gave.

    There are no bounds where fewer than half of the resamples gave a figure, or where all gave the same one: a
    single file, or files that agree, say nothing about the spread.
    """
    finite = [each for each in drawn if math.isfinite(each)]
    if len(finite) < max(2, len(drawn) / 2) or math.isclose(min(finite), max(finite), rel_tol=1e-6):
        return Interval(value)
    low, high = np.percentile(finite, LEVEL)
    return Interval(value, float(low), float(high))
