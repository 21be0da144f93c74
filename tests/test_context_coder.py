"""Context coder: exact round trips, sizes, fixed point, damage, and a payload that must stay readable."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import randomize_context, tiny_model
from models.entropy_model import ContextModel
from utils import context_coder
from utils.coders import context_tables, load_context
from utils.context_coder import ContextTables, CorruptPayload, cost_bits, decode, encode, freeze, thaw

ROOT = Path(__file__).resolve().parent.parent


def make_tables(groups=(4, 4, 8), hidden=8, rows=0, seed=0) -> ContextTables:
    torch.manual_seed(seed)
    model = ContextModel(groups, hidden, rows)
    randomize_context(model)
    return context_tables(model)


@pytest.fixture(scope="module")
def tables():
    return make_tables()


def grid(shape, seed=0, spread=1.5) -> np.ndarray:
    """Mostly small symbols, as latents are."""
    return np.rint(np.random.default_rng(seed).laplace(0, spread, shape)).astype(np.int16)


def check_round_trip(symbols, step, tables):
    payload = encode(symbols, step, tables)
    decoded = decode(payload, symbols.shape, step, tables)
    assert decoded.dtype == np.int16 and np.array_equal(decoded, symbols)
    return payload


# -- round trips -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(16, 1, 1), (16, 1, 9), (16, 7, 1), (16, 6, 11), (16, 17, 3)])
@pytest.mark.parametrize("step", [0, 5, 32, 100, 223, 224])
def test_round_trip(tables, shape, step):
    check_round_trip(grid(shape, step), step, tables)


@pytest.mark.parametrize("value", [32767, -32768, 15, -16, 33, 1])
def test_round_trip_of_constant_grids(tables, value):
    check_round_trip(np.full((16, 3, 4), value, np.int16), 77, tables)


def test_round_trip_of_extremes(tables):
    rng = np.random.default_rng(0)
    for values in ([32767, -32768], [0, 32767, -32768, 1, -1], np.arange(-32768, 32768)):
        symbols = rng.choice(np.asarray(values, np.int16), (16, 5, 6))
        payload = check_round_trip(symbols, 200, tables)
        assert abs(8 * len(payload) - cost_bits(symbols, 200, tables)) <= 40


def test_zeros_are_cheap_and_nothing_is_free(tables):
    symbols = np.zeros((16, 8, 8), np.int16)
    payload = check_round_trip(symbols, 0, tables)
    assert len(payload) < symbols.size / 8
    for shape in ((16, 0, 5), (16, 4, 0)):
        check_round_trip(np.zeros(shape, np.int16), 0, tables)


def test_round_trip_with_row_bias():
    tables = make_tables(rows=8)
    symbols = grid((16, 8, 13))
    payload = check_round_trip(symbols, 64, tables)
    check_round_trip(symbols[:, :5], 64, tables)
    flat = dataclasses.replace(tables, row_bias=np.zeros_like(tables.row_bias))
    assert encode(symbols, 64, flat) != payload
    with pytest.raises(ValueError, match="9 rows, the tables 8"):
        encode(grid((16, 9, 2)), 64, tables)


def test_strided_and_wider_input_is_taken_as_it_is_meant(tables):
    symbols = grid((16, 6, 8))
    expected = encode(symbols, 40, tables)
    assert encode(np.asfortranarray(symbols), 40, tables) == expected
    assert encode(symbols.astype(np.int32), 40, tables) == expected
    assert encode(np.repeat(symbols, 2, axis=2)[..., ::2], 40, tables) == expected


def test_other_numbers_of_channels_are_refused(tables):
    with pytest.raises(ValueError, match="15 channels, the tables 16"):
        encode(grid((15, 2, 2)), 0, tables)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 224), st.integers(0, 2 ** 32 - 1),
       st.sampled_from([0.2, 1.0, 8.0, 300.0, 20000.0]))
def test_any_grid_round_trips(height, width, step, seed, spread):
    symbols = np.clip(np.rint(np.random.default_rng(seed).laplace(0, spread, (16, height, width))), -32768, 32767)
    check_round_trip(symbols.astype(np.int16), step, _TABLES)


_TABLES = make_tables()


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
                    np.rint(mean + np.exp(log_scale) * np.log(u / (1 - u))).astype(np.float32))
    return symbols[0].numpy().astype(np.int16)


@pytest.mark.parametrize("rows, step", [(0, 0), (0, 117), (8, 224)])
def test_size_is_the_float_model_s_estimate(rows, step):
    torch.manual_seed(3)
    model = ContextModel((4, 4, 8), 8, rows).requires_grad_(False)
    randomize_context(model)
    model.prior *= 0.3              # scales whose tails stay within the tables' radius
    model.last.weight[:16] *= 0.4   # means
    model.last.weight[16:] *= 0.15
    tables = context_tables(model)
    quality = step / 32
    symbols = modeled_grid(model, (16, 8, 12), quality, np.random.default_rng(0))
    assert np.abs(symbols).max() > 2
    payload = check_round_trip(symbols, step, tables)

    from models.entropy_model import logistic_bits

    grid_ = torch.from_numpy(symbols[None].astype(np.float32))
    mean, log_scale = model(grid_, torch.tensor([quality]))
    assert log_scale.max() < 2.0
    estimate = float(logistic_bits(grid_, mean, log_scale).sum())
    assert abs(8 * len(payload) - estimate) <= 0.01 * estimate + 64


@pytest.mark.parametrize("spread", [0.3, 2.0, 60.0])
def test_payload_has_the_bits_that_cost_bits_counts(tables, spread):
    symbols = grid((16, 10, 12), spread=spread)
    bits = cost_bits(symbols, 150, tables)
    payload = encode(symbols, 150, tables)
    assert bits - 8 <= 8 * len(payload) <= 1.001 * bits + 40    # 31 bits of state, whole bytes


def test_payload_is_as_small_as_an_independent_coder_s(tables):
    """constriction's ANS with the same probabilities; and the sum of -log2 of these."""
    symbols = grid((16, 9, 10))
    intervals, n, _ = context_coder._walk(symbols, 90, tables, None)
    frequency = intervals[:n, 1].astype(np.float64) / 65536
    payload = encode(symbols, 90, tables)
    assert abs(len(payload) + np.log2(frequency).sum() / 8) <= 8
    constriction = pytest.importorskip("constriction")
    coder = constriction.stream.stack.AnsCoder()
    family = constriction.stream.model.Categorical(perfect=False)
    coder.encode_reverse(np.ones(n, np.int32), family, np.stack([1 - frequency, frequency], 1).astype(np.float32))
    assert abs(len(payload) - coder.num_bits() / 8) <= 8


def test_context_pays():
    """Symbols drawn from the model cost less with their context than with a shuffled one."""
    torch.manual_seed(5)
    model = ContextModel((4, 4, 8), 8).requires_grad_(False)
    randomize_context(model)
    symbols = modeled_grid(model, (16, 8, 8), 4.0, np.random.default_rng(1))
    tables = context_tables(model)
    shuffled = np.random.default_rng(2).permuted(symbols.reshape(16, -1), axis=1).reshape(symbols.shape)
    assert cost_bits(symbols, 128, tables) < cost_bits(shuffled, 128, tables)


def test_interpolated_qualities_lie_between(tables):
    """At a trained quality the row itself, between two the mean weighted by the distance."""
    for table in (tables.first_bias, tables.last_bias):
        for row in range(8):
            assert np.array_equal(context_coder._between(table, 32 * row), table[row])
        for part in (1, 16, 31):
            mixed = (table[2].astype(np.float64) * (32 - part) + table[3].astype(np.float64) * part) / 32
            assert np.abs(context_coder._between(table, 32 * 2 + part) - mixed).max() <= 0.5
    symbols = grid((16, 8, 8))
    costs = np.array([cost_bits(symbols, step, tables) for step in range(0, 225)])
    assert len(set(costs)) > 150
    assert np.abs(np.diff(costs)).max() < 0.02 * costs.mean()     # no jump anywhere
    for step in range(96, 129):
        check_round_trip(symbols, step, tables)


# -- fixed point -----------------------------------------------------------------------------------


def test_freeze_of_thaw_changes_nothing():
    for tables in (make_tables(), make_tables(rows=8, seed=1), make_tables((1, 2), 3, seed=2)):
        again = freeze(tuple(tables.groups), **thaw(tables))
        for name, array in tables.to_arrays().items():
            assert np.array_equal(array, again.to_arrays()[name]), name


def test_a_model_loaded_from_tables_gives_the_same_tables():
    model = tiny_model("speech").context
    tables = context_tables(model)
    other = tiny_model("speech", seed=9).context
    load_context(other, tables)
    for name, array in context_tables(other).to_arrays().items():
        assert np.array_equal(array, tables.to_arrays()[name]), name
    symbols = torch.from_numpy(grid((1, 16, 8, 5)).astype(np.float32))
    for a, b in zip(model(symbols, torch.tensor([3.0])), other(symbols, torch.tensor([3.0]))):
        torch.testing.assert_close(a, b, atol=0.02, rtol=0)


def test_large_weights_take_fewer_fraction_bits_or_are_refused():
    values = thaw(make_tables())
    large = freeze((4, 4, 8), **{**values, "first": values["first"] * 100})
    assert large.shifts[0] < make_tables().shifts[0]
    check_round_trip(grid((16, 4, 4)), 10, large)
    with pytest.raises(ValueError, match="too large"):
        freeze((4, 4, 8), **{**values, "second": values["second"] * 1e9})


def test_arrays_there_and_back(tables):
    arrays = tables.to_arrays()
    again = ContextTables.from_arrays(arrays)
    symbols = grid((16, 4, 4))
    assert encode(symbols, 3, again) == encode(symbols, 3, tables)
    for wrong in ({k: v for k, v in arrays.items() if k != "radius"}, {**arrays, "extra": arrays["radius"]}):
        with pytest.raises(ValueError, match="missing or unknown"):
            ContextTables.from_arrays(wrong)


def _with(tables, name, change):
    array = getattr(tables, name).copy()
    change(array)
    return {**tables.to_arrays(), name: array}


@pytest.mark.parametrize("name, change, message", [
    ("radius", lambda a: a.__setitem__(0, 0), "radius"),
    ("radius", lambda a: a.__setitem__(0, 33), "radius"),
    ("radius", lambda a: a.__setitem__(0, 32), "no frequency"),
    ("frequency", lambda a: a.__setitem__((0, 32), a[0, 32] - 1), "2\\^16"),
    ("shifts", lambda a: a.__setitem__(0, 7), "shifts"),
    ("shifts", lambda a: a.__setitem__(1, -1), "shifts"),
    ("second", lambda a: a.fill(32767), "overflow"),
    ("first_bias", lambda a: a.fill(2 ** 31 - 1), "overflow"),
])
def test_tables_are_checked(tables, name, change, message):
    with pytest.raises(ValueError, match=f"context tables.*{message}"):
        ContextTables.from_arrays(_with(tables, name, change))


def test_tables_of_other_shapes_are_refused(tables):
    arrays = tables.to_arrays()
    for name in ("first", "second", "last", "second_bias", "shifts", "radius", "frequency", "first_bias",
                 "last_bias", "row_bias"):
        array = arrays[name]
        wrong = np.concatenate([array, array], axis=-1)
        with pytest.raises(ValueError, match="context tables"):
            ContextTables.from_arrays({**arrays, name: wrong})


# -- damage ----------------------------------------------------------------------------------------


def test_truncated_and_extended_payloads(tables):
    symbols = grid((16, 4, 5))
    payload = encode(symbols, 60, tables)
    for length in range(len(payload)):
        with pytest.raises(CorruptPayload):
            decode(payload[:length], symbols.shape, 60, tables)
    for tail in (b"\0", b"\x80", payload):
        with pytest.raises(CorruptPayload):
            decode(payload + tail, symbols.shape, 60, tables)


def test_flipped_bits_end_in_an_error_or_in_a_grid(tables):
    symbols = grid((16, 3, 4), spread=4)
    payload = encode(symbols, 60, tables)
    refused = 0
    for bit in range(8 * len(payload)):
        damaged = bytearray(payload)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            decoded = decode(bytes(damaged), symbols.shape, 60, tables)
        except CorruptPayload:
            refused += 1
        else:
            assert decoded.shape == symbols.shape and not np.array_equal(decoded, symbols)
    assert refused > 0.99 * 8 * len(payload)      # the end state has 31 bits: almost nothing passes


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 224))
def test_random_bytes_end_in_an_error_or_in_a_grid(payload, step):
    try:
        decoded = decode(payload, (16, 3, 3), step, _TABLES)
    except CorruptPayload:
        return
    assert encode(decoded, step, _TABLES) == payload


def test_another_shape_or_quality_does_not_pass(tables):
    symbols = grid((16, 4, 6))
    payload = encode(symbols, 60, tables)
    for shape, step in (((16, 6, 4), 60), ((16, 4, 5), 60), ((16, 4, 7), 60), ((16, 4, 6), 160), ((16, 0, 0), 60)):
        with pytest.raises(CorruptPayload):
            decode(payload, shape, step, tables)


# -- the same everywhere ---------------------------------------------------------------------------


def golden_tables() -> ContextTables:
    """Tables of integers alone: no library's random numbers or exponentials are in them."""
    state = 12345

    def numbers(shape, limit):
        nonlocal state
        out = np.empty(int(np.prod(shape)), np.int64)
        for k in range(out.size):
            state = (state * 1103515245 + 12345) % 2 ** 31
            out[k] = (state >> 12) % (2 * limit + 1) - limit
        return out.reshape(shape)

    groups, hidden = np.array([1, 2], np.int32), 3
    channels, units = 3, 6
    unit_group, channel_group = np.repeat([0, 1], hidden), np.repeat([0, 1], groups)
    source = np.tile(channel_group, 2)
    place = np.arange(25)
    sees = (source[:, None, None] < unit_group) | ((source[:, None, None] == unit_group) & (place < 12)[None, :, None])
    first = numbers((2 * channels, 25, units), 300) * sees
    second = numbers((units, units), 1500) * (unit_group[None] <= unit_group[:, None])
    last = numbers((2 * channels, units), 1500) * (unit_group[None] <= source[:, None])
    d = np.abs(np.arange(-32, 33))
    frequency = np.zeros((context_coder.N_SCALES * 16, 66), np.uint16)
    radius = np.minimum(32, 2 + np.arange(context_coder.N_SCALES)).astype(np.int32)
    for i, r in enumerate(radius):
        weight = np.where(d <= r, (r + 1 - d) ** 2, 0)
        row = np.append(np.where(d <= r, 1 + weight * 60000 // weight.sum(), 0), 40)
        row[32] += 65536 - row.sum()
        frequency[16 * i:16 * i + 16] = row
    return ContextTables(
        groups, np.array([12, 12, 12], np.int32), first.astype(np.int16), second.astype(np.int16),
        last.astype(np.int16), numbers((8, units), 3000).astype(np.int32), numbers((4, units), 500).astype(np.int32),
        numbers((units,), 200000).astype(np.int32), numbers((8, 2 * channels), 600000).astype(np.int32),
        radius, frequency)


def golden_symbols() -> np.ndarray:
    i = np.arange(3 * 4 * 5)
    symbols = (i * i * 7 + 3 * i) % 11 % 5 - 2
    symbols[[7, 30, 55]] = [32767, -32768, -41]
    return symbols.reshape(3, 4, 5).astype(np.int16)


GOLDEN = {      # quality step: payload
    0: "00d56003693e062c77b1d747f95b4d641cb6e5de5ccbbe766c04f1e49b77ef63694b8a7cd4cadfe46ff55c7546",
    73: "00ac60dfb46689f677805e787fefa1cab1546870ab066ef630eb35bbf7e5eb61a48c1f300bea728bcf024068",
    224: "50475e7f2a017577e256d2a6f0aedd0b0fffd8a679e822f47e8e0fa077aaebd89b72525f43d86c6d18160fd2",
}


@pytest.mark.parametrize("step", GOLDEN)
def test_golden_payload(step):
    """Files once written must decode to the same symbols in every later version."""
    payload = bytes.fromhex(GOLDEN[step])
    assert np.array_equal(decode(payload, (3, 4, 5), step, golden_tables()), golden_symbols())
    assert encode(golden_symbols(), step, golden_tables()).hex() == GOLDEN[step]


def test_golden_payload_without_compilation_and_with_other_threads():
    """The same integers from Python's own arithmetic and whatever the number of threads."""
    program = ("import sys; sys.path[:0] = ['.', 'tests']\n"
               "import numpy as np, test_context_coder as t\n"
               "for step, text in t.GOLDEN.items():\n"
               "    decoded = t.decode(bytes.fromhex(text), (3, 4, 5), step, t.golden_tables())\n"
               "    assert np.array_equal(decoded, t.golden_symbols())\n"
               "print('same')")
    for environment in ({"NUMBA_DISABLE_JIT": "1"}, {"OMP_NUM_THREADS": "3", "NUMBA_NUM_THREADS": "3"}):
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], cwd=ROOT, capture_output=True,
                              text=True, env={**os.environ, **environment})
        assert done.stdout.strip() == "same", done.stderr[-2000:]
