"""Scores against values known by hand, and where each is not defined."""

import math
import subprocess
import sys

import numpy as np
import pytest
import pytorch_msssim
import torch

from tests.helpers.scripts import ROOT
from utils import metrics

RATES = np.array([0.1, 0.2, 0.4, 0.8])
QUALITIES = np.array([27.0, 30.0, 33.5, 36.0])


def noisy(clip: np.ndarray, gain: float) -> np.ndarray:
    noise = np.random.default_rng(1).standard_normal(clip.size)
    return (clip + gain * noise).astype(np.float32)


def test_psnr_known_values():
    black = np.zeros((300, 7, 3), np.uint8)
    assert metrics.psnr(black, black) == math.inf
    assert metrics.psnr(black, black + 255) == 0
    assert metrics.psnr(black, black + 1) == pytest.approx(48.1308, abs=1e-4)
    one = black.copy()
    one[299, 6, 2] = 255  # one error among 6300, in the last block
    assert metrics.psnr(black, one) == metrics.psnr(one, black) == pytest.approx(10 * math.log10(6300))


@pytest.mark.parametrize("score", [metrics.psnr, metrics.ms_ssim])
def test_image_scores_refuse(score, ramp_image):
    with pytest.raises(ValueError, match="shape"):
        score(ramp_image, ramp_image[:-1])
    with pytest.raises(ValueError, match="uint8"):
        score(ramp_image, ramp_image.astype(np.float32))


@pytest.mark.parametrize("strip", [7, 64, 1000])
def test_ms_ssim_is_the_librarys_on_large_images(texture_image, monkeypatch, strip):
    monkeypatch.setattr(metrics, "_SSIM_STRIP", strip)
    pattern = 9 * (np.indices((203, 251)).sum(0) % 3)[..., None]
    worse = np.clip(texture_image.astype(int) + pattern, 0, 255).astype(np.uint8)
    tensors = [torch.from_numpy(image).permute(2, 0, 1)[None].float() for image in (texture_image, worse)]
    expected = pytorch_msssim.ms_ssim(*tensors, data_range=255).item()
    assert expected < 0.999
    assert metrics.ms_ssim(texture_image, worse) == pytest.approx(expected, abs=1e-6)


def test_ms_ssim_of_the_smallest_images_is_ssim(texture_image):
    image, worse = texture_image[:20, :60], texture_image[1:21, :60]
    tensors = [torch.from_numpy(x).permute(2, 0, 1)[None].float() for x in (image, worse)]
    expected = pytorch_msssim.ssim(*tensors, data_range=255, nonnegative_ssim=True).item()
    assert metrics.ms_ssim(image, worse) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("side", [11, 20, 21, 41, 81, 160, 161])
def test_ms_ssim_of_small_images(texture_image, side):
    image = texture_image[:side, :200]
    assert metrics.ms_ssim(image, image) == pytest.approx(1, abs=1e-6)
    slight = np.clip(image.astype(int) + 4, 0, 255).astype(np.uint8)
    strong = texture_image[::-1][:side, :200]
    assert 1 > metrics.ms_ssim(image, slight) > metrics.ms_ssim(image, strong) >= 0


def test_ms_ssim_below_one_window_is_nan(texture_image):
    assert math.isnan(metrics.ms_ssim(texture_image[:10], texture_image[:10]))


SPEECH_SCORES = [metrics.pesq_wb, metrics.stoi, metrics.estoi]


@pytest.mark.parametrize("score, best", list(zip(SPEECH_SCORES, [4.64, 1, 1])))
def test_speech_scores_fall_with_noise(voiced_clip, score, best):
    values = [score(voiced_clip, noisy(voiced_clip, gain)) for gain in (0, 0.003, 0.1)]
    assert values[0] == pytest.approx(best, abs=0.01)
    assert values[0] > values[1] > values[2]


@pytest.mark.parametrize("score", [*SPEECH_SCORES, metrics.log_spectral_distance])
@pytest.mark.filterwarnings("error")
def test_speech_scores_are_nan_where_undefined(voiced_clip, score):
    silence = np.zeros_like(voiced_clip)
    assert math.isnan(score(silence, voiced_clip))
    assert math.isnan(score(silence, silence))
    for samples in (0, 1, 160, 500):
        assert math.isnan(score(voiced_clip[6000 : 6000 + samples], voiced_clip[6000 : 6000 + samples]))


@pytest.mark.parametrize("score", SPEECH_SCORES)
@pytest.mark.filterwarnings("error")
def test_perceptual_scores_of_a_silent_decoding(voiced_clip, score):
    assert score(voiced_clip, np.zeros_like(voiced_clip)) == (1 if score is metrics.pesq_wb else 0)


@pytest.mark.parametrize("score, shortest", list(zip(SPEECH_SCORES, [4000, 7000, 7000])))
@pytest.mark.filterwarnings("error")
def test_short_clips_have_scores_from_some_length_on(voiced_clip, score, shortest):
    """A quarter of a second for PESQ, 0.4 s for STOI; of speech, so that pauses do not count."""
    speech = np.tile(voiced_clip[400:2400], 4)
    for samples in (3999, 4000, 4001, 5000, 6400, 7000, 8000):
        value = score(speech[:samples], noisy(speech[:samples], 0.01))
        assert 0.5 < value < 4.64 if samples >= shortest else math.isnan(value), samples
    assert math.isnan(score(voiced_clip[:5000], noisy(voiced_clip[:5000], 0.01)))


@pytest.mark.parametrize("score", [*SPEECH_SCORES, metrics.log_spectral_distance])
def test_speech_scores_refuse(voiced_clip, score):
    with pytest.raises(ValueError, match="length"):
        score(voiced_clip, voiced_clip[:-1])
    with pytest.raises(ValueError, match="float"):
        score(voiced_clip[None], voiced_clip[None])
    with pytest.raises(ValueError, match="float"):
        score((voiced_clip * 32767).astype(np.int16), (voiced_clip * 32767).astype(np.int16))


@pytest.mark.slow
def test_pesq_of_a_long_clip():
    """40 s of short bursts: more utterances than the C code has room for, were it not cut."""
    time = np.arange(40 * 16000) / 16000
    bursts = np.random.default_rng(0).standard_normal(time.size) * 0.3 * (time % 0.42 < 0.21)
    bursts = bursts.astype(np.float32)
    assert 1 < metrics.pesq_wb(bursts, noisy(bursts, 0.01)) < 4.64


@pytest.mark.parametrize("score", [metrics.stoi, metrics.estoi])
def test_stoi_of_a_long_clip(monkeypatch, voiced_clip, score):
    """Two parts, one silent: the mean is that of the other."""
    decoded = noisy(voiced_clip, 0.01)
    monkeypatch.setattr(metrics, "_STOI_SECONDS", len(voiced_clip) / metrics.SPEECH_RATE)
    silence = np.zeros_like(voiced_clip)
    longer = score(np.concatenate([voiced_clip, silence]), np.concatenate([decoded, silence]))
    # pystoi sums over slices of its arrays, whose alignment moves the last bit
    assert longer == pytest.approx(score(voiced_clip, decoded), rel=1e-9)


def test_log_spectral_distance_known_values(voiced_clip):
    assert metrics.log_spectral_distance(voiced_clip, voiced_clip) == 0
    # White noise lies far above the floor, where half the amplitude is 6.02 dB in each bin.
    noise = noisy(np.zeros(16000, np.float32), 0.1)
    assert metrics.log_spectral_distance(noise, noise / 2) == pytest.approx(6.0206, abs=1e-3)
    # A silent decoding stands at the floor, so the distance is at most its 80 dB.
    assert 20 < metrics.log_spectral_distance(noise, 0 * noise) < 80


def test_log_spectral_distance_in_blocks(monkeypatch, voiced_clip):
    decoded = noisy(voiced_clip, 0.01)
    whole = metrics.log_spectral_distance(voiced_clip, decoded)
    monkeypatch.setattr(metrics, "_LSD_BLOCK", 7)
    assert metrics.log_spectral_distance(voiced_clip, decoded) == pytest.approx(whole)


@pytest.mark.parametrize("factor, percent", [(1.1, 10), (0.85, -15), (1, 0)])
def test_bd_rate_of_a_constant_factor(factor, percent):
    found = metrics.bd_rate(RATES, QUALITIES, RATES * factor, QUALITIES)
    assert found == pytest.approx(percent, abs=1e-9)


def test_bd_rate_takes_any_order_and_only_the_overlap():
    order = [2, 0, 3, 1]
    found = metrics.bd_rate(RATES, QUALITIES, 2 * RATES[order], QUALITIES[order])
    assert found == pytest.approx(100)
    # Log rate linear in quality, 6 dB a doubling: 3 dB more at the same rate save a factor of
    # the square root of 2 where both curves are, and 3 dB less cost it.
    rate, quality = np.array([1.0, 2.0, 4.0]), np.array([30.0, 36.0, 42.0])
    for shift, factor in ((3, 2**-0.5), (-3, 2**0.5)):
        found = metrics.bd_rate(rate, quality, rate, quality + shift)
        assert found == pytest.approx(100 * (factor - 1))


@pytest.mark.parametrize(
    "rate, quality, says",
    [
        (RATES, QUALITIES + 20, "overlap"),
        (RATES, QUALITIES + 9, "overlap"),
        (RATES[:1], QUALITIES[:1], "at least 2"),
        (RATES, QUALITIES[:3], "at least 2"),
        (RATES - 0.1, QUALITIES, "above 0"),
        (RATES, [27, 27, 30, 31], "same quality"),
        (RATES, [27, np.inf, 30, 31], "finite"),
    ],
)
def test_bd_rate_refuses(rate, quality, says):
    with pytest.raises(ValueError, match=says):
        metrics.bd_rate(RATES, QUALITIES, rate, quality)


def test_import_is_light():
    code = "import sys, utils.metrics; print(sorted({'torch', 'scipy', 'pesq', 'pystoi', 'models'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("score, limit", [(metrics.pesq_wb, "_PESQ_SECONDS"), (metrics.estoi, "_STOI_SECONDS")])
def test_a_muted_part_is_no_reward(monkeypatch, voiced_clip, score, limit):
    """A part that has speech and comes back silent is not left out of the mean."""
    monkeypatch.setattr(metrics, limit, len(voiced_clip) / metrics.SPEECH_RATE)
    twice, decoded = np.tile(voiced_clip, 2), np.tile(noisy(voiced_clip, 0.01), 2)
    assert score(twice, decoded) == pytest.approx(score(voiced_clip, decoded[: len(voiced_clip)]), rel=1e-6)
    decoded[len(voiced_clip) :] = 0
    worst = 1 if score is metrics.pesq_wb else 0
    assert score(twice, decoded) == pytest.approx(
        (score(twice[: len(voiced_clip)], decoded[: len(voiced_clip)]) + worst) / 2
    )
    twice[len(voiced_clip) :] = 0
    assert score(twice, decoded) > 0
