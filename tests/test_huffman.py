"""Huffman coder: exact code words, known payloads, exact round trips, damaged payloads."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils import huffman
from utils.huffman import CorruptPayload, HuffmanTables, canonical_codes, code_lengths

# --- code words --------------------------------------------------------------------------------


def words(lengths):
    codes = canonical_codes(np.array(lengths))
    return [format(code, f"0{n}b") if n else "" for code, n in zip(codes, lengths)]


@pytest.mark.parametrize(
    "counts, lengths, expected",
    [
        ([7], [0], [""]),
        ([1, 1], [1, 1], ["0", "1"]),
        ([1, 5], [1, 1], ["0", "1"]),
        ([1, 1, 1, 1], [2, 2, 2, 2], ["00", "01", "10", "11"]),
        # Ties: of equal counts, the later symbols get the shorter words.
        ([3, 3, 3], [2, 2, 1], ["10", "11", "0"]),
        ([1, 1, 2, 3, 5], [4, 4, 3, 2, 1], ["1110", "1111", "110", "10", "0"]),
        ([8, 1, 4, 1, 2], [1, 4, 2, 4, 3], ["0", "1110", "10", "1111", "110"]),
    ],
)
def test_exact_code_words(counts, lengths, expected):
    found = code_lengths(np.array(counts))
    assert found.dtype == np.uint8
    assert found.tolist() == lengths
    assert words(lengths) == expected


def huffman_cost(counts):
    """Cost of an unrestricted Huffman code: the sum of all inner nodes."""
    import heapq

    heap = list(counts)
    heapq.heapify(heap)
    cost = 0
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        cost += merged
        heapq.heappush(heap, merged)
    return cost


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=60))
def test_lengths_are_optimal_and_complete(counts):
    lengths = code_lengths(np.array(counts)).astype(int)
    assert sum(2.0 ** -lengths) == 1
    assert np.dot(counts, lengths) == huffman_cost(counts)
    found = words(lengths.tolist())
    for a, b in itertools.combinations(sorted(found), 2):
        assert not b.startswith(a)


@given(st.lists(st.integers(1, 2000), min_size=2, max_size=6), st.integers(3, 4))
def test_limited_lengths_are_the_best_under_the_limit(counts, limit):
    lengths = code_lengths(np.array(counts), limit)
    best = min(
        np.dot(counts, candidate)
        for candidate in itertools.product(range(1, limit + 1), repeat=len(counts))
        if sum(2.0**-n for n in candidate) == 1
    )
    assert lengths.max() <= limit
    assert np.dot(counts, lengths) == best


def test_fibonacci_counts_meet_the_limit():
    counts = [1, 1]
    while len(counts) < 40:
        counts.append(counts[-1] + counts[-2])
    lengths = code_lengths(np.array(counts))
    assert lengths.max() == 16
    canonical_codes(lengths)


@pytest.mark.parametrize("counts", [[], [0], [3, 0], [1] * 5])
def test_impossible_counts(counts):
    with pytest.raises(ValueError):
        code_lengths(np.array(counts), 2)


@pytest.mark.parametrize(
    "lengths, message",
    [
        ([1, 1, 1], "Kraft"), ([1, 2], "Kraft"), ([0, 1], "one-symbol"), ([17, 1], "0..16"),
        ([], "empty"),
    ],
)
def test_incomplete_codes_are_refused(lengths, message):
    with pytest.raises(ValueError, match=message):
        canonical_codes(np.array(lengths, int))


# --- sources and tables ------------------------------------------------------------------------


def smooth_field(rng, height, width):
    """Unit-variance field with energy in several octaves."""
    field = np.zeros((height, width))
    for octave in (2, 4, 8, 16):
        coarse = rng.standard_normal((height // octave + 2, width // octave + 2))
        rows = np.linspace(0, coarse.shape[0] - 1.001, height)
        columns = np.linspace(0, coarse.shape[1] - 1.001, width)
        top, left = rows.astype(int), columns.astype(int)
        down, right = (rows - top)[:, None], (columns - left)[None]
        field += (
            coarse[top][:, left] * (1 - down) * (1 - right)
            + coarse[top + 1][:, left] * down * (1 - right)
            + coarse[top][:, left + 1] * (1 - down) * right
            + coarse[top + 1][:, left + 1] * down * right
        )
    return field / field.std()


def laplacian_grid(rng, quality, shape=(24, 16, 20)):
    """Laplacian symbols, scales decaying over the channels, one activity field for all of them;
    channel 0 has a smooth mean on top."""
    channels, height, width = shape
    scales = 2 * np.exp(-np.arange(channels) / (channels / 5)) * 1.3 ** (quality - 4)
    activity = np.exp(smooth_field(rng, height, width))
    symbols = rng.laplace(size=shape) * scales[:, None, None] * activity
    symbols[0] += 12 * smooth_field(rng, height, width)
    return np.rint(symbols).astype(np.int16)


@pytest.fixture(scope="module")
def training():
    rng = np.random.default_rng(0)
    return [(laplacian_grid(rng, quality), quality) for quality in range(1, 9) for _ in range(3)]


@pytest.fixture(scope="module")
def tables(training):
    return huffman.fit_tables(training)


def handmade(channels=2, modes=(0, 1), **changes):
    """Tables made of constants only: class 0 where neighbors are zero, else class 1."""
    classes = len(modes)
    main = np.zeros((classes, huffman._RUN_ALPHABET), np.uint8)
    for k, mode in enumerate(modes):
        used = huffman._alphabet(mode)
        main[k, :used] = code_lengths((1 << 20) // np.arange(1, used + 1) ** 2 + 1)
    tail = code_lengths(1 << np.arange(huffman._TAIL_ALPHABET)[::-1])
    class_map = np.full(huffman._CELLS, classes - 1, np.uint8)
    class_map[:89] = 0
    arrays = dict(
        mean_weights=np.zeros((channels, 4), np.int16),
        mean_offset=np.zeros((8, channels), np.int32),
        activity_norm=np.full((8, channels), 8, np.uint8),
        group=np.zeros((8, channels), np.uint8),
        feature_weights=np.array([[256, 0, 0, 0, 0, 0]], np.int16),
        bias=np.zeros((8, channels), np.int32),
        class_map=class_map,
        class_mode=np.array(modes, np.uint8),
        main_lengths=main,
        tail_lengths=np.tile(tail, (classes, 1)),
        symbol_cost=np.full((classes, huffman._COST_SIZES), 256, np.uint16),
    )
    return HuffmanTables.from_arrays({**arrays, **changes})


def check_round_trip(symbols, quality, tables):
    payload = huffman.encode(symbols, quality, tables)
    bits = huffman.cost_bits(symbols, quality, tables)
    assert len(payload) == (bits + 7) // 8
    decoded = huffman.decode(payload, symbols.shape, quality, tables)
    assert decoded.dtype == np.int16
    np.testing.assert_array_equal(decoded, symbols)
    return payload


# --- known payloads ----------------------------------------------------------------------------


def test_known_payload_of_a_run_class():
    tables = handmade(1, (0,))
    word = words(tables.main_lengths[0].tolist())
    tail = words(tables.tail_lengths[0].tolist())
    grid = np.array([[[0, 0, 1, -2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, -40, 0]]], np.int16)
    expected = (
        word[1 + 2 * 3 + 0] + "0"  # two zeros, then +1
        + word[1 + 0 * 3 + 1] + "1"  # no zero, then -2
        + word[1 + 8 * 3 + 2] + "1" + tail[2] + "0"  # nine zeros (8 and 9 share a bucket), then +5
        + word[1 + 0 * 3 + 2] + tail[29] + "0001001" + "1"  # -40: escape, 40 - 3 - 29 + 1 = 9
        + word[0]  # end of block
    )  # fmt: skip
    payload = check_round_trip(grid, 1, tables)
    assert huffman.cost_bits(grid, 1, tables) == len(expected)
    padded = expected.ljust(-(-len(expected) // 8) * 8, "0")
    assert payload == int(padded, 2).to_bytes(len(padded) // 8, "big")
    assert payload.hex() == "e8cfcdcd7fff8980"


def test_known_payload_of_a_pair_class():
    tables = handmade(1, (1,))
    word = words(tables.main_lengths[0, : huffman._PAIR_ALPHABET].tolist())
    tail = words(tables.tail_lengths[0].tolist())
    grid = np.array([[[3, -1, 0, 0, -12, 11, 2]]], np.int16)
    expected = (
        word[1 + 3 * 12 + 1] + "0" + "1"
        + word[1]
        + word[1 + 11 * 12 + 11] + tail[1] + "1" + tail[0] + "0"
        + word[1 + 2 * 12 + 0] + "0"  # the partner after the last symbol counts as zero
    )  # fmt: skip
    payload = check_round_trip(grid, 8, tables)
    assert huffman.cost_bits(grid, 8, tables) == len(expected)
    padded = expected.ljust(-(-len(expected) // 8) * 8, "0")
    assert payload == int(padded, 2).to_bytes(len(padded) // 8, "big")
    assert payload.hex() == "fcadfffe9f48"


def test_known_payload_with_contexts():
    """Means, activity of earlier channels, both class modes; guards the predictor's arithmetic."""
    tables = handmade(
        3,
        mean_weights=np.array([[40, 30, -10, 2], [0, 0, 0, 0], [0, 0, 0, 0]], np.int16),
        mean_offset=np.tile(np.array([70, -64, 0], np.int32), (8, 1)),
        feature_weights=np.array([[90, 40, 60, 50, 45, 70]], np.int16),
    )
    rng = np.random.default_rng(5)
    grid = np.rint(rng.laplace(size=(3, 4, 5)) * np.array([4, 1, 0.6])[:, None, None])
    assert check_round_trip(grid.astype(np.int16), 3, tables).hex() == (
        "fccff3fff83fd8ff67fff4fb5fec33ffbfebf6ff"
        "ec5f47d4fb0dbeb7ee7d4c7d4698bd17d57ad8c0"
    )


# --- round trips -------------------------------------------------------------------------------


def extreme_grids(shape):
    rng = np.random.default_rng(1)
    yield "zeros", np.zeros(shape, np.int16)
    for constant in (1, -1, 31, 32, -300, 32767, -32768):
        yield f"all {constant}", np.full(shape, constant, np.int16)
    yield "all escapes", rng.choice([-1, 1], shape) * rng.integers(60, 32767, shape)
    yield "any int16", rng.integers(-32768, 32768, shape)
    yield "alternating extremes", np.where(np.indices(shape).sum(0) % 2, 32767, -32768)
    last = np.zeros(shape, np.int16)
    last.flat[-1] = -7
    yield "only the last", last
    first = np.zeros(shape, np.int16)
    first.flat[0] = 1
    yield "only the first", first
    yield "sparse", rng.binomial(1, 0.002, shape)
    yield "dense", rng.integers(-3, 4, shape)


@pytest.mark.parametrize("size", [(16, 20), (1, 1), (1, 7), (7, 1), (2, 2), (3, 130)])
def test_extreme_grids(tables, size):
    for name, grid in extreme_grids((24, *size)):
        for quality in (1, 5, 8):
            check_round_trip(grid.astype(np.int16), quality, tables)


@pytest.mark.parametrize("modes", [(0,), (1,), (0, 1), (1, 0)])
def test_extreme_grids_in_every_mode(modes):
    for name, grid in extreme_grids((2, 9, 11)):
        check_round_trip(grid.astype(np.int16), 2, handmade(2, modes))


@pytest.mark.parametrize("run", [7, 8, 9, 127, 128, 8191, 65535, 65536, 1_000_003])
def test_long_runs(run):
    grid = np.zeros((1, 1, run + 2), np.int16)
    grid[0, 0, run] = -3
    assert len(check_round_trip(grid, 1, handmade(1, (0,)))) < 10


def test_extreme_predictors():
    """The largest weights the validation lets through must not overflow."""
    for sign in (1, -1):
        tables = handmade(
            2,
            mean_weights=np.full((2, 4), sign * 1024, np.int16),
            mean_offset=np.full((8, 2), sign * (1 << 22), np.int32),
            feature_weights=np.full((1, 6), sign * 1024, np.int16),
            bias=np.full((8, 2), sign * (1 << 24), np.int32),
            activity_norm=np.full((8, 2), 64, np.uint8),
        )
        for name, grid in extreme_grids((2, 9, 11)):
            check_round_trip(grid.astype(np.int16), 2, tables)


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
def test_empty_grids(tables, size):
    grid = np.zeros((24, *size), np.int16)
    assert check_round_trip(grid, 1, tables) == b""
    assert huffman.symbol_costs(grid, 1, tables, 2).shape == (5, 24, *size)
    with pytest.raises(CorruptPayload):
        huffman.decode(b"\0", grid.shape, 1, tables)


def test_realistic_grids_and_other_types(tables):
    rng = np.random.default_rng(2)
    for quality in range(1, 9):
        grid = laplacian_grid(rng, quality, (24, 13, 37))
        payload = check_round_trip(grid, quality, tables)
        assert huffman.encode(grid.astype(np.int64), quality, tables) == payload
        assert huffman.encode(np.asfortranarray(grid), quality, tables) == payload
        small = np.clip(grid, -100, 100).astype(np.int8)
        check_round_trip(small, quality, tables)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 6), st.integers(0, 6), st.integers(1, 8), st.integers(0, 2**32 - 1),
    st.sampled_from([0.05, 0.5, 3.0, 50.0, 5000.0]), st.sampled_from([(0,), (1,), (0, 1), (1, 0)]),
)  # fmt: skip
def test_random_round_trips(height, width, quality, seed, scale, modes):
    rng = np.random.default_rng(seed)
    grid = np.rint(rng.laplace(size=(2, height, width)) * scale)
    grid = np.clip(grid, -32768, 32767).astype(np.int16)
    weights = rng.integers(-80, 80, (2, 4)).astype(np.int16)
    check_round_trip(grid, quality, handmade(2, modes, mean_weights=weights))


@pytest.mark.parametrize("count", [1, 2])
def test_fit_from_very_few_grids(count):
    rng = np.random.default_rng(3)
    grids = [(laplacian_grid(rng, 3, (5, 4, 6)), 3) for _ in range(count)]
    tables = huffman.fit_tables(grids)
    for name, grid in extreme_grids((5, 6, 5)):
        check_round_trip(grid.astype(np.int16), 8, tables)


@pytest.mark.parametrize("value", [0, 3])
def test_fit_from_constant_grids(value):
    grids = [(np.full((3, 8, 8), value, np.int16), quality) for quality in (2, 7)]
    tables = huffman.fit_tables(grids)
    assert len(check_round_trip(np.full((3, 50, 50), value, np.int16), 2, tables)) < 10
    for name, grid in extreme_grids((3, 6, 5)):
        check_round_trip(grid.astype(np.int16), 4, tables)


def test_bad_arguments(tables, training):
    grid = np.zeros((24, 2, 2), np.int16)
    for bad, message in (
        (grid[:3], "3 channels, the tables have 24"), (grid[0], "shape"),
        (grid.astype(float), "integers"), (grid.astype(np.int32) + 40000, "int16"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            huffman.encode(bad, 1, tables)
    for quality in (0, 9, 1.0, True):
        with pytest.raises(ValueError, match="quality"):
            huffman.encode(grid, quality, tables)
        with pytest.raises(ValueError, match="quality"):
            huffman.decode(b"", grid.shape, quality, tables)
    for shape in ((24, -1, 2), (24, 2), (23, 2, 2), (24, 2**14, 2**14)):
        with pytest.raises(ValueError):
            huffman.decode(b"", shape, 1, tables)
    for grids in ([], [(grid[:, :0], 1)], [(grid, 0)], [(grid, 1), (grid[:3], 1)]):
        with pytest.raises(ValueError):
            huffman.fit_tables(grids)


# --- damaged payloads --------------------------------------------------------------------------


def test_every_accepted_payload_is_the_encoders(tables):
    """Truncated, flipped, extended: refused, or another grid whose encoding is that payload."""
    rng = np.random.default_rng(4)
    grid = laplacian_grid(rng, 4, (24, 6, 6))
    payload = huffman.encode(grid, 4, tables)
    for length in range(len(payload)):
        with pytest.raises(CorruptPayload):
            huffman.decode(payload[:length], grid.shape, 4, tables)
    for tail in (b"\0", b"\xff", payload):
        with pytest.raises(CorruptPayload, match="left over"):
            huffman.decode(payload + tail, grid.shape, 4, tables)
    with pytest.raises(EOFError):
        huffman.decode(b"", grid.shape, 4, tables)
    refused = 0
    for bit in range(8 * len(payload)):
        damaged = bytearray(payload)
        damaged[bit // 8] ^= 1 << bit % 8
        refused += not accepts_only_its_own(bytes(damaged), grid.shape, 4, tables, grid)
    assert refused > 0


def accepts_only_its_own(payload, shape, quality, tables, other=None):
    try:
        decoded = huffman.decode(payload, shape, quality, tables)
    except CorruptPayload:
        return False
    assert other is None or not np.array_equal(decoded, other)
    assert huffman.encode(decoded, quality, tables) == payload
    return True


def test_all_short_payloads_of_a_tiny_grid():
    """Exhaustive: no two of all payloads up to two bytes decode to the same grid."""
    for modes in ((0,), (1,), (1, 0)):
        tables = handmade(1, modes)
        payloads = [b"", *(bytes([a]) for a in range(256))]
        payloads += [bytes([a, b]) for a in range(256) for b in range(256)]
        accepted = sum(accepts_only_its_own(p, (1, 1, 3), 1, tables) for p in payloads)
        assert accepted > 50


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.integers(1, 8))
def test_arbitrary_bytes_never_crash(tables, payload, quality):
    accepts_only_its_own(payload, (24, 5, 9), quality, tables)


def test_every_constant_byte(tables):
    for value in range(256):
        accepts_only_its_own(bytes([value]) * 2000, (24, 9, 9), 3, tables)


def test_padding_bits_are_checked():
    tables = handmade(1, (0,))
    grid = np.ones((1, 1, 1), np.int16)
    payload = huffman.encode(grid, 1, tables)
    assert huffman.cost_bits(grid, 1, tables) % 8 != 0
    with pytest.raises(CorruptPayload, match="left over"):
        huffman.decode(payload[:-1] + bytes([payload[-1] | 1]), grid.shape, 1, tables)


# --- rate --------------------------------------------------------------------------------------


def first_order_bits(grid):
    bits = 0.0
    for channel in grid:
        counts = np.unique(channel, return_counts=True)[1]
        bits -= (counts * np.log2(counts / counts.sum())).sum()
    return bits


def test_rate_against_entropies(tables, training):
    """Near the ideal cost with the same classes, and below the first-order entropy per channel."""
    counts = np.full((tables.classes, 401), 0.02)

    def cells(grid, quality):
        classes, residuals, _ = huffman._analyze(grid, tables._predictor(quality))
        return classes.ravel(), np.clip(residuals.ravel(), -200, 200) + 200

    for grid, quality in training:
        np.add.at(counts, cells(grid, quality), 1)
    bits_of = -np.log2(counts / counts.sum(1, keepdims=True))
    rng = np.random.default_rng(6)
    attained = ideal = first_order = 0.0
    for quality in range(1, 9):
        grid = laplacian_grid(rng, quality, (24, 32, 32))
        attained += huffman.cost_bits(grid, quality, tables)
        ideal += bits_of[cells(grid, quality)].sum()
        first_order += first_order_bits(grid)
    assert attained < 1.03 * ideal
    assert attained < 0.94 * first_order


def test_blank_grids_cost_next_to_nothing(tables):
    for quality in range(1, 9):
        for size in ((16, 20), (200, 300)):
            assert len(check_round_trip(np.zeros((24, *size), np.int16), quality, tables)) < 40


def test_symbol_costs_add_up(tables):
    rng = np.random.default_rng(7)
    for quality in (1, 4, 8):
        grid = laplacian_grid(rng, quality)
        radius = int(np.abs(grid.astype(int)).max())
        costs = huffman.symbol_costs(grid, quality, tables, radius)
        assert costs.dtype == np.float32
        assert costs.shape == (2 * radius + 1, *grid.shape)
        own = np.take_along_axis(costs, grid[None].astype(int) + radius, 0).sum()
        assert own == pytest.approx(huffman.cost_bits(grid, quality, tables), rel=0.06)
        assert costs.min() >= 0
        # Far from the mean, larger is dearer.
        assert (costs[-1, 5] > costs[radius + 1, 5]).all()


def test_symbol_costs_are_those_of_the_neighbors_now(tables):
    """The candidates' costs at a place do not depend on the value that stands there."""
    rng = np.random.default_rng(8)
    grid = laplacian_grid(rng, 5)
    changed = grid.copy()
    changed[3, 4, 5] += 9
    place = (slice(None), 3, 4, 5)
    before = huffman.symbol_costs(grid, 5, tables, 4)
    after = huffman.symbol_costs(changed, 5, tables, 4)
    np.testing.assert_array_equal(before[place], after[place])
    assert (before != after).any()


# --- tables ------------------------------------------------------------------------------------


def test_tables_survive_serialization(tables, training):
    arrays = tables.to_arrays()
    assert all(array.dtype.kind in "iu" for array in arrays.values())
    again = HuffmanTables.from_arrays(arrays)
    grid, quality = training[10]
    assert huffman.encode(grid, quality, again) == huffman.encode(grid, quality, tables)
    arrays["bias"][:] = 0
    assert tables.bias.any()
    with pytest.raises(ValueError):
        tables.bias[:] = 0


def test_fitting_is_deterministic(training, tables):
    again = huffman.fit_tables(training).to_arrays()
    for name, array in tables.to_arrays().items():
        np.testing.assert_array_equal(array, again[name], err_msg=name)


def damaged_tables():
    def change(name, function):
        def apply(arrays):
            arrays[name] = function(arrays[name])

        return apply

    def put(index, value):
        def function(array):
            array[index] = value
            return array

        return function

    yield "mean_weights: shape", change("mean_weights", lambda a: a[:, :3].copy())
    yield "mean_offset: type", change("mean_offset", lambda a: a.astype(np.int64))
    yield "mean_weights: values", change("mean_weights", put((0, 0), 1025))
    yield "group: values", change("group", put((0, 0), 200))
    yield "class_map: values", change("class_map", put(0, 31))
    yield "class_mode: values", change("class_mode", put(0, 2))
    yield "main_lengths: class 0: .*Kraft", change("main_lengths", put((0, 0), 16))
    yield "main_lengths: class 0: .*one-symbol", change("main_lengths", put((0, 5), 0))
    yield "main_lengths: class 1 has lengths beyond", change("main_lengths", put((1, 300), 1))
    yield "tail_lengths: class 1: .*Kraft", change("tail_lengths", put((1, 0), 2))
    yield "tail_lengths: values", change("tail_lengths", put((1, 0), 0))
    yield "symbol_cost: type", change("symbol_cost", lambda a: a.astype(float))
    yield "mean_weights: 0 channels", change("mean_weights", lambda a: a[:0])
    yield "feature_weights: 0 groups", change("feature_weights", lambda a: a[:0])
    yield "missing arrays .'bias'.", lambda arrays: arrays.pop("bias")
    yield "unknown arrays .'extra'.", lambda arrays: arrays.update(extra=np.zeros(1))


DAMAGES = list(damaged_tables())


@pytest.mark.parametrize("message, damage", DAMAGES, ids=[message for message, _ in DAMAGES])
def test_damaged_tables_are_named(message, damage):
    arrays = handmade().to_arrays()
    damage(arrays)
    with pytest.raises(ValueError, match=message):
        HuffmanTables.from_arrays(arrays)
