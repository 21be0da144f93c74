"""Context coder: the entropy model in fixed point, driving an asymmetric numeral system.

Between a file and its symbols there are integers only: 16-bit weights, 16-bit activations, 32-bit
sums whose worst case is checked when the tables are made, frequencies by table lookup. So every
machine computes the same probabilities, whatever its floating-point arithmetic does. The network
is the one of `models/entropy_model.py`; its float weights are these integers divided by powers of
two, so that estimates of the rate are made with what the coder uses.

Order: group by group, inside a group position by position (raster), inside a position channel by
channel. A decoded symbol adds its share to the first layer's sums of all positions that see it;
as most symbols are zero, the largest layer costs next to nothing.

Entropy coding is range ANS (Duda 2013) with 16-bit frequencies, a 31-bit state, and bytes.
The loop alternates between network and coder symbol by symbol, and must be compiled as a whole:
this is why no library's coder is called from it.
"""

from dataclasses import dataclass, fields

import numpy as np
from numba import njit

FEATURE_LIMIT = 15                # symbols are seen clamped to +-15
KERNEL = 5
QUALITY_STEPS = 32                # qualities between the trained ones
ACTIVATION_BITS = 8               # fraction bits of activations and of the outputs
ACTIVATION_MAX = 32767
MAX_WEIGHT_BITS = 12              # fraction bits of weights, fewer where a sum could overflow
MEAN_STEPS = 16                   # means are looked up in sixteenths of a step,
SCALE_STEPS = 8                   # log scales in eighths
MIN_LOG_SCALE, MAX_LOG_SCALE = -3, 4
N_SCALES = (MAX_LOG_SCALE - MIN_LOG_SCALE) * SCALE_STEPS + 1
MAX_RADIUS = 32                   # residuals beyond this escape
FREQUENCY_BITS = 16
STATE_LOW = 1 << 23               # the state stays in [2^23, 2^31)
ESCAPE_LENGTH_BITS = 5


class CorruptPayload(ValueError):
    """The payload cannot have been written for this shape, quality and checkpoint."""


@dataclass(frozen=True)
class ContextTables:
    """Integers that fix the coder; U units in the layers, C channels, G groups."""

    groups: np.ndarray         # int32 (G,), channels of each group
    shifts: np.ndarray         # int32 (3,), fraction bits of the weights of each layer
    first: np.ndarray          # int16 (2C, 25, U): signed values, then magnitudes
    second: np.ndarray         # int16 (U, U): output, input
    last: np.ndarray           # int16 (2C, U)
    first_bias: np.ndarray     # int32 (Q, U)
    row_bias: np.ndarray       # int32 (R, U); R = 0: rows are alike
    second_bias: np.ndarray    # int32 (U,)
    last_bias: np.ndarray      # int32 (Q, 2C)
    radius: np.ndarray         # int32 (N_SCALES,), residuals -radius..radius have frequencies
    frequency: np.ndarray      # uint16 (N_SCALES * MEAN_STEPS, 2 * MAX_RADIUS + 2), last: escape

    def __post_init__(self):
        for f in fields(self):
            object.__setattr__(self, f.name, np.ascontiguousarray(getattr(self, f.name)))
        self._check()
        cumulative = np.zeros((self.frequency.shape[0], self.frequency.shape[1] + 1), np.int32)
        np.cumsum(self.frequency, axis=1, out=cumulative[:, 1:])
        object.__setattr__(self, "_cumulative", cumulative)
        channels = int(self.groups.sum())
        # sign and magnitude in one addition: s * a + |s| * b is |s| * (b + a) or |s| * (b - a)
        signed, magnitude = self.first[:channels].astype(np.int32), self.first[channels:].astype(np.int32)
        object.__setattr__(self, "_scatter", np.stack([magnitude - signed, magnitude + signed]))

    def _check(self) -> None:
        """Raises ValueError where shapes disagree, frequencies do not add up or a sum could overflow."""
        units, channels = self.second.shape[0], int(self.groups.sum())
        expected = {"first": (2 * channels, KERNEL * KERNEL, units), "second": (units, units),
                    "last": (2 * channels, units), "second_bias": (units,), "shifts": (3,),
                    "radius": (N_SCALES,), "frequency": (N_SCALES * MEAN_STEPS, 2 * MAX_RADIUS + 2)}
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"context tables: {name} is {getattr(self, name).shape}, expected {shape}")
        if units % len(self.groups) or self.first_bias.shape[1:] != (units,) or (
                self.last_bias.shape != (len(self.first_bias), 2 * channels)) or self.row_bias.shape[1:] != (units,):
            raise ValueError("context tables: biases do not fit the layers")
        if (self.radius < 1).any() or (self.radius > MAX_RADIUS).any():
            raise ValueError(f"context tables: a radius is outside 1..{MAX_RADIUS}")
        if (self.frequency.astype(np.int64).sum(1) != 1 << FREQUENCY_BITS).any():
            raise ValueError("context tables: frequencies do not add up to 2^16")
        if (self.shifts < 0).any() or self.shifts[0] < ACTIVATION_BITS:
            raise ValueError("context tables: impossible shifts")
        used = np.abs(np.arange(-MAX_RADIUS, MAX_RADIUS + 1))[None] <= np.repeat(self.radius, MEAN_STEPS)[:, None]
        if (self.frequency[:, :-1][used] == 0).any() or (self.frequency[:, -1] == 0).any():
            raise ValueError("context tables: a codable symbol has no frequency")
        rows = np.abs(self.row_bias.astype(np.int64)).max(initial=0)
        worst = [
            np.abs(self.first.astype(np.int64)).sum((0, 1)).max() * FEATURE_LIMIT
            + np.abs(self.first_bias.astype(np.int64)).max() + rows,
            np.abs(self.second.astype(np.int64)).sum(1).max() * ACTIVATION_MAX
            + np.abs(self.second_bias.astype(np.int64)).max(),
            np.abs(self.last.astype(np.int64)).sum(1).max() * ACTIVATION_MAX
            + np.abs(self.last_bias.astype(np.int64)).max()]
        if max(worst) >= 2 ** 31 - 2 ** 16:
            raise ValueError("context tables: a 32-bit sum could overflow")

    def to_arrays(self) -> dict[str, np.ndarray]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "ContextTables":
        names = {f.name for f in fields(cls)}
        if set(arrays) != names:
            raise ValueError(f"context tables: {sorted(set(arrays) ^ names)} missing or unknown")
        return cls(**arrays)


def freeze(groups: tuple[int, ...], first: np.ndarray, second: np.ndarray, last: np.ndarray,
           first_bias: np.ndarray, row_bias: np.ndarray, second_bias: np.ndarray,
           last_bias: np.ndarray) -> ContextTables:
    """Float (masked) weights -> tables; layouts as in `ContextTables`, all float.

    Raises ValueError if the weights are too large for any fixed point.
    """
    weights, shifts = [], []
    for weight, limit, axes in ((first, FEATURE_LIMIT, (0, 1)), (second, ACTIVATION_MAX, 1), (last, ACTIVATION_MAX, 1)):
        for bits in range(MAX_WEIGHT_BITS, -1, -1):
            scaled = np.rint(weight.astype(np.float64) * 2 ** bits)
            if np.abs(scaled).max() <= 32767 and np.abs(scaled).sum(axes).max() * limit < 2 ** 30:
                break
        else:
            raise ValueError("the entropy model's weights are too large for 16-bit integers")
        weights.append(scaled.astype(np.int16))
        shifts.append(bits)

    def fixed(values, bits):
        return np.clip(np.rint(values.astype(np.float64) * 2.0 ** bits), -2 ** 29, 2 ** 29).astype(np.int32)

    radius, frequency = logistic_frequencies()
    return ContextTables(
        np.array(groups, np.int32), np.array(shifts, np.int32), *weights,
        fixed(first_bias, shifts[0]), fixed(row_bias, shifts[0]),
        fixed(second_bias, shifts[1] + ACTIVATION_BITS), fixed(last_bias, shifts[2] + ACTIVATION_BITS),
        radius, frequency)


def thaw(tables: ContextTables) -> dict[str, np.ndarray]:
    """The float weights that the integers stand for, by `freeze`'s parameter names."""
    t, shifts = tables, tables.shifts

    def real(values, bits):
        return (values / 2.0 ** bits).astype(np.float32)

    return {"first": real(t.first, shifts[0]), "second": real(t.second, shifts[1]),
            "last": real(t.last, shifts[2]), "first_bias": real(t.first_bias, shifts[0]),
            "row_bias": real(t.row_bias, shifts[0]),
            "second_bias": real(t.second_bias, shifts[1] + ACTIVATION_BITS),
            "last_bias": real(t.last_bias, shifts[2] + ACTIVATION_BITS)}


def logistic_frequencies() -> tuple[np.ndarray, np.ndarray]:
    """Radius of each scale, and 16-bit frequencies of each (scale, fraction of the mean)."""
    total = 1 << FREQUENCY_BITS
    radius = np.empty(N_SCALES, np.int32)
    frequency = np.zeros((N_SCALES * MEAN_STEPS, 2 * MAX_RADIUS + 2), np.uint16)
    d = np.arange(-MAX_RADIUS, MAX_RADIUS + 1)
    for i in range(N_SCALES):
        scale = np.exp(MIN_LOG_SCALE + i / SCALE_STEPS)
        radius[i] = min(MAX_RADIUS, int(np.ceil(12 * scale + 1)))
        inside = np.abs(d) <= radius[i]
        for j in range(MEAN_STEPS):
            mean = (j - MEAN_STEPS // 2) / MEAN_STEPS
            edges = np.arange(-MAX_RADIUS, MAX_RADIUS + 2) - 0.5 - mean
            cdf = 1 / (1 + np.exp(-np.clip(edges / scale, -60, 60)))
            p = np.diff(cdf) * inside
            p = np.append(p, max(1 - p.sum(), 0.0))
            free = total - (inside.sum() + 1)
            row = np.floor(p * free).astype(np.int64) + np.append(inside, True)
            row[np.argmax(row)] += total - row.sum()
            frequency[i * MEAN_STEPS + j] = row
    return radius, frequency


def encode(symbols: np.ndarray, quality_step: int, tables: ContextTables) -> bytes:
    """symbols int16 (C, H, W), quality in steps of 1/32 above 1 -> payload."""
    intervals, n, _ = _walk(symbols, quality_step, tables, None)
    return _rans_encode(intervals, n).tobytes() if n else b""


def decode(payload: bytes, shape: tuple[int, int, int], quality_step: int, tables: ContextTables) -> np.ndarray:
    """payload -> symbols int16 of that shape.

    Raises CorruptPayload if the payload ends early, has bytes left over, or ends in another state
    than the one the encoder starts from.
    """
    symbols = np.zeros(shape, np.int16)
    # a writable copy: numba would compile everything once more for read-only bytes
    _walk(symbols, quality_step, tables, np.frombuffer(payload, np.uint8).copy())
    return symbols


def cost_bits(symbols: np.ndarray, quality_step: int, tables: ContextTables) -> float:
    """Bits of the symbols by the tables' probabilities, without coding them."""
    return _walk(symbols, quality_step, tables, None)[2]


def _between(table: np.ndarray, quality_step: int) -> np.ndarray:
    """Row of an integer table (Q, N) at a quality between two trained ones, int32."""
    low = min(quality_step // QUALITY_STEPS, len(table) - 2)
    part = quality_step - low * QUALITY_STEPS
    mixed = table[low].astype(np.int64) * (QUALITY_STEPS - part) + table[low + 1].astype(np.int64) * part
    return ((mixed + QUALITY_STEPS // 2) // QUALITY_STEPS).astype(np.int32)


def _walk(symbols: np.ndarray, quality_step: int, tables: ContextTables, data: np.ndarray | None):
    """The one way through a grid, for coding (data None) and decoding, so that both see the same."""
    channels, height, width = symbols.shape
    t = tables
    if channels != t.groups.sum():
        raise ValueError(f"symbols have {channels} channels, the tables {t.groups.sum()}")
    if len(t.row_bias) and height > len(t.row_bias):
        raise ValueError(f"symbols have {height} rows, the tables {len(t.row_bias)}")
    if symbols.size == 0:
        if data is not None and len(data):
            raise CorruptPayload("bytes where there are no symbols")
        return np.zeros((0, 2), np.int32), 0, 0.0
    decoding = data is not None
    if not decoding:
        symbols = np.ascontiguousarray(symbols, np.int16)
    intervals = np.empty((0 if decoding else symbols.size + 16, 2), np.int32)
    sums = np.empty((height * width, t.second.shape[0]), np.int32)
    sums[:] = _between(t.first_bias, quality_step)
    if len(t.row_bias):
        sums += np.repeat(t.row_bias[:height], width, axis=0)
    intervals, n, bits, status = _code(
        symbols, decoding, data if decoding else np.zeros(0, np.uint8), intervals, sums, t.groups,
        t.shifts, t._scatter, t.second, t.last, t.second_bias, _between(t.last_bias, quality_step), t.radius, t._cumulative)
    if status:
        raise CorruptPayload(("", "the payload ends early", "the payload is damaged",
                              "the payload has bytes left over")[status])
    return intervals, n, bits


@njit(cache=True, nogil=True)
def _rans_encode(intervals, n):
    out = np.empty(2 * n + 4, np.uint8)
    end = len(out)
    state = np.uint64(STATE_LOW)
    for i in range(n - 1, -1, -1):
        start, frequency = np.uint64(intervals[i, 0]), np.uint64(intervals[i, 1])
        limit = np.uint64((STATE_LOW >> FREQUENCY_BITS) << 8) * frequency
        while state >= limit:
            end -= 1
            out[end] = np.uint8(state & np.uint64(255))
            state >>= np.uint64(8)
        state = ((state // frequency) << np.uint64(FREQUENCY_BITS)) + state % frequency + start
    for _ in range(4):
        end -= 1
        out[end] = np.uint8(state & np.uint64(255))
        state >>= np.uint64(8)
    return out[end:].copy()


@njit(cache=True, nogil=True)
def _take(data, place, state, start, frequency):
    """Advance the decoder over one interval -> (state, place), place -1 where data end early."""
    mask = np.uint64((1 << FREQUENCY_BITS) - 1)
    state = frequency * (state >> np.uint64(FREQUENCY_BITS)) + (state & mask) - start
    while state < np.uint64(STATE_LOW):
        if place >= len(data):
            return state, -1
        state = (state << np.uint64(8)) | np.uint64(data[place])
        place += 1
    return state, place


@njit(cache=True, nogil=True)
def _grow(intervals, need):
    if need <= len(intervals):
        return intervals
    larger = np.empty((2 * need, 2), np.int32)
    larger[:len(intervals)] = intervals
    return larger


@njit(cache=True, nogil=True)
def _code(symbols, decoding, data, intervals, sums, groups, shifts, scatter, second, last,
          second_bias, last_bias, radius, cumulative):
    """-> (intervals, how many, bits, status); status 1 ends early, 2 impossible, 3 bytes left over."""
    channels, height, width = symbols.shape
    units = second.shape[0]
    hidden = units // len(groups)
    positions = height * width
    h1 = np.zeros((positions, units), np.int16)
    h2 = np.zeros((positions, units), np.int16)
    total = 1 << FREQUENCY_BITS
    mask = np.uint64(total - 1)
    n, bits = 0, 0.0
    place, state = 0, np.uint64(0)
    if decoding:
        if len(data) < 4:
            return intervals, n, bits, 1
        for place in range(4):
            state = (state << np.uint64(8)) | np.uint64(data[place])
        place = 4
        if state < np.uint64(STATE_LOW) or state >= np.uint64(1 << 31):
            return intervals, n, bits, 2
    s1, s2, s3 = shifts[0] - ACTIVATION_BITS, shifts[1], shifts[2]
    r1 = (1 << s1) >> 1
    r2 = (1 << s2) >> 1
    r3 = (1 << s3) >> 1
    scale_shift = ACTIVATION_BITS - 3           # SCALE_STEPS = 2^3
    mean_shift = ACTIVATION_BITS - 4            # MEAN_STEPS = 2^4
    low_channel = 0
    for group in range(len(groups)):
        low_unit, seen = group * hidden, (group + 1) * hidden
        for i in range(height):
            for j in range(width):
                p = i * width + j
                for u in range(low_unit, seen):
                    h1[p, u] = min(max((sums[p, u] + r1) >> s1, 0), ACTIVATION_MAX)
                for u in range(low_unit, seen):
                    acc = second_bias[u]
                    for k in range(seen):
                        acc = np.int32(acc + np.int32(second[u, k]) * np.int32(h1[p, k]))
                    h2[p, u] = min(max((acc + r2) >> s2, 0), ACTIVATION_MAX)
                for c in range(low_channel, low_channel + groups[group]):
                    mean = last_bias[c]
                    log_scale = last_bias[channels + c]
                    for k in range(seen):
                        mean = np.int32(mean + np.int32(last[c, k]) * np.int32(h2[p, k]))
                        log_scale = np.int32(log_scale + np.int32(last[channels + c, k]) * np.int32(h2[p, k]))
                    sixteenths = (((mean + r3) >> s3) + (1 << (mean_shift - 1))) >> mean_shift
                    center = (sixteenths + MEAN_STEPS // 2) >> 4
                    fraction = sixteenths - center * MEAN_STEPS + MEAN_STEPS // 2
                    eighths = (((log_scale + r3) >> s3) - MIN_LOG_SCALE * (1 << ACTIVATION_BITS)
                               + (1 << (scale_shift - 1))) >> scale_shift
                    scale = min(max(eighths, 0), N_SCALES - 1)
                    row = cumulative[scale * MEAN_STEPS + fraction]
                    escape = 2 * MAX_RADIUS + 1
                    if decoding:
                        slot = np.int64(state & mask)
                        index = MAX_RADIUS
                        if not row[index] <= slot < row[index + 1]:
                            low, high = 0, escape + 1
                            while high - low > 1:
                                middle = (low + high) >> 1
                                if row[middle] <= slot:
                                    low = middle
                                else:
                                    high = middle
                            index = low
                        state, place = _take(data, place, state, np.uint64(row[index]),
                                             np.uint64(row[index + 1] - row[index]))
                        if place < 0:
                            return intervals, n, bits, 1
                        residual = index - MAX_RADIUS
                        if index == escape:
                            length = np.int64(state & mask) >> (FREQUENCY_BITS - ESCAPE_LENGTH_BITS)
                            shift = FREQUENCY_BITS - ESCAPE_LENGTH_BITS
                            state, place = _take(data, place, state, np.uint64(length << shift), np.uint64(1 << shift))
                            if place < 0:
                                return intervals, n, bits, 1
                            if length > 17:
                                return intervals, n, bits, 2
                            value = 1
                            for _ in range(length + 1):     # its bits, and the sign as the last one
                                bit = np.int64(state & mask) >> (FREQUENCY_BITS - 1)
                                state, place = _take(data, place, state, np.uint64(bit << 15), np.uint64(1 << 15))
                                if place < 0:
                                    return intervals, n, bits, 1
                                value = 2 * value + bit
                            beyond = (value >> 1) + radius[scale]
                            residual = -beyond if value & 1 else beyond
                        value = center + residual
                        if value > 32767 or value < -32768:
                            return intervals, n, bits, 2
                        symbols[c, i, j] = value
                    else:
                        value = np.int64(symbols[c, i, j])
                        residual = value - center
                        intervals = _grow(intervals, n + 32)
                        if abs(residual) <= radius[scale]:
                            index = residual + MAX_RADIUS
                            intervals[n, 0] = row[index]
                            intervals[n, 1] = row[index + 1] - row[index]
                            bits -= np.log2(intervals[n, 1] / total)
                            n += 1
                        else:
                            intervals[n, 0] = row[escape]
                            intervals[n, 1] = row[escape + 1] - row[escape]
                            bits -= np.log2(intervals[n, 1] / total)
                            beyond = abs(residual) - radius[scale]
                            length = 0
                            while beyond >> (length + 1):
                                length += 1
                            shift = FREQUENCY_BITS - ESCAPE_LENGTH_BITS
                            intervals[n + 1, 0] = length << shift
                            intervals[n + 1, 1] = 1 << shift
                            n += 2
                            code = 2 * beyond + (1 if residual < 0 else 0)
                            for b in range(length, -1, -1):
                                intervals[n, 0] = ((code >> b) & 1) << 15
                                intervals[n, 1] = 1 << 15
                                n += 1
                            bits += ESCAPE_LENGTH_BITS + length + 1
                # only now: channels of one group at one position do not see each other
                for c in range(low_channel, low_channel + groups[group]):
                    s = np.int64(symbols[c, i, j])
                    if s == 0:
                        continue
                    magnitude = np.int32(min(abs(s), FEATURE_LIMIT))
                    weights = scatter[1 if s > 0 else 0, c]
                    for ky in range(KERNEL):
                        y = i - ky + KERNEL // 2
                        if y < 0 or y >= height:
                            continue
                        for kx in range(KERNEL):
                            x = j - kx + KERNEL // 2
                            if x < 0 or x >= width:
                                continue
                            k = ky * KERNEL + kx
                            first_unit = low_unit if k < KERNEL * KERNEL // 2 else seen
                            q = y * width + x
                            for u in range(first_unit, units):
                                sums[q, u] += np.int32(magnitude * weights[k, u])
        low_channel += groups[group]
    if decoding:
        if state != np.uint64(STATE_LOW):
            return intervals, n, bits, 2
        if place != len(data):
            return intervals, n, bits, 3
    return intervals, n, bits, 0
