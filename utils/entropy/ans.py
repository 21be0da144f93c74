"""Coder `context`: asymmetric numeral system over the distributions of the integer network.

Range ANS (Duda 2013) with 16-bit frequencies, a 31-bit state, and bytes. The encoder knows all
symbols, so it asks `utils/entropy/integer_network.py` for all residuals and rows first; the decoder
alternates between network and coder symbol by symbol, and must be compiled as a whole: this is why
no library's coder is called from it.

The state begins at 1, and only as many bytes of it are written at the end as it has. A small state grows by where a
symbol's interval begins rather than by its bits, so the interval of residual 0, the most frequent one, begins at 0.
Below 2^23 a state writes at most one byte, since the symbol that makes it do so lifts it above; the decoder, which
finds no more bytes there, goes on without. A file then has a byte more than its bits on average. Checkpoints of before
begin at 2^23, which costs 23 bits.

A residual beyond its row's radius escapes: the escape symbol, 5 bits for the number of bits of the
excess, those bits, and the sign, all equally likely.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from utils.compiled import compiled

from .coders import (
    ESCAPE,
    ESCAPE_LENGTH_BITS,
    MAX_ESCAPE_LENGTH,
    MAX_RADIUS,
    Coder,
    ResidualTables,
    floor_log2,
    inside,
)
from .integer_network import (
    COMPLETE,
    DAMAGED,
    ENDS_EARLY,
    LEFT_OVER,
    MEAN_STEPS,
    MIN_LOG_SCALE,
    N_ROWS,
    N_SCALES,
    SCALE_STEPS,
    reads,
    walk,
)

FREQUENCY_BITS = 16
MASK = (1 << FREQUENCY_BITS) - 1
STATE_LOW = 1 << 23  # the state stays in [2^23, 2^31) once it is there
FIRST_STATE = 1


@dataclass(eq=False)
class RangeTables(ResidualTables):
    """16-bit frequencies of the residuals of each row."""

    radius: np.ndarray  # int32 (N_ROWS,), 1..MAX_RADIUS
    frequency: np.ndarray  # uint16 (N_ROWS, 2 * MAX_RADIUS + 2), the last one the escape's
    first_state: np.ndarray | None = None  # int32 (1,), FIRST_STATE; None: STATE_LOW, as of checkpoints of before

    def check(self) -> None:
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
        first = self.first_state
        if first is not None and (first.shape, first.dtype, first.tolist()) != ((1,), np.int32, [FIRST_STATE]):
            raise ValueError(f"range tables: the first state is {first.dtype} {first.tolist()}")

    @cached_property
    def cumulative(self) -> np.ndarray:
        """Where each index's interval begins, and where the last one ends: int32 (N_ROWS, ESCAPE + 2)."""
        cumulative = np.zeros((N_ROWS, ESCAPE + 2), np.int32)
        np.cumsum(self.frequency, axis=1, out=cumulative[:, 1:])
        return cumulative

    @property
    def first(self) -> np.uint64:
        """The state that encoding begins with and decoding ends with."""
        return np.uint64(STATE_LOW if self.first_state is None else self.first_state[0])

    @property
    def costs(self) -> np.ndarray:
        with np.errstate(divide="ignore"):
            return (FREQUENCY_BITS - np.log2(self.frequency)).astype(np.float32)


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
    return RangeTables(radius, frequency.astype(np.uint16), np.array([FIRST_STATE], np.int32))


class ContextCoder(Coder):
    """Asymmetric numeral system: within a thousandth of the bits that the network's distributions ask for."""

    name, code, tables_class = "context", 1, RangeTables

    @classmethod
    def fit(cls, coded):
        """The logistic tables, whatever the signals: their scales are what the network learned."""
        return logistic_tables()

    def _encode(self, residuals, rows):
        return _encode(residuals, rows, self.tables.radius, self.tables.cumulative, self.tables.first)

    def _decode(self, data, symbols, modes, network):
        return _decode(data, symbols, modes, network, self.tables.radius, self.tables.cumulative, self.tables.first)


@compiled(nogil=True)
def _zero(cumulative, first):
    """Where in a row the intervals are cut open to begin: at residual 0; of checkpoints of before at the lowest one."""
    return np.int64(0) if first == np.uint64(STATE_LOW) else np.int64(cumulative[MAX_RADIUS])


@compiled(nogil=True)
def _push(state, start, frequency, out, end):
    """Encode one interval -> (state, end); bytes are written downward from `end`."""
    limit = np.uint64((STATE_LOW >> FREQUENCY_BITS) << 8) * frequency
    while state >= limit:
        end -= 1
        out[end] = np.uint8(state & np.uint64(255))
        state >>= np.uint64(8)
    return ((state // frequency) << np.uint64(FREQUENCY_BITS)) + state % frequency + start, end


@compiled(nogil=True)
def _encode(residuals, rows, radius, cumulative, first):
    n, escapes = len(residuals), 0
    for t in range(n):
        escapes += abs(residuals[t]) > radius[rows[t]]
    out = np.empty(2 * n + 6 * escapes + 16, np.uint8)
    end, state = len(out), first
    half = np.uint64(1 << (FREQUENCY_BITS - 1))
    for t in range(n - 1, -1, -1):  # last in, first out
        row, beyond = cumulative[rows[t]], abs(np.int64(residuals[t])) - radius[rows[t]]
        index = residuals[t] + MAX_RADIUS
        if beyond > 0:
            length = floor_log2(beyond)
            code = 2 * beyond + (1 if residuals[t] < 0 else 0)
            for b in range(length + 1):
                state, end = _push(state, np.uint64((code >> b) & 1) * half, half, out, end)
            each = np.uint64(1 << (FREQUENCY_BITS - ESCAPE_LENGTH_BITS))
            state, end = _push(state, np.uint64(length) * each, each, out, end)
            index = ESCAPE
        start = np.uint64((row[index] - _zero(row, first)) & MASK)
        state, end = _push(state, start, np.uint64(row[index + 1] - row[index]), out, end)
    n_bytes = 4 if first == STATE_LOW else 0
    while n_bytes > 0 or state > 0:
        end, n_bytes = end - 1, n_bytes - 1
        out[end] = np.uint8(state & np.uint64(255))
        state >>= np.uint64(8)
    return out[end:].copy()


@compiled(nogil=True)
def _take(data, position, state, first, start, frequency):
    """Advance the decoder over one interval -> (state, position); below zero where data end early."""
    mask = np.uint64(MASK)
    state = frequency * (state >> np.uint64(FREQUENCY_BITS)) + (state & mask) - start
    while state < np.uint64(STATE_LOW):
        if position >= len(data):
            return state, (-ENDS_EARLY if first == np.uint64(STATE_LOW) else position)
        state = (state << np.uint64(8)) | np.uint64(data[position])
        position += 1
    return state, position


@compiled(nogil=True)
def _take_excess(data, position, state, first):
    """What follows an escape -> (signed excess, state, position); below zero: minus a status."""
    mask = np.uint64(MASK)
    shift = FREQUENCY_BITS - ESCAPE_LENGTH_BITS
    length = np.int64(state & mask) >> shift
    state, position = _take(data, position, state, first, np.uint64(length << shift), np.uint64(1 << shift))
    if length > MAX_ESCAPE_LENGTH:
        return np.int64(0), state, -DAMAGED
    value = np.int64(1)
    for _ in range(length + 1):  # its bits, and the sign as the last one
        if position < 0:
            return value, state, position
        bit = np.int64(state & mask) >> (FREQUENCY_BITS - 1)
        state, position = _take(data, position, state, first, np.uint64(bit << 15), np.uint64(1 << 15))
        value = 2 * value + bit
    return (-(value >> 1) if value & 1 else value >> 1), state, position


class Source(NamedTuple):
    """A payload on its way through the decoder."""

    data: np.ndarray  # uint8 (bytes,)
    state: np.ndarray  # uint64 (2,): now, and at the end
    radius: np.ndarray
    cumulative: np.ndarray


@reads(Source)
def _residual(source, position, row, center):
    state, first, cumulative = source.state[0], source.state[1], source.cumulative[row]
    zero = _zero(cumulative, first)
    slot = (np.int64(state & np.uint64(MASK)) + zero) & MASK
    index = MAX_RADIUS  # most residuals are near zero
    while slot < cumulative[index]:
        index -= 1
    while slot >= cumulative[index + 1]:
        index += 1
    start = np.uint64((cumulative[index] - zero) & MASK)
    frequency = np.uint64(cumulative[index + 1] - cumulative[index])
    state, position = _take(source.data, position, state, first, start, frequency)
    residual = np.int64(index - MAX_RADIUS)
    if index == ESCAPE and position >= 0:
        excess, state, position = _take_excess(source.data, position, state, first)
        residual = excess + (source.radius[row] if excess > 0 else -source.radius[row])
    source.state[0] = state
    return residual, position


@compiled(nogil=True)
def _decode(data, symbols, modes, network, radius, cumulative, first):
    low, position = np.uint64(STATE_LOW), 0
    state = np.array([0, first], np.uint64)
    if first == low:
        if len(data) < 4:
            return ENDS_EARLY
        for position in range(4):
            state[0] = (state[0] << np.uint64(8)) | np.uint64(data[position])
        if state[0] < low or state[0] >= np.uint64(1 << 31):
            return DAMAGED
        position = 4
    else:
        if len(data) > 0 and data[0] == 0:
            return DAMAGED
        while state[0] < low and position < len(data):
            state[0] = (state[0] << np.uint64(8)) | np.uint64(data[position])
            position += 1
    position = walk(symbols, modes, network, Source(data, state, radius, cumulative), np.int64(position))
    if position < 0:
        return -position
    if state[0] != first:
        return DAMAGED
    return LEFT_OVER if position != len(data) else COMPLETE
