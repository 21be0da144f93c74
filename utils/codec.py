"""The sender: a signal into the bytes of a .bpgan file, with as much search as one likes.

    codec = load_codec("checkpoints/image.safetensors")
    data = codec.compress(pixels, quality=3)
    pixels = codec.decompress(data)
"""

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from models import QUALITIES, QUALITY_STEPS, STRIDE
from models.losses import squared_error
from . import bitstream
from .admm import Problem, SearchConfig, optimize_latent, preset
from .checkpoint import load_checkpoint
from .coders import Coder
from .decoder import Decoder
from .tiling import Window, latent_shape, pad_to_stride, windows

TARGET_TOLERANCE = 0.03     # a target rate is met from below within this fraction
MAX_TARGET_TRIALS = 12
SEARCH_SAVES = 0.12         # of the bits, typically: where the first trial of a target starts


@dataclass
class Encoded:
    """A coded signal and how it came about."""

    data: bytes                     # the whole file
    quality: float                  # 1..8
    coder: str
    search: str
    iterations: int
    seconds: float                  # to encode
    bits_saved: float = 0.0         # of F + bits against encode-and-round, as a fraction
    history: list[dict] = field(default_factory=list)


class Codec(Decoder):
    """A Decoder that can also encode."""

    with_encoder = True

    def compress(self, signal: np.ndarray, quality: float = 3, search: str | SearchConfig = "admm",
                 iterations: int | None = None, entropy_coder: str | None = None, seed: int = 0) -> bytes:
        """Signal, as `Signal.read` returns it -> the bytes of a file. See `encode`."""
        return self.encode(signal, quality, search, iterations, entropy_coder, seed).data

    def encode(self, signal: np.ndarray, quality: float = 3, search: str | SearchConfig = "admm",
               iterations: int | None = None, entropy_coder: str | None = None, seed: int = 0) -> Encoded:
        """Like `compress`, with what is known of the result.

        quality in 1..8, to 1/32; search a method's name or a SearchConfig; entropy_coder None takes
        the checkpoint's default. Raises ValueError for an argument out of range.
        """
        started = time.perf_counter()
        config = search if isinstance(search, SearchConfig) else preset(search, iterations)
        coder = self._coder(entropy_coder)
        step = quality_step(quality)
        picture, level = self.signal.to_picture(signal)
        plain = self._analyze(picture, step)
        symbols, history = self._search(picture, plain, step, config, seed, coder)
        size = self.signal.size(signal)
        data, saved = self._write(picture, plain.round().to(torch.int16).numpy(), symbols, step, coder, size, level)
        return Encoded(data, 1 + step / QUALITY_STEPS, coder.name, config.method, config.iterations,
                       time.perf_counter() - started, saved, history)

    def encode_to_rate(self, signal: np.ndarray, target: float, search: str | SearchConfig = "admm",
                       iterations: int | None = None, entropy_coder: str | None = None, seed: int = 0) -> Encoded:
        """The best quality whose whole file stays at or under `target` (in the kind's rate unit).

        Bisection over the quality's steps of 1/32, first without search, then with it. Raises
        ValueError that names the nearest reachable rate if the target is out of reach.
        """
        started = time.perf_counter()
        size = self.signal.size(signal)
        config = search if isinstance(search, SearchConfig) else preset(search, iterations)
        tried: dict[int, Encoded] = {}

        def rate_at(step: int) -> float:
            if step not in tried:
                tried[step] = self.encode(signal, 1 + step / QUALITY_STEPS, config, None, entropy_coder, seed)
            return self.signal.rate(len(tried[step].data), size)

        last = (QUALITIES - 1) * QUALITY_STEPS
        low, high = 0, last
        guess = self._step_without_search(signal, target / (1 - SEARCH_SAVES if config.iterations else 1), entropy_coder)
        width = 4
        for _ in range(MAX_TARGET_TRIALS):
            rate = rate_at(guess)
            if rate <= target:
                low = guess
                if rate >= target * (1 - TARGET_TOLERANCE) or guess == last:
                    break
            else:
                high = guess
                if guess == 0:
                    break
            if high - low <= 1 and low in tried:
                break
            # widen from the first guess until the target lies between, then halve
            guess = min(last, low + width) if low in tried and high not in tried else (
                max(0, high - width) if low not in tried else (low + high) // 2)
            width *= 2
        reached = {step: rate_at(step) for step in tried}
        under = [step for step, rate in reached.items() if rate <= target]
        unit = self.signal.rate_unit
        if not under:
            raise ValueError(f"{target:g} {unit} is below what this signal can be coded in; "
                             f"the nearest reachable rate is {min(reached.values()):.4f} {unit}")
        best = max(under, key=lambda step: reached[step])
        if best == last and reached[best] < target * (1 - TARGET_TOLERANCE):
            raise ValueError(f"{target:g} {unit} is above the highest quality; "
                             f"the nearest reachable rate is {reached[best]:.4f} {unit}")
        tried[best].seconds = time.perf_counter() - started
        return tried[best]

    # -- the steps ---------------------------------------------------------------------------------

    def _coder(self, name: str | None) -> Coder:
        name = name or self.default_coder
        if name not in self.coders:
            raise ValueError(f"entropy coder {name!r} has no tables in this checkpoint, only {', '.join(self.coders)}")
        return self.coders[name]

    def _step_without_search(self, signal: np.ndarray, target: float, entropy_coder: str | None) -> int:
        """The highest step whose encode-and-round file stays under the target; 0 if none does."""
        coder, size = self._coder(entropy_coder), self.signal.size(signal)
        picture, _ = self.signal.to_picture(signal)
        low, high = 0, (QUALITIES - 1) * QUALITY_STEPS + 1
        while high - low > 1:
            middle = (low + high) // 2
            symbols = self._analyze(picture, middle).round().to(torch.int16).numpy()
            n_bytes = coder.cost_bits(symbols, middle) / 8 + bitstream.MAX_OVERHEAD
            low, high = (middle, high) if self.signal.rate(n_bytes, size) <= target else (low, middle)
        return low

    @torch.no_grad()
    def _analyze(self, picture: np.ndarray, step: int) -> torch.Tensor:
        """picture (C, H, W) -> latent on the symbols' axis (channels, h, w), float32, on the CPU."""
        quality = self.quality_tensor(step)
        rows, columns = latent_shape(*picture.shape[1:])
        index = torch.empty(self.config.latent_channels, rows, columns)
        for window in windows(rows, columns, self.config.encoder_reach):
            x = self._window(picture, window)
            with self._autocast():
                y = self.model.analyze(x, quality)
            part = self.model.codebook.to_index(y)[0].clamp(-32767, 32767)
            index[(slice(None), *window.core())] = part[(slice(None), *window.core_in_outer())].cpu()
        return index

    def _window(self, picture: np.ndarray, window: Window) -> torch.Tensor:
        """The window's outer part of a picture -> (1, C, H, W), padded to the stride."""
        part = torch.from_numpy(np.ascontiguousarray(picture[(slice(None), *window.outer(STRIDE))]))
        x = pad_to_stride(part[None]).to(self.device)
        return x.contiguous(memory_format=torch.channels_last)

    def _autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16)

    def _search(self, picture: np.ndarray, plain: torch.Tensor, step: int, config: SearchConfig,
                seed: int, coder: Coder) -> tuple[np.ndarray, list[dict]]:
        """Search window by window; the margin of each holds what is decided so far."""
        symbols = plain.round()
        history = []
        if config.iterations:
            for window in windows(*plain.shape[1:], self.config.generator_reach):
                start = symbols[(slice(None), *window.outer())][None].clone()
                core = (slice(None), slice(None), *window.core_in_outer())
                movable = None
                if start.shape[2:] != plain.shape[1:]:
                    movable = torch.zeros(1, 1, *start.shape[2:], dtype=torch.bool)
                    movable[core] = True
                    movable = movable.to(self.device)
                start[core] = plain[(slice(None), *window.core())]
                problem = self._problem(self._window(picture, window), start.to(self.device), step, movable,
                                        picture[(slice(None), *window.outer(STRIDE))].shape[1:], coder)
                result = optimize_latent(problem, config, seed)
                symbols[(slice(None), *window.core())] = result.symbols[core][0].float().cpu()
                history.extend(result.history)
        return symbols.to(torch.int16).numpy(), history

    def _problem(self, x: torch.Tensor, start: torch.Tensor, step: int, movable: torch.Tensor | None,
                 valid: tuple[int, int], coder: Coder) -> Problem:
        """The search's functions for one window; `valid` rows and columns of x are the signal's own."""
        model, quality = self.model, self.quality_tensor(step)
        rows, columns = valid
        weight = self.config.lmbda(1 + step / QUALITY_STEPS) * 255 ** 2 * rows * columns
        target = x[..., :rows, :columns]

        def distortion(index: torch.Tensor) -> torch.Tensor:
            with self._autocast():
                x_hat = model.generate(model.codebook.from_index(index), quality)
            return weight * squared_error(target, x_hat[..., :rows, :columns].clamp(-1, 1))

        def rate(index: torch.Tensor) -> torch.Tensor:
            with self._autocast():
                return model.rate(index, index, quality)

        def costs(context: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
            with self._autocast():
                mean, log_scale = model.context(context, quality)
            return coder.bits(candidates, mean, log_scale)

        def true_rate(symbols: torch.Tensor) -> torch.Tensor:
            return costs(symbols, symbols).flatten(1).sum(1)

        return Problem(distortion, rate, true_rate, costs, start, movable)

    def _write(self, picture: np.ndarray, plain: np.ndarray, symbols: np.ndarray, step: int, coder: Coder,
               size: tuple[int, int], level: int) -> tuple[bytes, float]:
        """The file of the better of two symbol grids, judged by true bits and the receiver's picture."""
        payloads = {}
        best, saved = symbols, 0.0
        if not np.array_equal(plain, symbols):
            costs = []
            for candidate in (plain, symbols):
                payloads[id(candidate)] = coder.encode(candidate, step)
                costs.append(8 * len(payloads[id(candidate)][0]) + self._distortion_bits(picture, candidate, step))
            if costs[0] <= costs[1]:
                best = plain
            saved = 1 - min(costs) / costs[0]
        payload, repeats = payloads.get(id(best)) or coder.encode(best, step)
        header = bitstream.FileHeader(kind=self.signal.code, coder=coder.code, repeats=int(repeats), quality=step,
                                      fingerprint=self.fingerprint, size_a=size[0], size_b=size[1], level=level)
        return bitstream.pack(header, payload, self.default_sizes), saved

    def _distortion_bits(self, picture: np.ndarray, symbols: np.ndarray, step: int) -> float:
        rows, columns = picture.shape[1:]
        x_hat = np.clip(self.generate(symbols, step)[:, :rows, :columns], -1, 1)
        mse = float(np.mean(np.square(x_hat - picture), dtype=np.float64)) / 4
        return self.config.lmbda(1 + step / QUALITY_STEPS) * 255 ** 2 * mse * rows * columns


def quality_step(quality: float) -> int:
    """Quality 1..8 -> the integer that a file names it by. Raises ValueError out of range."""
    if not 1 <= quality <= QUALITIES:
        raise ValueError(f"quality {quality:g} is outside 1 to {QUALITIES}")
    return round((quality - 1) * QUALITY_STEPS)


def load_codec(path: Path | str, device: torch.device | str = "cpu") -> Codec:
    """A checkpoint file -> Codec. Raises ValueError with one line."""
    return Codec(load_checkpoint(Path(path)), device)
