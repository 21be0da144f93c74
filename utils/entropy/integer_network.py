"""The entropy model in fixed point: what both entropy coders know about the next symbol.

Between a file and its symbols there are integers only: 16-bit weights, 16-bit activations, 32-bit
sums whose worst case is checked when the tables are made, distributions by table lookup. So every
machine comes to the same distribution, whatever its floating-point arithmetic does. The network
is the one of `models/entropy_model.py`; its float weights are these integers divided by powers of
two, so that estimates of the rate are made with what the coders use.

Where a quality scales the units (`first_scale`, `second_scale`), a sum is multiplied by a 16-bit factor before it is
shifted: 64 bits hold the product. Where the first group is predicted from itself (`leading`), the prediction is a sum
of 64 bits over symbols of any size, added to the network's mean.

For every symbol the network names a center, the integer next to the predicted mean, and a row:
one of 57 scales times 16 places of the mean around the center. What is coded is the residual, symbol minus
center; a coder knows the distribution (or the code) of the residuals of each row.

Symbols are coded group by group, inside a group position by position (raster), inside a position channel by
channel. A decoded symbol adds its share to the first layer's sums of all positions that see it (`spread`).
The sums start as if every symbol had its channel's usual value, so that only other values are added. This
saves time and changes nothing, since integer sums do not depend on their order. Positions that repeat a
neighbor (`utils/entropy/repeats.py`) are copied, not predicted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numba import njit, types
from numba.extending import overload

from models.config import FEATURE_LIMIT, KERNEL, MAX_LOG_SCALE, MIN_LOG_SCALE, QUALITY_STEPS
from utils.compiled import compiled

from .repeats import LEFT
from .tables import Tables

ACTIVATION_BITS = 8  # fraction bits of activations and of the outputs
ACTIVATION_MAX = 32767
MAX_WEIGHT_BITS = 12  # fraction bits of weights, fewer where a sum could overflow
SCALE_BITS = 12  # fraction bits of what a quality multiplies a unit's sum with
LEADING_BITS = 13  # fraction bits of the first group's linear prediction
LARGEST = 32767 << ACTIVATION_BITS  # mean: no symbol is larger
MEAN_STEPS = 16  # means are looked up in sixteenths of a step,
SCALE_STEPS = 8  # log scales in eighths
N_SCALES = (MAX_LOG_SCALE - MIN_LOG_SCALE) * SCALE_STEPS + 1
N_ROWS = N_SCALES * MEAN_STEPS


CAUSAL = KERNEL * KERNEL // 2  # places of the window before its middle

# How reading a payload ends. A position below zero is one of these, negated: the reader cannot go on.
COMPLETE, ENDS_EARLY, DAMAGED, LEFT_OVER = range(4)


NARROW = ("first", "second", "last", "usual", "first_scale", "second_scale", "leading")  # tables of int16


@dataclass(eq=False)
class ContextTables(Tables):
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
    # Of networks whose units a quality scales, else None; SCALE_BITS fraction bits.
    first_scale: np.ndarray | None = None  # int16 (Q, U)
    second_scale: np.ndarray | None = None  # int16 (Q, U)
    second_quality_bias: np.ndarray | None = None  # int32 (Q, U), before the scale
    # Of networks that predict the first group's F channels from themselves; LEADING_BITS fraction bits.
    leading: np.ndarray | None = None  # int16 (F, CAUSAL, F): output, place, input

    @cached_property
    def scatter(self) -> np.ndarray:
        """What a symbol adds to the first layer, per unit of its magnitude: int32 (2, C, 25, U), negative ones first.

        Sign and magnitude in one addition: s * a + |s| * b is |s| * (b + a) or |s| * (b - a).
        """
        channels = int(self.groups.sum())
        signed, magnitude = self.first[:channels].astype(np.int32), self.first[channels:].astype(np.int32)
        return np.stack([magnitude - signed, magnitude + signed])

    def check(self) -> None:
        """Raises ValueError where types or shapes disagree or a sum could overflow."""
        for name, array in self.to_arrays().items():
            if array.dtype != (np.int16 if name in NARROW else np.int32):
                raise ValueError(f"context tables: {name} is {array.dtype}")
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
        by_quality = (self.first_scale, self.second_scale, self.second_quality_bias)
        if not (
            all(table is None for table in by_quality)
            or all(table is not None and table.shape == (qualities, units) for table in by_quality)
        ):
            raise ValueError("context tables: scales do not fit the layers")
        if self.leading is not None and self.leading.shape != (self.groups[0], CAUSAL, self.groups[0]):
            raise ValueError("context tables: the linear prediction does not fit the first group")
        if (self.shifts < 0).any() or (self.shifts > 30).any() or self.shifts[0] < ACTIVATION_BITS:
            raise ValueError("context tables: impossible shifts")
        rows = np.abs(self.row_bias.astype(np.int64)).max(initial=0)
        worst = [
            np.abs(self.first.astype(np.int64)).sum((0, 1)).max() * FEATURE_LIMIT
            + np.abs(self.first_bias.astype(np.int64)).max()
            + rows,
            np.abs(self.second.astype(np.int64)).sum(1).max() * ACTIVATION_MAX
            + np.abs(self.second_bias.astype(np.int64)).max()
            + (0 if self.second_quality_bias is None else np.abs(self.second_quality_bias.astype(np.int64)).max()),
            np.abs(self.last.astype(np.int64)).sum(1).max() * ACTIVATION_MAX
            + np.abs(self.last_bias.astype(np.int64)).max(),
        ]
        if max(worst) >= 2**31 - 2**16:
            raise ValueError("context tables: a 32-bit sum could overflow")


def _seen(groups: np.ndarray, units: int) -> np.ndarray:
    """Which weights of the first layer there are, bool (2C, 25, U): those of a group's units to earlier groups' symbols,
    and to its own at the causal places."""
    channel_group = np.tile(np.repeat(np.arange(len(groups)), groups), 2)[:, None, None]
    unit_group = np.repeat(np.arange(len(groups)), units // len(groups))
    causal = np.arange(KERNEL * KERNEL)[:, None] < CAUSAL
    return (channel_group < unit_group) | ((channel_group == unit_group) & causal)


def pack(tables: ContextTables) -> dict[str, np.ndarray]:
    """The tables as a checkpoint stores them: of the first layer only the weights that there are, int16 (n,)."""
    arrays = tables.to_arrays()
    return {**arrays, "first": arrays["first"][_seen(tables.groups, tables.second.shape[0])]}


def unpack(arrays: dict[str, np.ndarray]) -> ContextTables:
    """What `pack` gave, or the same with `first` as in `ContextTables`: earlier checkpoints store it so.

    Raises ValueError where an array is missing, unknown or not possible.
    """
    first, groups, second = (arrays.get(name) for name in ("first", "groups", "second"))
    if first is not None and first.ndim == 1 and groups is not None and second is not None:
        if groups.ndim != 1 or len(groups) == 0 or (groups < 1).any() or second.ndim != 2:
            raise ValueError("context tables: impossible groups or layers")
        sizes, units = [int(size) for size in groups], second.shape[0] // len(groups)
        before = sum((len(sizes) - 1 - place) * size for place, size in enumerate(sizes))
        needed = 2 * units * (KERNEL * KERNEL * before + CAUSAL * sum(sizes))
        if len(first) != needed:  # before anything of that size is allocated
            raise ValueError(f"context tables: first holds {len(first)} weights, expected {needed}")
        whole = np.zeros((2 * sum(sizes), KERNEL * KERNEL, units * len(sizes)), first.dtype)
        whole[_seen(groups, units * len(sizes))] = first
        arrays = {**arrays, "first": whole}
    return ContextTables.from_arrays(arrays)


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
    first_scale: np.ndarray | None = None,
    second_scale: np.ndarray | None = None,
    second_quality_bias: np.ndarray | None = None,
    leading: np.ndarray | None = None,
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

    def narrow(values, bits):
        if values is None:
            return None
        return np.clip(np.rint(values.astype(np.float64) * 2.0**bits), -32767, 32767).astype(np.int16)

    return ContextTables(
        np.array(groups, np.int32),
        np.array(shifts, np.int32),
        *weights,
        fixed(first_bias, shifts[0]),
        fixed(row_bias, shifts[0]),
        fixed(second_bias, shifts[1] + ACTIVATION_BITS),
        fixed(last_bias, shifts[2] + ACTIVATION_BITS),
        usual.astype(np.int16),
        narrow(first_scale, SCALE_BITS),
        narrow(second_scale, SCALE_BITS),
        None if second_quality_bias is None else fixed(second_quality_bias, shifts[1] + ACTIVATION_BITS),
        narrow(leading, LEADING_BITS),
    )


def thaw(tables: ContextTables) -> dict[str, np.ndarray]:
    """The float weights that the integers stand for, by `freeze`'s parameter names; None for what the tables lack."""
    t, shifts = tables, tables.shifts

    def real(values, bits):
        return None if values is None else (values / 2.0**bits).astype(np.float32)

    return {
        "first": real(t.first, shifts[0]),
        "second": real(t.second, shifts[1]),
        "last": real(t.last, shifts[2]),
        "first_bias": real(t.first_bias, shifts[0]),
        "row_bias": real(t.row_bias, shifts[0]),
        "second_bias": real(t.second_bias, shifts[1] + ACTIVATION_BITS),
        "last_bias": real(t.last_bias, shifts[2] + ACTIVATION_BITS),
        "usual": t.usual,
        "first_scale": real(t.first_scale, SCALE_BITS),
        "second_scale": real(t.second_scale, SCALE_BITS),
        "second_quality_bias": real(t.second_quality_bias, shifts[1] + ACTIVATION_BITS),
        "leading": real(t.leading, LEADING_BITS),
    }


class Network(NamedTuple):
    """The network on its way through one grid, at one quality, as the compiled functions take it."""

    groups: np.ndarray  # int32 (G,), channels of each group
    sums: np.ndarray  # int32 (h * w, U), of the first layer: all symbols decoded so far have their share
    first_layer: np.ndarray  # int16 (h * w, U), activations
    second_layer: np.ndarray  # int16 (h * w, U), activations
    shifts: np.ndarray  # these and all below: see `ContextTables`
    scatter: np.ndarray
    second_weights: np.ndarray
    last_weights: np.ndarray
    first_scale: np.ndarray  # int32 (U,), of this quality
    second_scale: np.ndarray  # int32 (U,), of this quality
    second_bias: np.ndarray  # int32 (U,), of this quality
    last_bias: np.ndarray  # int32 (2C,), of this quality
    leading: np.ndarray  # (0, CAUSAL, 0) where there is no linear prediction
    usual: np.ndarray  # int64 (C,), of the nearest trained quality


def start_network(shape: tuple[int, int, int], quality_step: int, tables: ContextTables) -> Network:
    """The network before the first symbol of a grid (C, h, w); quality in steps of 1/32 above 1.

    Raises ValueError where the grid or the quality does not fit the tables.
    """
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
    _add_usual(sums, t.scatter, usual, height, width)
    layers = np.zeros((2, height * width, units), np.int16)
    one = np.full(units, 1 << SCALE_BITS, np.int32)
    return Network(
        groups=t.groups,
        sums=sums,
        first_layer=layers[0],
        second_layer=layers[1],
        shifts=t.shifts,
        scatter=t.scatter,
        second_weights=t.second,
        last_weights=t.last,
        first_scale=one if t.first_scale is None else _between(t.first_scale, quality_step),
        second_scale=one if t.second_scale is None else _between(t.second_scale, quality_step),
        second_bias=t.second_bias
        + (0 if t.second_quality_bias is None else _between(t.second_quality_bias, quality_step)),
        last_bias=_between(t.last_bias, quality_step),
        leading=np.zeros((0, CAUSAL, 0), np.int16) if t.leading is None else t.leading,
        usual=usual,
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


@compiled(nogil=True)
def _dot(weights, values, start):
    total = start
    for k in range(len(weights)):
        total = np.int32(total + np.int32(weights[k]) * np.int32(values[k]))
    return total


@compiled(nogil=True)
def lead(network, symbols, i, j, led):
    """The linear prediction of the first group's symbols at (i, j), with the fraction bits of activations."""
    height, width = symbols.shape[1], symbols.shape[2]
    leading = network.leading
    shift = LEADING_BITS - ACTIVATION_BITS
    for c in range(len(leading)):
        total = np.int64(1 << shift) >> 1
        for k in range(CAUSAL):
            y, x = i + k // KERNEL - KERNEL // 2, j + k % KERNEL - KERNEL // 2
            if 0 <= y < height and 0 <= x < width:
                for other in range(len(leading)):
                    total += np.int64(leading[c, k, other]) * np.int64(symbols[other, y, x])
        led[c] = total >> shift


@compiled(nogil=True)
def predict(network, p, low_unit, hidden, low_channel, n_channels, led, centers, rows):
    """Center and row of each of a group's symbols at position p, into the first places of both arrays.

    `led`, like these, is added to the means.
    """
    n_units = low_unit + hidden  # those of this group and of the ones before
    channels = network.last_weights.shape[0] // 2
    s1, s2 = network.shifts[0] - ACTIVATION_BITS + SCALE_BITS, network.shifts[1] + SCALE_BITS
    s3 = network.shifts[2]
    r1, r2, r3 = (np.int64(1) << s1) >> 1, (np.int64(1) << s2) >> 1, (1 << s3) >> 1
    first_scale, second_scale = network.first_scale, network.second_scale
    scale_shift = ACTIVATION_BITS - 3  # SCALE_STEPS = 2^3
    mean_shift = ACTIVATION_BITS - 4  # MEAN_STEPS = 2^4
    sums, first_layer, second_layer = network.sums, network.first_layer, network.second_layer
    second_weights, second_bias = network.second_weights, network.second_bias
    last_weights, last_bias = network.last_weights, network.last_bias
    for u in range(low_unit, n_units):
        scaled = np.int64(sums[p, u]) * first_scale[u]
        first_layer[p, u] = min(max((scaled + r1) >> s1, 0), ACTIVATION_MAX)
    below = first_layer[p, :n_units]
    for u in range(low_unit, n_units):
        scaled = np.int64(_dot(second_weights[u, :n_units], below, second_bias[u])) * second_scale[u]
        second_layer[p, u] = min(max((scaled + r2) >> s2, 0), ACTIVATION_MAX)
    below = second_layer[p, :n_units]
    for i in range(n_channels):
        c = low_channel + i
        mean = _dot(last_weights[c, :n_units], below, last_bias[c])
        log_scale = _dot(last_weights[channels + c, :n_units], below, last_bias[channels + c])
        mean = min(max(((mean + r3) >> s3) + led[i], -LARGEST), LARGEST)
        sixteenths = (mean + (1 << (mean_shift - 1))) >> mean_shift
        center = (sixteenths + MEAN_STEPS // 2) >> 4
        eighths = (
            ((log_scale + r3) >> s3) - MIN_LOG_SCALE * (1 << ACTIVATION_BITS) + (1 << (scale_shift - 1))
        ) >> scale_shift
        centers[i] = center
        rows[i] = min(max(eighths, 0), N_SCALES - 1) * MEAN_STEPS + sixteenths - center * MEAN_STEPS + MEAN_STEPS // 2


@compiled(nogil=True)
def _add(sums, weights, factor, base_weights, base_factor):
    for u in range(np.uint64(len(sums))):
        sums[u] = sums[u] + weights[u] * factor - base_weights[u] * base_factor


@compiled(nogil=True)
def spread(network, symbols, i, j, low_unit, hidden, low_channel, n_channels):
    """Add the share of a group's symbols at (i, j) to the sums of all positions that see them.

    It is called once all of them are known: channels of one group at one position do not see each other.
    """
    sums, scatter, usual = network.sums, network.scatter, network.usual
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
                # what is masked is zero: the causal half reaches this group's units, the rest later ones
                first = low_unit if k < KERNEL * KERNEL // 2 else low_unit + hidden
                _add(sums[y * width + x, first:], weights[k, first:], factor, base_weights[k, first:], base_factor)


@compiled(nogil=True)
def copy_neighbor(symbols, i, j, mode, low_channel, n_channels):
    """Set a group's symbols at (i, j) to the left or upper neighbor's."""
    y, x = (i, j - 1) if mode == LEFT else (i - 1, j)
    for c in range(low_channel, low_channel + n_channels):
        symbols[c, i, j] = symbols[c, y, x]


READERS: dict[type, Callable] = {}  # by the type of their source


def next_residual(source, position, row, center):
    """The next residual of a source -> (residual, position after it; below zero: minus a status).

    A source is a NamedTuple of what its reader needs: the payload, tables, and what changes on the way in
    arrays of one element. This is what runs where numba is switched off; compiled functions call the
    reader itself, see `reads`.
    """
    return READERS[type(source)](source, position, row, center)


def reads(kind: type) -> Callable[[Callable], Callable]:
    """Decorator of the reader of sources of this kind, with the signature of `next_residual`.

    The type of the source chooses the reader when `walk` is compiled. A function as an argument would
    choose it too, but numba keeps no compiled function that takes another one.
    """

    def register(reader: Callable) -> Callable:
        READERS[kind] = reader

        # A call for each residual would count references to every array of the source.
        @overload(next_residual, jit_options={"forceinline": True})
        def choose(source, position, row, center):
            if isinstance(source, types.BaseNamedTuple) and source.instance_class is kind:
                return reader

        return reader

    return register


@njit(nogil=True)  # kept with each compiled caller, in whose file the reader is
def walk(symbols, modes, network, source, position):
    """Set all symbols of a grid in coding order, from the residuals of a source.

    symbols int16 (C, h, w), written in place; modes uint8 (h, w), see `utils/entropy/repeats.py`; network
    as `start_network` gives it -> position in the source after the last residual, below zero: minus a status.
    """
    _, height, width = symbols.shape
    groups = network.groups
    hidden = network.second_layer.shape[1] // len(groups)
    centers, rows = np.empty(groups.max(), np.int64), np.empty(groups.max(), np.int64)
    led = np.zeros(groups.max(), np.int64)
    low_channel = 0
    for group in range(len(groups)):
        low_unit, n_channels = group * hidden, groups[group]
        for i in range(height):
            for j in range(width):
                if modes[i, j]:
                    copy_neighbor(symbols, i, j, modes[i, j], low_channel, n_channels)
                else:
                    if group == 0:
                        lead(network, symbols, i, j, led)
                    predict(network, i * width + j, low_unit, hidden, low_channel, n_channels, led, centers, rows)
                    for k in range(n_channels):
                        residual, position = next_residual(source, position, rows[k], centers[k])
                        if position < 0:
                            return position
                        symbol = centers[k] + residual
                        if symbol > 32767 or symbol < -32768:
                            return np.int64(-DAMAGED)
                        symbols[low_channel + k, i, j] = symbol
                spread(network, symbols, i, j, low_unit, hidden, low_channel, n_channels)
        low_channel += n_channels
        led[:] = 0
    return position


class Known(NamedTuple):
    """The source of an encoder: symbols in coding order, whose residuals and rows are noted down."""

    symbols: np.ndarray  # int16 (n,)
    residuals: np.ndarray  # int32 (n,)
    rows: np.ndarray  # int16 (n,)


@reads(Known)
def _known_residual(source, position, row, center):
    residual = source.symbols[position] - center
    source.residuals[position] = residual
    source.rows[position] = row
    return residual, position + 1


@compiled(nogil=True)
def _contexts(symbols, modes, network, source):
    walk(symbols, modes, network, source, np.int64(0))


def contexts(
    symbols: np.ndarray, modes: np.ndarray, quality_step: int, tables: ContextTables
) -> tuple[np.ndarray, np.ndarray]:
    """symbols int16 (C, h, w), modes uint8 (h, w) -> residuals int32 and rows int16 of all coded
    symbols, in coding order. Raises ValueError where the symbols do not fit the tables."""
    network = start_network(symbols.shape, quality_step, tables)
    coded = symbols[:, modes == 0].astype(np.int16)  # (C, positions)
    groups = np.split(coded, np.cumsum(tables.groups)[:-1])
    source = Known(
        np.concatenate([group.T.ravel() for group in groups]),
        np.empty(coded.size, np.int32),
        np.empty(coded.size, np.int16),
    )
    _contexts(np.empty(symbols.shape, np.int16), modes, network, source)
    return source.residuals, source.rows
