"""The Gabor transform of speech and its mel bands.

Coefficients are `ltfatpy.dgtreal` with a Gaussian window, the one window for which phase
follows exactly from magnitude (`data/phase.py`). The window is cut to finite length, so a
frame depends on nearby samples only and a long signal can be transformed chunk by chunk.
Frame k is centered on sample k * hop_length; a full-scale sine has magnitude 1 (0 dB).
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

MEL_ITERATIONS = 20  # from mel bands to magnitudes


@dataclass(frozen=True)
class SpeechSettings:
    """Numbers that fix the speech picture; they travel with a checkpoint."""

    sample_rate: int = 16000  # Hz, of the signal in memory
    n_fft: int = 512  # samples
    hop_length: int = 128  # samples, a quarter of n_fft or a smaller divisor of it
    n_mels: int = 128  # bands, the rows of the picture
    fmin: float = 0.0  # Hz, lower edge of the lowest band
    fmax: float = 8000.0  # Hz, upper edge of the highest band
    floor_db: float = 80.0  # range of the picture below the file's level
    griffin_lim_iterations: int = 32  # refinements of the reconstructed phase
    exponent: float = 0.0  # > 0: the picture shows magnitude^exponent in place of decibels

    def __post_init__(self):
        for name in ("sample_rate", "n_fft", "hop_length", "n_mels", "griffin_lim_iterations"):
            if type(getattr(self, name)) is not int or getattr(self, name) > 1 << 20:
                raise ValueError(f"{name} must be an integer up to {1 << 20}, found {getattr(self, name)!r}")
        if self.hop_length < 1 or self.n_fft % (4 * self.hop_length):
            raise ValueError(
                f"n_fft must be a multiple of four times hop_length, found {self.n_fft} and {self.hop_length}"
            )
        if not 0 <= self.fmin < self.fmax <= self.sample_rate / 2:
            raise ValueError(
                f"need 0 <= fmin < fmax <= sample_rate / 2, found {self.fmin}, {self.fmax}, {self.sample_rate}"
            )
        if self.n_mels < 1 or not 0 < self.floor_db <= 400 or self.griffin_lim_iterations < 0:
            raise ValueError(
                "n_mels must be positive, floor_db in (0, 400], griffin_lim_iterations not "
                f"negative, found {self.n_mels}, {self.floor_db}, "
                f"{self.griffin_lim_iterations}"
            )
        if not 0 <= self.exponent <= 1:
            raise ValueError(f"exponent must be in [0, 1], found {self.exponent}")

    @property
    def n_bins(self) -> int:
        """Frequency bins of the transform, 0 Hz and the Nyquist frequency included."""
        return self.n_fft // 2 + 1

    @property
    def gamma(self) -> float:
        """Width of the window exp(-pi t^2 / gamma): as wide as the lattice in both directions."""
        return float(self.hop_length * self.n_fft)

    @property
    def margin(self) -> int:
        """Frames beyond which a sample no longer matters to a frame, or a frame to a sample."""
        return 2 * self.n_fft // self.hop_length

    def frames(self, n_samples: int) -> int:
        """Frames of a signal: 1 + n_samples // hop_length, centers 0, hop_length, ... inside it."""
        return 1 + n_samples // self.hop_length


@lru_cache(maxsize=4)
def windows(settings: SpeechSettings) -> tuple[np.ndarray, np.ndarray]:
    """Analysis window (2 n_fft,) and its canonical dual (4 n_fft,), float64, centered on index 0.

    At its ends the Gaussian is down by 109 dB for hop_length = n_fft / 4. The dual, computed
    for the window as cut, has decayed by 109 dB at its own ends.
    """
    from ltfatpy import gabdual

    n_fft = settings.n_fft
    time = np.fft.fftfreq(2 * n_fft, 1 / (2 * n_fft))
    window = np.exp(-np.pi * time**2 / settings.gamma)
    window *= 2 / window.sum()
    length = 16 * n_fft
    padded = np.zeros(length)
    padded[:n_fft], padded[-n_fft:] = window[:n_fft], window[n_fft:]
    dual = gabdual(padded, settings.hop_length, n_fft, length)
    dual = np.asarray(dual[0] if isinstance(dual, tuple) else dual).squeeze()
    return window, np.concatenate([dual[: 2 * n_fft], dual[-2 * n_fft :]])


def analyze(signal: np.ndarray, settings: SpeechSettings) -> np.ndarray:
    """Circular Gabor transform: (n,) with n a multiple of n_fft -> complex128 (n_bins, n / hop_length).

    Phases are relative to each frame's center (the 'timeinv' convention of LTFAT).
    """
    from ltfatpy import dgtreal

    window, _ = windows(settings)
    return dgtreal(signal, window, settings.hop_length, settings.n_fft, pt="timeinv")[0]


def synthesize(coefficients: np.ndarray, settings: SpeechSettings) -> np.ndarray:
    """Inverse of `analyze`: complex128 (n_bins, frames) -> float64 (frames * hop_length,)."""
    from ltfatpy import idgtreal

    _, dual = windows(settings)
    return idgtreal(coefficients, dual, settings.hop_length, settings.n_fft, pt="timeinv")[0].reshape(-1)


def magnitudes(signal: np.ndarray, first: int, last: int, settings: SpeechSettings) -> np.ndarray:
    """Magnitudes of frames first..last-1 of a signal (n,) that is zero outside.

    -> float64 (n_bins, last - first).
    """
    hop, margin = settings.hop_length, settings.margin
    total = round_up((last - first + 2 * margin) * hop, settings.n_fft)
    start = (first - margin) * hop
    piece = np.zeros(total)
    inside = signal[max(start, 0) : start + total]
    piece[max(-start, 0) : max(-start, 0) + len(inside)] = inside
    return np.abs(analyze(piece, settings)[:, margin : margin + last - first])


def to_shades(decibels: np.ndarray, settings: SpeechSettings) -> np.ndarray:
    """Loudness of mel bands in dB relative to the file's level -> the picture's values in [-1, 1], in place.

    They grow with the decibels above the floor, or with a power of the magnitude. Loudness as it is heard grows
    about with the cube root of the magnitude (Stevens 1955), so that an error there counts alike at all loudnesses.
    """
    if settings.exponent:
        np.power(10, np.multiply(decibels, settings.exponent / 20, out=decibels), out=decibels)
        decibels *= 2
        decibels -= 1
    else:
        decibels *= 2 / settings.floor_db
        decibels += 1
    return np.clip(decibels, -1, 1, out=decibels)


def to_decibels(shades: np.ndarray, settings: SpeechSettings) -> np.ndarray:
    """The way back, of values that are clamped first; -1 is the floor, or -400 dB / exponent where there is none."""
    shades = np.clip(shades, -1, 1)
    if settings.exponent:
        return 20 / settings.exponent * np.log10(np.maximum((shades + 1) / 2, 1e-20))
    return (shades - 1) * (settings.floor_db / 2)


def shown_magnitudes(shades, settings: SpeechSettings):
    """Magnitudes, 1 for the file's level, of shades in [-1, 1]: `to_decibels` and what follows it, for tensors too."""
    if settings.exponent:
        return ((shades + 1) / 2) ** (1 / settings.exponent)
    return 10 ** ((shades - 1) * (settings.floor_db / 40))


def round_up(number: int, multiple: int) -> int:
    """Smallest multiple that is not below number."""
    return -(-number // multiple) * multiple


@lru_cache(maxsize=4)
def mel_basis(settings: SpeechSettings) -> np.ndarray:
    """Mel filter bank, float32 (n_mels, n_bins): librosa's triangles (Slaney's scale).

    Rows sum to one, so a flat spectrum makes a flat picture although the narrow low bands
    hit one or two bins each.
    """
    from librosa.filters import mel

    basis = mel(
        sr=settings.sample_rate,
        n_fft=settings.n_fft,
        n_mels=settings.n_mels,
        fmin=settings.fmin,
        fmax=settings.fmax,
        norm=None,
    )
    sums = basis.sum(axis=1, keepdims=True)
    if not sums.all():
        raise ValueError(f"{settings.n_mels} mel bands are too many for n_fft {settings.n_fft}: some contain no bin")
    return np.ascontiguousarray(basis / sums, dtype=np.float32)


def mel_to_linear(mel: np.ndarray, settings: SpeechSettings) -> np.ndarray:
    """Non-negative magnitudes whose mel bands are `mel`: (n_mels, frames) >= 0 -> float32 (n_bins, frames).

    Starts from the interpolated bands and refines multiplicatively, which keeps the sign and
    minimizes the Kullback-Leibler divergence (Lee and Seung 2001). Bins outside all bands are 0.
    """
    down, up = _sparse_basis(settings)
    mel = np.ascontiguousarray(mel, dtype=np.float32)
    linear = mel_interpolation(settings) @ mel
    for _ in range(MEL_ITERATIONS):
        linear *= up @ (mel / np.maximum(down @ linear, 1e-20))
    return linear


@lru_cache(maxsize=4)
def mel_interpolation(settings: SpeechSettings):
    """Bins from mel bands, each between the peaks of its two: a sparse array (n_bins, n_mels), rows sum to one."""
    basis = mel_basis(settings)
    return _normalized((basis / basis.max(axis=1, keepdims=True)).T)


@lru_cache(maxsize=4)
def _sparse_basis(settings: SpeechSettings):
    """The filter bank, and its transpose with rows that sum to one: sparse, as a bin lies in two bands at most."""
    from scipy.sparse import csr_array

    basis = mel_basis(settings)
    return csr_array(basis), _normalized(basis.T)


def _normalized(rows: np.ndarray):
    """Sparse, each row divided by its sum; a row of zeros stays."""
    from scipy.sparse import csr_array

    sums = rows.sum(axis=1, keepdims=True)
    return csr_array(np.divide(rows, sums, out=np.zeros_like(rows), where=sums > 0))
