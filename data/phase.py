"""Phase from magnitude: phase gradient heap integration, then fast Griffin-Lim.

For a Gaussian window the phase gradient is a finite difference of the log magnitude, which
is integrated along the loudest coefficients first:
    Prusa, Balazs, Sondergaard, "A noniterative method for reconstruction of phase from
    STFT magnitude", IEEE/ACM TASLP 25(5), 2017.
Accelerated alternating projections then refine it:
    Perraudin, Balazs, Sondergaard, "A fast Griffin-Lim algorithm", WASPAA 2013.
Nothing is random: the same magnitudes give the same waveform.
"""

import numpy as np

from utils.compiled import compiled

from .stft import SpeechSettings, analyze, round_up, synthesize

MOMENTUM = 0.99  # alpha of Perraudin et al.
LOG_FLOOR = 1e-6  # relative magnitude under which differences of logarithms mean nothing


def integrate_phase(magnitude: np.ndarray, settings: SpeechSettings, known: np.ndarray | None = None) -> np.ndarray:
    """PGHI: magnitudes (n_bins, frames) >= 0 -> phases in radians, float64, same shape.

    Phases are relative to each frame's center. `known` (n_bins, k), k > 0, fixes the phases of
    the first k frames, and integration starts from there.
    """
    magnitude = np.ascontiguousarray(magnitude.T)  # a frame's bins are neighbors in memory
    log_magnitude = np.log(np.maximum(magnitude, LOG_FLOOR * max(magnitude.max(), 1e-20)))
    phase = np.zeros(magnitude.shape)
    n_known = 0
    if known is not None:
        n_known = known.shape[1]
        phase[:n_known] = known.T
    hop, n_fft = settings.hop_length, settings.n_fft
    _heap_integrate(
        log_magnitude.astype(np.float32), phase, n_known, 2 * np.pi * hop / n_fft, hop * n_fft / settings.gamma
    )
    return phase.T


@compiled()
def _heap_integrate(log_magnitude, phase, n_known, advance, ratio):
    """Fill `phase` (frames, bins). Per frame and per bin, with s the log magnitude,
        d phase / d frame = advance * bin + ratio * (s[bin + 1] - s[bin - 1]) / 2
        d phase / d bin   = -(s[frame + 1] - s[frame - 1]) / (2 * ratio)
    and the trapezoidal rule between neighbors. The loudest border coefficient goes first.
    As silence is a floor and not a hole, one seed reaches every coefficient.
    """
    n_frames, n_bins = log_magnitude.shape
    keys = log_magnitude.ravel()
    flat_phase = phase.ravel()
    per_frame = np.empty(keys.size)
    per_bin = np.empty(keys.size)
    for n in range(n_frames):
        before, after = max(n - 1, 0), min(n + 1, n_frames - 1)
        for m in range(n_bins):
            # the spectrum of a real signal is symmetric about 0 Hz and about Nyquist
            slope = 0.0
            if 0 < m < n_bins - 1:
                slope = (log_magnitude[n, m + 1] - log_magnitude[n, m - 1]) / 2
            per_frame[n * n_bins + m] = advance * m + ratio * slope
            per_bin[n * n_bins + m] = (log_magnitude[before, m] - log_magnitude[after, m]) / (2 * ratio)

    done = np.zeros(keys.size, np.bool_)
    heap = np.empty(keys.size, np.int64)
    heap_keys = np.empty(keys.size, np.float32)
    size = 0
    if n_known == 0:
        seed = np.argmax(keys)
        done[seed] = True
        size = _push(heap, heap_keys, size, seed, keys[seed])
    else:
        done[: n_known * n_bins] = True
        for seed in range((n_known - 1) * n_bins, n_known * n_bins):
            size = _push(heap, heap_keys, size, seed, keys[seed])

    while size > 0:
        here = heap[0]
        size = _pop(heap, heap_keys, size)
        m = here % n_bins
        for step, exists, gradient in (
            (n_bins, here + n_bins < keys.size, per_frame),
            (-n_bins, here >= n_bins, per_frame),
            (1, m + 1 < n_bins, per_bin),
            (-1, m > 0, per_bin),
        ):
            there = here + step
            if exists and not done[there]:
                change = (gradient[here] + gradient[there]) / 2
                flat_phase[there] = flat_phase[here] + (change if step > 0 else -change)
                done[there] = True
                size = _push(heap, heap_keys, size, there, keys[there])


@compiled()
def _push(heap, heap_keys, size, item, key):
    """Add an item to a binary heap with the largest key on top. Returns the new size."""
    child = size
    while child > 0:
        parent = (child - 1) // 2
        if heap_keys[parent] >= key:
            break
        heap[child], heap_keys[child] = heap[parent], heap_keys[parent]
        child = parent
    heap[child], heap_keys[child] = item, key
    return size + 1


@compiled()
def _pop(heap, heap_keys, size):
    """Remove the top of the heap. Returns the new size."""
    size -= 1
    item, key = heap[size], heap_keys[size]
    parent = 0
    while True:
        child = 2 * parent + 1
        if child >= size:
            break
        if child + 1 < size and heap_keys[child + 1] > heap_keys[child]:
            child += 1
        if key >= heap_keys[child]:
            break
        heap[parent], heap_keys[parent] = heap[child], heap_keys[child]
        parent = child
    heap[parent], heap_keys[parent] = item, key
    return size


def reconstruct(
    magnitude: np.ndarray, support: tuple[int, int], settings: SpeechSettings, past: np.ndarray | None = None
) -> np.ndarray:
    """Waveform whose Gabor transform has the given magnitudes.

    magnitude: (n_bins, frames), frame k centered on sample k * hop_length of the result.
    support: samples (start, stop), the only ones that may differ from zero; start may be
        negative, stop past the last frame, by up to `settings.margin` frames.
    past: samples already decided, from -margin * hop_length on: the result continues them.
    Returns float64 from sample 0 to the end of the last frame's hop.
    """
    hop, margin = settings.hop_length, settings.margin
    n_frames = magnitude.shape[1]
    # the transform is circular: frames of which nothing is known keep the two ends apart
    total = round_up((n_frames + 2 * margin) * hop, settings.n_fft)
    inside = np.zeros(total, dtype=bool)
    inside[max(support[0] + margin * hop, 0) : support[1] + margin * hop] = True
    frames = slice(margin, margin + n_frames)

    known = None
    if past is not None:
        context = np.zeros(total)
        context[: len(past)] = past
        n_known = len(past) // hop - margin - settings.n_fft // hop  # windows wholly in the past
        known = np.angle(analyze(context, settings)[:, margin : margin + n_known])

    target = np.asfortranarray(magnitude, dtype=np.float64)  # as ltfatpy orders coefficients
    phase = integrate_phase(target, settings, known)
    estimate = np.zeros((settings.n_bins, total // hop), dtype=np.complex128, order="F")
    estimate[:, frames] = target * np.exp(1j * phase)

    def nearest_signal(coefficients: np.ndarray) -> np.ndarray:
        """Waveform of the coefficients that keeps to its support and to its past."""
        signal = synthesize(coefficients, settings)
        signal[~inside] = 0
        if past is not None:
            signal[: len(past)] = past
        return signal

    previous = estimate
    for iteration in range(settings.griffin_lim_iterations):
        current = analyze(nearest_signal(estimate), settings)
        _impose_magnitude(current[:, frames].T, target.T)
        if iteration == 0:
            estimate = current.copy(order="F")
        else:
            _accelerate(estimate.T, current.T, previous.T)
        previous = current
    signal = synthesize(previous, settings)
    signal[~inside] = 0
    return signal[margin * hop : (margin + n_frames) * hop]


@compiled(fastmath=True)
def _impose_magnitude(coefficients, magnitude):
    """Scale coefficients (frames, bins), in place, to the given magnitudes; phases stay."""
    for n in range(coefficients.shape[0]):
        for m in range(coefficients.shape[1]):
            real, imag = coefficients[n, m].real, coefficients[n, m].imag
            scale = magnitude[n, m] / np.sqrt(real * real + imag * imag + 1e-40)
            coefficients[n, m] = complex(scale * real, scale * imag)


@compiled()
def _accelerate(estimate, current, previous):
    """estimate = current + MOMENTUM * (current - previous), in place, without temporaries."""
    for n in range(estimate.shape[0]):
        for m in range(estimate.shape[1]):
            estimate[n, m] = current[n, m] + MOMENTUM * (current[n, m] - previous[n, m])
