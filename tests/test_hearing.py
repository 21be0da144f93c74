"""The disturbance of speech pictures: what PESQ says of the waveforms, and a gradient everywhere."""

import numpy as np
import pytest
import torch

from data.speech import SpeechKind
from utils.metrics import pesq_wb


@pytest.fixture(scope="module", params=[0.0, 1 / 3])
def kind(request) -> SpeechKind:
    return SpeechKind(exponent=request.param)


@pytest.fixture(scope="module")
def sentence(kind) -> np.ndarray:
    return kind.read(kind.samples()[0])


def shown(kind, signal) -> torch.Tensor:
    return torch.from_numpy(kind.to_picture(signal)[0])[None]


def disturbed(sentence) -> list[np.ndarray]:
    """The sentence with more and more noise, with echoes, and with every other stretch of 25 ms softer."""
    noise = np.random.default_rng(0).standard_normal(len(sentence))
    echo = np.concatenate([np.zeros(600), sentence[:-600]])
    soft = np.arange(len(sentence)) // 400 % 2
    signals = [sentence + gain * noise for gain in (0.0003, 0.001, 0.003, 0.01, 0.03)]
    signals += [sentence + gain * echo for gain in (0.1, 0.3, 0.6)]
    signals += [sentence * (1 - loss * soft) for loss in (0.3, 0.6, 0.9)]
    return [signal.astype(np.float32) for signal in signals]


def test_it_ranks_as_pesq_does(kind, sentence):
    from scipy.stats import spearmanr

    disturbance, original = kind.disturbance(), shown(kind, sentence)
    signals = disturbed(sentence)
    scores = [pesq_wb(sentence, signal) for signal in signals]
    ours = [float(disturbance(original, shown(kind, signal))) for signal in signals]
    assert max(scores) - min(scores) > 2
    assert spearmanr(ours, scores).statistic < -0.9


def test_what_is_the_same_is_not_disturbed(kind, sentence):
    picture = shown(kind, sentence)
    assert float(kind.disturbance()(picture, picture)) < 0.01
    louder = kind.disturbance()(picture, picture + 4)  # beyond the range, as a generator may leave it
    torch.testing.assert_close(louder, kind.disturbance()(picture, torch.ones_like(picture)))


def test_what_was_added_counts_more_than_what_is_missing(kind, sentence):
    both = shown(kind, sentence), shown(kind, disturbed(sentence)[2])
    disturbance = kind.disturbance()
    assert disturbance(*both) > 1.2 * disturbance(*both[::-1])


def test_pictures_of_a_batch_do_not_mix(kind, sentence):
    disturbance, x, x_hat = kind.disturbance(), shown(kind, sentence), shown(kind, disturbed(sentence)[3])
    both = disturbance(torch.cat([x, x]), torch.cat([x_hat, x]))
    torch.testing.assert_close(both, torch.stack([disturbance(x, x_hat)[0], disturbance(x, x)[0]]))


def test_a_telephone_s_rate_has_fewer_bands():
    disturbance = SpeechKind(sample_rate=8000, fmax=4000.0, n_mels=64).disturbance()
    x = torch.rand(2, 1, 64, 50, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert (disturbance(x, -x) > 100 * disturbance(x, x)).all()


@pytest.mark.parametrize("frames", [1, 2, 39, 40, 90])
def test_the_gradient_is_finite_and_lowers_it(kind, sentence, frames):
    """Silence too, and pictures shorter than a stretch."""
    disturbance, x = kind.disturbance(), shown(kind, sentence)[..., 60 : 60 + frames]
    silence = torch.full_like(x, -1)
    for real, start in ((x, 0.9 * x - 0.05), (silence, silence), (x, silence), (silence, x)):
        fake = start.clone().requires_grad_(True)
        before = disturbance(real, fake)
        (slope,) = torch.autograd.grad(before.sum(), fake)
        assert torch.isfinite(before).all() and torch.isfinite(slope).all()
    fake = (0.9 * x - 0.05).requires_grad_(True)
    before = disturbance(x, fake)
    (slope,) = torch.autograd.grad(before.sum(), fake)
    step = 0.02 * float(before.detach()) / float(slope.square().sum())
    assert float(disturbance(x, fake.detach() - step * slope)) < float(before.detach())
