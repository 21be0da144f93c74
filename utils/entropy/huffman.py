"""Coder `huffman`: canonical Huffman codes and run lengths, chosen by the integer network.

The rows of `utils/entropy/integer_network.py` are the contexts. A row whose residuals spread widely has a
canonical code for them (lengths from counts, at most 16 bits). Where zero is likely, a code word for
every residual would waste most of its first bit; there a residual is a series of decisions,

    0  is it zero?    1  is it positive?    2, 3  is it 1, or -1?

and what is beyond (magnitude - 2) by a canonical code. Each decision of each row has a likely
answer, and a class of about equal probability of that answer. In each class the likely answers up
to the next unlikely one are counted, across rows, channels and places. Run lengths are geometric,
and the Huffman code of a geometric source is the Golomb code (Gallager and van Voorhis 1975), with
m answers per block:

    1                m likely answers, and the run goes on
    0, r in 0..m-1   r likely answers (truncated binary), then the unlikely one

A run's word stands where its first answer would, so the decoder reads it when it needs it (as in
probability interval partitioning, Marpe et al. 2010). Runs that reach the end are filled up with
blocks: the end needs no symbol of its own.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from utils.compiled import compiled

from .ans import RangeTables, logistic_tables
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
from .integer_network import COMPLETE, DAMAGED, ENDS_EARLY, LEFT_OVER, N_ROWS, reads, walk

MAX_CODE_LENGTH = 16
DECISIONS = 4
DIRECT = 255  # run_class of rows that have a word for each residual
DIRECT_BELOW = 0.25  # these are the rows where zero is less likely than this
CLASSES_PER_OCTAVE = 4  # of the probability of the unlikely answer
MAX_OCTAVES = 16  # no answer counts as less likely than 2^-16
MAX_BLOCK = 1 << 15
PRIOR_COUNT = 300.0  # residuals that a row's logistic distribution counts for


@dataclass(eq=False)
class HuffmanTables(ResidualTables):
    """Decisions and code lengths of each row."""

    radius: np.ndarray  # int32 (N_ROWS,), 2..MAX_RADIUS
    run_class: np.ndarray  # uint8 (N_ROWS, 4), class of each decision; all DIRECT: the row has none
    likely: np.ndarray  # uint8 (N_ROWS, 4), 0 no or 1 yes, the likely answers
    block: np.ndarray  # int32 (classes,), m of the Golomb code of each class
    lengths: np.ndarray  # uint8 (N_ROWS, 2 * MAX_RADIUS + 2), 0: no word; the last: escape.
    # Index: residual + MAX_RADIUS where DIRECT, else magnitude - 2

    def check(self) -> None:
        """Raises ValueError where tables are not of this form or codes not complete."""
        shapes = {
            "radius": (np.int32, (N_ROWS,)),
            "lengths": (np.uint8, (N_ROWS, ESCAPE + 1)),
            "run_class": (np.uint8, (N_ROWS, DECISIONS)),
            "likely": (np.uint8, (N_ROWS, DECISIONS)),
            "block": (np.int32, (len(self.block),)),
        }
        for name, (kind, shape) in shapes.items():
            array = getattr(self, name)
            if array.dtype != kind or array.shape != shape:
                raise ValueError(f"huffman tables: {name} is {array.dtype} {array.shape}")
        if (self.radius < 2).any() or (self.radius > MAX_RADIUS).any():
            raise ValueError(f"huffman tables: a radius is outside 2..{MAX_RADIUS}")
        direct = self.run_class == DIRECT
        if (
            (direct.any(1) != direct.all(1)).any()
            or (self.run_class[~direct] >= len(self.block)).any()
            or (self.block < 1).any()
            or (self.block > MAX_BLOCK).any()
            or (self.likely > 1).any()
        ):
            raise ValueError("huffman tables: impossible decisions")
        needed = _words_needed(self.radius, direct[:, 0])
        if ((self.lengths > 0) != needed).any() or self.lengths.max() > MAX_CODE_LENGTH:
            raise ValueError(
                f"huffman tables: a code word is missing, unneeded, or of more than {MAX_CODE_LENGTH} bits"
            )
        steps = np.where(needed, 1 << (MAX_CODE_LENGTH - self.lengths.astype(np.int64)), 0)
        if (steps.sum(1) != 1 << MAX_CODE_LENGTH).any():
            raise ValueError("huffman tables: code lengths violate the Kraft equality")

    @cached_property
    def codes(self) -> "Codes":
        """The words that the code lengths stand for."""
        return canonical_codes(self.lengths)

    @property
    def costs(self) -> np.ndarray:
        """As in `ResidualTables`; the bits of a run are spread over its answers."""
        words = np.where(self.lengths > 0, self.lengths, np.inf).astype(np.float32)
        costs, direct = words.copy(), self.run_class[:, 0] == DIRECT
        block = self.block[self.run_class[~direct]].astype(np.float64)  # (rows, 4)
        # A block costs one bit. The end of a run costs one bit and its place, and saves half a block on average.
        answers = np.stack([1 / block, 1 + np.log2(block) - (block - 1) / (2 * block)])
        likely = self.likely[~direct].astype(int)
        yes = np.where(likely == 1, answers[0], answers[1])
        no = np.where(likely == 1, answers[1], answers[0])
        decided = np.full((len(block), ESCAPE + 1), np.inf, np.float32)
        decided[:, MAX_RADIUS] = yes[:, 0]
        for sign, decision, sign_bits in ((1, 2, yes[:, 1]), (-1, 3, no[:, 1])):
            decided[:, MAX_RADIUS + sign] = no[:, 0] + sign_bits + yes[:, decision]
            far = (no[:, 0] + sign_bits + no[:, decision])[:, None] + words[~direct][:, : MAX_RADIUS - 1]
            decided[:, MAX_RADIUS + 2 * sign :: sign][:, : MAX_RADIUS - 1] = far
        decided[:, ESCAPE] = (no[:, 0] + no[:, 2] + no[:, 1]) + words[~direct][:, ESCAPE]
        costs[~direct] = decided
        return costs


class Codes(NamedTuple):
    """Canonical codes of all rows. Words of l bits, left-aligned to 16, lie below ends[l]."""

    words: np.ndarray  # int32 (N_ROWS, ESCAPE + 1), by index
    ends: np.ndarray  # int32 (N_ROWS, MAX_CODE_LENGTH + 1)
    base: np.ndarray  # int32 (N_ROWS, MAX_CODE_LENGTH + 1): a word of l bits plus base[l] is its rank
    order: np.ndarray  # int16 (N_ROWS, ESCAPE + 1), index of each rank


def canonical_codes(lengths: np.ndarray) -> Codes:
    """lengths uint8 (N_ROWS, ESCAPE + 1), 0 where there is no word, of complete codes -> their words."""
    order = np.argsort(np.where(lengths > 0, lengths, 99), axis=1, kind="stable")
    ordered = np.take_along_axis(lengths, order, 1).astype(np.int64)
    steps = np.where(ordered > 0, 1 << (MAX_CODE_LENGTH - ordered), 0)
    starts = np.cumsum(steps, axis=1) - steps
    words = np.zeros(lengths.shape, np.int32)
    np.put_along_axis(words, order, (starts >> (MAX_CODE_LENGTH - ordered)).astype(np.int32), 1)
    ends = np.zeros((N_ROWS, MAX_CODE_LENGTH + 1), np.int32)
    base = np.zeros_like(ends)
    for length in range(1, MAX_CODE_LENGTH + 1):
        of_length = ordered == length
        count, first = of_length.sum(1), of_length.argmax(1)
        ends[:, length] = ends[:, length - 1] + count * (1 << (MAX_CODE_LENGTH - length))
        first_word = starts[np.arange(N_ROWS), first] >> (MAX_CODE_LENGTH - length)
        base[:, length] = np.where(count > 0, first - first_word, 0)
    return Codes(words, ends, base, order.astype(np.int16))


def _words_needed(radius: np.ndarray, direct: np.ndarray) -> np.ndarray:
    """bool (N_ROWS, ESCAPE + 1): which indices of `lengths` a row codes."""
    beyond = np.arange(2 * MAX_RADIUS + 1)[None] <= radius[:, None] - 2
    return np.append(np.where(direct[:, None], inside(radius), beyond), np.ones((N_ROWS, 1), bool), axis=1)


def code_lengths(counts: np.ndarray, max_length: int = MAX_CODE_LENGTH) -> np.ndarray:
    """Optimal prefix code lengths under a length limit (package-merge).

    counts: (n,) integers >= 1, n >= 2; returns (n,) uint8 in 1..max_length. Among equal weights
    single symbols go before packages and lower symbol indices before higher ones, so the result is
    a function of the counts alone. Raises ValueError for counts below 1 or an alphabet that does
    not fit max_length.
    """
    weights = [int(count) for count in counts]
    n = len(weights)
    if n < 2 or min(weights) < 1:
        raise ValueError("code_lengths needs at least two symbols and counts of at least 1")
    if n > 1 << max_length:
        raise ValueError(f"{n} symbols do not fit code words of at most {max_length} bits")
    order = sorted(range(n), key=lambda symbol: (weights[symbol], symbol))
    ordered = [weights[symbol] for symbol in order]
    # A level is its sorted weights and, for each item, whether it is a package. The number of
    # packages among the items chosen at one level says how many items are chosen one level down.
    levels: list[list[bool]] = []
    packages: list[int] = []
    for _ in range(max_length):
        items = sorted([(weight, 0) for weight in ordered] + [(weight, 1) for weight in packages])
        levels.append([kind == 1 for _, kind in items])
        packages = [items[i][0] + items[i + 1][0] for i in range(0, len(items) - 1, 2)]
    lengths = np.zeros(n, np.int64)
    chosen = 2 * n - 2
    for is_package in reversed(levels):
        chosen_packages = sum(is_package[:chosen])
        lengths[order[: chosen - chosen_packages]] += 1
        chosen = 2 * chosen_packages
    return lengths.astype(np.uint8)


def fit_tables(coded: list[tuple[np.ndarray, np.ndarray]], prior: RangeTables) -> HuffmanTables:
    """Tables from [(residuals, rows)] of training signals; rare rows follow the prior."""
    counts = prior.frequency * (PRIOR_COUNT / prior.frequency.sum(1, keepdims=True, dtype=np.float64))
    for residuals, rows in coded:
        index = np.where(np.abs(residuals) > prior.radius[rows], ESCAPE, residuals + MAX_RADIUS)
        counts += np.bincount(rows.astype(np.int64) * (ESCAPE + 1) + index, minlength=counts.size).reshape(counts.shape)
    above, below = counts[:, MAX_RADIUS + 1 : ESCAPE], counts[:, MAX_RADIUS - 1 :: -1]  # by magnitude - 1
    escapes = counts[:, ESCAPE] / 2
    positive, negative = above.sum(1) + escapes, below.sum(1) + escapes
    zero = counts[:, MAX_RADIUS]
    yes = np.stack([zero, positive, above[:, 0], below[:, 0]], axis=1)
    asked = np.stack([counts.sum(1), positive + negative, positive, negative], axis=1)
    direct = zero / counts.sum(1) < DIRECT_BELOW

    likely = (2 * yes >= asked).astype(np.uint8)
    unlikely = np.where(likely == 1, asked - yes, yes)
    level = np.floor(-np.log2(np.maximum(unlikely / asked, 2.0**-MAX_OCTAVES)) * CLASSES_PER_OCTAVE).astype(int)
    levels = np.unique(level[~direct])
    run_class = np.searchsorted(levels, level).astype(np.uint8)
    run_class[direct] = DIRECT
    block = np.array(
        [golomb_block(1 - unlikely[run_class == k].sum() / asked[run_class == k].sum()) for k in range(len(levels))],
        np.int32,
    )

    words = counts.copy()
    words[~direct] = 0
    words[~direct, : MAX_RADIUS - 1] = (above + below)[~direct, 1:]
    words[:, ESCAPE] = counts[:, ESCAPE]
    needed, lengths = _words_needed(prior.radius, direct), np.zeros(counts.shape, np.uint8)
    for row in range(N_ROWS):
        of_row = words[row, needed[row]]
        scaled = np.maximum(1, np.rint(of_row / of_row.sum() * (1 << 20))).astype(np.int64)
        lengths[row, needed[row]] = code_lengths(scaled)
    return HuffmanTables(prior.radius, run_class, likely, block, lengths)


def golomb_block(likely: float) -> int:
    """The best m for runs of an answer of that probability, at least 1/2 (Gallager and van Voorhis 1975)."""
    likely = min(max(likely, 0.5), 1 - 2.0**-MAX_OCTAVES)
    return int(np.clip(np.ceil(-np.log2(1 + likely) / np.log2(likely)), 1, MAX_BLOCK))


class HuffmanCoder(Coder):
    """Canonical Huffman codes and runs of likely answers: no arithmetic but additions and shifts."""

    name, code, tables_class = "huffman", 0, HuffmanTables

    @classmethod
    def fit(cls, coded):
        return fit_tables(coded, logistic_tables())

    def _encode(self, residuals, rows):
        t = self.tables
        return _pack(*_binarize(residuals, rows, t.radius, t.run_class, t.likely, t.lengths, t.codes.words), t.block)

    def _decode(self, data, symbols, modes, network):
        t = self.tables
        left, ends = np.full(len(t.block) + 1, -1, np.int64), np.zeros(len(t.block) + 1, np.bool_)
        source = Source(data, left, ends, t.radius, t.run_class, t.likely, t.block, *t.codes[1:])
        return _decode(symbols, modes, network, source)


@compiled(nogil=True)
def _binarize(residuals, rows, radius, run_class, likely, lengths, words):
    """Residuals as answers and words, in order: (classes, values, sizes). An answer has its class, and
    value 1 if it is the unlikely one; a word has class DIRECT, its value, and its number of bits."""
    n = 0
    for t in range(len(residuals)):
        n += 1 if residuals[t] == 0 else 5
    classes, values, sizes = np.empty(n, np.uint8), np.empty(n, np.int32), np.empty(n, np.uint8)
    n = 0
    for t in range(len(residuals)):
        row, residual = rows[t], np.int64(residuals[t])
        magnitude, index = abs(residual), residual + MAX_RADIUS
        if run_class[row, 0] != DIRECT:
            classes[n], values[n] = run_class[row, 0], (residual == 0) != likely[row, 0]
            n += 1
            if residual == 0:
                continue
            decision = 2 if residual > 0 else 3
            classes[n], values[n] = run_class[row, 1], (residual > 0) != likely[row, 1]
            classes[n + 1], values[n + 1] = run_class[row, decision], (magnitude == 1) != likely[row, decision]
            n += 2
            if magnitude == 1:
                continue
            index = magnitude - 2
        beyond = magnitude - radius[row]
        if beyond > 0:
            index = ESCAPE
        classes[n], values[n], sizes[n] = DIRECT, words[row, index], lengths[row, index]
        n += 1
        if beyond > 0:
            length = floor_log2(beyond)
            excess = ((beyond & ((1 << length) - 1)) << 1) | (residual < 0)  # its first bit is 1: left out
            classes[n], values[n], sizes[n] = DIRECT, (length << (length + 1)) | excess, ESCAPE_LENGTH_BITS + length + 1
            n += 1
    return classes[:n], values[:n], sizes[:n]


@compiled(nogil=True)
def _put(out, position, word, bits):
    """Append the low `bits` (up to 32) of a word; `position` counts bits; -> new position."""
    for b in range(bits - 1, -1, -1):
        if (word >> b) & 1:
            out[position >> 3] |= np.uint8(128 >> (position & 7))
        position += 1
    return position


@compiled(nogil=True)
def _put_place(out, position, place, block):
    """Truncated binary code of place in 0..block-1."""
    bits = floor_log2(block)
    short = (1 << (bits + 1)) - block
    if place < short:
        return _put(out, position, place, bits)
    return _put(out, position, place + short, bits + 1)


@compiled(nogil=True)
def _pack(classes, values, sizes, block):
    n, bits = len(classes), np.int64(0)
    ahead = np.empty(n, np.int32)  # likely answers from here to the unlikely one
    far = np.int32(1 << 30)
    nearest = np.full(len(block) + 1, far)
    for t in range(n - 1, -1, -1):
        k = classes[t]
        if k == DIRECT:
            bits += sizes[t]
        else:
            nearest[k] = 0 if values[t] else min(nearest[k] + 1, far)
            ahead[t] = nearest[k]
            bits += 18 if values[t] else 1  # at most: a place is below 2^15
    out = np.zeros(bits // 8 + 8, np.uint8)
    left = np.full(len(block) + 1, -1, np.int32)  # likely answers that the last word still covers; -1: no word
    ends = np.zeros(len(block) + 1, np.bool_)  # whether an unlikely one follows them
    position = np.int64(0)
    for t in range(n):
        k = classes[t]
        if k == DIRECT:
            position = _put(out, position, values[t], sizes[t])
            continue
        if left[k] < 0:
            ends[k] = ahead[t] < block[k]
            left[k] = ahead[t] if ends[k] else block[k]
            position = _put(out, position, 0 if ends[k] else 1, 1)
            if ends[k]:
                position = _put_place(out, position, ahead[t], block[k])
        left[k] -= 1
        if left[k] == 0 and not ends[k]:
            left[k] = -1
    return out[: (position + 7) >> 3].copy()


class Source(NamedTuple):
    """A payload on its way through the decoder, whose positions are bits."""

    data: np.ndarray  # uint8 (bytes,)
    left: np.ndarray  # int64 (classes + 1,), likely answers that the last word still covers; -1: no word
    ends: np.ndarray  # bool (classes + 1,), whether an unlikely one follows them
    radius: np.ndarray  # these and all below: see `HuffmanTables` and `Codes`
    run_class: np.ndarray
    likely: np.ndarray
    block: np.ndarray
    word_ends: np.ndarray
    base: np.ndarray
    order: np.ndarray


@compiled(nogil=True)
def _peek(data, position, bits):
    """The next up to 24 bits as an integer; zeros beyond the end."""
    value, byte = np.int64(0), position >> 3
    for k in range(4):
        value = (value << 8) | (np.int64(data[byte + k]) if byte + k < len(data) else np.int64(0))
    return (value >> (32 - bits - (position & 7))) & ((1 << bits) - 1)


@compiled(nogil=True)
def _take_place(data, position, block):
    """-> (place in 0..block-1, position)."""
    bits = floor_log2(block)
    short = (1 << (bits + 1)) - block
    place = _peek(data, position, bits) if bits else np.int64(0)
    if place < short:
        return place, position + bits
    return _peek(data, position, bits + 1) - short, position + bits + 1


@compiled(nogil=True)
def _answer(data, position, k, block, left, ends):
    """The next answer of class k -> (1 if it is the unlikely one, position)."""
    if left[k] < 0:
        ends[k] = _peek(data, position, 1) == 0
        position += 1
        left[k] = block[k]
        if ends[k]:
            left[k], position = _take_place(data, position, block[k])
    unlikely = 1 if left[k] == 0 else 0
    left[k] -= 1
    if left[k] == 0 and not ends[k]:
        left[k] = -1
    return unlikely, position


@compiled(nogil=True)
def _take_word(data, position, row, ends, base, order):
    """-> (index of the row's next word, position)."""
    word = _peek(data, position, MAX_CODE_LENGTH)
    length = 1
    while word >= ends[row, length]:  # codes are complete: ends[row, 16] is above any word
        length += 1
    return np.int64(order[row, base[row, length] + (word >> (MAX_CODE_LENGTH - length))]), position + length


@compiled(nogil=True)
def _take_excess(data, position):
    """-> (signed excess, position), below zero for an impossible one."""
    length = _peek(data, position, ESCAPE_LENGTH_BITS)
    position += ESCAPE_LENGTH_BITS
    if length > MAX_ESCAPE_LENGTH:
        return np.int64(0), np.int64(-DAMAGED)
    code = _peek(data, position, length + 1) | (1 << (length + 1))
    return (-(code >> 1) if code & 1 else code >> 1), position + length + 1


@reads(Source)
def _residual(source, position, row, center):
    data, block, left, ends = source.data, source.block, source.left, source.ends
    run_class, likely = source.run_class, source.likely
    direct = run_class[row, 0] == DIRECT
    residual, sign, far = np.int64(0), np.int64(1), direct
    if not direct:
        unlikely, position = _answer(data, position, run_class[row, 0], block, left, ends)
        if unlikely == likely[row, 0]:  # not zero
            unlikely, position = _answer(data, position, run_class[row, 1], block, left, ends)
            sign = 1 if unlikely != likely[row, 1] else -1
            decision = 2 if sign > 0 else 3
            unlikely, position = _answer(data, position, run_class[row, decision], block, left, ends)
            far = unlikely == likely[row, decision]
            residual = sign
    if far:
        index, position = _take_word(data, position, row, source.word_ends, source.base, source.order)
        if index == ESCAPE:
            excess, position = _take_excess(data, position)
            residual = excess + (source.radius[row] if excess > 0 else -source.radius[row])
            if not direct and (residual > 0) != (sign > 0):
                position = np.int64(-DAMAGED)
        else:
            residual = index - MAX_RADIUS if direct else sign * (index + 2)
    if position > 8 * len(data):
        position = np.int64(-ENDS_EARLY)
    return residual, position


@compiled(nogil=True)
def _decode(symbols, modes, network, source):
    position = walk(symbols, modes, network, source, np.int64(0))
    if position < 0:
        return -position
    if (position + 7) >> 3 != len(source.data):
        return LEFT_OVER
    padding = _peek(source.data, position, 8 - (position & 7)) if position & 7 else np.int64(0)
    return LEFT_OVER if padding else COMPLETE
