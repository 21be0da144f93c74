"""The noise of the realistic generator: the same numbers everywhere, and those of the place in the picture."""

import hashlib

import numpy as np
import pytest
import torch

from models.bpgan import build_generator
from models.texture import NOISE_BITS, PERIOD, PLANES, Texture, has_texture, noise_integers, noise_window
from tests.helpers.models import tiny_config


@pytest.mark.parametrize("step, digest", [(2, "3396553d59c3a3cb"), (4, "d17445b854b2c2a8")])
def test_the_noise_never_changes(step, digest):
    """Files that were judged by the realistic generator are shown with it."""
    noise = noise_integers(step)
    assert noise.shape == (PLANES, PERIOD * step, PERIOD * step)
    assert hashlib.sha256(noise.astype("<i4").tobytes()).hexdigest()[:16] == digest


@pytest.mark.parametrize("step", [2, 4])
def test_the_noise_is_white_and_of_unit_deviation(step):
    noise = noise_integers(step) * 2.0**-NOISE_BITS
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
    flat = noise.reshape(PLANES, -1)
    assert np.abs(np.corrcoef(flat) - np.eye(PLANES)).max() < 0.03
    for axis in (1, 2):
        assert abs((noise * np.roll(noise, 1, axis)).mean()) < 0.02
    exact = torch.from_numpy(noise).bfloat16().double()
    assert np.array_equal(exact.numpy(), noise)


@pytest.mark.parametrize("origin", [(0, 0), (3, 5), (PERIOD - 1, 2 * PERIOD - 3)])
def test_a_window_is_a_part_of_the_whole(origin):
    top, left = origin
    whole = noise_window(4, (0, 0), 4 * 3 * PERIOD, 4 * 3 * PERIOD)
    part = noise_window(4, origin, 24, 16)
    assert np.array_equal(part, whole[:, 4 * top : 4 * top + 24, 4 * left : 4 * left + 16])


def test_every_picture_of_a_batch_has_its_place():
    torch.manual_seed(0)
    texture, h = Texture(6, 2), torch.randn(2, 6, 10, 14)
    origins = torch.tensor([[4, 60], [0, 0]])
    with torch.no_grad():
        both = texture(h, origins)
        for one, origin, shaped in zip(h, origins, both):
            noise = torch.from_numpy(noise_window(2, tuple(origin.tolist()), 10, 14)).float() / 2**NOISE_BITS
            expected = one + texture.spread(texture.strength(one[None]) * noise)[0]
            torch.testing.assert_close(shaped, expected)
        torch.testing.assert_close(texture(h)[1], both[1])
        assert (texture(h)[0] - both[0]).abs().max() > 0.01


def test_the_weights_tell_of_it():
    config = tiny_config("image")
    assert has_texture(build_generator(config, texture=True).state_dict())
    assert not has_texture(build_generator(config).state_dict())
    assert not any("noise" in name for name in build_generator(config, texture=True).state_dict())
