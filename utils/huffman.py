"""Canonical Huffman coder of latent symbol grids, with contexts from decoded neighbors.

A grid is an integer array (C, H, W) scanned channel by channel, each channel in raster order, the
most active channels first. Per symbol, three steps, all in integers:

1. A linear predictor over left, up, up-left and up-right of the same channel (zero for most
   channels) gives a mean; the residual r = symbol - mean is what is coded.
2. Six activity features of decoded residuals (four causal neighbors in two groups; the previous
   channels, recent and all, at this position and around it) enter a log-linear predictor of
   E|r|, whose quantized value is the context class.
3. The class's code. In a run class, one code word names a zero run together with the size of the
   nonzero residual that ends it; in a pair class, one code word names two consecutive magnitudes.
   Runs and pairs count only symbols of the same class, and both alphabets have an end-of-block
   word: all remaining symbols of this class are zero. Joint words are what keeps whole-bit codes
   close to the entropy. Large magnitudes continue in a tail code with an Exp-Golomb escape, signs
   are raw bits, so that every int16 value can be coded.

The code words of all classes are interleaved, most significant bit first, in the order in which
the decoder needs them; the last byte is padded with zero bits. Encoding is a bijection onto the
accepted payloads: two different payloads never decode to the same grid.

There is no lower bound on the payload of a large grid: a blank one costs a few bits per class at
any size. Whoever reads a declared shape from a file must bound it before calling `decode`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
from numba import njit

QUALITIES = 8
MAX_CODE_LENGTH = 16
MAX_CLASSES = 32
MAX_CHANNELS = 4096
MAX_SYMBOLS = 1 << 28

FEATURES = 6
# The predicted log2 E|r| is held in units of 2^-14; the class map has eight cells per octave,
# from 2^-11.
_ETA_BITS = 14
_CELL_SHIFT = _ETA_BITS - 3
_CELL_OFFSET = 11 << _ETA_BITS
_CELLS = 128
_CELLS_PER_CLASS = 4
_MAGNITUDE_CAP = 15
_LOG_SIZE = 1 << 14
_MEAN_BITS = 6

# Zero runs: exact up to 7, then four buckets per octave with raw low bits.
_RUN_EXACT = 8
_RUN_BUCKETS = _RUN_EXACT + 4 * 25
_RUN_SIZES = 3  # the residual that ends a run is +-1, +-2 or larger
_RUN_ALPHABET = 1 + _RUN_BUCKETS * _RUN_SIZES
_PAIR_SIZES = 12  # each magnitude of a pair is 0 to 10 or larger
_PAIR_ALPHABET = 1 + _PAIR_SIZES * _PAIR_SIZES
_TAIL_ALPHABET = 30  # the last one is the escape
_ESCAPE = _TAIL_ALPHABET - 1
_END_OF_BLOCK = 0
_RUN, _PAIR = 0, 1

_LOOKUP_BITS = 10
_COST_SIZES = 44  # magnitudes with their own amortized cost
_COST_UNIT = 256  # amortized costs are stored in 1/256 bit

_NEED_WORD, _BLOCK_ENDED = -1, -2
_OK, _TRUNCATED, _TRAILING, _BAD_VALUE, _BAD_END, _BAD_CODE = range(6)


class CorruptPayload(ValueError):
    """The payload is not what `encode` writes for any grid of this shape, quality and tables."""


class TruncatedPayload(CorruptPayload, EOFError):
    """The payload ends before the last symbol."""


# --- canonical Huffman codes -------------------------------------------------------------------


def code_lengths(counts: np.ndarray, max_length: int = MAX_CODE_LENGTH) -> np.ndarray:
    """Optimal prefix code lengths under a length limit (package-merge).

    counts: (n,) integers >= 1; returns (n,) uint8 in 1..max_length, or [0] for a one-symbol
    alphabet, whose code is empty. Among equal weights single symbols go before packages and lower
    symbol indices before higher ones, so the result is a function of the counts alone.
    Raises ValueError for counts below 1 or an alphabet larger than 2**max_length.
    """
    weights = [int(count) for count in counts]
    n = len(weights)
    if n == 0 or min(weights) < 1:
        raise ValueError("code_lengths needs at least one symbol and counts of at least 1")
    if n > 1 << max_length:
        raise ValueError(f"{n} symbols do not fit code words of at most {max_length} bits")
    if n == 1:
        return np.zeros(1, np.uint8)
    order = sorted(range(n), key=lambda symbol: (weights[symbol], symbol))
    ordered = [weights[symbol] for symbol in order]
    # A level is its sorted weights and, for each item, whether it is a package. The number of
    # packages among the items chosen at one level says how many items are chosen one level down.
    levels: list[list[bool]] = []
    packages: list[int] = []
    for _ in range(max_length):
        items = sorted(
            [(weight, 0) for weight in ordered] + [(weight, 1) for weight in packages],
        )
        levels.append([kind == 1 for _, kind in items])
        packages = [items[i][0] + items[i + 1][0] for i in range(0, len(items) - 1, 2)]
    lengths = np.zeros(n, np.int64)
    chosen = 2 * n - 2
    for is_package in reversed(levels):
        chosen_packages = sum(is_package[:chosen])
        lengths[order[: chosen - chosen_packages]] += 1
        chosen = 2 * chosen_packages
    return lengths.astype(np.uint8)


def canonical_codes(lengths: np.ndarray) -> np.ndarray:
    """Code words of a canonical code: (n,) lengths to (n,) uint32 words, right-aligned.

    Words are numbered by (length, symbol index). Raises ValueError unless the lengths fill the
    code space exactly (Kraft equality), which also makes the code prefix-free and complete.
    """
    lengths = np.asarray(lengths, np.int64)
    if lengths.ndim != 1 or lengths.size == 0:
        raise ValueError("code lengths must be a non-empty vector")
    if lengths.min() < 0 or lengths.max() > MAX_CODE_LENGTH:
        raise ValueError(f"code lengths must be in 0..{MAX_CODE_LENGTH}")
    if lengths.min() == 0 and lengths.size > 1:
        raise ValueError("a code length of 0 is allowed only in a one-symbol alphabet")
    if (1 << (MAX_CODE_LENGTH - lengths)).sum() != 1 << MAX_CODE_LENGTH:
        raise ValueError("code lengths violate the Kraft equality")
    order = np.lexsort((np.arange(lengths.size), lengths))
    steps = 1 << (MAX_CODE_LENGTH - lengths[order])
    starts = np.cumsum(steps) - steps
    codes = np.zeros(lengths.size, np.uint32)
    codes[order] = starts >> (MAX_CODE_LENGTH - lengths[order])
    return codes


def _decoding_tables(lengths: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lookup of short words (symbol * 32 + length); limits and sorted symbols for the rest."""
    codes = canonical_codes(lengths).astype(np.int64)
    lengths = np.asarray(lengths, np.int64)
    lookup = np.zeros(1 << _LOOKUP_BITS, np.int32)
    order = np.lexsort((np.arange(lengths.size), lengths))
    ordered = lengths[order]
    short = order[ordered <= _LOOKUP_BITS]
    filled = np.repeat(short * 32 + lengths[short], 1 << (_LOOKUP_BITS - lengths[short]))
    lookup[: filled.size] = filled
    # limits[l, 0]: one past the last word of length l, aligned to MAX_CODE_LENGTH bits;
    # limits[l, 1]: what to add to an l-bit word to get its rank in the sorted symbols.
    limits = np.zeros((MAX_CODE_LENGTH + 1, 2), np.int32)
    limit = 0
    for length in range(MAX_CODE_LENGTH + 1):
        first, last = np.searchsorted(ordered, [length, length + 1])
        if last > first:
            limit = int(codes[order[last - 1]] + 1) << (MAX_CODE_LENGTH - length)
            limits[length, 1] = first - codes[order[first]]
        limits[length, 0] = limit
    symbols = np.zeros(width, np.int32)
    symbols[: order.size] = order
    return lookup, limits, symbols


# --- tables ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class HuffmanTables:
    """Everything encoder and decoder share, as integer arrays; C channels, K context classes.

    mean_weights   int16 (C, 4)     weights of left, up, up-left, up-right, in 1/64
    mean_offset    int32 (8, C)     constant of the mean predictor per quality, in 1/64
    activity_norm  uint8 (8, C)     weight of a channel's magnitudes in the activity of all channels
    group          uint8 (8, C)     row of feature_weights
    feature_weights int16 (G, 6)    weights of the log2 features, in 1/256
    bias           int32 (8, C)     constant of the predicted log2 E|r|, in 1/2^14
    class_map      uint8 (128,)     class of each eighth of an octave from 2^-11
    class_mode     uint8 (K,)       0 run class, 1 pair class
    main_lengths   uint8 (K, 325)   code lengths of the run or pair words (unused entries 0)
    tail_lengths   uint8 (K, 30)    code lengths of large magnitudes
    symbol_cost    uint16 (K, 44)   amortized cost of each magnitude with its sign, in 1/256 bit
    """

    mean_weights: np.ndarray
    mean_offset: np.ndarray
    activity_norm: np.ndarray
    group: np.ndarray
    feature_weights: np.ndarray
    bias: np.ndarray
    class_map: np.ndarray
    class_mode: np.ndarray
    main_lengths: np.ndarray
    tail_lengths: np.ndarray
    symbol_cost: np.ndarray

    def __post_init__(self) -> None:
        for field in fields(self):
            array = np.array(getattr(self, field.name))
            array.setflags(write=False)
            object.__setattr__(self, field.name, array)
        self._validate()

    @property
    def channels(self) -> int:
        return self.mean_weights.shape[0]

    @property
    def classes(self) -> int:
        return self.class_mode.shape[0]

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Name to array, for a checkpoint; `from_arrays` takes it back."""
        return {field.name: getattr(self, field.name).copy() for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "HuffmanTables":
        """Rebuild and validate tables. Raises ValueError that names the array and the problem."""
        names = {field.name for field in fields(cls)}
        if set(arrays) != names:
            missing, unknown = sorted(names - set(arrays)), sorted(set(arrays) - names)
            raise ValueError(f"Huffman tables: missing arrays {missing}, unknown arrays {unknown}")
        return cls(**{name: np.asarray(arrays[name]) for name in names})

    def _validate(self) -> None:
        channels = self.mean_weights.shape[0] if self.mean_weights.ndim else 0
        classes = self.class_mode.shape[0] if self.class_mode.ndim else 0
        groups = self.feature_weights.shape[0] if self.feature_weights.ndim else 0
        if not 1 <= channels <= MAX_CHANNELS:
            raise ValueError(f"mean_weights: {channels} channels, expected 1..{MAX_CHANNELS}")
        if not 1 <= classes <= MAX_CLASSES:
            raise ValueError(f"class_mode: {classes} classes, expected 1..{MAX_CLASSES}")
        if not 1 <= groups <= 255:
            raise ValueError(f"feature_weights: {groups} groups, expected 1..255")
        per_channel = (QUALITIES, channels)
        # The ranges keep every sum of the predictors inside int32, whatever the grid.
        expected = {
            "mean_weights": (np.int16, (channels, 4), -1024, 1024),
            "mean_offset": (np.int32, per_channel, -(1 << 22), 1 << 22),
            "activity_norm": (np.uint8, per_channel, 0, 64),
            "group": (np.uint8, per_channel, 0, groups - 1),
            "feature_weights": (np.int16, (groups, FEATURES), -1024, 1024),
            "bias": (np.int32, per_channel, -(1 << 24), 1 << 24),
            "class_map": (np.uint8, (_CELLS,), 0, classes - 1),
            "class_mode": (np.uint8, (classes,), 0, 1),
            "main_lengths": (np.uint8, (classes, _RUN_ALPHABET), 0, MAX_CODE_LENGTH),
            "tail_lengths": (np.uint8, (classes, _TAIL_ALPHABET), 1, MAX_CODE_LENGTH),
            "symbol_cost": (np.uint16, (classes, _COST_SIZES), 0, 65535),
        }
        for name, (dtype, shape, low, high) in expected.items():
            array = getattr(self, name)
            if array.dtype != dtype:
                raise ValueError(f"{name}: type {array.dtype}, expected {np.dtype(dtype)}")
            if array.shape != shape:
                raise ValueError(f"{name}: shape {array.shape}, expected {shape}")
            if array.min() < low or array.max() > high:
                raise ValueError(
                    f"{name}: values {array.min()}..{array.max()}, allowed {low}..{high}"
                )
        for k in range(classes):
            used = _alphabet(self.class_mode[k])
            if self.main_lengths[k, used:].any():
                raise ValueError(f"main_lengths: class {k} has lengths beyond its {used} words")
            for name, lengths in (
                ("main_lengths", self.main_lengths[k, :used]),
                ("tail_lengths", self.tail_lengths[k]),
            ):
                try:
                    canonical_codes(lengths)
                except ValueError as error:
                    raise ValueError(f"{name}: class {k}: {error}") from None

    @cached_property
    def _code_lengths(self) -> np.ndarray:
        """Lengths of all codes, (2K, 325): the main codes, then the tail codes."""
        lengths = np.zeros((2 * self.classes, _RUN_ALPHABET), np.uint8)
        lengths[: self.classes] = self.main_lengths
        lengths[self.classes :, :_TAIL_ALPHABET] = self.tail_lengths
        return lengths

    def _used_lengths(self, code: int) -> np.ndarray:
        if code >= self.classes:
            return self.tail_lengths[code - self.classes]
        return self.main_lengths[code, : _alphabet(self.class_mode[code])]

    @cached_property
    def _code_words(self) -> np.ndarray:
        words = np.zeros((2 * self.classes, _RUN_ALPHABET), np.uint32)
        for code in range(2 * self.classes):
            lengths = self._used_lengths(code)
            words[code, : lengths.size] = canonical_codes(lengths)
        return words

    @cached_property
    def _decoding(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        parts = [
            _decoding_tables(self._used_lengths(code), _RUN_ALPHABET)
            for code in range(2 * self.classes)
        ]
        lookup, limits, symbols = (np.stack(part) for part in zip(*parts))
        return lookup, limits, symbols

    def _predictor(self, quality: int) -> tuple[np.ndarray, ...]:
        """The arrays of one quality in the order in which the compiled functions take them."""
        if isinstance(quality, bool) or not isinstance(quality, (int, np.integer)):
            raise ValueError(f"quality {quality!r} is not an integer")
        if not 1 <= quality <= QUALITIES:
            raise ValueError(f"quality {quality} is outside 1..{QUALITIES}")
        row = int(quality) - 1
        return (
            self.mean_weights.astype(np.int64),
            self.mean_offset[row].astype(np.int64),
            self.activity_norm[row].astype(np.int32),
            self.feature_weights[self.group[row]].astype(np.int32),
            self.bias[row],
            self.class_map,
        )


def _alphabet(mode: int) -> int:
    return _RUN_ALPHABET if mode == _RUN else _PAIR_ALPHABET


# --- contexts ----------------------------------------------------------------------------------


def _log_table() -> np.ndarray:
    """log2 in 1/64, linear between powers of two: integers only, exact everywhere."""
    value = np.maximum(np.arange(_LOG_SIZE), 1)
    exponent = np.zeros(_LOG_SIZE, np.int64)
    for bit in range(1, 14):
        exponent += value >= 1 << bit
    return (exponent * 64 + ((value << 6) >> exponent) - 64).astype(np.int32)


_LOG = _log_table()


@njit(cache=True, nogil=True)
def _ring(plane, y, x):
    """Sum of the eight positions around (y, x), edges replicated; axial ones count twice."""
    height, width = plane.shape
    up, down = max(y - 1, 0), min(y + 1, height - 1)
    left, right = max(x - 1, 0), min(x + 1, width - 1)
    axial = plane[up, x] + plane[down, x] + plane[y, left] + plane[y, right]
    diagonal = plane[up, left] + plane[up, right] + plane[down, left] + plane[down, right]
    return 2 * axial + diagonal


@njit(cache=True, nogil=True)
def _earlier_features(recent, total, logs):
    """Features 2 to 5 of a channel, from its earlier channels: logs (4, H, W)."""
    height, width = recent.shape
    for y in range(height):
        for x in range(width):
            around = _ring(recent, y, x) >> 2
            around_total = _ring(total, y, x) >> 4
            logs[0, y, x] = _LOG[min(recent[y, x] + 8, _LOG_SIZE - 1)]
            logs[1, y, x] = _LOG[min(around + 6, _LOG_SIZE - 1)]
            logs[2, y, x] = _LOG[min((total[y, x] >> 1) + 2, _LOG_SIZE - 1)]
            logs[3, y, x] = _LOG[min(around_total + 2, _LOG_SIZE - 1)]


@njit(cache=True, nogil=True)
def _earlier_sum(logs, weights, bias, out):
    height, width = out.shape
    for y in range(height):
        for x in range(width):
            out[y, x] = (
                bias
                + weights[2] * logs[0, y, x]
                + weights[3] * logs[1, y, x]
                + weights[4] * logs[2, y, x]
                + weights[5] * logs[3, y, x]
            )


@njit(cache=True, nogil=True)
def _accumulate(magnitude, norm, recent, total):
    """Add a finished channel: `recent` forgets a quarter per channel, `total` keeps everything."""
    height, width = recent.shape
    for y in range(height):
        for x in range(width):
            size = magnitude[y + 2, x + 2]
            recent[y, x] = (recent[y, x] * 3 >> 2) + 16 * size
            total[y, x] += norm * size


@njit(cache=True, nogil=True)
def _pad(plane, row, column):
    """Give the causal neighbors of a position outside the grid the nearest decoded value.

    Planes have two rows above, two columns left and one right of the grid; (row, column) counts
    them. Only what the neighbors of this position read is written.
    """
    if column == 2:
        # At the very first position both are the zeros the plane was made with.
        if row > 2:
            plane[row, 0] = plane[row - 1, 2]
            plane[row, 1] = plane[row - 1, 2]
    if row == 2:
        left = plane[2, column - 1]
        plane[0, column] = left
        plane[1, column] = left
        plane[1, column + 1] = left
    elif column == plane.shape[1] - 2:
        plane[row - 1, column + 1] = plane[row - 1, column]


@njit(cache=True, nogil=True)
def _near_logs(magnitude, row, column):
    """Features 0 and 1: the two nearest causal neighbors, and the four next ones."""
    near = magnitude[row, column - 1] + magnitude[row - 1, column]
    next_ones = (
        magnitude[row - 1, column - 1]
        + magnitude[row - 1, column + 1]
        + magnitude[row, column - 2]
        + magnitude[row - 2, column]
    )
    return _LOG[2 * near + 1], _LOG[2 * next_ones + 1]


@njit(cache=True, nogil=True)
def _mean(value, row, column, weights, offset):
    """Predicted symbol, rounded to nearest and saturated to int16."""
    scaled = (
        offset
        + weights[0] * value[row, column - 1]
        + weights[1] * value[row - 1, column]
        + weights[2] * value[row - 1, column - 1]
        + weights[3] * value[row - 1, column + 1]
    )
    half = 1 << (_MEAN_BITS - 1)
    rounded = (abs(scaled) + half) >> _MEAN_BITS
    return min(max(rounded if scaled >= 0 else -rounded, -32768), 32767)


@njit(cache=True, nogil=True)
def _class_of(eta, class_map):
    return class_map[min(max((eta + _CELL_OFFSET) >> _CELL_SHIFT, 0), _CELLS - 1)]


@njit(cache=True, nogil=True)
def _contexts(
    symbols, mean_weights, mean_offset, norm, feature_weights, bias, class_map,
    classes, residuals, features,
):  # fmt: skip
    """Class (uint8) and residual (int32) of every symbol of a known grid, each (C, H, W).

    `features`, (C, 6, H, W) int16, is filled too unless it is empty; fitting needs it.
    """
    channels, height, width = symbols.shape
    value = np.zeros((height + 2, width + 3), np.int32)
    magnitude = np.zeros((height + 2, width + 3), np.int32)
    recent = np.zeros((height, width), np.int32)
    total = np.zeros((height, width), np.int32)
    logs = np.zeros((4, height, width), np.int32)
    earlier = np.zeros((height, width), np.int32)
    for c in range(channels):
        _earlier_features(recent, total, logs)
        _earlier_sum(logs, feature_weights[c], bias[c], earlier)
        weights = mean_weights[c]
        predicted = mean_offset[c] != 0 or np.any(weights != 0)
        for y in range(height):
            for x in range(width):
                row, column = y + 2, x + 2
                symbol = np.int32(symbols[c, y, x])
                mean = np.int32(0)
                if predicted:
                    _pad(value, row, column)
                    mean = np.int32(_mean(value, row, column, weights, mean_offset[c]))
                    value[row, column] = symbol
                _pad(magnitude, row, column)
                near, next_ones = _near_logs(magnitude, row, column)
                eta = earlier[y, x]
                eta += feature_weights[c, 0] * near + feature_weights[c, 1] * next_ones
                classes[c, y, x] = _class_of(eta, class_map)
                residual = symbol - mean
                residuals[c, y, x] = residual
                magnitude[row, column] = min(abs(residual), _MAGNITUDE_CAP)
                if features.size:
                    features[c, 0, y, x] = near
                    features[c, 1, y, x] = next_ones
                    for j in range(4):
                        features[c, 2 + j, y, x] = logs[j, y, x]
        _accumulate(magnitude, norm[c], recent, total)


# --- code words --------------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def _bit_length(value):
    length = 0
    while value > 0:
        value >>= 1
        length += 1
    return length


@njit(cache=True, nogil=True)
def _run_bucket(run):
    """Bucket, raw low bits and their number for a zero run."""
    if run < _RUN_EXACT:
        return run, 0, 0
    shift = _bit_length(run) - 3
    bucket = _RUN_EXACT + 4 * (shift - 1) + ((run >> shift) & 3)
    return bucket, run & ((1 << shift) - 1), shift


@njit(cache=True, nogil=True)
def _put(words, used, code, symbol, raw, raw_bits):
    words[used, 0] = code
    words[used, 1] = symbol
    words[used, 2] = raw
    words[used, 3] = raw_bits
    return used + 1


@njit(cache=True, nogil=True)
def _put_residual(words, used, residual, first_tail, tail_code):
    """What follows the main word for one residual: tail and escape if large, then the sign."""
    size = abs(residual)
    sign = 1 if residual < 0 else 0
    if size < first_tail:
        return _put(words, used, -1, 0, sign, 1) if size else used
    rest = size - first_tail
    if rest < _ESCAPE:
        return _put(words, used, tail_code, rest, sign, 1)
    golomb = rest - _ESCAPE + 1
    # Exp-Golomb: as many zeros as the number has bits after its leading one, then the number.
    return _put(words, used, tail_code, _ESCAPE, golomb * 2 + sign, 2 * _bit_length(golomb))


@njit(cache=True, nogil=True)
def _code_words_of(classes, residuals, modes):
    """The grid as a sequence of (code, symbol, raw value, raw bits), (N, 4) int64.

    Code -1 has no code word, only raw bits; codes 0..K-1 are the main codes, K.. the tail codes.
    """
    size = classes.size
    number = modes.size
    # Backward pass: where the next nonzero of the same class is, and how many zeros precede it;
    # for pair classes the second number is instead the index of the next symbol of the class.
    next_nonzero = np.full(size, -1, np.int32)
    ahead = np.zeros(size, np.int32)
    last_nonzero = np.full(number, -1, np.int32)
    count = np.zeros(number, np.int32)
    last = np.full(number, -1, np.int32)
    capacity = number
    for i in range(size - 1, -1, -1):
        k = classes[i]
        nonzero = residuals[i] != 0
        if nonzero:
            last_nonzero[k] = i
        next_nonzero[i] = last_nonzero[k]
        if modes[k] == _PAIR:
            ahead[i] = last[k]
            last[k] = i
            capacity += 2
        else:
            count[k] = 0 if nonzero else count[k] + 1
            ahead[i] = count[k]
            if nonzero:
                capacity += 2
    words = np.empty((capacity, 4), np.int64)
    used = 0
    state = np.full(number, _NEED_WORD, np.int64)
    for i in range(size):
        k = classes[i]
        if state[k] != _NEED_WORD:
            # Inside a run or at a pair's second symbol; at its last symbol a word is needed next.
            if state[k] >= 0:
                state[k] -= 1
            continue
        target = next_nonzero[i]
        if target < 0:
            used = _put(words, used, k, _END_OF_BLOCK, 0, 0)
            state[k] = _BLOCK_ENDED
        elif modes[k] == _PAIR:
            first = residuals[i]
            second = residuals[ahead[i]] if ahead[i] >= 0 else np.int32(0)
            largest = _PAIR_SIZES - 1
            word = 1 + min(abs(first), largest) * _PAIR_SIZES + min(abs(second), largest)
            used = _put(words, used, k, word, 0, 0)
            used = _put_residual(words, used, first, largest, number + k)
            used = _put_residual(words, used, second, largest, number + k)
            state[k] = 0
        else:
            residual = residuals[target]
            bucket, raw, raw_bits = _run_bucket(ahead[i])
            word = 1 + bucket * _RUN_SIZES + min(abs(residual), _RUN_SIZES) - 1
            used = _put(words, used, k, word, raw, raw_bits)
            used = _put_residual(words, used, residual, _RUN_SIZES, number + k)
            state[k] = ahead[i] - 1
    return words[:used]


@njit(cache=True, nogil=True)
def _bits_of(words, lengths):
    bits = 0
    for i in range(words.shape[0]):
        if words[i, 0] >= 0:
            bits += lengths[words[i, 0], words[i, 1]]
        bits += words[i, 3]
    return bits


@njit(cache=True, nogil=True)
def _pack(words, lengths, codes, out):
    buffer = np.uint64(0)
    filled = 0
    position = 0
    for i in range(words.shape[0]):
        code = words[i, 0]
        for part in range(2):
            if part == 0:
                if code < 0:
                    continue
                value = np.uint64(codes[code, words[i, 1]])
                bits = np.int64(lengths[code, words[i, 1]])
            else:
                value = np.uint64(words[i, 2])
                bits = words[i, 3]
            buffer = (buffer << np.uint64(bits)) | value
            filled += bits
            while filled >= 8:
                filled -= 8
                out[position] = np.uint8((buffer >> np.uint64(filled)) & np.uint64(255))
                position += 1
    if filled:
        out[position] = np.uint8((buffer << np.uint64(8 - filled)) & np.uint64(255))


# --- decoding ----------------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def _peek(data, position, bits):
    """The next `bits` (at most 24) bits from bit `position`; zeros after the end."""
    byte = position >> 3
    value = np.int64(0)
    for i in range(4):
        value <<= 8
        if byte + i < data.size:
            value |= np.int64(data[byte + i])
    return (value >> (32 - (position & 7) - bits)) & ((1 << bits) - 1)


@njit(cache=True, nogil=True)
def _take_word(data, position, code, lookup, limits, symbols):
    """Symbol and the position after it."""
    window = _peek(data, position, MAX_CODE_LENGTH)
    entry = lookup[code, window >> (MAX_CODE_LENGTH - _LOOKUP_BITS)]
    if entry:
        return entry >> 5, position + (entry & 31)
    length = _LOOKUP_BITS + 1
    while window >= limits[code, length, 0]:
        length += 1
    rank = (window >> (MAX_CODE_LENGTH - length)) + limits[code, length, 1]
    return symbols[code, rank], position + length


@njit(cache=True, nogil=True)
def _take_residual(data, position, size, first_tail, code, lookup, limits, symbols):
    """Signed residual and the position after it; a negative position for an impossible escape."""
    if size == 0:
        return 0, position
    if size == first_tail:
        rest, position = _take_word(data, position, code, lookup, limits, symbols)
        if rest == _ESCAPE:
            zeros = 0
            while _peek(data, position, 1) == 0:
                zeros += 1
                position += 1
                if zeros > 17:
                    return 0, -1
            rest += _peek(data, position, zeros + 1) - 1
            position += zeros + 1
        size += rest
    negative = _peek(data, position, 1)
    return (-size if negative else size), position + 1


@njit(cache=True, nogil=True)
def _decode(
    data, mean_weights, mean_offset, norm, feature_weights, bias, class_map,
    modes, lookup, limits, symbols, out,
):  # fmt: skip
    """Fill `out` (C, H, W); the same walk as `_contexts` with words in place of symbols."""
    channels, height, width = out.shape
    number = modes.size
    value = np.zeros((height + 2, width + 3), np.int32)
    magnitude = np.zeros((height + 2, width + 3), np.int32)
    recent = np.zeros((height, width), np.int32)
    total = np.zeros((height, width), np.int32)
    logs = np.zeros((4, height, width), np.int32)
    earlier = np.zeros((height, width), np.int32)
    # Per class: zeros before the pending residual, or what else comes next.
    state = np.full(number, _NEED_WORD, np.int64)
    pending = np.zeros(number, np.int64)
    blank_pair = np.zeros(number, np.bool_)
    position = 0
    end = data.size * 8
    for c in range(channels):
        _earlier_features(recent, total, logs)
        _earlier_sum(logs, feature_weights[c], bias[c], earlier)
        weights = mean_weights[c]
        predicted = mean_offset[c] != 0 or np.any(weights != 0)
        for y in range(height):
            for x in range(width):
                row, column = y + 2, x + 2
                _pad(magnitude, row, column)
                near, next_ones = _near_logs(magnitude, row, column)
                eta = earlier[y, x]
                eta += feature_weights[c, 0] * near + feature_weights[c, 1] * next_ones
                k = _class_of(eta, class_map)
                residual = np.int64(0)
                if state[k] == _NEED_WORD:
                    word, position = _take_word(data, position, k, lookup, limits, symbols)
                    if word == _END_OF_BLOCK:
                        state[k] = _BLOCK_ENDED
                    elif modes[k] == _PAIR:
                        largest = _PAIR_SIZES - 1
                        first, second = (word - 1) // _PAIR_SIZES, (word - 1) % _PAIR_SIZES
                        blank_pair[k] = word == 1
                        residual, position = _take_residual(
                            data, position, first, largest, number + k, lookup, limits, symbols
                        )
                        if position < 0:
                            return _BAD_CODE
                        pending[k], position = _take_residual(
                            data, position, second, largest, number + k, lookup, limits, symbols
                        )
                        state[k] = 0
                    else:
                        bucket, size = (word - 1) // _RUN_SIZES, (word - 1) % _RUN_SIZES + 1
                        run = bucket
                        if bucket >= _RUN_EXACT:
                            shift = (bucket - _RUN_EXACT) // 4 + 1
                            run = (4 + (bucket - _RUN_EXACT) % 4) << shift
                            # Two reads, as the low bits of the longest runs exceed one window.
                            upper = shift >> 1
                            run += _peek(data, position, upper) << (shift - upper)
                            run += _peek(data, position + upper, shift - upper)
                            position += shift
                        if run >= out.size:
                            return _BAD_VALUE
                        pending[k], position = _take_residual(
                            data, position, size, _RUN_SIZES, number + k, lookup, limits, symbols
                        )
                        if run == 0:
                            residual = pending[k]
                        # This symbol is the run's first zero, if it has any.
                        state[k] = run - 1 if run else _NEED_WORD
                    if position < 0:
                        return _BAD_CODE
                    if position > end:
                        return _TRUNCATED
                elif state[k] == 0:
                    residual = pending[k]
                    state[k] = _NEED_WORD
                elif state[k] > 0:
                    state[k] -= 1
                mean = np.int64(0)
                if predicted:
                    _pad(value, row, column)
                    mean = _mean(value, row, column, weights, mean_offset[c])
                symbol = mean + residual
                if symbol < -32768 or symbol > 32767:
                    return _BAD_VALUE
                if predicted:
                    value[row, column] = symbol
                out[c, y, x] = symbol
                magnitude[row, column] = min(abs(residual), _MAGNITUDE_CAP)
        _accumulate(magnitude, norm[c], recent, total)
    for k in range(number):
        # A pair may outlive the grid by a zero; a run may not. A class's last pair is never blank,
        # as the encoder would have ended the block there.
        if modes[k] == _RUN:
            if state[k] >= 0:
                return _BAD_END
        elif blank_pair[k] or (state[k] == 0 and pending[k] != 0):
            return _BAD_END
    if end - position >= 8 or (end > position and _peek(data, position, end - position) != 0):
        return _TRAILING
    return _OK


# --- public interface --------------------------------------------------------------------------


def _check_shape(shape: tuple[int, ...], tables: HuffmanTables) -> tuple[int, int, int]:
    if len(shape) != 3 or min(shape) < 0:
        raise ValueError(f"a grid has the shape (C, H, W), found {tuple(shape)}")
    channels, height, width = (int(side) for side in shape)
    if channels != tables.channels:
        raise ValueError(f"the grid has {channels} channels, the tables have {tables.channels}")
    if channels * height * width > MAX_SYMBOLS:
        raise ValueError(f"{channels * height * width} symbols in a grid, at most {MAX_SYMBOLS}")
    return channels, height, width


def _check_grid(symbols: np.ndarray) -> np.ndarray:
    symbols = np.asarray(symbols)
    if symbols.ndim != 3:
        raise ValueError(f"a grid has the shape (C, H, W), found {symbols.shape}")
    if symbols.dtype.kind not in "iu":
        raise ValueError(f"symbols must be integers, found {symbols.dtype}")
    if symbols.size and (symbols.min() < -32768 or symbols.max() > 32767):
        raise ValueError(f"symbols {symbols.min()}..{symbols.max()} exceed int16")
    return np.ascontiguousarray(symbols, np.int16)


def _analyze(
    symbols: np.ndarray, predictor: tuple[np.ndarray, ...], with_features: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    classes = np.empty(symbols.shape, np.uint8)
    residuals = np.empty(symbols.shape, np.int32)
    channels, height, width = symbols.shape
    features = np.empty((channels if with_features else 0, FEATURES, height, width), np.int16)
    if symbols.size:
        _contexts(symbols, *predictor, classes, residuals, features)
    return classes, residuals, features


def _words(symbols: np.ndarray, quality: int, tables: HuffmanTables) -> np.ndarray:
    symbols = _check_grid(symbols)
    _check_shape(symbols.shape, tables)
    classes, residuals, _ = _analyze(symbols, tables._predictor(quality))
    return _code_words_of(classes.ravel(), residuals.ravel(), tables.class_mode)


def encode(symbols: np.ndarray, quality: int, tables: HuffmanTables) -> bytes:
    """Code a grid (C, H, W) of int16 values; quality 1..8. An empty grid gives no bytes.

    Raises ValueError for another number of channels than the tables', values beyond int16, a
    quality out of range or more than 2**28 symbols.
    """
    words = _words(symbols, quality, tables)
    out = np.zeros((int(_bits_of(words, tables._code_lengths)) + 7) // 8, np.uint8)
    _pack(words, tables._code_lengths, tables._code_words, out)
    return out.tobytes()


def cost_bits(symbols: np.ndarray, quality: int, tables: HuffmanTables) -> int:
    """Exact number of bits of `encode` before padding to whole bytes. Raises like `encode`."""
    return int(_bits_of(_words(symbols, quality, tables), tables._code_lengths))


def decode(
    payload: bytes, shape: tuple[int, int, int], quality: int, tables: HuffmanTables
) -> np.ndarray:
    """Inverse of `encode`: the int16 grid of this shape (C, H, W).

    Time and memory are bounded by the shape. Raises TruncatedPayload (an EOFError) if the payload
    ends early, CorruptPayload (a ValueError) for trailing bytes, nonzero padding or anything else
    `encode` never writes, ValueError for a shape or quality that does not fit the tables.
    """
    shape = _check_shape(shape, tables)
    predictor = tables._predictor(quality)
    data = np.frombuffer(payload, np.uint8)
    out = np.zeros(shape, np.int16)
    if out.size == 0:
        status = _TRAILING if data.size else _OK
    else:
        status = _decode(data, *predictor, tables.class_mode, *tables._decoding, out)
    if status == _TRUNCATED:
        raise TruncatedPayload(f"the payload's {data.size} bytes end before the last symbol")
    if status != _OK:
        problem = {
            _TRAILING: "bits left over after the last symbol",
            _BAD_VALUE: "a symbol or run out of range",
            _BAD_END: "a run or pair that goes on after the last symbol",
            _BAD_CODE: "an impossible escape code",
        }[status]
        raise CorruptPayload(f"damaged payload: {problem}")
    return out


@njit(cache=True, nogil=True)
def _fill_costs(symbols, classes, residuals, table, radius, out):
    channels, height, width = symbols.shape
    for j in range(2 * radius + 1):
        for c in range(channels):
            for y in range(height):
                for x in range(width):
                    mean = symbols[c, y, x] - residuals[c, y, x]
                    out[j, c, y, x] = table[classes[c, y, x], abs(j - radius - mean)]


def symbol_costs(
    symbols: np.ndarray, quality: int, tables: HuffmanTables, radius: int
) -> np.ndarray:
    """Approximate code length in bits of every candidate -radius..radius at every place.

    symbols: (C, H, W) current values; returns float32 (2 * radius + 1, C, H, W), entry
    [v + radius, c, y, x] for the value v there, all neighbors keeping their current values. Words
    that code several symbols are shared out by the class's statistics, so the costs of the
    current values add up to about `cost_bits`. The effect on later contexts is not included.
    """
    symbols = _check_grid(symbols)
    _check_shape(symbols.shape, tables)
    if not 0 <= radius <= 32767:
        raise ValueError(f"radius {radius} is outside 0..32767")
    classes, residuals, _ = _analyze(symbols, tables._predictor(quality))
    largest = int(np.abs(symbols.astype(np.int32) - residuals).max(initial=0)) + radius
    table = np.empty((tables.classes, max(largest + 1, _COST_SIZES)), np.float32)
    table[:, :_COST_SIZES] = tables.symbol_cost / np.float32(_COST_UNIT)
    # The last stored magnitude is an escape; from there each doubling of the rest costs two bits.
    beyond = np.arange(1, table.shape[1] - _COST_SIZES + 1)
    table[:, _COST_SIZES:] = table[:, _COST_SIZES - 1 : _COST_SIZES] + 2 * np.log2(1 + beyond)
    out = np.empty((2 * radius + 1,) + symbols.shape, np.float32)
    _fill_costs(symbols, classes, residuals, table, radius, out)
    return out


# --- fitting -----------------------------------------------------------------------------------

_FIT_ROWS = 150_000  # rows of one regression
_MIN_CLASS_SYMBOLS = 400


def fit_tables(grids: list[tuple[np.ndarray, int]]) -> HuffmanTables:
    """Fit all tables to training grids, a list of (symbols (C, H, W), quality 1..8).

    All grids have the same C; heights and widths may differ. Qualities without a grid borrow from
    the nearest one that has some. Every int16 value stays codable, however few the grids.
    Raises ValueError for an empty list, differing channel counts or no symbols at all.
    """
    if not grids:
        raise ValueError("fit_tables needs at least one grid")
    grids = [(_check_grid(symbols), int(quality)) for symbols, quality in grids]
    channels = grids[0][0].shape[0]
    for symbols, quality in grids:
        if symbols.shape[0] != channels:
            raise ValueError(f"grids of {channels} and of {symbols.shape[0]} channels")
        if not 1 <= quality <= QUALITIES:
            raise ValueError(f"quality {quality} is outside 1..{QUALITIES}")
    grids = [(symbols, quality) for symbols, quality in grids if symbols.size]
    if not grids:
        raise ValueError("fit_tables needs at least one symbol")

    mean_weights, mean_offset = _fit_means(grids, channels)
    mean_magnitude = _mean_magnitudes(grids, channels, mean_weights, mean_offset)
    norm = np.rint(32 / (mean_magnitude + 0.5)).astype(np.uint8)
    group, feature_weights, bias = _fit_activity(
        grids, mean_weights, mean_offset, norm, mean_magnitude
    )

    def classes_under(class_map):
        for symbols, quality in grids:
            row = quality - 1
            predictor = (
                mean_weights.astype(np.int64), mean_offset[row].astype(np.int64),
                norm[row].astype(np.int32), feature_weights[group[row]].astype(np.int32),
                bias[row], class_map,
            )
            classes, residuals, _ = _analyze(symbols, predictor)
            yield classes.ravel(), residuals.ravel()

    usage = np.zeros(_CELLS, np.int64)
    for classes, _ in classes_under(np.arange(_CELLS, dtype=np.uint8)):
        usage += np.bincount(classes, minlength=_CELLS)
    class_map = _merge_cells(usage)
    number = int(class_map.max()) + 1
    analyzed = list(classes_under(class_map))
    sizes = np.zeros((number, _COST_SIZES), np.int64)
    for classes, residuals in analyzed:
        capped = np.minimum(np.abs(residuals), _COST_SIZES - 1)
        sizes += np.bincount(
            classes * np.int64(_COST_SIZES) + capped, minlength=sizes.size
        ).reshape(sizes.shape)
    fitted = [_fit_codes(analyzed, sizes, number, mode) for mode in (_RUN, _PAIR)]
    bits = np.stack([fit[2] for fit in fitted])
    class_mode = (bits[_PAIR] < bits[_RUN]).astype(np.uint8)
    main_lengths = np.zeros((number, _RUN_ALPHABET), np.uint8)
    tail_lengths = np.zeros((number, _TAIL_ALPHABET), np.uint8)
    for k, mode in enumerate(class_mode):
        lengths, tails, _ = fitted[mode]
        main_lengths[k, : lengths.shape[1]] = lengths[k]
        tail_lengths[k] = tails[k]
    return HuffmanTables(
        mean_weights=mean_weights, mean_offset=mean_offset, activity_norm=norm, group=group,
        feature_weights=feature_weights, bias=bias, class_map=class_map, class_mode=class_mode,
        main_lengths=main_lengths, tail_lengths=tail_lengths,
        symbol_cost=_amortized_costs(sizes, bits.min(0)),
    )


def _nearest_quality(present: np.ndarray) -> np.ndarray:
    """For each of the eight rows, the nearest row that has training data (the lower one of two)."""
    rows = np.flatnonzero(present)
    return rows[np.abs(np.arange(QUALITIES)[:, None] - rows[None]).argmin(1)]


def _fit_means(grids, channels) -> tuple[np.ndarray, np.ndarray]:
    """Mean predictors by least squares, kept only in channels where they shorten the code."""
    total = np.zeros((QUALITIES, channels))
    count = np.zeros(QUALITIES)
    for symbols, quality in grids:
        total[quality - 1] += symbols.sum((1, 2), dtype=np.float64)
        count[quality - 1] += symbols[0].size
    average = (total / np.maximum(count, 1)[:, None])[_nearest_quality(count > 0)]
    normal = np.zeros((channels, 4, 4))
    right_side = np.zeros((channels, 4))
    for symbols, quality in grids:
        centered = symbols - average[quality - 1][:, None, None]
        if centered.shape[1] < 2 or centered.shape[2] < 3:
            continue
        up, here = centered[:, :-1], centered[:, 1:]
        neighbors = np.stack(
            [here[:, :, :-2], up[:, :, 1:-1], up[:, :, :-2], up[:, :, 2:]], -1
        ).reshape(channels, -1, 4)
        target = here[:, :, 1:-1].reshape(channels, -1, 1)
        normal += np.matmul(neighbors.transpose(0, 2, 1), neighbors)
        right_side += np.matmul(neighbors.transpose(0, 2, 1), target)[..., 0]
    ridge = 1e-3 * np.trace(normal, axis1=1, axis2=2) + 1e-3
    inverse = np.linalg.inv(normal + ridge[:, None, None] * np.eye(4))
    free = np.matmul(inverse, right_side[..., None])[..., 0]
    # The same under the constraint that the weights add up to one (Lagrange multiplier): such a
    # predictor is exact on a channel of any constant value, so blank areas cost nothing.
    direction = inverse.sum(2)
    excess = (free.sum(1) - 1) / direction.sum(1)
    unit = np.rint((free - excess[:, None] * direction) * 64)
    unit[:, 0] += 64 - unit.sum(1)
    unit = np.clip(unit, -1024, 1024).astype(np.int16)
    free = np.clip(np.rint(free * 64), -1024, 1024).astype(np.int16)
    none = np.zeros_like(unit)

    def offsets(weights):
        scaled = 64 * average - average * weights.sum(1, dtype=np.int64)
        return np.clip(np.rint(scaled), -(1 << 22), 1 << 22).astype(np.int32)

    candidates = [
        (none, np.zeros((QUALITIES, channels), np.int32)),
        (none, offsets(none)),
        (unit, np.zeros((QUALITIES, channels), np.int32)),
        (free, offsets(free)),
    ]
    # log2(1 + 4|r|) stands in for the code length. A predictor has to earn its place clearly, the
    # one that is not exact on constants most of all.
    handicap = np.array([1.0, 1.01, 1.01, 1.05])
    lengths = np.zeros((len(candidates), channels))
    for i, (weights, offset) in enumerate(candidates):
        for symbols, quality in grids:
            _, residuals, _ = _analyze(symbols, _neutral(weights, offset[quality - 1]))
            lengths[i] += np.log2(1 + 4 * np.abs(residuals)).sum((1, 2))
    best = (lengths * handicap[:, None]).argmin(0)
    index = np.arange(channels)
    mean_weights = np.stack([weights for weights, _ in candidates])[best, index]
    mean_offset = np.stack([offset for _, offset in candidates])[best, :, index].T
    return mean_weights, np.ascontiguousarray(mean_offset)


def _neutral(mean_weights, mean_offset, norm=None) -> tuple[np.ndarray, ...]:
    """A predictor with one class, for passes that need only residuals or features."""
    channels = mean_weights.shape[0]
    norm = np.zeros(channels, np.int32) if norm is None else norm.astype(np.int32)
    return (
        mean_weights.astype(np.int64), mean_offset.astype(np.int64), norm,
        np.zeros((channels, FEATURES), np.int32), np.zeros(channels, np.int32),
        np.zeros(_CELLS, np.uint8),
    )


def _mean_magnitudes(grids, channels, mean_weights, mean_offset) -> np.ndarray:
    """Mean capped |r| per quality and channel, (8, C), kept off zero."""
    total = np.zeros((QUALITIES, channels))
    count = np.zeros((QUALITIES, 1))
    for symbols, quality in grids:
        _, residuals, _ = _analyze(symbols, _neutral(mean_weights, mean_offset[quality - 1]))
        total[quality - 1] += np.minimum(np.abs(residuals), _MAGNITUDE_CAP).sum((1, 2))
        count[quality - 1] += symbols[0].size
    mean = (total + 0.25) / (count + 100)
    return mean[_nearest_quality(count[:, 0] > 0)]


def _regress(features, target, prior, strength) -> np.ndarray:
    """Log-linear regression of a mean by iteratively reweighted least squares.

    The variance is taken as mu + mu^2 (between Poisson and exponential); `prior` with `strength`
    holds the weights where the data say little.
    """
    weights = prior.copy()
    for _ in range(8):
        mu = np.exp(np.clip(features @ weights, -12, 4))
        importance = mu / (1 + mu)
        normal = (features * importance[:, None]).T @ features + strength * np.eye(weights.size)
        gradient = features.T @ ((target - mu) / (1 + mu)) - strength * (weights - prior)
        weights = weights + np.clip(np.linalg.solve(normal, gradient), -1, 1)
    return weights


def _fit_activity(grids, mean_weights, mean_offset, norm, mean_magnitude):
    """Groups of channels of like magnitude, their feature weights, and biases per channel."""
    raw_group = np.clip(np.floor(np.log2(mean_magnitude) + 9), 0, 12).astype(np.int64)
    names, group = np.unique(raw_group, return_inverse=True)
    group = group.reshape(raw_group.shape).astype(np.uint8)
    log2 = np.log(2)
    rows: list[list[np.ndarray]] = [[] for _ in names]
    targets: list[list[np.ndarray]] = [[] for _ in names]
    sizes = np.zeros(len(names), np.int64)
    for symbols, quality in grids:
        sizes += np.bincount(group[quality - 1], minlength=len(names)) * symbols[0].size

    def design(symbols, quality):
        row = quality - 1
        predictor = _neutral(mean_weights, mean_offset[row], norm[row])
        _, residuals, features = _analyze(symbols, predictor, with_features=True)
        magnitude = np.minimum(np.abs(residuals), _MAGNITUDE_CAP).reshape(symbols.shape[0], -1)
        return features.reshape(symbols.shape[0], FEATURES, -1), magnitude

    for symbols, quality in grids:
        features, magnitude = design(symbols, quality)
        for g in np.unique(group[quality - 1]):
            members = np.flatnonzero(group[quality - 1] == g)
            stride = int(sizes[g] // _FIT_ROWS) + 1
            picked = features[members].transpose(0, 2, 1).reshape(-1, FEATURES)[::stride]
            base = np.log(mean_magnitude[quality - 1, members])
            base = np.repeat(base, magnitude.shape[1])[::stride, None]
            columns = [picked * (log2 / 64), base, np.ones_like(base)]
            rows[g].append(np.concatenate(columns, 1))
            targets[g].append(magnitude[members].ravel()[::stride])
    designs = [np.concatenate(part) for part in rows]
    values = [np.concatenate(part).astype(np.float64) for part in targets]
    start = np.array([0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.5, 0.0])
    step = sum(map(len, values)) // _FIT_ROWS + 1
    pooled = [part[::step] for part in designs], [part[::step] for part in values]
    everywhere = _regress(np.concatenate(pooled[0]), np.concatenate(pooled[1]), start, 10.0)
    fitted = np.stack([_regress(d, v, everywhere, 10.0) for d, v in zip(designs, values)])
    feature_weights = np.clip(np.rint(fitted[:, :FEATURES] * 256), -1024, 1024).astype(np.int16)

    base = fitted[group, FEATURES] * np.log(mean_magnitude) + fitted[group, FEATURES + 1]
    observed = np.full(mean_magnitude.shape, 5.0)
    expected = np.full(mean_magnitude.shape, 5.0)
    present = np.zeros(QUALITIES, bool)
    for symbols, quality in grids:
        row = quality - 1
        features, magnitude = design(symbols, quality)
        logs = np.einsum("cfn,cf->cn", features * (log2 / 64), feature_weights[group[row]] / 256.0)
        mu = np.exp(np.clip(logs + base[row][:, None], -12, 4))
        observed[row] += (magnitude / (1 + mu)).sum(1)
        expected[row] += (mu / (1 + mu)).sum(1)
        present[row] = True
    correction = np.log(observed / expected)[_nearest_quality(present)]
    bias = np.rint((base + correction) / log2 * (1 << _ETA_BITS))
    return group, feature_weights, np.clip(bias, -(1 << 24), 1 << 24).astype(np.int32)


def _merge_cells(usage: np.ndarray) -> np.ndarray:
    """Class of each cell: half an octave each, wider where training saw too few symbols."""
    class_map = np.zeros(_CELLS, np.uint8)
    blocks = usage.reshape(-1, _CELLS_PER_CLASS).sum(1)
    current, seen = 0, 0
    for block, count in enumerate(blocks):
        left = blocks[block:].sum()
        if seen >= _MIN_CLASS_SYMBOLS and left >= _MIN_CLASS_SYMBOLS and current < MAX_CLASSES - 1:
            current, seen = current + 1, 0
        seen += count
        class_map[block * _CELLS_PER_CLASS : (block + 1) * _CELLS_PER_CLASS] = current
    return class_map


def _prior_counts(sizes: np.ndarray, mode: int) -> tuple[np.ndarray, np.ndarray]:
    """What independent symbols of these magnitude counts would give: (main, tail), sums 1."""
    chance = (sizes + 0.5 ** np.arange(1, _COST_SIZES + 1)) / (sizes.sum() + 1)
    first_tail = _RUN_SIZES if mode == _RUN else _PAIR_SIZES - 1
    tail = chance[first_tail : first_tail + _TAIL_ALPHABET].copy()
    if mode == _PAIR:
        capped = np.append(chance[:first_tail], chance[first_tail:].sum())
        main = np.append(0.001, np.outer(capped, capped).ravel())
        return main / main.sum(), tail / tail.sum()
    ends = np.append(chance[1:first_tail], chance[first_tail:].sum())
    starts = np.array([_bucket_start(bucket) for bucket in range(_RUN_BUCKETS + 1)], np.float64)
    survival = np.exp(starts * np.log(min(chance[0], 0.999999)))
    main = np.append(0.001, np.outer(survival[:-1] - survival[1:], ends / ends.sum()).ravel())
    return main / main.sum(), tail / tail.sum()


def _bucket_start(bucket: int) -> int:
    if bucket < _RUN_EXACT:
        return bucket
    shift = (bucket - _RUN_EXACT) // 4 + 1
    return (4 + (bucket - _RUN_EXACT) % 4) << shift


def _fit_codes(analyzed, sizes, number, mode) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Main and tail code lengths and the training bits of each class, if all had this mode."""
    modes = np.full(number, mode, np.uint8)
    used = _alphabet(mode)
    counts = np.zeros((2 * number, used), np.int64)
    raw_bits = np.zeros(number, np.int64)
    for classes, residuals in analyzed:
        words = _code_words_of(classes, residuals, modes)
        coded = words[words[:, 0] >= 0]
        counts += np.bincount(
            coded[:, 0] * used + coded[:, 1], minlength=counts.size
        ).reshape(counts.shape)
        # Signs cost the same in both modes; only the raw bits next to a word differ.
        raw_bits += np.bincount(
            coded[:, 0] % number, weights=coded[:, 3], minlength=number
        ).astype(np.int64)
        sign_words = words[:, 0] < 0
        owner = np.maximum.accumulate(np.where(sign_words, 0, np.arange(len(words))))[sign_words]
        raw_bits += np.bincount(words[owner, 0] % number, minlength=number)
    main = np.zeros((number, used), np.uint8)
    tail = np.zeros((number, _TAIL_ALPHABET), np.uint8)
    bits = np.zeros(number, np.int64)
    for k in range(number):
        prior_main, prior_tail = _prior_counts(sizes[k], mode)
        main_counts = counts[k]
        tail_counts = counts[number + k, :_TAIL_ALPHABET]
        # The priors weigh as much as 24 words and 8 tails; the 1 keeps every word codable.
        smoothed = 64 * main_counts + np.rint(64 * 24 * prior_main).astype(np.int64) + 1
        main[k] = code_lengths(smoothed)
        smoothed = 64 * tail_counts + np.rint(64 * 8 * prior_tail).astype(np.int64) + 1
        tail[k] = code_lengths(smoothed)
        bits[k] = main_counts @ main[k] + tail_counts @ tail[k] + raw_bits[k]
    return main, tail, bits


def _amortized_costs(sizes: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """Cost of each magnitude in 1/256 bit: -log2 of its share plus the sign, scaled so that a
    class's training symbols cost what they were coded with."""
    costs = np.zeros(sizes.shape)
    decay = 0.5 ** np.arange(1, _COST_SIZES + 1)
    for k, counts in enumerate(sizes):
        chance = (counts + decay) / (counts + decay).sum()
        costs[k] = -np.log2(chance) + (np.arange(_COST_SIZES) > 0)
        ideal = counts @ costs[k]
        if ideal > 0:
            costs[k] *= np.clip(bits[k] / ideal, 0.9, 1.2)
    # Far magnitudes never seen in training must not look more expensive than an escape.
    cap = 24 + 2 * np.log2(1 + np.arange(_COST_SIZES))
    return np.rint(np.minimum(costs, cap) * _COST_UNIT).astype(np.uint16)
