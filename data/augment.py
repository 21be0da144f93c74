"""Other voices, rooms, microphones and lines for training speech, on crops of speech pictures.

Each function does to a picture what the usual operation does to the samples, so that nothing is transformed again
while a model trains; tests compare both. A crop is a tensor (1, n_mels, frames) in [-1, 1] as `SpeechKind` makes it,
and -1 stands for no power at all. Powers are relative to the recording's level: a band at x = 1 has power 1.

Nearest rows and frames are taken where a picture is warped, because interpolation would smooth the noise that is to
be coded.
"""

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from .stft import SpeechSettings, magnitudes, mel_basis

NOISE_FRAMES = 2048  # of the noise that is kept for all crops: 16 s
SPEECH_DB = -6.0  # RMS of speech without its pauses against a sine's at the level; the median of 30 recordings
# Vocal tracts by their length (Jaitly and Hinton 2013, "Vocal tract length perturbation improves speech recognition"),
# and tempo, as Ko et al. 2015, "Audio augmentation for speech recognition", have both together. Other data than
# ours have another microphone, which is more than a tilt: knots of an equalizer, over all bands.
PITCHES, TEMPOS = (0.85, 1.2), (0.87, 1.15)
EQUALIZER_KNOTS, EQUALIZER_DB = 5, 6.0
STEEPEST_DB = 120.0  # attenuation of a band limit; more is nothing all the same


def augment(crop: torch.Tensor, rng: np.random.Generator, settings: SpeechSettings, n_frames: int) -> torch.Tensor:
    """(1, n_mels, n_frames or more) -> (1, n_mels, n_frames): half of the crops stay as they are.

    The others differ in pitch, tempo, tone and level of the voice, and some in room, noise, band limits or an offset. In
    some of all crops there is a stretch of digital silence, which recordings lack.
    """
    if rng.uniform() < 0.5:
        crop = crop[..., :n_frames]
    else:
        crop = warp(crop, rng.uniform(*PITCHES), rng.uniform(*TEMPOS), settings, n_frames)
        power = to_power(crop, settings)
        power = _as_loud(power * equalizer(rng.uniform(-EQUALIZER_DB, EQUALIZER_DB, EQUALIZER_KNOTS), crop), power)
        softer = rng.uniform(0, 6)
        power = power * 10 ** (-softer / 10)
        if rng.uniform() < 0.25:
            power = room(power, rng.uniform(0.15, 0.4), rng.uniform(6, 20), settings, int(rng.integers(NOISE_FRAMES)))
        if rng.uniform() < 0.35:
            place, decibels = int(rng.integers(NOISE_FRAMES)), SPEECH_DB - softer - rng.uniform(20, 40)
            power = power + noise(decibels, rng.uniform(-12, 3), settings, place, crop)
        if rng.uniform() < 0.3:
            is_telephone = rng.uniform() < 0.4
            low = rng.uniform(200, 350) if is_telephone else rng.uniform(40, 120)
            high = rng.uniform(3300, 3700) if is_telephone else rng.uniform(5000, 7800)
            power = _as_loud(power * band_limits(low, high, settings, crop.device), power)
        if rng.uniform() < 0.1:
            power = power + offset(rng.uniform(-60, -38), settings, crop.device)
        crop = to_picture(power, settings)
    if rng.uniform() < 0.08:
        start, stop = np.sort(rng.integers(-n_frames // 2, 3 * n_frames // 2, 2))
        crop = crop.clone()
        crop[..., max(start, 0) : max(stop, 0)] = -1
    return crop


def to_power(picture: torch.Tensor, settings: SpeechSettings) -> torch.Tensor:
    """[-1, 1] -> power relative to the level, 0 at -1."""
    if settings.exponent:
        return ((picture + 1) / 2).clamp_min(0) ** (2 / settings.exponent)
    power = torch.exp((picture - 1) * (settings.floor_db / 20 * np.log(10)))
    return torch.where(picture > -1, power, 0)


def to_picture(power: torch.Tensor, settings: SpeechSettings) -> torch.Tensor:
    """The way back, clamped to [-1, 1]."""
    if settings.exponent:
        return (2 * power ** (settings.exponent / 2) - 1).clamp_(-1, 1)
    decibels = 10 * torch.log10(power.clamp_min(1e-20))
    return (decibels * (2 / settings.floor_db) + 1).clamp_(-1, 1)


def warp(picture: torch.Tensor, pitch: float, tempo: float, settings: SpeechSettings, n_frames: int) -> torch.Tensor:
    """Frequencies `pitch` times as high, sounds `tempo` times as fast, -> (..., n_mels, n_frames).

    A recording that is played faster has both factors alike. Where the picture ends too early, its last frame is
    repeated; above its highest band, that band.
    """
    centers = _centers(settings)
    rows = np.rint(np.interp(centers / pitch, centers, np.arange(len(centers)))).astype(np.int64)
    frames = np.minimum(np.rint(np.arange(n_frames) * tempo).astype(np.int64), picture.shape[-1] - 1)
    indices = (torch.from_numpy(index).to(picture.device) for index in (rows, frames))
    return picture.index_select(-2, next(indices)).index_select(-1, next(indices))


def equalizer(decibels: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    """Gains in dB at places spread evenly from the lowest band to the highest -> factors of power (n_mels, 1)."""
    n_mels = like.shape[-2]
    curve = np.interp(np.linspace(0, 1, n_mels), np.linspace(0, 1, len(decibels)), decibels)
    return torch.from_numpy(10 ** (curve / 10)).to(like)[:, None]


def _as_loud(power: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """Brought to the loudest band of what it was before, since that is the file's level; by 20 dB up at most."""
    return power * (before.max() / power.max().clamp_min(1e-12)).clamp_max(100)


def room(
    power: torch.Tensor, seconds: float, direct_db: float, settings: SpeechSettings, place: int = 0
) -> torch.Tensor:
    """Powers with the reverberation of a room in which sound falls by 60 dB in `seconds`.

    All of it together is `direct_db` softer than the direct sound. It falls exponentially in time, and it fluctuates
    as noise does, since it is the sum of many echoes.
    """
    frame_db = 60 * settings.hop_length / settings.sample_rate / seconds
    n_frames = min(int(60 / frame_db) + 1, power.shape[-1])
    decay = 10 ** (-frame_db / 10 * torch.arange(n_frames, device=power.device, dtype=power.dtype))
    decay = decay / decay.sum() * 10 ** (-direct_db / 10)
    late = F.conv1d(F.pad(power.transpose(0, 1), (n_frames - 1, 0)), decay.flip(0)[None, None]).transpose(0, 1)
    speckle = _noise_piece(settings, place, power)
    return power + late * speckle / _noise(settings, power.device).mean(-1, keepdim=True)


def noise(decibels: float, slope: float, settings: SpeechSettings, place: int, like: torch.Tensor) -> torch.Tensor:
    """Powers (n_mels, frames) of Gaussian noise, whose RMS is `decibels` dB relative to that of a sine at the level.

    Its spectrum rises by `slope` dB over the whole picture: 0 is white, -12 is near to the noise of a room.
    """
    color = equalizer(np.array([-slope / 2, slope / 2]), like)
    white = _noise(settings, like.device).mean(-1, keepdim=True)
    # the RMS is that of the frequencies, not of the bands, and high bands are the wider ones
    widths = torch.from_numpy(np.gradient(_centers(settings))).to(like)[:, None]
    share = (white * color * widths).sum() / (white * widths).sum()
    return _noise_piece(settings, place, like) * color * (10 ** (decibels / 10) / share)


def band_limits(low: float, high: float, settings: SpeechSettings, device: torch.device | str) -> torch.Tensor:
    """Factors of power (n_mels, 1) of a line from `low` to `high` Hz.

    It falls by 24 dB per octave below, as transformers do, and by 100 dB in 400 Hz above, as digital filters do.
    """
    bins = np.arange(settings.n_bins) * settings.sample_rate / settings.n_fft
    decibels = 10 * np.log10(1 + (low / np.maximum(bins, 1.0)) ** 8) + np.maximum(bins - high, 0) / 4
    amplitudes = 10 ** (-np.minimum(decibels, STEEPEST_DB) / 20)
    return torch.from_numpy((mel_basis(settings) @ amplitudes) ** 2).float().to(device)[:, None]


def offset(decibels: float, settings: SpeechSettings, device: torch.device | str) -> torch.Tensor:
    """Powers (n_mels, 1) of a constant, `decibels` dB relative to a full-scale sine's amplitude at the level."""
    return torch.from_numpy(_constant(settings)).to(device)[:, None] * 10 ** (decibels / 10)


@lru_cache(maxsize=4)
def _centers(settings: SpeechSettings) -> np.ndarray:
    """Frequencies of the bands in Hz, (n_mels,), rising."""
    return mel_basis(settings) @ (np.arange(settings.n_bins) * settings.sample_rate / settings.n_fft)


def _mel_power(signal: np.ndarray, n_frames: int, settings: SpeechSettings) -> np.ndarray:
    """Powers float32 (n_mels, n_frames) of frames from sample 4 n_fft on, where the signal has begun."""
    first = settings.margin * 2
    return np.square(mel_basis(settings) @ magnitudes(signal, first, first + n_frames, settings)).astype(np.float32)


@lru_cache(maxsize=4)
def _noise(settings: SpeechSettings, device: torch.device) -> torch.Tensor:
    """Powers of white noise with the RMS of a full-scale sine, (n_mels, NOISE_FRAMES), always the same."""
    n_samples = (NOISE_FRAMES + 4 * settings.margin) * settings.hop_length
    white = np.random.default_rng(0).normal(size=n_samples) * np.sqrt(0.5)
    return torch.from_numpy(_mel_power(white, NOISE_FRAMES, settings)).to(device)


def _noise_piece(settings: SpeechSettings, place: int, like: torch.Tensor) -> torch.Tensor:
    """As many frames of the noise as `like` has, from a place on."""
    frames = (torch.arange(like.shape[-1], device=like.device) + place) % NOISE_FRAMES
    return _noise(settings, like.device).index_select(-1, frames)


@lru_cache(maxsize=4)
def _constant(settings: SpeechSettings) -> np.ndarray:
    """Powers of the bands of a constant 1, float32 (n_mels,)."""
    return _mel_power(np.ones(8 * settings.n_fft), 1, settings)[:, 0]
