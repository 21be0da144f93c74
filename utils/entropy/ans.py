"""Coder `context`: asymmetric numeral system over the distributions of the integer network.

Range ANS (Duda 2013) with 16-bit frequencies, a 31-bit state, and bytes. The encoder knows all
symbols, so it asks `utils/entropy/integer_network.py` for all residuals and rows first; the decoder
alternates between network and coder symbol by symbol, and must be compiled as a whole: this is why
no library's coder is called from it.

A residual beyond its row's radius escapes: the escape symbol, 5 bits for the number of bits of the
excess, those bits, and the sign, all equally likely.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from .integer_network import (
    MEAN_STEPS,
    MIN_LOG_SCALE,
    N_ROWS,
    N_SCALES,
    SCALE_STEPS,
    ContextTables,
    CorruptPayload,
    Walk,
    copy_neighbor,
    predict,
    see,
)

MAX_RADIUS = 64  # residuals beyond this escape
ESCAPE = 2 * MAX_RADIUS + 1  # index of the escape; residual r has index r + MAX_RADIUS
FREQUENCY_BITS = 16
STATE_LOW = 1 << 23  # the state stays in [2^23, 2^31)
ESCAPE_LENGTH_BITS = 5
MAX_ESCAPE_LENGTH = 17  # bits of an excess, less one: residuals are differences of 16-bit symbols


@dataclass(frozen=True)
class RangeTables:
    """16-bit frequencies of the residuals of each row."""

    radius: np.ndarray  # int32 (N_ROWS,), residuals -radius..radius have frequencies
    frequency: np.ndarray  # uint16 (N_ROWS, 2 * MAX_RADIUS + 2), the last one the escape's

    def __post_init__(self):
        """Raises ValueError where frequencies do not add up or a codable residual has none."""
        if self.radius.shape != (N_ROWS,) or self.radius.dtype != np.int32:
            raise ValueError(f"range tables: radius is {self.radius.dtype} {self.radius.shape}")
        if self.frequency.shape != (N_ROWS, ESCAPE + 1) or self.frequency.dtype != np.uint16:
            raise ValueError(f"range tables: frequency is {self.frequency.dtype} {self.frequency.shape}")
        if (self.radius < 1).any() or (self.radius > MAX_RADIUS).any():
            raise ValueError(f"range tables: a radius is outside 1..{MAX_RADIUS}")
        if (self.frequency.astype(np.int64).sum(1) != 1 << FREQUENCY_BITS).any():
            raise ValueError("range tables: frequencies do not add up to 2^16")
        if (self.frequency[:, :-1][inside(self.radius)] == 0).any() or (self.frequency[:, -1] == 0).any():
            raise ValueError("range tables: a codable symbol has no frequency")
        cumulative = np.zeros((N_ROWS, ESCAPE + 2), np.int32)
        np.cumsum(self.frequency, axis=1, out=cumulative[:, 1:])
        object.__setattr__(self, "_cumulative", cumulative)

    @property
    def costs(self) -> np.ndarray:
        """Bits of each index in each row, float32; the escape's without the excess."""
        with np.errstate(divide="ignore"):
            return (FREQUENCY_BITS - np.log2(self.frequency)).astype(np.float32)


def inside(radius: np.ndarray) -> np.ndarray:
    """radius (N,) -> bool (N, 2 * MAX_RADIUS + 1): which residuals have a frequency."""
    return np.abs(np.arange(-MAX_RADIUS, MAX_RADIUS + 1))[None] <= radius[:, None]


def logistic_tables() -> RangeTables:
    """Frequencies of a logistic distribution at every scale and place of the mean."""
    scale = np.exp(MIN_LOG_SCALE + np.arange(N_SCALES) / SCALE_STEPS).repeat(MEAN_STEPS)[:, None]
    mean = np.tile((np.arange(MEAN_STEPS) - MEAN_STEPS // 2) / MEAN_STEPS, N_SCALES)[:, None]
    radius = np.minimum(MAX_RADIUS, np.ceil(12 * scale[:, 0] + 1)).astype(np.int32)
    edges = np.arange(-MAX_RADIUS, MAX_RADIUS + 2) - 0.5
    cdf = 1 / (1 + np.exp(-np.clip((edges - mean) / scale, -60, 60)))
    used = inside(radius)
    p = np.diff(cdf, axis=1) * used
    p = np.append(p, np.maximum(1 - p.sum(1, keepdims=True), 0), axis=1)
    used = np.append(used, np.ones((N_ROWS, 1), bool), axis=1)
    free = (1 << FREQUENCY_BITS) - used.sum(1, keepdims=True)
    frequency = np.floor(p * free).astype(np.int64) + used
    frequency[np.arange(N_ROWS), frequency.argmax(1)] += (1 << FREQUENCY_BITS) - frequency.sum(1)
    return RangeTables(radius, frequency.astype(np.uint16))


def cost_of(residuals: np.ndarray, rows: np.ndarray, radius: np.ndarray, costs: np.ndarray) -> float:
    """Bits of residuals in their rows by a table of costs (N_ROWS, ESCAPE + 1), escapes included."""
    beyond = np.abs(residuals) - radius[rows]
    escapes = beyond > 0
    bits = costs[rows, np.where(escapes, ESCAPE, residuals + MAX_RADIUS)].sum(dtype=np.float64)
    lengths = np.floor(np.log2(beyond[escapes]))
    return float(bits + (ESCAPE_LENGTH_BITS + 1 + lengths).sum())


def encode(residuals: np.ndarray, rows: np.ndarray, tables: RangeTables) -> bytes:
    """residuals int32 and rows int16 in coding order -> payload."""
    return _encode(residuals, rows, tables.radius, tables._cumulative).tobytes()


def decode(
    payload: bytes,
    symbols: np.ndarray,
    modes: np.ndarray,
    quality_step: int,
    network: ContextTables,
    tables: RangeTables,
) -> None:
    """payload -> symbols int16 (C, h, w), written in place; modes uint8 (h, w), see utils/entropy/repeats.py.

    Raises CorruptPayload if the payload ends early, has bytes left over, or ends in another state
    than the one the encoder starts from.
    """
    walk = Walk(symbols.shape, quality_step, network)
    # a writable copy: numba would compile everything once more for read-only bytes
    status = _decode(
        np.frombuffer(payload, np.uint8).copy(),
        symbols,
        modes,
        walk.groups,
        walk.arrays,
        tables.radius,
        tables._cumulative,
    )
    if status:
        raise CorruptPayload(
            ("", "the payload ends early", "the payload is damaged", "the payload has bytes left over")[status]
        )


@njit(cache=True, nogil=True)
def _push(state, start, frequency, out, end):
    """Encode one interval -> (state, end); bytes are written downward from `end`."""
    limit = np.uint64((STATE_LOW >> FREQUENCY_BITS) << 8) * frequency
    while state >= limit:
        end -= 1
        out[end] = np.uint8(state & np.uint64(255))
        state >>= np.uint64(8)
    return ((state // frequency) << np.uint64(FREQUENCY_BITS)) + state % frequency + start, end


@njit(cache=True, nogil=True)
def _encode(residuals, rows, radius, cumulative):
    n, escapes = len(residuals), 0
    for t in range(n):
        escapes += abs(residuals[t]) > radius[rows[t]]
    out = np.empty(2 * n + 6 * escapes + 16, np.uint8)
    end, state = len(out), np.uint64(STATE_LOW)
    half = np.uint64(1 << (FREQUENCY_BITS - 1))
    for t in range(n - 1, -1, -1):  # last in, first out
        row, beyond = cumulative[rows[t]], abs(np.int64(residuals[t])) - radius[rows[t]]
        index = residuals[t] + MAX_RADIUS
        if beyond > 0:
            length = 0
            while beyond >> (length + 1):
                length += 1
            code = 2 * beyond + (1 if residuals[t] < 0 else 0)
            for b in range(length + 1):
                state, end = _push(state, np.uint64((code >> b) & 1) * half, half, out, end)
            each = np.uint64(1 << (FREQUENCY_BITS - ESCAPE_LENGTH_BITS))
            state, end = _push(state, np.uint64(length) * each, each, out, end)
            index = ESCAPE
        state, end = _push(state, np.uint64(row[index]), np.uint64(row[index + 1] - row[index]), out, end)
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
def _take_excess(data, place, state):
    """What follows an escape -> (signed excess, state, place); place -1 early end, -2 impossible."""
    mask = np.uint64((1 << FREQUENCY_BITS) - 1)
    shift = FREQUENCY_BITS - ESCAPE_LENGTH_BITS
    length = np.int64(state & mask) >> shift
    state, place = _take(data, place, state, np.uint64(length << shift), np.uint64(1 << shift))
    if length > MAX_ESCAPE_LENGTH:
        return np.int64(0), state, -2
    value = np.int64(1)
    for _ in range(length + 1):  # its bits, and the sign as the last one
        if place < 0:
            return value, state, place
        bit = np.int64(state & mask) >> (FREQUENCY_BITS - 1)
        state, place = _take(data, place, state, np.uint64(bit << 15), np.uint64(1 << 15))
        value = 2 * value + bit
    return (-(value >> 1) if value & 1 else value >> 1), state, place


@njit(cache=True, nogil=True)
def _decode(data, symbols, modes, groups, arrays, radius, cumulative):
    """-> status: 0 well, 1 ends early, 2 impossible, 3 bytes left over."""
    _, height, width = symbols.shape
    hidden = arrays[5].shape[0] // len(groups)
    centers, rows = np.empty(groups.max(), np.int64), np.empty(groups.max(), np.int64)
    mask = np.uint64((1 << FREQUENCY_BITS) - 1)
    state = np.uint64(0)
    if len(data) < 4:
        return 1
    for place in range(4):
        state = (state << np.uint64(8)) | np.uint64(data[place])
    place = 4
    if state < np.uint64(STATE_LOW) or state >= np.uint64(1 << 31):
        return 2
    low_channel = 0
    for group in range(len(groups)):
        for i in range(height):
            for j in range(width):
                if modes[i, j]:
                    copy_neighbor(symbols, i, j, modes[i, j], low_channel, groups[group])
                else:
                    predict(i * width + j, group * hidden, hidden, low_channel, groups[group], arrays, centers, rows)
                    for k in range(groups[group]):
                        row = cumulative[rows[k]]
                        slot = np.int64(state & mask)
                        index = MAX_RADIUS  # most residuals are near zero
                        while slot < row[index]:
                            index -= 1
                        while slot >= row[index + 1]:
                            index += 1
                        state, place = _take(
                            data, place, state, np.uint64(row[index]), np.uint64(row[index + 1] - row[index])
                        )
                        residual = np.int64(index - MAX_RADIUS)
                        if index == ESCAPE and place >= 0:
                            excess, state, place = _take_excess(data, place, state)
                            residual = excess + (radius[rows[k]] if excess > 0 else -radius[rows[k]])
                        if place < 0:
                            return -place
                        value = centers[k] + residual
                        if value > 32767 or value < -32768:
                            return 2
                        symbols[low_channel + k, i, j] = value
                see(symbols, i, j, group * hidden, hidden, low_channel, groups[group], arrays)
        low_channel += groups[group]
    if state != np.uint64(STATE_LOW):
        return 2
    return 3 if place != len(data) else 0
