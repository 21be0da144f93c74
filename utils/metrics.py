"""Distortion and rate-distortion measures, between what was read and what was decoded.

Images are scored on the 8-bit pixels a viewer gets, speech on float samples at 16 kHz.
No model is imported here, and the packages behind a score only when it is asked for.
"""

import math
import warnings

import numpy as np

SPEECH_RATE = 16000  # Hz; all speech scores are defined on this sample rate here

_SSIM_WINDOW = 11  # pixels; the Gaussian window of SSIM
_SSIM_STRIP = 64  # rows of an image that are filtered at once
_MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, fine to coarse

# The C code behind `pesq` overruns a table of 50 utterances, and ends the process with it, when a
# clip holds more; an utterance and its pause are at least 0.4 s, so 15 s cannot hold as many.
_WORST_PESQ = 1.0  # MOS-LQO
_PESQ_SECONDS = 15
_STOI_SECONDS = 300  # `pystoi` holds some 1.5 MB for every second of a clip

_LSD_WINDOW = 512  # samples, 32 ms
_LSD_HOP = 128  # samples, 8 ms
_LSD_FLOOR_DB = -80.0  # relative to the reference's loudest bin
_LSD_BLOCK = 4096  # frames at once, so that an hour of speech fits in memory


def _check_images(original: np.ndarray, decoded: np.ndarray) -> None:
    for image in (original, decoded):
        if image.dtype != np.uint8 or image.ndim != 3 or image.size == 0:
            raise ValueError(f"images must be uint8 (H, W, C) and not empty, found {image.dtype} {image.shape}")
    if original.shape != decoded.shape:
        raise ValueError(f"images differ in shape: {original.shape} and {decoded.shape}")


def psnr(original: np.ndarray, decoded: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of uint8 (H, W, C), from the mean squared error over all channels.

    Identical images give inf. Raises ValueError for another dtype or differing shapes.
    """
    _check_images(original, decoded)
    # Exact integer sum, row by row in blocks: a large photograph needs no large temporary.
    squared_error = 0
    for row in range(0, original.shape[0], 256):
        difference = original[row : row + 256].astype(np.int32) - decoded[row : row + 256]
        squared_error += int(np.square(difference).sum(dtype=np.int64))
    if squared_error == 0:
        return math.inf
    return 10 * math.log10(255**2 * original.size / squared_error)


def _mean_similarity(original, decoded, window):
    """Means of the SSIM map and of its contrast term: two tensors (1, C) of (1, C, H, W)."""
    import torch
    from pytorch_msssim.ssim import _ssim

    # In strips that overlap by the window: the same means, for 24 megapixels in 8 s and 1.6 GB
    # on one core instead of 61 s and 3.7 GB, as the filtered copies stay in the cache.
    rows = original.shape[2] - _SSIM_WINDOW + 1
    means = []
    for start in range(0, rows, _SSIM_STRIP):
        inside = slice(start, start + _SSIM_STRIP + _SSIM_WINDOW - 1)
        share = min(_SSIM_STRIP, rows - start) / rows
        strip = _ssim(original[:, :, inside], decoded[:, :, inside], data_range=255, win=window)
        means.append(share * torch.stack(strip))
    return torch.stack(means).sum(dim=0)


def ms_ssim(original: np.ndarray, decoded: np.ndarray) -> float:
    """Multi-scale structural similarity of uint8 (H, W, C), mean over channels, 0..1.

    The measure of pytorch-msssim: 11-pixel Gaussian window, 5 scales, which needs a shorter
    side above 160 pixels. Smaller images are scored on as many of the finest scales as keep
    the window inside (4 above 80, 3 above 40, 2 above 20, 1 above 10, which is plain SSIM),
    with the weights of Wang et al. renormalized to sum 1; up to 10 pixels the score is nan.
    Such scores compare among images of one size only.

    Raises ValueError for another dtype or differing shapes.
    """
    import torch
    import torch.nn.functional as F
    from pytorch_msssim.ssim import _fspecial_gauss_1d

    _check_images(original, decoded)
    side, channels = min(original.shape[:2]), original.shape[2]
    scales = sum(side > (_SSIM_WINDOW - 1) * 2**scale for scale in range(len(_MS_SSIM_WEIGHTS)))
    if scales == 0:
        return math.nan
    window = _fspecial_gauss_1d(_SSIM_WINDOW, 1.5).repeat(channels, 1, 1, 1)  # (C, 1, 1, 11)
    total_weight = sum(_MS_SSIM_WEIGHTS[:scales])
    score = torch.ones(1, channels)
    with torch.inference_mode():
        pair = [
            torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32, order="C"))[None]
            for image in (original, decoded)
        ]  # (1, C, H, W)
        for scale in range(scales):
            if scale:
                padding = [length % 2 for length in pair[0].shape[2:]]
                pair = [F.avg_pool2d(image, 2, padding=padding) for image in pair]
            similarity, contrast = _mean_similarity(*pair, window)
            # Luminance counts at the coarsest scale only.
            term = similarity if scale == scales - 1 else contrast
            score = score * torch.relu(term) ** (_MS_SSIM_WEIGHTS[scale] / total_weight)
    return score.mean().item()


def _check_speech(reference: np.ndarray, decoded: np.ndarray) -> None:
    for clip in (reference, decoded):
        if clip.ndim != 1 or clip.dtype.kind != "f":
            raise ValueError(f"speech must be floats of shape (n,), found {clip.dtype} {clip.shape}")
    if reference.shape != decoded.shape:
        raise ValueError(f"clips differ in length: {reference.size} and {decoded.size} samples")


def _is_silent(clip: np.ndarray) -> bool:
    return clip.size == 0 or not np.any(clip)


def pesq_wb(reference: np.ndarray, decoded: np.ndarray) -> float:
    """Wideband PESQ (ITU-T P.862.2, MOS-LQO 1.0 to 4.64) of float (n,) in [-1, 1] at 16 kHz.

    Clips above 15 s are cut into the fewest equal parts of at most 15 s and the mean of their
    scores is given, parts without speech left out. A part that is decoded to silence scores 1.0. nan where the measure
    is not defined: clips under a quarter of a second, or no speech found in the reference.

    Raises ValueError if the shapes differ or are not (n,).
    """
    from pesq import PesqError, pesq

    _check_speech(reference, decoded)

    def part_score(clean, coded):
        if _is_silent(clean) or _is_silent(coded):
            return math.nan
        score = pesq(SPEECH_RATE, clean, coded, "wb", on_error=PesqError.RETURN_VALUES)
        return float(score) if score > 0 else math.nan  # errors are negative numbers, undefined scores nan

    return _mean_of_parts(part_score, reference, decoded, _PESQ_SECONDS, _WORST_PESQ)


def _mean_of_parts(score, reference: np.ndarray, decoded: np.ndarray, seconds: float, worst: float) -> float:
    """Mean of score(reference, decoded) over the fewest equal parts of at most `seconds`, nan left out.

    A part that is decoded to silence has the worst score, if its reference has one at all: to leave it out would be a
    reward.
    """
    parts = max(1, math.ceil(reference.size / (seconds * SPEECH_RATE)))
    scores = []
    for clean, coded in zip(np.array_split(reference, parts), np.array_split(decoded, parts)):
        is_mute = _is_silent(coded) and not math.isnan(score(clean, clean))
        scores.append(worst if is_mute else score(clean, coded))
    scores = [value for value in scores if not math.isnan(value)]
    return sum(scores) / len(scores) if scores else math.nan


def stoi(reference: np.ndarray, decoded: np.ndarray) -> float:
    """Short-time objective intelligibility (about 0..1) of float (n,) in [-1, 1] at 16 kHz.

    Clips above 5 minutes are cut into the fewest equal parts of at most 5 minutes, whose mean is given.
    A part that is decoded to silence scores 0. nan if the reference is silent or holds less than about 0.4 s of speech.
    Raises ValueError if the shapes differ or are not (n,).
    """
    return _stoi(reference, decoded, extended=False)


def estoi(reference: np.ndarray, decoded: np.ndarray) -> float:
    """Extended short-time objective intelligibility; arguments and nan as for `stoi`."""
    return _stoi(reference, decoded, extended=True)


def _stoi(reference: np.ndarray, decoded: np.ndarray, extended: bool) -> float:
    _check_speech(reference, decoded)
    return _mean_of_parts(
        lambda clean, coded: _stoi_of_part(clean, coded, extended), reference, decoded, _STOI_SECONDS, worst=0.0
    )


def _stoi_of_part(reference: np.ndarray, decoded: np.ndarray, extended: bool) -> float:
    from pystoi import stoi as library_stoi

    # Shorter clips do not fill one of its frames after resampling, on which it fails.
    if reference.size < SPEECH_RATE // 4 or _is_silent(reference) or _is_silent(decoded):
        return math.nan
    with warnings.catch_warnings():
        # It warns and returns 1e-5 when too few frames are left without the silent ones.
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return float(library_stoi(reference, decoded, SPEECH_RATE, extended=extended))
        except RuntimeWarning:
            return math.nan


def _power_blocks(clip: np.ndarray):
    """Power spectra of a clip (n,), in blocks (frames <= _LSD_BLOCK, _LSD_WINDOW / 2 + 1)."""
    window = np.hanning(_LSD_WINDOW + 1)[:-1]  # periodic
    frames = np.lib.stride_tricks.sliding_window_view(clip, _LSD_WINDOW)[::_LSD_HOP]
    for start in range(0, len(frames), _LSD_BLOCK):
        block = frames[start : start + _LSD_BLOCK].astype(np.float64) * window
        yield np.square(np.abs(np.fft.rfft(block)))


def log_spectral_distance(reference: np.ndarray, decoded: np.ndarray) -> float:
    """Log-spectral distance in dB of float (n,) at 16 kHz; 0 for identical clips.

    Frames of 512 samples (32 ms) every 128 (8 ms), periodic Hann window, no padding, so samples
    after the last whole frame do not count. The distance of a frame is the root mean square over
    the 257 bins of the difference of the power spectra in dB, and the result is the mean over
    frames. Both spectra are floored 80 dB under the reference's loudest bin, so silence against
    silence is 0.

    nan if the reference is silent or shorter than one frame. Raises ValueError if the shapes
    differ or are not (n,).
    """
    _check_speech(reference, decoded)
    if reference.size < _LSD_WINDOW or _is_silent(reference):
        return math.nan
    floor = max(power.max() for power in _power_blocks(reference)) * 10 ** (_LSD_FLOOR_DB / 10)
    if floor == 0:  # the only sound lies after the last whole frame
        return math.nan
    total, frames = 0.0, 0
    for power, decoded_power in zip(_power_blocks(reference), _power_blocks(decoded)):
        difference = 10 * np.log10(np.maximum(power, floor) / np.maximum(decoded_power, floor))
        total += float(np.sqrt(np.mean(np.square(difference), axis=1)).sum())
        frames += len(difference)
    return total / frames


def _rate_curve(rate, quality):
    """Log rate as a function of quality, and the range of quality that it covers."""
    from scipy.interpolate import PchipInterpolator

    rate, quality = np.asarray(rate, np.float64), np.asarray(quality, np.float64)
    if rate.ndim != 1 or rate.shape != quality.shape or rate.size < 2:
        raise ValueError(
            "a rate-distortion curve needs as many rates as qualities, at least 2, "
            f"found {rate.shape} and {quality.shape}"
        )
    if not (np.isfinite(rate).all() and np.isfinite(quality).all() and (rate > 0).all()):
        raise ValueError("rates must be finite and above 0, qualities finite")
    order = np.argsort(quality)
    rate, quality = rate[order], quality[order]
    if (np.diff(quality) == 0).any():
        raise ValueError("two points of a rate-distortion curve have the same quality")
    return PchipInterpolator(quality, np.log(rate)), quality[0], quality[-1]


def bd_rate(rate_a, quality_a, rate_b, quality_b) -> float:
    """Bjontegaard rate difference of codec b against the anchor a, in percent.

    Each curve is (n,) rates above 0, in any unit that both share, and (n,) qualities (PSNR,
    PESQ, ...), n >= 2, in any order. The mean difference of the log rates, interpolated by
    monotone piecewise cubics (PCHIP) in quality, is taken over the qualities that both cover.
    Negative: b needs fewer bits; +10: b needs 10 % more at equal quality.

    Raises ValueError for a malformed curve, or if the qualities do not overlap.
    """
    curve_a, low_a, high_a = _rate_curve(rate_a, quality_a)
    curve_b, low_b, high_b = _rate_curve(rate_b, quality_b)
    low, high = max(low_a, low_b), min(high_a, high_b)
    if low >= high:
        raise ValueError(f"the qualities do not overlap: {low_a:g} to {high_a:g} and {low_b:g} to {high_b:g}")
    difference = (curve_b.integrate(low, high) - curve_a.integrate(low, high)) / (high - low)
    return float(100 * math.expm1(difference))
