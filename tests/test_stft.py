"""The Gabor transform, the mel bands and the phase, each against what it promises."""

import numpy as np
import pytest

from data.phase import integrate_phase, reconstruct
from data.stft import (
    SpeechSettings,
    analyze,
    magnitudes,
    mel_basis,
    mel_to_linear,
    round_up,
    synthesize,
    to_decibels,
    to_shades,
    windows,
)

SETTINGS = SpeechSettings()


@pytest.fixture(scope="module")
def chirp() -> np.ndarray:
    """One second of a rising tone with overtones and a soft noise, float32."""
    time = np.arange(16000) / 16000
    phase = 2 * np.pi * (150 * time + 100 * time**2)
    tones = sum(np.sin(k * phase) / k for k in range(1, 12))
    noise = np.random.default_rng(0).standard_normal(16000)
    return (0.15 * tones + 1e-3 * noise).astype(np.float32)


def relative_error(reference: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(reference - other) / np.linalg.norm(reference))


def test_transform_is_invertible():
    signal = np.random.default_rng(1).standard_normal(16 * 512)
    coefficients = analyze(signal, SETTINGS)
    assert coefficients.shape == (257, 64)
    assert relative_error(signal, synthesize(coefficients, SETTINGS)) < 1e-4


@pytest.mark.parametrize("hop_length, n_fft", [(128, 512), (64, 512), (64, 256), (128, 1024)])
def test_other_lattices_are_invertible(hop_length, n_fft):
    settings = SpeechSettings(hop_length=hop_length, n_fft=n_fft, n_mels=40)
    signal = np.random.default_rng(2).standard_normal(24 * 1024)
    assert relative_error(signal, synthesize(analyze(signal, settings), settings)) < 1e-3


def test_full_scale_sine_is_zero_decibels():
    signal = np.sin(2 * np.pi * 1000 / 16000 * np.arange(8192))
    level = 20 * np.log10(magnitudes(signal, 10, 50, SETTINGS).max(axis=0))
    np.testing.assert_allclose(level, 0, atol=0.01)


def test_window_is_a_gaussian_down_to_its_ends():
    window, dual = windows(SETTINGS)
    assert np.argmax(window) == 0 and window.sum() == pytest.approx(2)
    assert window.min() < 1e-5 * window.max()
    assert np.abs(dual[900:1100]).max() < 1e-5 * dual.max()


def test_frame_depends_on_nearby_samples_only(chirp):
    whole = magnitudes(chirp, 0, 126, SETTINGS)
    np.testing.assert_allclose(magnitudes(chirp, 40, 60, SETTINGS), whole[:, 40:60], atol=1e-12)
    changed = chirp.copy()
    changed[60 * 128 + 512 :] = 0
    np.testing.assert_array_equal(magnitudes(changed, 0, 126, SETTINGS)[:, :61], whole[:, :61])


def test_mel_rows_keep_a_flat_spectrum_flat():
    basis = mel_basis(SETTINGS)
    assert basis.shape == (128, 257) and basis.min() >= 0
    np.testing.assert_allclose(basis @ np.ones(257, np.float32), 1, rtol=1e-5)


def test_mel_inversion_reproduces_the_bands(chirp):
    basis = mel_basis(SETTINGS)
    mel = basis @ magnitudes(chirp, 0, 126, SETTINGS).astype(np.float32)
    linear = mel_to_linear(mel, SETTINGS)
    assert linear.shape == (257, 126) and linear.min() >= 0
    assert np.median(np.abs(20 * np.log10(basis @ linear / mel))) < 0.1
    assert relative_error(mel, basis @ linear) < 0.01


def test_mel_inversion_of_silence_is_silence():
    assert not mel_to_linear(np.zeros((128, 3)), SETTINGS).any()


def test_phase_of_a_tone_advances_with_its_frequency():
    """A stationary tone between two bins: the peak bin turns by 2 pi f hop / rate a frame."""
    frequency = 1010.0
    signal = np.sin(2 * np.pi * frequency / 16000 * np.arange(16384))
    magnitude = magnitudes(signal, 20, 100, SETTINGS)
    phase = integrate_phase(magnitude, SETTINGS)
    turn = np.diff(phase[np.argmax(magnitude[:, 0])])
    difference = np.angle(np.exp(1j * (turn - 2 * np.pi * frequency * 128 / 16000)))
    assert np.abs(difference).max() < 0.01


def test_phase_gradient_matches_the_true_phase_on_loud_coefficients(chirp):
    length = round_up(len(chirp), 512)
    coefficients = analyze(np.pad(chirp.astype(np.float64), (0, length - len(chirp))), SETTINGS)
    magnitude, truth = np.abs(coefficients), np.angle(coefficients)
    phase = integrate_phase(magnitude, SETTINGS)
    loud = magnitude > 0.1 * magnitude.max()
    pairs = loud[:, 1:] & loud[:, :-1]
    error = np.angle(np.exp(1j * (np.diff(phase) - np.diff(truth))))[pairs]
    assert np.sqrt(np.mean(error**2)) < 0.15


def test_known_phases_stay_and_fix_the_rest(chirp):
    length = round_up(len(chirp), 512)
    coefficients = analyze(np.pad(chirp.astype(np.float64), (0, length - len(chirp))), SETTINGS)
    magnitude, truth = np.abs(coefficients), np.angle(coefficients)
    phase = integrate_phase(magnitude, SETTINGS, truth[:, :30])
    np.testing.assert_array_equal(phase[:, :30], truth[:, :30])
    loud = magnitude[:, 32] > 0.1 * magnitude.max()
    error = np.angle(np.exp(1j * (phase[loud, 32] - truth[loud, 32])))
    assert np.abs(error).max() < 0.5


@pytest.mark.parametrize("iterations, ceiling", [(0, 0.4), (32, 0.15)])
def test_reconstructed_waveform_has_the_magnitudes(chirp, iterations, ceiling):
    settings = SpeechSettings(griffin_lim_iterations=iterations)
    magnitude = magnitudes(chirp, 0, 126, settings)
    signal = reconstruct(magnitude, (0, len(chirp)), settings)
    assert len(signal) == 126 * 128
    assert relative_error(magnitude, magnitudes(signal, 0, 126, settings)) < ceiling


def test_reconstruction_continues_its_past(chirp):
    """Given 40 frames of the true waveform, what follows has its phase, not just its magnitude."""
    start, known = 30, 32
    magnitude = magnitudes(chirp, start, 126, SETTINGS)
    past = chirp[(start - SETTINGS.margin) * 128 : (start + known) * 128]
    signal = reconstruct(magnitude, (-1024, len(chirp) - start * 128), SETTINGS, past)
    next_frames = slice((start + known) * 128, (start + known + 8) * 128)
    assert relative_error(chirp[next_frames], signal[known * 128 : (known + 8) * 128]) < 0.3


@pytest.mark.parametrize(
    "wrong",
    [
        {"hop_length": 0},
        {"hop_length": 200},
        {"hop_length": 256},
        {"fmax": 9000.0},
        {"fmin": -1.0},
        {"n_mels": 0},
        {"floor_db": 0.0},
        {"griffin_lim_iterations": -1},
        {"exponent": -0.1},
        {"exponent": 1.5},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError):
        SpeechSettings(**wrong)


@pytest.mark.parametrize("exponent", [0.0, 1 / 3, 0.5])
def test_loudness_and_back(exponent):
    settings = SpeechSettings(exponent=exponent)
    decibels = np.linspace(-79, 0, 80, dtype=np.float32)
    shades = to_shades(decibels.copy(), settings)
    assert shades.dtype == np.float32 and (np.diff(shades) > 0).all() and shades[-1] == 1 and shades[0] > -1
    np.testing.assert_allclose(to_decibels(shades, settings), decibels, atol=1e-3)
    assert (to_decibels(shades * 3, settings) <= 0).all() and to_decibels(np.float32(-2), settings) <= -80


def test_equal_steps_of_loudness_are_equal_errors():
    """A power of the magnitude says in its values what the logarithm needs weights for."""
    loudness, log = SpeechSettings(exponent=1.5 * 20 / np.log(10) / 40), SpeechSettings()
    decibels = np.linspace(-60, 0, 61)
    slope = np.gradient(to_shades(decibels.copy(), loudness)) / np.gradient(to_shades(decibels.copy(), log))
    weight = np.exp(3 * to_shades(decibels.copy(), log))
    ratio = (slope**2 / weight)[1:-1]
    assert ratio.max() < 1.03 * ratio.min()


def test_bands_without_a_bin_are_refused():
    with pytest.raises(ValueError, match="too many"), pytest.warns(UserWarning):
        mel_basis(SpeechSettings(n_mels=250))
