"""Coder `huffman`: canonical Huffman codes and run lengths, chosen by the integer network.

The rows of `utils/entropy/integer_network.py` are the contexts. A row whose residuals spread widely has a
canonical code for them (lengths from counts, at most 16 bits). Where zero is likely, a code word for
every residual would waste most of its first bit; there a residual is told by decisions,

    0  is it zero?    1  is it positive?    2, 3  is it 1, or -1?

and what is beyond (magnitude - 2) by a canonical code. Each decision of each row has a likely
answer, and a class of about equal probability of that answer. In each class the likely answers up
to the next unlikely one are counted, across rows, channels and places. Run lengths are geometric,
and the Huffman code of a geometric source is the Golomb code (Gallager and van Voorhis 1975), with
m answers a block:

    1                m likely answers, and the run goes on
    0, r in 0..m-1   r likely answers (truncated binary), then the unlikely one

A run's word stands where its first answer would, so the decoder reads it when it needs it (as in
probability interval partitioning, Marpe et al. 2010). Runs that reach the end are filled up with
blocks: the end needs no symbol of its own.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from .ans import ESCAPE, ESCAPE_LENGTH_BITS, MAX_ESCAPE_LENGTH, MAX_RADIUS, RangeTables, inside
from .integer_network import N_ROWS, ContextTables, CorruptPayload, Walk, copy_neighbor, predict, see

MAX_CODE_LENGTH = 16
DECISIONS = 4
DIRECT = 255  # run_class of rows that have a word for each residual
DIRECT_BELOW = 0.25  # probability of zero below which they have
CLASSES_PER_OCTAVE = 4  # of the probability of the unlikely answer
MAX_OCTAVES = 16  # less likely than 2^-16 nothing is
MAX_BLOCK = 1 << 15
PRIOR_COUNT = 300.0  # residuals that a row's logistic distribution counts for


@dataclass(frozen=True)
class HuffmanTables:
    """Decisions and code lengths of each row."""

    radius: np.ndarray  # int32 (N_ROWS,), residuals beyond escape
    run_class: np.ndarray  # uint8 (N_ROWS, 4), class of each decision; all DIRECT: the row has none
    likely: np.ndarray  # uint8 (N_ROWS, 4), 0 no or 1 yes, the likely answers
    block: np.ndarray  # int32 (classes,), m of the Golomb code of each class
    lengths: np.ndarray  # uint8 (N_ROWS, 2 * MAX_RADIUS + 2), 0: no word; the last: escape.
    # Index: residual + MAX_RADIUS where DIRECT, else magnitude - 2

    def __post_init__(self):
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
        order = np.argsort(np.where(needed, self.lengths, 99), axis=1, kind="stable")
        ordered = np.take_along_axis(self.lengths, order, 1).astype(np.int64)
        steps = np.where(ordered > 0, 1 << (MAX_CODE_LENGTH - ordered), 0)
        if (steps.sum(1) != 1 << MAX_CODE_LENGTH).any():
            raise ValueError("huffman tables: code lengths violate the Kraft equality")
        starts = np.cumsum(steps, axis=1) - steps
        words = np.zeros(self.lengths.shape, np.int32)
        np.put_along_axis(words, order, (starts >> (MAX_CODE_LENGTH - ordered)).astype(np.int32), 1)
        # Words of l bits, left-aligned to 16, lie below ends[l]; base[l] takes a word to its rank.
        ends = np.zeros((N_ROWS, MAX_CODE_LENGTH + 1), np.int32)
        base = np.zeros_like(ends)
        for length in range(1, MAX_CODE_LENGTH + 1):
            mine = ordered == length
            count, first = mine.sum(1), mine.argmax(1)
            ends[:, length] = ends[:, length - 1] + count * (1 << (MAX_CODE_LENGTH - length))
            first_word = starts[np.arange(N_ROWS), first] >> (MAX_CODE_LENGTH - length)
            base[:, length] = np.where(count > 0, first - first_word, 0)
        for name, value in (("_words", words), ("_ends", ends), ("_base", base), ("_order", order.astype(np.int16))):
            object.__setattr__(self, name, np.ascontiguousarray(value))

    @property
    def costs(self) -> np.ndarray:
        """Bits of each residual (index: + MAX_RADIUS; the last: escape) in each row, float32.

        Runs are spread over their answers; escapes are without their excess.
        """
        words = np.where(self.lengths > 0, self.lengths, np.inf).astype(np.float32)
        costs, direct = words.copy(), self.run_class[:, 0] == DIRECT
        block = self.block[self.run_class[~direct]].astype(np.float64)  # (rows, 4)
        # a block costs a bit; what ends a run a bit and its place, and spares half a block
        answers = np.stack([1 / block, 1 + np.log2(block) - (block - 1) / (2 * block)])
        likely = self.likely[~direct].astype(int)
        yes = np.where(likely == 1, answers[0], answers[1])
        no = np.where(likely == 1, answers[1], answers[0])
        mine = np.full((len(block), ESCAPE + 1), np.inf, np.float32)
        mine[:, MAX_RADIUS] = yes[:, 0]
        for sign, decision, told in ((1, 2, yes[:, 1]), (-1, 3, no[:, 1])):
            mine[:, MAX_RADIUS + sign] = no[:, 0] + told + yes[:, decision]
            far = (no[:, 0] + told + no[:, decision])[:, None] + words[~direct][:, : MAX_RADIUS - 1]
            mine[:, MAX_RADIUS + 2 * sign :: sign][:, : MAX_RADIUS - 1] = far
        mine[:, ESCAPE] = (no[:, 0] + no[:, 2] + no[:, 1]) + words[~direct][:, ESCAPE]
        costs[~direct] = mine
        return costs


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
    """Tables from [(residuals, rows)] of training signals; rows seen rarely follow the prior."""
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
        mine = words[row, needed[row]]
        lengths[row, needed[row]] = code_lengths(np.maximum(1, np.rint(mine / mine.sum() * (1 << 20))).astype(np.int64))
    return HuffmanTables(prior.radius, run_class, likely, block, lengths)


def golomb_block(likely: float) -> int:
    """The best m for runs of something of that probability, at least 1/2 (Gallager and van Voorhis 1975)."""
    likely = min(max(likely, 0.5), 1 - 2.0**-MAX_OCTAVES)
    return int(np.clip(np.ceil(-np.log2(1 + likely) / np.log2(likely)), 1, MAX_BLOCK))


def encode(residuals: np.ndarray, rows: np.ndarray, tables: HuffmanTables) -> bytes:
    """residuals int32 and rows int16 in coding order -> payload, padded with zero bits."""
    t = tables
    classes, values, sizes = _tell(residuals, rows, t.radius, t.run_class, t.likely, t.lengths, t._words)
    return _pack(classes, values, sizes, t.block).tobytes()


def decode(
    payload: bytes,
    symbols: np.ndarray,
    modes: np.ndarray,
    quality_step: int,
    network: ContextTables,
    tables: HuffmanTables,
) -> None:
    """payload -> symbols int16 (C, h, w), written in place; modes uint8 (h, w), see utils/entropy/repeats.py.

    Raises CorruptPayload if the payload ends early, goes on too long, or holds what `encode` never
    writes.
    """
    t, walk = tables, Walk(symbols.shape, quality_step, network)
    # a writable copy: numba would compile everything once more for read-only bytes
    status = _decode(
        np.frombuffer(payload, np.uint8).copy(),
        symbols,
        modes,
        walk.groups,
        walk.arrays,
        t.radius,
        t.run_class,
        t.likely,
        t.block,
        t._ends,
        t._base,
        t._order,
    )
    if status:
        raise CorruptPayload(
            ("", "the payload ends early", "the payload is damaged", "the payload has bytes left over")[status]
        )


@njit(cache=True, nogil=True)
def _tell(residuals, rows, radius, run_class, likely, lengths, words):
    """What is said of each residual, in order: (classes, values, sizes). An answer has its class, and
    value 1 if it is the unlikely one; bits have class DIRECT, and a word of so many bits as value."""
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
            length = 0
            while beyond >> (length + 1):
                length += 1
            excess = ((beyond & ((1 << length) - 1)) << 1) | (residual < 0)  # its first bit is 1: left out
            classes[n], values[n], sizes[n] = DIRECT, (length << (length + 1)) | excess, ESCAPE_LENGTH_BITS + length + 1
            n += 1
    return classes[:n], values[:n], sizes[:n]


@njit(cache=True, nogil=True)
def _put(out, position, word, bits):
    """Append the low `bits` (up to 32) of a word; `position` counts bits; -> new position."""
    for b in range(bits - 1, -1, -1):
        if (word >> b) & 1:
            out[position >> 3] |= np.uint8(128 >> (position & 7))
        position += 1
    return position


@njit(cache=True, nogil=True)
def _put_place(out, position, place, block):
    """Truncated binary code of place in 0..block-1."""
    bits = 0
    while block >> (bits + 1):
        bits += 1
    short = (1 << (bits + 1)) - block
    if place < short:
        return _put(out, position, place, bits)
    return _put(out, position, place + short, bits + 1)


@njit(cache=True, nogil=True)
def _pack(classes, values, sizes, block):
    n, bits = len(classes), np.int64(0)
    ahead = np.empty(n, np.int32)  # likely answers from here to the unlikely one
    far = np.int32(1 << 30)
    nearest = np.full(len(block) + 1, far)
    for t in range(n - 1, -1, -1):
        mine = classes[t]
        if mine == DIRECT:
            bits += sizes[t]
        else:
            nearest[mine] = 0 if values[t] else min(nearest[mine] + 1, far)
            ahead[t] = nearest[mine]
            bits += 18 if values[t] else 1  # at most: a place is below 2^15
    out = np.zeros(bits // 8 + 8, np.uint8)
    left = np.full(len(block) + 1, -1, np.int32)  # likely answers that the last word still covers; -1: no word
    ends = np.zeros(len(block) + 1, np.bool_)  # whether an unlikely one follows them
    position = np.int64(0)
    for t in range(n):
        mine = classes[t]
        if mine == DIRECT:
            position = _put(out, position, values[t], sizes[t])
            continue
        if left[mine] < 0:
            ends[mine] = ahead[t] < block[mine]
            left[mine] = ahead[t] if ends[mine] else block[mine]
            position = _put(out, position, 0 if ends[mine] else 1, 1)
            if ends[mine]:
                position = _put_place(out, position, ahead[t], block[mine])
        left[mine] -= 1
        if left[mine] == 0 and not ends[mine]:
            left[mine] = -1
    return out[: (position + 7) >> 3].copy()


@njit(cache=True, nogil=True)
def _peek(data, position, bits):
    """The next up to 24 bits as an integer; zeros beyond the end."""
    value, byte = np.int64(0), position >> 3
    for k in range(4):
        value = (value << 8) | (np.int64(data[byte + k]) if byte + k < len(data) else np.int64(0))
    return (value >> (32 - bits - (position & 7))) & ((1 << bits) - 1)


@njit(cache=True, nogil=True)
def _take_place(data, position, block):
    """-> (place in 0..block-1, position)."""
    bits = 0
    while block >> (bits + 1):
        bits += 1
    short = (1 << (bits + 1)) - block
    place = _peek(data, position, bits) if bits else np.int64(0)
    if place < short:
        return place, position + bits
    return _peek(data, position, bits + 1) - short, position + bits + 1


@njit(cache=True, nogil=True)
def _answer(data, position, mine, block, left, ends):
    """The next answer of a class -> (1 if it is the unlikely one, position)."""
    if left[mine] < 0:
        ends[mine] = _peek(data, position, 1) == 0
        position += 1
        left[mine] = block[mine]
        if ends[mine]:
            left[mine], position = _take_place(data, position, block[mine])
    unlikely = 1 if left[mine] == 0 else 0
    left[mine] -= 1
    if left[mine] == 0 and not ends[mine]:
        left[mine] = -1
    return unlikely, position


@njit(cache=True, nogil=True)
def _take_word(data, position, row, ends, base, order):
    """-> (index of the row's next word, position)."""
    word = _peek(data, position, MAX_CODE_LENGTH)
    length = 1
    while word >= ends[row, length]:  # codes are complete: ends[row, 16] is above any word
        length += 1
    return np.int64(order[row, base[row, length] + (word >> (MAX_CODE_LENGTH - length))]), position + length


@njit(cache=True, nogil=True)
def _take_excess(data, position):
    """-> (signed excess, position), position -2 for an impossible one."""
    length = _peek(data, position, ESCAPE_LENGTH_BITS)
    position += ESCAPE_LENGTH_BITS
    if length > MAX_ESCAPE_LENGTH:
        return np.int64(0), np.int64(-2)
    code = _peek(data, position, length + 1) | (1 << (length + 1))
    return (-(code >> 1) if code & 1 else code >> 1), position + length + 1


@njit(cache=True, nogil=True)
def _decode(data, symbols, modes, groups, arrays, radius, run_class, likely, block, word_ends, base, order):
    """-> status: 0 well, 1 ends early, 2 impossible, 3 bytes or bits left over."""
    _, height, width = symbols.shape
    hidden = arrays[5].shape[0] // len(groups)
    centers, rows = np.empty(groups.max(), np.int64), np.empty(groups.max(), np.int64)
    left = np.full(len(block) + 1, -1, np.int64)
    ends = np.zeros(len(block) + 1, np.bool_)
    position, low_channel = np.int64(0), 0
    for group in range(len(groups)):
        for i in range(height):
            for j in range(width):
                if modes[i, j]:
                    copy_neighbor(symbols, i, j, modes[i, j], low_channel, groups[group])
                else:
                    predict(i * width + j, group * hidden, hidden, low_channel, groups[group], arrays, centers, rows)
                    for k in range(groups[group]):
                        row, residual = rows[k], np.int64(0)
                        direct = run_class[row, 0] == DIRECT
                        far, sign = direct, np.int64(1)
                        if not direct:
                            unlikely, position = _answer(data, position, run_class[row, 0], block, left, ends)
                            if unlikely == likely[row, 0]:  # not zero
                                unlikely, position = _answer(data, position, run_class[row, 1], block, left, ends)
                                sign = 1 if unlikely != likely[row, 1] else -1
                                decision = 2 if sign > 0 else 3
                                unlikely, position = _answer(
                                    data, position, run_class[row, decision], block, left, ends
                                )
                                far = unlikely == likely[row, decision]
                                residual = sign
                        if far:
                            index, position = _take_word(data, position, row, word_ends, base, order)
                            if index == ESCAPE:
                                excess, position = _take_excess(data, position)
                                residual = excess + (radius[row] if excess > 0 else -radius[row])
                                if position < 0 or (not direct and (residual > 0) != (sign > 0)):
                                    return 2
                            else:
                                residual = index - MAX_RADIUS if direct else sign * (index + 2)
                        if position > 8 * len(data):
                            return 1
                        value = centers[k] + residual
                        if value > 32767 or value < -32768:
                            return 2
                        symbols[low_channel + k, i, j] = value
                see(symbols, i, j, group * hidden, hidden, low_channel, groups[group], arrays)
        low_channel += groups[group]
    if (position + 7) >> 3 != len(data):
        return 3
    return 3 if position & 7 and _peek(data, position, 8 - (position & 7)) else 0
