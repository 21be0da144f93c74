"""What is done to pictures against the same done to samples."""

import numpy as np
import pytest
import scipy  # its parts are imported where they are used
import torch
from soxr import resample

from data import augment
from data.dataset import PictureSet
from data.speech import SpeechKind, _level_db
from data.stft import SpeechSettings, to_decibels

KIND = SpeechKind()
SETTINGS = KIND._settings
RATE = SETTINGS.sample_rate


@pytest.fixture(scope="module")
def sentence():
    """The shipped sentence, 4 s."""
    return KIND.read(KIND.samples()[0])[: 4 * RATE]


def power_of(signal, level_db):
    """A signal -> its picture's powers relative to a level in dB, (1, n_mels, frames)."""
    picture, level = KIND.to_picture(signal.astype(np.float32))
    decibels = (picture - 1) * (SETTINGS.floor_db / 2) + _level_db(level) - level_db
    return torch.from_numpy(np.where(picture > -1, 10 ** (decibels / 10), 0)).float()


@pytest.fixture(scope="module")
def level_db(sentence):
    return _level_db(KIND.to_picture(sentence)[1])


@pytest.fixture(scope="module")
def power(sentence, level_db):
    return power_of(sentence, level_db)


def distance(a, b, smooth=1, depth=50):
    """Log-spectral distance in dB of powers (1, rows, frames), means over `smooth` frames, where either is loud."""
    a, b = (torch.nn.functional.avg_pool2d(x[None], (3 if smooth > 1 else 1, smooth), 1)[0] for x in (a, b))
    a, b = (10 * torch.log10(x[..., : min(a.shape[-1], b.shape[-1])].clamp_min(1e-10)) for x in (a, b))
    loud = torch.maximum(a, b) > -depth
    return float((a - b)[loud].square().mean().sqrt())


@pytest.mark.parametrize("factor", [0.9, 0.95, 1.05, 1.1])
def test_speed(sentence, level_db, power, factor):
    faster = power_of(resample(sentence, RATE * factor, RATE), level_db)
    n_frames = min(faster.shape[-1], int(power.shape[-1] / factor))
    played = augment.warp(power, factor, factor, SETTINGS, n_frames)
    assert distance(played, faster) < 0.6 * distance(power, faster)


def test_warping_takes_frames_as_they_are(power):
    played = augment.warp(power, 1.05, 1.05, SETTINGS, 100)
    frames = np.rint(np.arange(100) * 1.05).astype(int)
    assert torch.equal(played[:, 0], power[:, 0, frames])
    assert torch.equal(augment.warp(power, 1.0, 1.0, SETTINGS, 100), power[..., :100])


def test_pitch_and_tempo_are_apart(power):
    tempo = augment.warp(power, 1.0, 1.1, SETTINGS, 100)
    assert torch.equal(tempo, power[..., np.rint(np.arange(100) * 1.1).astype(int)])
    pitch = augment.warp(power, 1.15, 1.0, SETTINGS, 100)
    centers = augment._centers(SETTINGS)
    row = 60
    moved = int(np.abs(centers - centers[row] * 1.15).argmin())
    assert torch.equal(pitch[:, moved], power[:, row, :100])


def test_equalizer_goes_through_its_knots(power):
    curve = 10 * torch.log10(augment.equalizer(np.array([3.0, -6.0, 0.0]), power))[:, 0]
    assert (
        curve.shape == (128,) and float(curve[0]) == pytest.approx(3) and float(curve[-1]) == pytest.approx(0, abs=1e-5)
    )
    assert (
        float(curve.min()) == pytest.approx(-6, abs=0.1)
        and (curve[:63].diff() < 0).all()
        and (curve[64:].diff() > 0).all()
    )


@pytest.mark.parametrize("low, high", [(300, 3500), (80, 6000)])
def test_band_limits(sentence, level_db, power, low, high):
    spectrum, f = np.fft.rfft(sentence), np.fft.rfftfreq(len(sentence), 1 / RATE)
    spectrum *= 10 ** (-np.minimum(np.maximum(f - high, 0) / 4, augment.STEEPEST_DB) / 20)
    line = scipy.signal.sosfilt(
        scipy.signal.butter(4, low, "highpass", fs=RATE, output="sos"), np.fft.irfft(spectrum, len(sentence))
    )
    limited = power * augment.band_limits(low, high, SETTINGS, "cpu")
    true = power_of(line, level_db)
    assert distance(limited, true) < 3 and distance(limited, true) < 0.6 * distance(power, true)
    above = augment._centers(SETTINGS) > high + 500
    assert (augment.to_picture(limited, SETTINGS)[:, above] == -1).all()


@pytest.mark.parametrize("decibels", [-20.0, -33.0])
def test_white_noise(sentence, level_db, power, decibels):
    rms = 10 ** ((decibels + level_db) / 20) * np.sqrt(0.5)
    true = power_of(sentence + np.random.default_rng(1).normal(size=len(sentence)) * rms, level_db)
    noisy = power + augment.noise(decibels, 0.0, SETTINGS, 77, power)
    assert distance(noisy, true, smooth=9, depth=60) < 1.5 < distance(power, true, smooth=9, depth=60)


def test_the_color_of_noise_keeps_its_level(power):
    """Powers by frequency, since high bands are the wider ones."""
    widths = torch.from_numpy(np.gradient(augment._centers(SETTINGS))).float()[:, None]
    white, brown = (augment.noise(-30.0, slope, SETTINGS, 0, power) for slope in (0.0, -12.0))
    assert float((brown * widths).sum() / (white * widths).sum()) == pytest.approx(1, rel=0.05)
    assert float(brown[:20].mean() / white[:20].mean()) > 4 * float(brown[-20:].mean() / white[-20:].mean())


def test_room(sentence, level_db, power):
    seconds, direct_db = 0.3, 10.0
    n = int(seconds * RATE)
    tail = np.random.default_rng(2).normal(size=n) * 10 ** (-3 * np.arange(n) / n)
    response = np.concatenate([[1.0], tail / np.sqrt(np.square(tail).sum()) * 10 ** (-direct_db / 20)])
    true = power_of(scipy.signal.fftconvolve(sentence, response)[: len(sentence)], level_db)
    reverberant = augment.room(power, seconds, direct_db, SETTINGS)
    assert distance(reverberant, true, smooth=9) < 3 and distance(reverberant, true, smooth=9) < 0.6 * distance(
        power, true, smooth=9
    )


def test_offset(sentence, level_db, power):
    decibels = -40.0
    true = power_of(sentence + 10 ** ((decibels + level_db) / 20), level_db)
    moved = power + augment.offset(decibels, SETTINGS, "cpu")
    assert distance(moved[:, :4], true[:, :4], depth=60) < 3.5 < distance(power[:, :4], true[:, :4], depth=60)
    assert float(augment.offset(decibels, SETTINGS, "cpu")[20:].max()) < 1e-9


@pytest.mark.parametrize("exponent", [0.0, 1 / 3])
def test_pictures_and_powers(exponent):
    settings = SpeechSettings(exponent=exponent)
    picture = torch.linspace(-1, 1, 50)[None, None]
    back = augment.to_picture(augment.to_power(picture, settings), settings)
    assert torch.allclose(back, picture, atol=1e-5) and augment.to_power(picture, settings)[0, 0, 0] == 0
    louder = augment.to_power(picture, settings) * augment.equalizer(np.array([-6.0, -6.0]), picture)
    moved = to_decibels(augment.to_picture(louder, settings)[0, 0, 10:].numpy(), settings)
    np.testing.assert_allclose(moved, to_decibels(picture[0, 0, 10:].numpy(), settings) - 6, atol=1e-3)


@pytest.mark.parametrize("settings", [{}, SpeechKind.new_settings], ids=["decibels", "loudness"])
def test_crops_have_their_shape_and_range_and_half_are_as_they_were(settings):
    kind = SpeechKind(**settings)
    crop = torch.rand(1, 128, 296) * 2 - 1
    changed = [kind.augment(crop, np.random.default_rng(seed)) for seed in range(60)]
    assert all(c.shape == (1, 128, 256) and c.dtype == crop.dtype and torch.isfinite(c).all() for c in changed)
    assert all(c.min() >= -1 and c.max() <= 1 for c in changed)
    assert 15 < sum(torch.equal(c, crop[..., :256]) for c in changed) < 45
    assert torch.equal(changed[3], kind.augment(crop, np.random.default_rng(3)))


def test_silence_stays_silent_but_for_noise(power):
    silent = torch.full((1, 128, 296), -1.0)
    changed = [KIND.augment(silent, np.random.default_rng(seed)) for seed in range(60)]
    assert sum(bool((c == -1).all()) for c in changed) > 35
    assert (augment.room(torch.zeros_like(power), 0.3, 10.0, SETTINGS) == 0).all()


def test_training_crops_have_frames_to_spare(sentence, tmp_path, monkeypatch):
    """Faster speech takes what follows its crop."""
    KIND.write(tmp_path / "a.wav", sentence)
    seen = []
    monkeypatch.setattr(SpeechKind, "augment", lambda self, crop, rng: seen.append(crop.shape) or crop[..., :256])
    data = PictureSet(KIND, [tmp_path / "a.wav"], progress=False)
    assert data.batch(2, np.random.default_rng(0)).shape == (2, 1, 128, 256)
    assert seen == [(1, 128, 296)] * 2
