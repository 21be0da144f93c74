"""Repeats: what is found, and that a map comes back as it was or is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.entropy.repeats import LEFT, MIN_RUN, UP, find_repeats, pack_repeats, unpack_repeats


def test_a_blank_latent_is_two_runs_or_so():
    symbols = np.full((5, 20, 30), 3, np.int16)
    modes = find_repeats(symbols)
    assert (modes == 0).sum() == 1 and modes[0, 0] == 0
    assert len(pack_repeats(modes)) <= 12


def test_a_noisy_latent_has_none():
    symbols = np.random.default_rng(0).integers(-2, 3, (8, 20, 30)).astype(np.int16)
    assert not find_repeats(symbols).any()


def test_every_repeat_is_one():
    rng = np.random.default_rng(1)
    symbols = rng.integers(-1, 2, (2, 24, 40)).astype(np.int16)
    symbols[:, :, 5:25] = symbols[:, :, 5:6]  # like the left neighbor
    symbols[:, 10:, 30:] = symbols[:, 10:11, 30:]  # like the upper one
    modes = find_repeats(symbols)
    assert (modes == LEFT).sum() >= 19 * 20 and (modes == UP).sum() >= 9 * 13
    for i, j in np.argwhere(modes):
        source = symbols[:, i, j - 1] if modes[i, j] == LEFT else symbols[:, i - 1, j]
        assert (symbols[:, i, j] == source).all()


def test_short_runs_are_left_to_the_coder():
    symbols = np.arange(40, dtype=np.int16).reshape(1, 1, 40).copy()
    symbols[..., 10 : 10 + MIN_RUN] = 10  # MIN_RUN - 1 repeats
    assert not find_repeats(symbols).any()
    symbols[..., 10 + MIN_RUN] = 10
    assert (find_repeats(symbols) == LEFT).sum() == MIN_RUN


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_any_map_comes_back(height, width, seed, density):
    rng = np.random.default_rng(seed)
    modes = (rng.integers(1, 3, (height, width)) * (rng.random((height, width)) < density)).astype(np.uint8)
    modes[:, 0][modes[:, 0] == LEFT] = 0
    modes[0][modes[0] == UP] = 0
    data = pack_repeats(modes)
    again, used = unpack_repeats(data + b"\xff\x00", height, width)
    assert used == len(data) and np.array_equal(again, modes)


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "ends early"),
        (b"\x00", "ends early"),
        (b"\x00" * 9, "damaged"),
        (b"\xff" * 5, "copies from outside"),  # UP, UP, ... from the first place on
        (b"\x01\x00\x00\x00", "larger"),  # 128 places of 12
    ],
)
def test_damaged_maps_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        unpack_repeats(data, 3, 4)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40))
def test_random_bytes_end_in_an_error_or_in_a_map(data):
    try:
        modes, used = unpack_repeats(data, 5, 6)
    except ValueError:
        return
    assert modes.shape == (5, 6) and used <= len(data) and modes.max() <= UP
