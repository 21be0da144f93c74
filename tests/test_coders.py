"""Both entropy coders: exact round trips, sizes, damage, and payloads that must stay readable."""

import dataclasses
import functools
import os
import subprocess
import sys

import constriction
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.entropy_model import ContextModel, logistic_bits
from tests.helpers.entropy import (
    GOLDEN,
    golden_coders,
    golden_symbols,
    grid,
    make_coders,
    make_network,
    nothing_repeats,
)
from tests.helpers.models import randomize_context
from tests.helpers.scripts import ROOT
from utils.codec.costs import coded_bits
from utils.codec.weights import network_tables
from utils.entropy import CODERS, CorruptPayload, coder_class
from utils.entropy.ans import ContextCoder, RangeTables, logistic_tables
from utils.entropy.coders import MAX_RADIUS
from utils.entropy.huffman import code_lengths, golomb_block
from utils.entropy.integer_network import contexts
from utils.entropy.repeats import find_repeats, pack_repeats

NAMES = list(CODERS)


@functools.cache
def usual_coders() -> dict:
    return make_coders(make_network())


@pytest.fixture(params=NAMES)
def coder(request):
    return usual_coders()[request.param]


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


@pytest.mark.slow
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
    check_round_trip(usual_coders()[name], symbols.astype(np.int16), step)


def test_the_state_begins_at_one_and_the_bytes_of_2_to_23_are_saved():
    coder = usual_coders()["context"]
    former = type(coder)(coder.network, dataclasses.replace(coder.tables, first_state=None))
    saved, more = [], []
    for seed in range(40):
        shape = (16, 1 + seed % 3, 1 + seed % 7)
        symbols = grid(shape, seed, spread=0.3 + seed % 4)
        payload, old = (check_round_trip(each, symbols, 30) for each in (coder, former))
        saved.append(len(old) - len(payload))
        more.append(len(payload) - coder.cost_bits(symbols, 30) / 8)
        for other, data in ((coder, old), (former, payload)):
            with pytest.raises(CorruptPayload):
                assert not np.array_equal(other.decode(data, symbols.shape, 30, False), symbols)
                raise CorruptPayload
    assert np.mean(saved) > 1.7 and min(saved) >= 1
    assert min(more) > -0.2 and max(more) < 3 and np.mean(more) < 1.7


def test_sure_symbols_take_one_byte():
    """Where the network is as sure as it can be, a thousand symbols are a fraction of a bit each."""
    coder = usual_coders()["context"]
    frequency = np.zeros_like(coder.tables.frequency)
    frequency[:, 63:66], frequency[:, -1] = 1, 1
    frequency[:, 64] = 65536 - 3
    tables = RangeTables(np.ones_like(coder.tables.radius), frequency, coder.tables.first_state)
    payload = ContextCoder(coder.network, tables)._encode(np.zeros(1000, np.int32), np.zeros(1000, np.int16))
    assert payload.tolist() == [1]


@pytest.mark.parametrize("wrong", [[0], [2], [1, 1]])
def test_first_states_that_no_encoder_has_are_refused(wrong):
    tables = logistic_tables()
    with pytest.raises(ValueError, match="first state"):
        dataclasses.replace(tables, first_state=np.array(wrong, np.int32))


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


def test_a_map_that_costs_more_than_it_saves_is_left_out(coder):
    """Where the network expects the repeats anyway; the receiver reads both."""
    symbols = grid((16, 4, 24), seed=3, spread=2)
    symbols[:, :, 10:14] = symbols[:, :, 10:11]
    modes = find_repeats(symbols)
    assert modes.any()
    plain, mapped = coder._coded(symbols, nothing_repeats(symbols), 60), coder._coded(symbols, modes, 60)
    mapped = pack_repeats(modes) + mapped
    assert np.array_equal(coder.decode(plain, symbols.shape, 60, False), symbols)
    assert np.array_equal(coder.decode(mapped, symbols.shape, 60, True), symbols)
    assert coder.encode(symbols, 60) == min((plain, False), (mapped, True), key=lambda each: len(each[0]))
    silent = np.zeros((16, 4, 24), np.int16)
    costs = {
        len(coder._coded(silent, m, 60)) + (len(pack_repeats(m)) if m.any() else 0)
        for m in (nothing_repeats(silent), find_repeats(silent))
    }
    assert len(coder.encode(silent, 60)[0]) == min(costs)


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
@pytest.mark.slow
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
    coder, symbols = usual_coders()["context"], grid((16, 9, 10))
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


@pytest.mark.slow
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
    tables = usual_coders()[name].tables
    array = getattr(tables, field).copy()
    change(array)
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(tables, **{field: array})


@pytest.mark.parametrize("name", NAMES)
def test_tables_of_other_shapes_types_or_names_are_refused(name):
    coder = usual_coders()[name]
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
    others = 0
    for length in range(len(payload)):
        try:
            other = coder.decode(payload[:length], symbols.shape, 60, False)
        except CorruptPayload:
            continue
        assert coder._coded(other, nothing_repeats(other), 60) == payload[:length]  # it is another grid's: CRC-32 tells
        others += 1
    assert others <= (2 if coder.name == "context" else 0)
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
        decoded = usual_coders()[name].decode(payload, (16, 3, 3), step, repeats)
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
        "import numpy as np\n"
        "from tests.helpers import entropy as t\n"
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
