"""The entropy model in fixed point: what both entropy coders know about the next symbol.

Between a file and its symbols there are integers only: 16-bit weights, 16-bit activations, 32-bit
sums whose worst case is checked when the tables are made, distributions by table lookup. So every
machine comes to the same distribution, whatever its floating-point arithmetic does. The network
is the one of `models/entropy_model.py`; its float weights are these integers divided by powers of
two, so that estimates of the rate are made with what the coders use.

For every symbol the network names a center, the integer next to the predicted mean, and a row:
one of 57 scales times 16 places of the mean around the center. Coded is the residual, symbol minus
center; a coder knows the distribution (or the code) of the residuals of each row.

Order: group by group, inside a group position by position (raster), inside a position channel by
channel. A decoded symbol adds its share to the first layer's sums of all positions that see it.
The sums start as if every symbol had its channel's usual value, so that only the others are added:
a matter of speed, integer sums do not depend on their order. Positions that repeat a neighbor
(`utils/entropy/repeats.py`) are copied, not predicted.
"""

from dataclasses import dataclass, fields

import numpy as np
from numba import njit

from models.config import FEATURE_LIMIT, KERNEL, MAX_LOG_SCALE, MIN_LOG_SCALE, QUALITY_STEPS

from .repeats import LEFT

ACTIVATION_BITS = 8  # fraction bits of activations and of the outputs
ACTIVATION_MAX = 32767
MAX_WEIGHT_BITS = 12  # fraction bits of weights, fewer where a sum could overflow
MEAN_STEPS = 16  # means are looked up in sixteenths of a step,
SCALE_STEPS = 8  # log scales in eighths
N_SCALES = (MAX_LOG_SCALE - MIN_LOG_SCALE) * SCALE_STEPS + 1
N_ROWS = N_SCALES * MEAN_STEPS


class CorruptPayload(ValueError):
    """The payload cannot have been written for this shape, quality and checkpoint."""


@dataclass(frozen=True)
class ContextTables:
    """Integers that fix the network; U units in the layers, C channels, G groups, Q qualities."""

    groups: np.ndarray  # int32 (G,), channels of each group
    shifts: np.ndarray  # int32 (3,), fraction bits of the weights of each layer
    first: np.ndarray  # int16 (2C, 25, U): signed values, then magnitudes
    second: np.ndarray  # int16 (U, U): output, input
    last: np.ndarray  # int16 (2C, U)
    first_bias: np.ndarray  # int32 (Q, U)
    row_bias: np.ndarray  # int32 (R, U); R = 0: rows are alike
    second_bias: np.ndarray  # int32 (U,)
    last_bias: np.ndarray  # int32 (Q, 2C)
    usual: np.ndarray  # int16 (Q, C), the usual symbol of each channel

    def __post_init__(self):
        for f in fields(self):
            object.__setattr__(self, f.name, np.ascontiguousarray(getattr(self, f.name)))
        self._check()
        channels = int(self.groups.sum())
        # sign and magnitude in one addition: s * a + |s| * b is |s| * (b + a) or |s| * (b - a)
        signed, magnitude = self.first[:channels].astype(np.int32), self.first[channels:].astype(np.int32)
        object.__setattr__(self, "_scatter", np.stack([magnitude - signed, magnitude + signed]))

    def _check(self) -> None:
        """Raises ValueError where types or shapes disagree or a sum could overflow."""
        kinds = {"first": np.int16, "second": np.int16, "last": np.int16, "usual": np.int16}
        for f in fields(self):
            if getattr(self, f.name).dtype != kinds.get(f.name, np.int32):
                raise ValueError(f"context tables: {f.name} is {getattr(self, f.name).dtype}")
        if self.groups.ndim != 1 or len(self.groups) == 0 or (self.groups < 1).any() or self.second.ndim != 2:
            raise ValueError("context tables: impossible groups or layers")
        units, channels = self.second.shape[0], int(self.groups.sum())
        expected = {
            "first": (2 * channels, KERNEL * KERNEL, units),
            "second": (units, units),
            "last": (2 * channels, units),
            "second_bias": (units,),
            "shifts": (3,),
        }
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"context tables: {name} is {getattr(self, name).shape}, expected {shape}")
        qualities = len(self.first_bias)
        if (
            units % len(self.groups)
            or self.first_bias.shape[1:] != (units,)
            or qualities < 2
            or (self.last_bias.shape != (qualities, 2 * channels))
            or self.row_bias.shape[1:] != (units,)
            or (self.usual.shape != (qualities, channels))
        ):
            raise ValueError("context tables: biases do not fit the layers")
        if (self.shifts < 0).any() or (self.shifts > 30).any() or self.shifts[0] < ACTIVATION_BITS:
            raise ValueError("context tables: impossible shifts")
        rows = np.abs(self.row_bias.astype(np.int64)).max(initial=0)
        worst = [
            np.abs(self.first.astype(np.int64)).sum((0, 1)).max() * FEATURE_LIMIT
            + np.abs(self.first_bias.astype(np.int64)).max()
            + rows,
            np.abs(self.second.astype(np.int64)).sum(1).max() * ACTIVATION_MAX
            + np.abs(self.second_bias.astype(np.int64)).max(),
            np.abs(self.last.astype(np.int64)).sum(1).max() * ACTIVATION_MAX
            + np.abs(self.last_bias.astype(np.int64)).max(),
        ]
        if max(worst) >= 2**31 - 2**16:
            raise ValueError("context tables: a 32-bit sum could overflow")

    def to_arrays(self) -> dict[str, np.ndarray]:
        return {f.name: getattr(self, f.name) for f in fields(self)}


def freeze(
    groups: tuple[int, ...],
    first: np.ndarray,
    second: np.ndarray,
    last: np.ndarray,
    first_bias: np.ndarray,
    row_bias: np.ndarray,
    second_bias: np.ndarray,
    last_bias: np.ndarray,
    usual: np.ndarray,
) -> ContextTables:
    """Float (masked) weights -> tables; layouts as in `ContextTables`, all but `usual` float.

    Raises ValueError if the weights are too large for any fixed point.
    """
    weights, shifts = [], []
    for weight, limit, axes in ((first, FEATURE_LIMIT, (0, 1)), (second, ACTIVATION_MAX, 1), (last, ACTIVATION_MAX, 1)):
        for bits in range(MAX_WEIGHT_BITS, -1, -1):
            scaled = np.rint(weight.astype(np.float64) * 2**bits)
            if np.abs(scaled).max() <= 32767 and np.abs(scaled).sum(axes).max() * limit < 2**30:
                break
        else:
            raise ValueError("the entropy model's weights are too large for 16-bit integers")
        weights.append(scaled.astype(np.int16))
        shifts.append(bits)

    def fixed(values, bits):
        return np.clip(np.rint(values.astype(np.float64) * 2.0**bits), -(2**29), 2**29).astype(np.int32)

    return ContextTables(
        np.array(groups, np.int32),
        np.array(shifts, np.int32),
        *weights,
        fixed(first_bias, shifts[0]),
        fixed(row_bias, shifts[0]),
        fixed(second_bias, shifts[1] + ACTIVATION_BITS),
        fixed(last_bias, shifts[2] + ACTIVATION_BITS),
        usual.astype(np.int16),
    )


def thaw(tables: ContextTables) -> dict[str, np.ndarray]:
    """The float weights that the integers stand for, by `freeze`'s parameter names."""
    t, shifts = tables, tables.shifts

    def real(values, bits):
        return (values / 2.0**bits).astype(np.float32)

    return {
        "first": real(t.first, shifts[0]),
        "second": real(t.second, shifts[1]),
        "last": real(t.last, shifts[2]),
        "first_bias": real(t.first_bias, shifts[0]),
        "row_bias": real(t.row_bias, shifts[0]),
        "second_bias": real(t.second_bias, shifts[1] + ACTIVATION_BITS),
        "last_bias": real(t.last_bias, shifts[2] + ACTIVATION_BITS),
        "usual": t.usual,
    }


class Walk:
    """The state of one way through a grid of symbols; coders loop over it with the functions below.

    `arrays` are what those functions take: sums (positions, U) int32, two layers of activations
    (positions, U) int16, the weights, and by channel the biases of the last layer.
    """

    def __init__(self, shape: tuple[int, int, int], quality_step: int, tables: ContextTables):
        """shape (C, h, w), quality in steps of 1/32 above 1. Raises ValueError where it does not fit."""
        channels, height, width = shape
        t = tables
        if channels != t.groups.sum():
            raise ValueError(f"symbols have {channels} channels, the tables {t.groups.sum()}")
        if len(t.row_bias) and height > len(t.row_bias):
            raise ValueError(f"symbols have {height} rows, the tables {len(t.row_bias)}")
        if not 0 <= quality_step <= (len(t.first_bias) - 1) * QUALITY_STEPS:
            raise ValueError(f"quality step {quality_step} is outside the tables")
        units = t.second.shape[0]
        nearest = min((quality_step + QUALITY_STEPS // 2) // QUALITY_STEPS, len(t.usual) - 1)
        usual = t.usual[nearest].astype(np.int64)
        sums = np.empty((height * width, units), np.int32)
        sums[:] = _between(t.first_bias, quality_step)
        if len(t.row_bias):
            sums += np.repeat(t.row_bias[:height], width, axis=0)
        _add_usual(sums, t._scatter, usual, height, width)
        layers = np.zeros((2, height * width, units), np.int16)
        self.groups = t.groups
        self.arrays = (
            sums,
            layers[0],
            layers[1],
            t.shifts,
            t._scatter,
            t.second,
            t.last,
            t.second_bias,
            _between(t.last_bias, quality_step),
            usual,
        )


def _between(table: np.ndarray, quality_step: int) -> np.ndarray:
    """Row of an integer table (Q, N) at a quality between two trained ones, int32."""
    low = min(quality_step // QUALITY_STEPS, len(table) - 2)
    part = quality_step - low * QUALITY_STEPS
    mixed = table[low].astype(np.int64) * (QUALITY_STEPS - part) + table[low + 1].astype(np.int64) * part
    return ((mixed + QUALITY_STEPS // 2) // QUALITY_STEPS).astype(np.int32)


def _add_usual(sums: np.ndarray, scatter: np.ndarray, usual: np.ndarray, height: int, width: int) -> None:
    """Add to the sums what every symbol inside the grid gives if it has its channel's usual value."""
    magnitude = np.minimum(np.abs(usual), FEATURE_LIMIT)
    each = scatter[(usual > 0).astype(int), np.arange(len(usual))].astype(np.int64) * magnitude[:, None, None]
    taps = each.sum(0).astype(np.int32)  # (25, U)
    grid = sums.reshape(height, width, -1)
    for k in range(KERNEL * KERNEL):
        dy, dx = k // KERNEL - KERNEL // 2, k % KERNEL - KERNEL // 2
        if taps[k].any():  # a position sees its neighbor at (+dy, +dx)
            grid[max(-dy, 0) : height - max(dy, 0), max(-dx, 0) : width - max(dx, 0)] += taps[k]


# Indices of the inner loops are unsigned: numba checks signed ones for being negative, and such
# loops are not vectorized, which makes them ten times slower.


@njit(cache=True, nogil=True)
def _dot(weights, values, start):
    total = start
    for k in range(len(weights)):
        total = np.int32(total + np.int32(weights[k]) * np.int32(values[k]))
    return total


@njit(cache=True, nogil=True)
def predict(p, low_unit, hidden, low_channel, n_channels, arrays, centers, rows):
    """Center and row of each of a group's symbols at position p, into the first places of both arrays."""
    sums, h1, h2, shifts, _, second, last, second_bias, last_bias, _ = arrays
    seen = low_unit + hidden
    channels = last.shape[0] // 2
    s1, s2, s3 = shifts[0] - ACTIVATION_BITS, shifts[1], shifts[2]
    r1, r2, r3 = (1 << s1) >> 1, (1 << s2) >> 1, (1 << s3) >> 1
    scale_shift = ACTIVATION_BITS - 3  # SCALE_STEPS = 2^3
    mean_shift = ACTIVATION_BITS - 4  # MEAN_STEPS = 2^4
    for u in range(low_unit, seen):
        h1[p, u] = min(max((sums[p, u] + r1) >> s1, 0), ACTIVATION_MAX)
    below = h1[p, :seen]
    for u in range(low_unit, seen):
        h2[p, u] = min(max((_dot(second[u, :seen], below, second_bias[u]) + r2) >> s2, 0), ACTIVATION_MAX)
    below = h2[p, :seen]
    for i in range(n_channels):
        c = low_channel + i
        mean = _dot(last[c, :seen], below, last_bias[c])
        log_scale = _dot(last[channels + c, :seen], below, last_bias[channels + c])
        sixteenths = (((mean + r3) >> s3) + (1 << (mean_shift - 1))) >> mean_shift
        center = (sixteenths + MEAN_STEPS // 2) >> 4
        eighths = (
            ((log_scale + r3) >> s3) - MIN_LOG_SCALE * (1 << ACTIVATION_BITS) + (1 << (scale_shift - 1))
        ) >> scale_shift
        centers[i] = center
        rows[i] = min(max(eighths, 0), N_SCALES - 1) * MEAN_STEPS + sixteenths - center * MEAN_STEPS + MEAN_STEPS // 2


@njit(cache=True, nogil=True)
def _add(sums, weights, factor, base_weights, base_factor):
    for u in range(np.uint64(len(sums))):
        sums[u] = sums[u] + weights[u] * factor - base_weights[u] * base_factor


@njit(cache=True, nogil=True)
def see(symbols, i, j, low_unit, hidden, low_channel, n_channels, arrays):
    """Let all later positions see a group's symbols at (i, j).

    Only when all of them are known: channels of one group at one position do not see each other.
    """
    sums, scatter, usual = arrays[0], arrays[4], arrays[9]
    height, width = symbols.shape[1], symbols.shape[2]
    for c in range(low_channel, low_channel + n_channels):
        s, base = np.int64(symbols[c, i, j]), usual[c]
        if s == base:
            continue
        factor, base_factor = np.int32(min(abs(s), FEATURE_LIMIT)), np.int32(min(abs(base), FEATURE_LIMIT))
        weights, base_weights = scatter[1 if s > 0 else 0, c], scatter[1 if base > 0 else 0, c]
        for ky in range(KERNEL):
            y = i - ky + KERNEL // 2
            if y < 0 or y >= height:
                continue
            for kx in range(KERNEL):
                x = j - kx + KERNEL // 2
                if x < 0 or x >= width:
                    continue
                k = ky * KERNEL + kx
                # what is masked is zero: the causal half reaches the group's own units, the rest later ones
                first = low_unit if k < KERNEL * KERNEL // 2 else low_unit + hidden
                _add(sums[y * width + x, first:], weights[k, first:], factor, base_weights[k, first:], base_factor)


@njit(cache=True, nogil=True)
def copy_neighbor(symbols, i, j, mode, low_channel, n_channels):
    """Set a group's symbols at (i, j) to the left or upper neighbor's."""
    y, x = (i, j - 1) if mode == LEFT else (i - 1, j)
    for c in range(low_channel, low_channel + n_channels):
        symbols[c, i, j] = symbols[c, y, x]


@njit(cache=True, nogil=True)
def _contexts(symbols, modes, groups, arrays, residuals, rows):
    _, height, width = symbols.shape
    hidden = arrays[5].shape[0] // len(groups)
    centers, own = np.empty(groups.max(), np.int64), np.empty(groups.max(), np.int64)
    n, low_channel = 0, 0
    for group in range(len(groups)):
        for i in range(height):
            for j in range(width):
                if modes[i, j] == 0:
                    predict(i * width + j, group * hidden, hidden, low_channel, groups[group], arrays, centers, own)
                    for k in range(groups[group]):
                        residuals[n] = symbols[low_channel + k, i, j] - centers[k]
                        rows[n] = own[k]
                        n += 1
                see(symbols, i, j, group * hidden, hidden, low_channel, groups[group], arrays)
        low_channel += groups[group]


def contexts(
    symbols: np.ndarray, modes: np.ndarray, quality_step: int, tables: ContextTables
) -> tuple[np.ndarray, np.ndarray]:
    """symbols int16 (C, h, w), modes uint8 (h, w) -> residuals int32 and rows int16 of all coded
    symbols, in coding order. Raises ValueError where the symbols do not fit the tables."""
    symbols = np.ascontiguousarray(symbols, np.int16)
    walk = Walk(symbols.shape, quality_step, tables)
    n = len(symbols) * int((modes == 0).sum())
    residuals, rows = np.empty(n, np.int32), np.empty(n, np.int16)
    _contexts(symbols, modes, walk.groups, walk.arrays, residuals, rows)
    return residuals, rows
