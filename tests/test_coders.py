"""Both entropy coders: exact round trips, sizes, damage, and payloads that must stay readable."""

import dataclasses
import os
import subprocess
import sys

import constriction
import numpy as np
import pytest
import torch
from conftest import ROOT, randomize_context
from hypothesis import given, settings
from hypothesis import strategies as st
from test_integer_network import grid, make_network, nothing_repeats

from models.entropy_model import ContextModel, logistic_bits
from utils.codec.costs import coded_bits
from utils.codec.weights import network_tables
from utils.entropy import CODERS, CorruptPayload, coder_class
from utils.entropy.ans import ContextCoder, RangeTables, logistic_tables
from utils.entropy.coders import MAX_RADIUS
from utils.entropy.huffman import HuffmanCoder, HuffmanTables, code_lengths, golomb_block
from utils.entropy.integer_network import N_ROWS, N_SCALES, ContextTables, contexts

NAMES = list(CODERS)


def make_coders(network) -> dict:
    coded = [
        contexts(symbols, nothing_repeats(symbols), 60, network) for symbols in (grid((16, 8, 9), s) for s in range(3))
    ]
    return {name: coder_class(name)(network, coder_class(name).fit(coded)) for name in CODERS}


_CODERS = make_coders(make_network())


@pytest.fixture(params=NAMES)
def coder(request):
    return _CODERS[request.param]


def check_round_trip(coder, symbols, step) -> bytes:
    payload, repeats = coder.encode(symbols, step)
    decoded = coder.decode(payload, symbols.shape, step, repeats)
    assert decoded.dtype == np.int16 and np.array_equal(decoded, symbols)
    return payload


# -- round trips -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(16, 1, 1), (16, 1, 9), (16, 7, 1), (16, 6, 11), (16, 17, 3)])
@pytest.mark.parametrize("step", [0, 5, 32, 100, 223, 224])
def test_round_trip(coder, shape, step):
    check_round_trip(coder, grid(shape, step), step)


@pytest.mark.parametrize("value", [32767, -32768, 15, -64, 65, 1])
def test_round_trip_of_constant_grids(coder, value):
    assert len(check_round_trip(coder, np.full((16, 9, 14), value, np.int16), 77)) < 130


def test_round_trip_of_extremes(coder):
    rng = np.random.default_rng(0)
    for values in ([32767, -32768], [0, 32767, -32768, 1, -1], np.arange(-32768, 32768)):
        symbols = rng.choice(np.asarray(values, np.int16), (16, 5, 6))
        payload = check_round_trip(coder, symbols, 200)
        assert 8 * len(payload) <= 1.1 * coder.cost_bits(symbols, 200) + 64


def test_empty_grids(coder):
    for shape in ((16, 0, 5), (16, 4, 0)):
        assert check_round_trip(coder, np.zeros(shape, np.int16), 0) == b""
        with pytest.raises(CorruptPayload):
            coder.decode(b"\0", shape, 0, False)


@pytest.mark.parametrize("name", NAMES)
def test_round_trip_with_row_bias(name):
    network = make_network(rows=8)
    coder, symbols = make_coders(network)[name], grid((16, 8, 13))
    payload = check_round_trip(coder, symbols, 64)
    check_round_trip(coder, symbols[:, :5], 64)
    flat = dataclasses.replace(network, row_bias=np.zeros_like(network.row_bias))
    assert type(coder)(flat, coder.tables).encode(symbols, 64)[0] != payload


def test_every_quality_step(coder):
    symbols = grid((16, 8, 8))
    costs = np.array([coder.cost_bits(symbols, step) for step in range(225)])
    assert np.abs(np.diff(costs)).max() < 0.04 * costs.mean()  # no jump anywhere
    for step in range(96, 129):
        check_round_trip(coder, symbols, step)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(0, 224),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.05, 0.2, 1.0, 8.0, 300.0, 20000.0]),
)
def test_any_grid_round_trips(name, height, width, step, seed, spread):
    symbols = np.clip(np.rint(np.random.default_rng(seed).laplace(0, spread, (16, height, width))), -32768, 32767)
    check_round_trip(_CODERS[name], symbols.astype(np.int16), step)


# -- repeats ---------------------------------------------------------------------------------------


def test_a_repeated_area_costs_next_to_nothing(coder):
    symbols = grid((16, 12, 16), spread=4)
    alone = len(check_round_trip(coder, symbols, 90))
    longer = np.concatenate([symbols, np.repeat(symbols[:, :, -1:], 200, axis=2)], axis=2)
    payload, repeats = coder.encode(longer, 90)
    assert repeats and len(payload) <= alone + 24  # 200 columns; the last ones before see other neighbors
    assert np.array_equal(coder.decode(payload, longer.shape, 90, True), longer)
    with pytest.raises(CorruptPayload):
        coder.decode(payload, longer.shape, 90, False)


def test_repeats_in_the_middle(coder):
    symbols = grid((16, 14, 20), seed=4, spread=3)
    symbols[:, 4:13, 3:18] = symbols[:, 4:5, 3:4]
    payload, repeats = coder.encode(symbols, 10)
    assert repeats and len(payload) < 0.75 * len(coder.encode(grid((16, 14, 20), seed=4, spread=3), 10)[0])
    check_round_trip(coder, symbols, 10)


# -- sizes -----------------------------------------------------------------------------------------


def modeled_grid(model: ContextModel, shape, quality: float, rng) -> np.ndarray:
    """A grid drawn from the float model itself, in the coder's order."""
    symbols = torch.zeros(1, *shape)
    groups = np.repeat(np.arange(len(model.groups)), model.groups)
    for g in range(len(model.groups)):
        channels = np.flatnonzero(groups == g)
        for i in range(shape[1]):
            for j in range(shape[2]):
                mean, log_scale = (t[0, channels, i, j].numpy() for t in model(symbols, torch.tensor([quality])))
                u = rng.uniform(1e-4, 1 - 1e-4, len(channels))
                symbols[0, channels, i, j] = torch.from_numpy(
                    np.rint(mean + np.exp(log_scale) * np.log(u / (1 - u))).astype(np.float32)
                )
    return symbols[0].numpy().astype(np.int16)


def modest_model(rows=0, seed=3) -> ContextModel:
    torch.manual_seed(seed)
    model = ContextModel((4, 4, 8), 8, rows).requires_grad_(False)
    randomize_context(model)
    model.prior *= 0.3  # scales whose tails stay within the tables' radius
    model.last.weight[:16] *= 0.4  # means
    model.last.weight[16:] *= 0.15
    return model


@pytest.mark.parametrize("rows, step", [(0, 0), (0, 117), (8, 224)])
def test_size_is_the_float_model_s_estimate(rows, step):
    model = modest_model(rows)
    network, quality = network_tables(model, np.zeros((8, 16), np.int16)), step / 32
    symbols = modeled_grid(model, (16, 8, 12), quality, np.random.default_rng(0))
    assert np.abs(symbols).max() > 2
    grid_ = torch.from_numpy(symbols[None].astype(np.float32))
    mean, log_scale = model(grid_, torch.tensor([quality]))
    estimate = float(logistic_bits(grid_, mean, log_scale).sum())
    for name, coder in make_coders(network).items():
        bits = 8 * len(check_round_trip(coder, symbols, step))
        assert abs(bits - estimate) <= {"context": 0.01, "huffman": 0.06}[name] * estimate + 64
        # what the search counts: the same rows but for rounding
        searched = float(coded_bits(coder, grid_, mean, log_scale).sum())
        assert abs(searched - coder.cost_bits(symbols, step)) <= 0.01 * searched


@pytest.mark.parametrize("spread", [0.3, 2.0, 60.0])
def test_payload_has_the_bits_that_cost_bits_counts(coder, spread):
    symbols = grid((16, 20, 24), spread=spread)
    bits, payload = coder.cost_bits(symbols, 150), coder.encode(symbols, 150)[0]
    if coder.name == "context":
        assert bits - 8 <= 8 * len(payload) <= 1.001 * bits + 40  # 31 bits of state, whole bytes
    else:
        assert abs(8 * len(payload) - bits) <= 0.06 * bits + 100  # runs are spread over their answers


def test_context_payload_is_as_small_as_an_independent_coder_s():
    """constriction's ANS with the same probabilities."""
    coder, symbols = _CODERS["context"], grid((16, 9, 10))
    residuals, rows = contexts(symbols, nothing_repeats(symbols), 90, coder.network)
    residuals = np.clip(residuals, -coder.tables.radius[rows], coder.tables.radius[rows])  # no escapes
    frequency = coder.tables.frequency[rows, residuals + MAX_RADIUS] / 65536
    ans = constriction.stream.stack.AnsCoder()
    family = constriction.stream.model.Categorical(perfect=False)
    ans.encode_reverse(np.ones(len(rows), np.int32), family, np.stack([1 - frequency, frequency], 1).astype(np.float32))
    assert abs(len(coder._encode(residuals, rows)) - ans.num_bits() / 8) <= 8


@pytest.mark.slow
def test_huffman_is_within_twelve_percent_of_context():
    """On symbols that its contexts describe."""
    model = modest_model(seed=11)
    network = network_tables(model, np.zeros((8, 16), np.int16))
    sizes = dict.fromkeys(NAMES, 0)
    drawn = [modeled_grid(model, (16, 12, 12), 2.0, np.random.default_rng(s)) for s in range(3)]
    coded = [contexts(symbols, nothing_repeats(symbols), 64, network) for symbols in drawn[:2]]
    for name in CODERS:
        coder = coder_class(name)
        sizes[name] = len(coder(network, coder.fit(coded)).encode(drawn[2], 64)[0])
    assert sizes["context"] < sizes["huffman"] < 1.12 * sizes["context"]


def test_context_pays(coder):
    """Symbols drawn from the model cost less with their context than with a shuffled one."""
    torch.manual_seed(5)
    model = ContextModel((4, 4, 8), 8).requires_grad_(False)
    randomize_context(model)
    symbols = modeled_grid(model, (16, 8, 8), 4.0, np.random.default_rng(1))
    fitted = make_coders(network_tables(model, np.zeros((8, 16), np.int16)))[coder.name]
    shuffled = np.random.default_rng(2).permuted(symbols.reshape(16, -1), axis=1).reshape(symbols.shape)
    assert fitted.cost_bits(symbols, 128) < fitted.cost_bits(shuffled, 128)


# -- Huffman and Golomb codes ----------------------------------------------------------------------


def test_code_lengths_are_optimal():
    assert sorted(code_lengths(np.array([1, 1, 2, 4]))) == [1, 2, 3, 3]
    rng = np.random.default_rng(0)
    for _ in range(20):
        counts = rng.integers(1, 1000, rng.integers(2, 60))
        lengths = code_lengths(counts).astype(int)
        assert (2.0**-lengths).sum() == 1
        p = counts / counts.sum()
        assert -(p * np.log2(p)).sum() <= (p * lengths).sum() < -(p * np.log2(p)).sum() + 1
    assert code_lengths(np.array([1] + [2**k for k in range(30)]), 16).max() == 16
    for wrong in ([5], [1, 0]):
        with pytest.raises(ValueError):
            code_lengths(np.array(wrong))


@pytest.mark.parametrize("likely", [0.5, 0.55, 0.618, 0.7, 0.9, 0.99, 0.9995])
def test_golomb_block_is_the_best_one(likely):
    def bits_a_run(m):
        run = np.arange(60000)
        place, size = run % m, int(np.floor(np.log2(m)))
        bits = run // m + 1 + np.where(place < 2 ** (size + 1) - m, size, size + 1)
        return (likely**run * (1 - likely) * bits).sum()

    best = golomb_block(likely)
    assert all(bits_a_run(best) <= bits_a_run(m) + 1e-9 for m in {1, max(1, best - 1), best + 1, 2 * best})
    entropy = -np.log2(1 - likely) - likely / (1 - likely) * np.log2(likely)
    assert bits_a_run(best) <= 1.07 * entropy


# -- tables ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, field, change, message",
    [
        ("context", "radius", lambda a: a.__setitem__(0, 0), "radius"),
        ("context", "radius", lambda a: a.__setitem__(0, 65), "radius"),
        ("context", "radius", lambda a: a.__setitem__(0, 64), "no frequency"),
        ("context", "frequency", lambda a: a.__setitem__((0, 64), a[0, 64] - 1), "2\\^16"),
        ("huffman", "radius", lambda a: a.__setitem__(0, 1), "radius"),
        ("huffman", "radius", lambda a: a.__setitem__(0, 9), "missing"),
        ("huffman", "lengths", lambda a: a.__setitem__((0, 129), 17), "16 bits"),
        ("huffman", "lengths", lambda a: a.__setitem__((900, 64), a[900, 64] + 1), "Kraft"),
        ("huffman", "block", lambda a: a.__setitem__(0, 0), "decisions"),
        ("huffman", "run_class", lambda a: a.__setitem__((0, 0), 200), "decisions"),
        ("huffman", "run_class", lambda a: a.__setitem__((0, 1), 255), "decisions"),
        ("huffman", "likely", lambda a: a.__setitem__((0, 1), 2), "decisions"),
    ],
)
def test_tables_are_checked(name, field, change, message):
    tables = _CODERS[name].tables
    array = getattr(tables, field).copy()
    change(array)
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(tables, **{field: array})


@pytest.mark.parametrize("name", NAMES)
def test_tables_of_other_shapes_types_or_names_are_refused(name):
    coder = _CODERS[name]
    arrays = coder.tables.to_arrays()
    for field, array in arrays.items():
        wrong_shape = np.concatenate([array, array])
        for wrong in (array.astype(np.float32),) if field == "block" else (wrong_shape, array.astype(np.int64)):
            with pytest.raises(ValueError):
                coder_class(name).load(coder.network, {**arrays, field: wrong})
    for wrong in ({k: v for k, v in arrays.items() if k != "radius"}, {**arrays, "extra": arrays["radius"]}):
        with pytest.raises(ValueError, match="missing or unknown"):
            coder_class(name).load(coder.network, wrong)


def test_logistic_tables_are_logistic():
    tables = logistic_tables()
    row = 24 * 16 + 8  # scale 1, mean in the center
    d = np.arange(-13, 14)
    expected = 1 / (1 + np.exp(-(d + 0.5))) - 1 / (1 + np.exp(-(d - 0.5)))
    assert np.abs(tables.frequency[row, 64 + d] / 65536 - expected).max() < 1e-3
    assert tables.frequency[8, 64] > 65500  # the smallest scale: zeros are all but free


# -- damage ----------------------------------------------------------------------------------------


def test_truncated_and_extended_payloads(coder):
    symbols = grid((16, 4, 5))
    payload, _ = coder.encode(symbols, 60)
    for length in range(len(payload)):
        with pytest.raises(CorruptPayload):
            coder.decode(payload[:length], symbols.shape, 60, False)
    for tail in (b"\0", b"\x80", payload):
        with pytest.raises(CorruptPayload):
            coder.decode(payload + tail, symbols.shape, 60, False)


@pytest.mark.slow
def test_flipped_bits_end_in_an_error_or_in_another_grid(coder):
    symbols = grid((16, 3, 4), spread=4)
    payload, _ = coder.encode(symbols, 60)
    refused = 0
    for bit in range(8 * len(payload)):
        damaged = bytearray(payload)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            decoded = coder.decode(bytes(damaged), symbols.shape, 60, False)
        except CorruptPayload:
            refused += 1
        else:
            assert decoded.shape == symbols.shape and not np.array_equal(decoded, symbols)
    # the end state has 31 bits: almost nothing passes; a prefix code has only its length
    assert refused > (0.99 if coder.name == "context" else 0.5) * 8 * len(payload)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 224), st.booleans())
def test_random_bytes_end_in_an_error_or_in_a_grid(name, payload, step, repeats):
    try:
        decoded = _CODERS[name].decode(payload, (16, 3, 3), step, repeats)
    except CorruptPayload:
        return
    assert decoded.shape == (16, 3, 3)


def test_another_shape_or_quality_does_not_pass(coder):
    symbols = grid((16, 4, 6))
    payload, _ = coder.encode(symbols, 60)
    for shape, step in (((16, 6, 4), 60), ((16, 4, 5), 60), ((16, 4, 7), 60), ((16, 4, 6), 160), ((16, 0, 0), 60)):
        try:
            assert not np.array_equal(coder.decode(payload, shape, step, False), symbols)
            assert coder.name == "huffman"  # the state of the other one tells
        except CorruptPayload:
            pass


# -- the same everywhere ---------------------------------------------------------------------------


def golden_coders() -> dict:
    """Coders made of integers alone: no library's random numbers or exponentials are in them."""
    state = 12345

    def numbers(shape, limit):
        nonlocal state
        out = np.empty(int(np.prod(shape)), np.int64)
        for k in range(out.size):
            state = (state * 1103515245 + 12345) % 2**31
            out[k] = (state >> 12) % (2 * limit + 1) - limit
        return out.reshape(shape)

    groups, hidden = np.array([1, 2], np.int32), 3
    channels, units = 3, 6
    unit_group, channel_group = np.repeat([0, 1], hidden), np.repeat([0, 1], groups)
    source = np.tile(channel_group, 2)
    place = np.arange(25)
    sees = (source[:, None, None] < unit_group) | ((source[:, None, None] == unit_group) & (place < 12)[None, :, None])
    network = ContextTables(
        groups,
        np.array([12, 12, 12], np.int32),
        (numbers((2 * channels, 25, units), 300) * sees).astype(np.int16),
        (numbers((units, units), 1500) * (unit_group[None] <= unit_group[:, None])).astype(np.int16),
        (numbers((2 * channels, units), 1500) * (unit_group[None] <= source[:, None])).astype(np.int16),
        numbers((8, units), 3000).astype(np.int32),
        numbers((4, units), 500).astype(np.int32),
        numbers((units,), 200000).astype(np.int32),
        numbers((8, 2 * channels), 600000).astype(np.int32),
        numbers((8, channels), 2).astype(np.int16),
    )

    d = np.abs(np.arange(-64, 65))
    radius = np.minimum(64, 2 + np.arange(N_SCALES)).astype(np.int32).repeat(16)
    frequency = np.zeros((N_ROWS, 130), np.uint16)
    for i, r in enumerate(radius):
        weight = np.where(d <= r, (r + 1 - d) ** 2, 0)
        row = np.append(np.where(d <= r, 1 + weight * 50000 // weight.sum(), 0), 40)
        row[64] += 65536 - row.sum()
        frequency[i] = row

    direct = np.arange(N_ROWS) >= 8 * 16
    run_class = np.stack([np.arange(N_ROWS) // 16 % 5] * 4, axis=1)
    run_class[:, 1:] = (run_class[:, 1:] + [1, 2, 3]) % 5
    run_class[direct] = 255
    likely = (np.arange(N_ROWS)[:, None] + np.arange(4)) // 3 % 2
    lengths = np.zeros((N_ROWS, 130), np.uint8)
    for i in range(N_ROWS):
        used = np.append(d <= radius[i] if direct[i] else np.arange(129) <= radius[i] - 2, True)
        lengths[i, used] = code_lengths(1 + (np.arange(used.sum())[::-1] * (i % 7 + 1)))
    return {
        "context": ContextCoder(network, RangeTables(radius, frequency)),
        "huffman": HuffmanCoder(
            network,
            HuffmanTables(
                radius,
                run_class.astype(np.uint8),
                likely.astype(np.uint8),
                np.array([1, 2, 3, 7, 100], np.int32),
                lengths,
            ),
        ),
    }


def golden_symbols() -> np.ndarray:
    """Three channels of 4x16, the right half like its first column."""
    i = np.arange(3 * 4 * 8)
    symbols = (i * i * 7 + 3 * i) % 11 % 5 - 2
    symbols[[7, 30, 55]] = [32767, -32768, -41]
    symbols = symbols.reshape(3, 4, 8)
    return np.concatenate([symbols, np.repeat(symbols[..., -1:], 8, axis=2)], axis=2).astype(np.int16)


GOLDEN = {  # (coder, quality step): payload, with a map of repeats in front
    ("context", 0): "0208100010cd50b942ca11e7e7a44cf7c36ab6ec681f13bbdd13b8d177c7cb6db54d15280ad27508f783b674"
    "f2b362123efbc4e0011ca3bf701e2da0aeec1581c62c0f35b2",
    ("context", 73): "0208100005ef4af8b3150a70cfc9cc59bf9d7154df4b5125fb05c1feffa2ceca93b45cdf712868c5b85f8c34"
    "eda3104c0466547c53a16d50dd33320fd56804748e3a06",
    ("context", 224): "0208100000ee4c5a7c9684cb77c4caf265c643e75ecd08bd7a3cbc7ce7aaca1ba228838ae9cee386a337ca98"
    "2abbeef0123d47582ece9dddfac98fdcb1253e85c1d93e2ccd17b2",
    ("huffman", 0): "02081000b6dbaec30bbff77fccb6dc6db6ebafc2ebadb71b6975d86175dffbbfe7db8dad8db6bad75d85f8e3"
    "7e175d6dd6dd8dd6cadb6ebaebf0bf0c2ec6ebed7db7636fff8c71b6ebad75d85d8617617dd6dc",
    ("huffman", 73): "02081000b5aebb0c2effddff3ad6c6b5b5b0c2eb5ad8d696bb0c2ebbff77fd1b675b636adeb7b656ce17c2f6"
    "b5ad5ceb6c6b6bdd75f95b2c2f85ed6badb71b7ff8d71b56f5bdb2b6585f0beeb6e0",
    ("huffman", 224): "02081000ad6d6c62dffbbfe956b956b6b6316b56b95696b6316b7feeffab5cadae35b6d6daec5d9c2d85aead"
    "d5b72b6b8d6db5b6bb17630b616bad75b6e367ff1ce35b6d6daec5d8c2d85eeb6e",
}


@pytest.mark.parametrize("name, step", GOLDEN)
def test_golden_payload(name, step):
    """Files once written must decode to the same symbols in every later version."""
    coder, payload = golden_coders()[name], bytes.fromhex(GOLDEN[name, step])
    assert np.array_equal(coder.decode(payload, (3, 4, 16), step, True), golden_symbols())
    assert coder.encode(golden_symbols(), step) == (payload, True)


@pytest.mark.slow
def test_golden_payloads_without_compilation_and_with_other_threads():
    """The same integers from Python's own arithmetic and whatever the number of threads."""
    program = (
        "import sys; sys.path[:0] = ['.', 'tests']\n"
        "import numpy as np, test_coders as t\n"
        "coders = t.golden_coders()\n"
        "for (name, step), text in t.GOLDEN.items():\n"
        "    decoded = coders[name].decode(bytes.fromhex(text), (3, 4, 16), step, True)\n"
        "    assert np.array_equal(decoded, t.golden_symbols())\n"
        "print('same')"
    )
    for environment in ({"NUMBA_DISABLE_JIT": "1"}, {"OMP_NUM_THREADS": "3", "NUMBA_NUM_THREADS": "3"}):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
        )
        assert done.stdout.strip() == "same", done.stderr[-2000:]
