"""A short run of `python -m tests.long.soak`, and that it sees a leak."""

import numpy as np
import pytest

from tests.long import soak

pytestmark = pytest.mark.slow


def test_rounds_and_memory(codecs, tmp_path):
    rounds, warm, peak = soak.soak([codecs["image"], codecs["speech"]], 0, tmp_path)
    assert rounds == soak.LEAST_ROUNDS and 0 < warm <= peak <= warm * (1 + soak.ALLOWED_GROWTH)
    assert {path.name for path in tmp_path.iterdir()} == {"decoded.png", "decoded.wav"}


def test_a_leak_is_seen(codecs, tmp_path, monkeypatch):
    kept, round_trip = [], soak.round_trip

    def leaking(some, number, folder):
        round_trip(some, number, folder)
        kept.append(np.ones(40_000_000, np.uint8))  # more than the allocator keeps for the next one

    monkeypatch.setattr(soak, "round_trip", leaking)
    _, warm, peak = soak.soak([codecs["image"]], 0, tmp_path)
    assert peak > warm * (1 + soak.ALLOWED_GROWTH)
