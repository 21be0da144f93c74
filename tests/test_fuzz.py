"""A short run of `python -m tests.long.fuzz`, and that it finds what it is there to find."""

import os
import signal

import numpy as np
import pytest

from tests.long import fuzz
from utils.entropy.coders import Coder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pair(codecs) -> list:
    return [codecs["image"], codecs["speech"]]


@pytest.fixture(scope="module")
def files(pair) -> list[bytes]:
    return fuzz.honest_files(pair)


def test_hostile_files(pair, files, tmp_path):
    findings, counts, _ = fuzz.fuzz(pair, files, 1000, seed=1, output=tmp_path)
    assert not findings and not list(tmp_path.iterdir())
    decoded = sum(count for word, count in counts.items() if word.startswith("decoded"))
    assert sum(counts.values()) == 1000 and decoded > 30
    # it reaches the coders, and every check of the header before them
    assert counts["refused: damaged file"] > 300
    for word in (
        "refused: damaged header",
        "refused: too large",
        "refused: file made with checkpoint",
        "refused: truncated file",
        "refused: not a .bpgan file",
    ):
        assert counts[word], counts


def test_a_case_depends_on_seed_and_number_alone(pair, files):
    cases = {fuzz.hostile_file(seed, number, pair, files) for seed in (0, 1) for number in range(40)}
    assert len(cases) > 70
    assert fuzz.hostile_file(1, 33, pair, files) == fuzz.hostile_file(1, 33, pair, files) in cases


@pytest.mark.parametrize(
    "what, words",
    [
        ("error", "IndexError: out of range"),
        ("crash", "killed by SIGKILL"),
        ("loop", "no end after"),
        ("memory", "bytes of memory"),
        ("slow", " s for "),
        ("wrong shape", "declared"),
    ],
)
def test_faults_are_found_and_kept(pair, files, tmp_path, monkeypatch, what, words):
    decode, parent = Coder.decode, os.getpid()

    def faulty(self, payload, shape, quality_step, repeats):
        if os.getpid() == parent:  # honest files pass, there
            return decode(self, payload, shape, quality_step, repeats)
        if what == "error":
            raise IndexError("out of range")
        if what == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        while what == "loop":
            pass
        if what == "memory":
            np.ones(50_000_000, np.uint8)
        if what == "slow":
            started = os.times().user
            while os.times().user < started + 1:
                pass
        return (
            np.zeros((1, 1, 1), np.int16)
            if what == "wrong shape"
            else decode(self, payload, shape, quality_step, repeats)
        )

    monkeypatch.setattr(Coder, "decode", faulty)
    if what == "loop":
        monkeypatch.setattr(fuzz, "PATIENCE", 1.0)
    findings, _, _ = fuzz.fuzz(pair, files[::7], 3 if what in ("loop", "slow") else 30, seed=2, output=tmp_path)
    number = next(number for number, text in findings.items() if words in text)
    kept = (tmp_path / f"2-{number}.bpgan").read_bytes()
    assert kept == fuzz.hostile_file(2, number, pair, files[::7])
