"""The integer network: fixed point, its agreement with the float one, and checks of its tables."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.helpers.entropy import grid, make_network, nothing_repeats
from tests.helpers.models import tiny_config, tiny_model
from utils.codec.checkpoint import Checkpoint
from utils.codec.weights import load_weights, network_of, network_tables
from utils.entropy import integer_network
from utils.entropy.integer_network import (
    ACTIVATION_MAX,
    ContextTables,
    contexts,
    freeze,
    pack,
    start_network,
    thaw,
    unpack,
)


@pytest.fixture(scope="module")
def network():
    return make_network(scales=True, leading=True)


def plain_contexts(symbols, step, t: ContextTables):
    """The same integers by plain numpy, place by place from the definition."""
    channels, height, width = symbols.shape
    group_of = np.repeat(np.arange(len(t.groups)), t.groups)
    units = t.second.shape[0]
    unit_group = np.arange(units) // (units // len(t.groups))
    limited = np.clip(symbols.astype(np.int64), -63, 63)
    features = np.pad(np.concatenate([limited, abs(limited)]), ((0, 0), (2, 2), (2, 2)))
    last_bias = integer_network._between(t.last_bias, step).astype(np.int64)
    residuals, rows = [], []
    wide = np.pad(symbols.astype(np.int64), ((0, 0), (2, 2), (2, 2)))

    def at(table, otherwise):
        return otherwise if table is None else integer_network._between(table, step).astype(np.int64)

    scale1, scale2 = at(t.first_scale, 4096), at(t.second_scale, 4096)

    def shift(values, bits):
        return np.clip((values + ((1 << bits) >> 1)) >> bits, 0, ACTIVATION_MAX)

    for group in range(len(t.groups)):
        visible = unit_group <= group
        for i in range(height):
            for j in range(width):
                patch = features[:, i : i + 5, j : j + 5].reshape(2 * channels, 25)
                sums = integer_network._between(t.first_bias, step) + np.einsum(
                    "ck,cku->u", patch, t.first.astype(np.int64)
                )
                if len(t.row_bias):
                    sums = sums + t.row_bias[i]
                h1 = shift(sums * scale1, t.shifts[0] - 8 + 12) * visible
                sums = t.second.astype(np.int64) @ h1 + t.second_bias + at(t.second_quality_bias, 0)
                h2 = shift(sums * scale2, t.shifts[1] + 12) * visible
                out = t.last.astype(np.int64) @ h2 + last_bias
                out = (out + ((1 << t.shifts[2]) >> 1)) >> t.shifts[2]
                if t.leading is not None and group == 0:
                    seen = wide[: t.groups[0], i : i + 5, j : j + 5].reshape(t.groups[0], 25)[:, :12]
                    led = np.einsum("fki,ik->f", t.leading.astype(np.int64), seen)
                    out[: t.groups[0]] += (led + 16) >> 5
                    out[:channels] = np.clip(out[:channels], -32767 * 256, 32767 * 256)
                for c in np.flatnonzero(group_of == group):
                    sixteenths = (out[c] + 8) >> 4
                    center = (sixteenths + 8) >> 4
                    scale = np.clip((out[channels + c] + 3 * 256 + 16) >> 5, 0, 56)
                    residuals.append(symbols[c, i, j] - center)
                    rows.append(scale * 16 + sixteenths - 16 * center + 8)
    return np.array(residuals), np.array(rows)


PARTS = {"scales": True, "leading": True}


@pytest.mark.parametrize(
    "rows, step, parts",
    [(0, 0, {}), (0, 117, {}), (8, 224, {}), (0, 117, PARTS), (8, 224, PARTS), (0, 9, {"leading": True})],
)
def test_contexts_are_what_the_definition_says(rows, step, parts):
    network = make_network(rows=rows, seed=rows, **parts)
    symbols = grid((16, 6, 7), seed=step, spread=3)
    symbols[3, 2, 2], symbols[9, 4, 1], symbols[2, 3, 3] = 32767, -32768, 32767
    residuals, found = contexts(symbols, nothing_repeats(symbols), step, network)
    expected, expected_rows = plain_contexts(symbols, step, network)
    assert np.array_equal(residuals, expected) and np.array_equal(found, expected_rows)


def test_usual_symbols_change_nothing(network):
    symbols = grid((16, 7, 9), spread=4)
    first = contexts(symbols, nothing_repeats(symbols), 45, network)
    for usual in (0, 7, -90):
        other = dataclasses.replace(network, usual=np.full_like(network.usual, usual))
        for a, b in zip(first, contexts(symbols, nothing_repeats(symbols), 45, other)):
            assert np.array_equal(a, b)


def test_masked_places_have_no_influence(network):
    """A symbol changes no context before it in the coding order."""
    symbols = grid((16, 4, 5))
    residuals, rows = contexts(symbols, nothing_repeats(symbols), 9, network)
    changed = symbols.copy()
    changed[5, 2, 3] += 4  # second group, place 13
    place = 4 * 20 + 13 * 4 + 1
    others, other_rows = contexts(changed, nothing_repeats(symbols), 9, network)
    assert np.array_equal(rows[: place + 1], other_rows[: place + 1]) and np.array_equal(
        residuals[:place], others[:place]
    )
    assert others[place] == residuals[place] + 4
    assert not np.array_equal(rows[place + 1 :], other_rows[place + 1 :])


def test_strided_and_wider_input_is_taken_as_it_is_meant(network):
    symbols = grid((16, 6, 8))
    expected = contexts(symbols, nothing_repeats(symbols), 40, network)
    for same in (np.asfortranarray(symbols), symbols.astype(np.int32), np.repeat(symbols, 2, axis=2)[..., ::2]):
        for a, b in zip(contexts(same, nothing_repeats(symbols), 40, network), expected):
            assert np.array_equal(a, b)


def test_what_does_not_fit_is_refused(network):
    with pytest.raises(ValueError, match="15 channels, the tables 16"):
        start_network((15, 2, 2), 0, network)
    with pytest.raises(ValueError, match="9 rows, the tables 8"):
        start_network((16, 9, 2), 0, make_network(rows=8))
    with pytest.raises(ValueError, match="quality step 225"):
        start_network((16, 2, 2), 225, network)


def test_interpolated_qualities_lie_between(network):
    """At a trained quality the row itself, between two the mean weighted by the distance."""
    for table in (network.first_bias, network.last_bias):
        for row in range(8):
            assert np.array_equal(integer_network._between(table, 32 * row), table[row])
        for part in (1, 16, 31):
            mixed = (table[2].astype(np.float64) * (32 - part) + table[3].astype(np.float64) * part) / 32
            assert np.abs(integer_network._between(table, 32 * 2 + part) - mixed).max() <= 0.5


def test_freeze_of_thaw_changes_nothing():
    for network in (
        make_network(),
        make_network(rows=8, seed=1),
        make_network((1, 2), 3, seed=2),
        make_network(seed=3, **PARTS),
    ):
        again = freeze(tuple(network.groups), **thaw(network))
        for name, array in network.to_arrays().items():
            assert np.array_equal(array, again.to_arrays()[name]), name


@pytest.mark.parametrize("signal", ["image", "speech"])
def test_a_model_loaded_from_tables_gives_the_same_tables_and_outputs(signal):
    model, other = tiny_model(signal), tiny_model(signal, seed=9)
    network = network_tables(model.context, np.zeros((8, 16), np.int16))
    load_weights(other, Checkpoint(model.config, {}, model.state_dict(), None, None, {"network": network.to_arrays()}))
    for name, array in network_tables(other.context, np.zeros((8, 16), np.int16)).to_arrays().items():
        assert np.array_equal(array, network.to_arrays()[name]), name
    symbols = torch.from_numpy(grid((1, 16, 8, 5)).astype(np.float32))
    for a, b in zip(model.context(symbols, torch.tensor([3.0])), other.context(symbols, torch.tensor([3.0]))):
        torch.testing.assert_close(a, b, atol=0.02, rtol=0)


@pytest.mark.parametrize("groups", [(4, 4, 8), (1, 2), (5,)])
def test_stored_tables_leave_out_the_weights_that_there_are_not(groups):
    network = make_network(groups, 3)
    stored = pack(network)
    assert stored["first"].ndim == 1 and len(stored["first"]) < network.first.size
    for arrays in (stored, network.to_arrays()):  # checkpoints of before hold all of them, zeros too
        again = unpack(arrays).to_arrays()
        for name, array in network.to_arrays().items():
            assert np.array_equal(array, again[name]), name
    for wrong in (stored["first"][:-1], np.append(stored["first"], stored["first"][:1])):
        with pytest.raises(ValueError, match="context tables: first holds"):
            unpack({**stored, "first": wrong})
    for change in (
        dict(groups=np.zeros(0, np.int32)),
        dict(groups=np.full(3, 2**30, np.int32)),
        dict(second=stored["first"]),
    ):
        with pytest.raises(ValueError, match="context tables"):
            unpack({**stored, **change})


def test_large_weights_take_fewer_fraction_bits_or_are_refused(network):
    values = thaw(network)
    large = freeze((4, 4, 8), **{**values, "first": values["first"] * 100})
    assert large.shifts[0] < network.shifts[0]
    with pytest.raises(ValueError, match="too large"):
        freeze((4, 4, 8), **{**values, "second": values["second"] * 1e9})


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("shifts", lambda a: a.__setitem__(0, 7), "shifts"),
        ("shifts", lambda a: a.__setitem__(1, -1), "shifts"),
        ("second", lambda a: a.fill(32767), "overflow"),
        ("first_bias", lambda a: a.fill(2**31 - 1), "overflow"),
        ("groups", lambda a: a.__setitem__(0, 0), "groups"),
        ("second_quality_bias", lambda a: a.fill(2**31 - 1), "overflow"),
    ],
)
def test_tables_are_checked(network, name, change, message):
    array = getattr(network, name).copy()
    change(array)
    with pytest.raises(ValueError, match=f"context tables.*{message}"):
        ContextTables(**{**network.to_arrays(), name: array})


def test_tables_of_other_shapes_types_or_names_are_refused(network):
    arrays = network.to_arrays()
    for name, array in arrays.items():
        for wrong in (np.concatenate([array, array], axis=-1), array.astype(np.int64)):
            if name == "groups" and wrong.dtype == array.dtype:
                continue  # more groups would be a smaller network's: the layers tell
            with pytest.raises(ValueError, match="context tables"):
                ContextTables(**{**arrays, name: wrong})
    for wrong in ({k: v for k, v in arrays.items() if k != "usual"}, {**arrays, "extra": arrays["usual"]}):
        with pytest.raises(ValueError, match="missing or unknown"):
            network_of(Checkpoint(tiny_config("image"), {}, {}, None, None, {"network": wrong}))
