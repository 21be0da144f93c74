"""What a search tells while it runs, from Python: steps of signals, tiles and trials; ends on demand."""

import dataclasses

import numpy as np
import pytest

from utils.codec import tiling
from utils.codec.observing import SearchStep
from utils.codec.settings import Settings
from utils.codec.targets import Target
from utils.search.config import METHODS
from utils.search.optimize import optimize_latent

SETTINGS = Settings.of("admm", 6)


def watched(codec, signals, *arguments) -> tuple[list, list[SearchStep]]:
    steps: list[SearchStep] = []
    return codec.encode_batch(signals, *arguments, observe=steps.append), steps


@pytest.mark.parametrize("method", METHODS)
def test_every_iteration_is_told_and_changes_nothing(codecs, ramp_image, method):
    codec, settings = codecs["image"], Settings.of(method, 6)
    (encoded,), steps = watched(codec, [ramp_image], 4.5, settings)
    assert encoded.data == codec.compress(ramp_image, 4.5, settings)
    if method == "none":
        assert not steps
        return
    assert {step.iteration for step in steps} >= {0, 5}
    seconds = [step.seconds for step in steps]
    assert seconds == sorted(seconds) and seconds[0] > 0 and seconds[-1] < encoded.seconds
    for step in steps:
        assert (step.signal, step.trial, step.quality, step.tile, step.tiles) == (0, None, 4.5, 1, 1)
        assert step.iterations == 6 and step.cost == pytest.approx(step.distortion + step.bits, rel=1e-6)
        assert step.penalty is None or step.penalty > 0


def test_the_distortion_of_a_picture_in_decibels_is_psnr(codecs, texture_image):
    codec = codecs["image"]
    (encoded,), steps = watched(codec, [texture_image], 3, SETTINGS)
    best = min((step for step in steps if step.quantized), key=lambda step: step.cost)
    score = codec.kind.score(texture_image, codec.decompress(encoded.data))
    assert best.distortion_db == pytest.approx(score["psnr_db"], abs=0.05)  # of pixels that are rounded
    assert best.bits / 8 == pytest.approx(len(encoded.data), rel=0.15, abs=40)


def test_signals_that_are_searched_together_have_steps_of_their_own(codecs, ramp_image, texture_image):
    signals = [ramp_image, texture_image, ramp_image[::-1].copy()]
    _, steps = watched(codecs["image"], signals, 3, SETTINGS)
    assert {step.signal for step in steps} == {0, 1, 2}
    alone = watched(codecs["image"], [signals[2]], 3, SETTINGS)[1]
    together = [step for step in steps if step.signal == 2]
    assert [step.iteration for step in together] == [step.iteration for step in alone]
    np.testing.assert_allclose([step.cost for step in together], [step.cost for step in alone], rtol=1e-2)


def test_tiles_are_named(codecs, texture_image, monkeypatch):
    monkeypatch.setattr(tiling, "CORE_POSITIONS", 64)
    monkeypatch.setattr(tiling, "CORE_SIDE", 8)
    _, steps = watched(codecs["image"], [texture_image], 3, SETTINGS)
    assert [step.tile for step in steps if step.iteration == 0] == list(range(1, steps[0].tiles + 1))
    assert steps[0].tiles == 4 and [step.tile for step in steps] == sorted(step.tile for step in steps)


def test_trials_for_a_target_are_counted(codecs, texture_image):
    codec = codecs["image"]
    target = Target("bytes", len(codec.compress(texture_image, 4, SETTINGS)))
    (encoded,), steps = watched(codec, [texture_image], target, SETTINGS)
    trials = list(dict.fromkeys(step.trial for step in steps))
    assert trials == list(range(1, len(trials) + 1))
    by_trial = {step.trial: step.quality for step in steps}
    assert encoded.quality in by_trial.values() and len(set(by_trial.values())) == len(trials)
    assert steps[-1].seconds < encoded.seconds


def test_an_observer_may_end_the_search(codecs, texture_image):
    codec, settings, steps = codecs["image"], Settings.of("admm", 40), []

    def enough(step: SearchStep) -> bool:
        steps.append(step)
        return step.iteration >= 4

    data = codec.compress(texture_image, 3, settings, observe=enough)
    assert steps[-1].iteration == 4
    assert codec.decompress(data).shape == texture_image.shape
    steps.clear()
    data = codec.compress(texture_image, 3, settings, observe=lambda step: True)  # before the first iteration
    assert data == codec.compress(texture_image, 3, "none")


def test_signals_that_are_searched_together_end_when_each_may(codecs, ramp_image):
    codec, steps = codecs["image"], []

    def enough(step: SearchStep) -> bool:
        steps.append(step)
        return step.iteration == 2 + 3 * step.signal  # said once

    codec.encode_batch([ramp_image, ramp_image[::-1].copy()], 3, Settings.of("admm", 40), observe=enough)
    assert max(step.iteration for step in steps) == 5


def test_who_does_not_observe_pays_nothing(codecs, ramp_image, monkeypatch):
    """No observer is made for a search that nobody watches: `paper` would estimate bits for one."""
    seen = []

    def spy(problem, config, seed=0, observe=None):
        seen.append(observe)
        return optimize_latent(problem, config, seed, observe)

    monkeypatch.setattr("utils.codec.tiled_search.optimize_latent", spy)
    codecs["image"].compress(ramp_image, 3, SETTINGS)
    codecs["image"].encode(ramp_image, Target("bytes", 200), dataclasses.replace(SETTINGS))
    assert set(seen) == {None}


def test_what_an_observer_raises_comes_out(codecs, ramp_image):
    def fail(step):
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        codecs["image"].compress(ramp_image, 3, SETTINGS, observe=fail)
