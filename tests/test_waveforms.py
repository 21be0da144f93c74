"""Waveforms of speech pictures in training: those of the receiver, and their gradient."""

import numpy as np
import pytest
import torch

from data.phase import reconstruct
from data.speech import SpeechKind
from data.stft import mel_to_linear, to_decibels


@pytest.fixture(scope="module", params=[0.0, 1 / 3])
def kind(request) -> SpeechKind:
    """Without refinement of the phase, which waveforms of training leave out."""
    return SpeechKind(exponent=request.param, griffin_lim_iterations=0)


@pytest.fixture(scope="module")
def picture(kind) -> torch.Tensor:
    """(1, 128, 60) of half a second of speech."""
    signal = kind.read(kind.samples()[0])[4000:12000]
    return torch.from_numpy(kind.to_picture(signal)[0][:, :, :60])


def test_waveforms_are_those_of_the_receiver(kind, picture):
    settings = kind._settings
    waveform = kind.waveforms()(picture[None])[0].numpy()
    linear = mel_to_linear(10 ** (to_decibels(picture[0].numpy(), settings) / 20), settings)
    around = settings.margin * settings.hop_length
    expected = reconstruct(linear, (-around, 60 * settings.hop_length + around), settings)
    assert waveform.shape == expected.shape == (60 * settings.hop_length,)
    assert np.abs(waveform - expected).max() < 1e-3 * np.abs(expected).max()


def test_pictures_of_a_batch_do_not_mix(kind, picture):
    waveforms = kind.waveforms()
    both = waveforms(torch.stack([picture, picture.flip(-1)]))
    assert torch.allclose(both[1], waveforms(picture.flip(-1)[None])[0], atol=1e-6)


def test_the_gradient_is_that_of_the_magnitudes(kind, picture):
    """Along the direction in which all magnitudes grow alike, the waveform grows with them."""
    settings = kind._settings
    shades = (0.5 * picture - 0.2)[None].requires_grad_(True)  # away from the clamps
    waveform = kind.waveforms()(shades)
    (gradient,) = torch.autograd.grad(waveform.square().sum(), shades)
    energy = float(waveform.detach().square().sum())
    if settings.exponent:
        slope, factor = shades.detach() + 1, 1 / settings.exponent
    else:
        slope, factor = torch.ones_like(gradient), np.log(10) * settings.floor_db / 40
    assert float((gradient * slope).sum()) == pytest.approx(2 * factor * energy, rel=1e-3)


def test_silence_and_values_beyond_the_range(kind):
    waveforms = kind.waveforms()
    quiet = torch.full((1, 1, 128, 40), -1.0, requires_grad=True)
    waveform = waveforms(quiet)
    waveform.square().sum().backward()
    assert waveform.isfinite().all() and quiet.grad.isfinite().all()
    assert float(waveform.detach().abs().max()) < 0.05
    loud = torch.full((1, 1, 128, 40), 1.0)
    assert torch.equal(waveforms(loud), waveforms(3 * loud))
