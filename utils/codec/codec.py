"""The sender: a signal into the bytes of a .bpgan file, with as much search as one likes.

codec = load_codec("checkpoints/image.safetensors")
data = codec.compress(pixels, quality=3)
pixels = codec.decompress(data)
"""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from models.config import QUALITIES, QUALITY_STEPS, STRIDE
from models.discriminator import Discriminator
from models.perceptual import PerceptualDistance, perceptual_distance
from models.quality import at_quality
from utils.entropy.coders import Coder
from utils.search.config import SearchConfig, preset
from utils.search.model_problem import Searchable
from utils.search.objectives import (
    Distortion,
    FeatureDistance,
    clamped_squared_error,
    discriminator_distance,
    ms_ssim_distance,
)
from utils.search.optimize import optimize_latent
from utils.search.problem import Problem

from . import bitstream
from .checkpoint import Checkpoint, load_checkpoint, load_strictly
from .costs import coded_bits
from .decoder import Decoder
from .limits import Limits
from .tiling import Window, latent_shape, pad_to_stride, windows

TARGET_TOLERANCE = 0.03  # a target rate is met from below within this fraction
MAX_TARGET_TRIALS = 12
# Latent positions that are searched at once. A CPU gains nothing from more than a picture of half a
# megapixel at a time, and much from small pictures together; a GPU takes more.
BATCH_POSITIONS = {"cpu": 2048, "cuda": 65536}


@dataclass
class Encoded:
    """A coded signal and how it came about."""

    data: bytes  # the whole file
    quality: float  # 1..8
    coder: str
    search: str
    iterations: int
    seconds: float  # to encode; of signals searched together, each one's share
    bits_saved: float = 0.0  # of F + bits against encode-and-round, as a fraction


class Codec(Decoder):
    """A Decoder that can also encode."""

    with_encoder = True

    def __init__(self, checkpoint: Checkpoint, device: torch.device | str = "cpu", limits: Limits | None = None):
        """`limits`: the largest signal, else the kind's default. Raises ValueError where the checkpoint's
        parts do not fit together."""
        super().__init__(checkpoint, device, limits)
        self.discriminator = None
        if checkpoint.discriminator is not None:
            self.discriminator = Discriminator(self.config.in_channels)
            load_strictly(self.discriminator, checkpoint.discriminator, "the checkpoint's discriminator")
            self.discriminator.requires_grad_(False).eval().to(self.device)
        # What the search finds with it is judged by what the float32 generator makes of it, in `_write`.
        self._searchable = Searchable(self.model)

    @cached_property
    def _vgg(self) -> PerceptualDistance | None:
        """Distance of VGG16's features, where there are any; loaded for the first search that asks for it."""
        return perceptual_distance(self.config.in_channels, self.device)

    def compress(
        self,
        signal: np.ndarray,
        quality: float = 3,
        search: str | SearchConfig = "admm",
        iterations: int | None = None,
        entropy_coder: str | None = None,
        seed: int = 0,
        objective: str = "mse",
    ) -> bytes:
        """Kind, as `Kind.read` returns it -> the bytes of a file. See `encode`."""
        return self.encode(signal, quality, search, iterations, entropy_coder, seed, objective).data

    def encode(
        self,
        signal: np.ndarray,
        quality: float = 3,
        search: str | SearchConfig = "admm",
        iterations: int | None = None,
        entropy_coder: str | None = None,
        seed: int = 0,
        objective: str = "mse",
    ) -> Encoded:
        """Like `compress`, with what is known of the result.

        quality in 1..8, to 1/32; search a method's name or a SearchConfig (which then names iterations
        and objective); entropy_coder None takes the checkpoint's default; objective one of "mse",
        "ms_ssim", "perceptual". Raises ValueError for an argument out of range.
        """
        return self.encode_batch([signal], quality, search, iterations, entropy_coder, seed, objective)[0]

    def encode_batch(
        self,
        signals: list[np.ndarray],
        quality: float = 3,
        search: str | SearchConfig = "admm",
        iterations: int | None = None,
        entropy_coder: str | None = None,
        seed: int = 0,
        objective: str = "mse",
    ) -> list[Encoded]:
        """`encode` of several signals, faster: those that go `together` are searched at once."""
        config, coder = _search_config(search, iterations, objective), self._coder(entropy_coder)
        encoded: dict[int, Encoded] = {}
        for places in self.together(signals):
            some = [signals[place] for place in places]
            encoded.update(zip(places, self._encode(some, quality_step(quality), config, coder, seed, None)))
        return [encoded[place] for place in range(len(signals))]

    def together(self, signals: list[np.ndarray]) -> list[list[int]]:
        """Places in the list, in groups of one picture shape, as large as BATCH_POSITIONS allow."""
        by_shape: dict[tuple[int, int], list[int]] = {}
        for place, signal in enumerate(signals):
            by_shape.setdefault(self.kind.picture_shape(self.kind.size(signal)), []).append(place)
        groups = []
        for shape, places in by_shape.items():
            count = max(1, BATCH_POSITIONS[self.device.type] // max(1, math.prod(latent_shape(*shape))))
            groups += [places[start : start + count] for start in range(0, len(places), count)]
        return groups

    def encode_to_rate(
        self,
        signal: np.ndarray,
        target: float,
        search: str | SearchConfig = "admm",
        iterations: int | None = None,
        entropy_coder: str | None = None,
        seed: int = 0,
        objective: str = "mse",
    ) -> Encoded:
        """The best quality whose whole file stays at or under `target` (in the kind's rate unit).

        Within 3 % of it, or ValueError that names the nearest reachable rate.
        """
        size, unit = self.kind.size(signal), self.kind.rate_unit

        def rate(encoded: Encoded) -> float:
            return self.kind.rate(len(encoded.data), size)

        tried = self._bisect(
            signal,
            lambda encoded: rate(encoded) <= target,
            lambda encoded: rate(encoded) >= target * (1 - TARGET_TOLERANCE),
            _search_config(search, iterations, objective),
            self._coder(entropy_coder),
            seed,
        )
        under = [encoded for encoded in tried if rate(encoded) <= target]
        if not under:
            raise ValueError(
                f"{target:g} {unit} is below what this signal can be coded in; "
                f"the nearest reachable rate is {min(map(rate, tried)):.4f} {unit}"
            )
        best = max(under, key=rate)
        if best.quality == QUALITIES and rate(best) < target * (1 - TARGET_TOLERANCE):
            raise ValueError(
                f"{target:g} {unit} is above the highest quality; the nearest reachable rate is {rate(best):.4f} {unit}"
            )
        return best

    def encode_to_score(
        self,
        signal: np.ndarray,
        metric: str,
        target: float,
        search: str | SearchConfig = "admm",
        iterations: int | None = None,
        entropy_coder: str | None = None,
        seed: int = 0,
        objective: str = "mse",
    ) -> Encoded:
        """The lowest quality whose decoded signal reaches `target` in a metric of the kind, such as psnr_db.

        Raises ValueError that names the highest score if none does.
        """
        if metric not in self.kind.metric_names:
            raise ValueError(
                f"{metric} is not a metric of {self.kind.name}: these are {', '.join(self.kind.metric_names)}"
            )
        scores: dict[bytes, float] = {}  # by content: one quality is encoded without search, then with it

        def score(encoded: Encoded) -> float:
            if encoded.data not in scores:
                scores[encoded.data] = self.kind.score(signal, self.decompress(encoded.data))[metric]
            return scores[encoded.data]

        tried = self._bisect(
            signal,
            lambda encoded: score(encoded) < target,
            lambda encoded: False,
            _search_config(search, iterations, objective),
            self._coder(entropy_coder),
            seed,
        )
        reached = [encoded for encoded in tried if score(encoded) >= target]
        if not reached:
            raise ValueError(
                f"{metric} {target:g} is above what the highest quality gives, {max(map(score, tried)):.3f}"
            )
        return min(reached, key=lambda encoded: len(encoded.data))

    def _bisect(
        self,
        signal: np.ndarray,
        below: Callable[[Encoded], bool],
        enough: Callable[[Encoded], bool],
        config: SearchConfig,
        coder: Coder,
        seed: int,
    ) -> list[Encoded]:
        """Encodings around the quality at which `below` turns from true to false, the last ones next to it.

        First without search, which is cheap, then with it, every trial from the latent of the one
        before and with half of the iterations; stops where `below` and `enough` hold.
        """
        started = time.perf_counter()
        last = (QUALITIES - 1) * QUALITY_STEPS

        def bisect(low: int, high: int, is_below: Callable[[int], bool]) -> int:
            """The highest step in low..high for which it holds; low if none does."""
            while high > low:
                middle = (low + high + 1) // 2
                low, high = (middle, high) if is_below(middle) else (low, middle - 1)
            return low

        none = preset("none", objective=config.objective)
        guess = bisect(0, last, lambda step: below(self._encode([signal], step, none, coder, seed, None)[0]))
        if not config.iterations:
            steps = {guess, min(guess + 1, last)}
            return _timed([self._encode([signal], step, none, coder, seed, None)[0] for step in sorted(steps)], started)
        tried: dict[int, Encoded] = {}
        warm = dataclasses.replace(config, iterations=max(1, config.iterations // 2))

        def trial(step: int) -> Encoded:
            if step not in tried:
                nearest = min(tried, key=lambda other: abs(other - step), default=None)
                (tried[step],) = self._encode(
                    [signal], step, warm if tried else config, coder, seed, tried[nearest] if tried else None
                )
            return tried[step]

        # widen from the guess until the turn lies between, then halve
        low, high, width, step = -1, last + 1, 4, guess
        while high - low > 1 and len(tried) < MAX_TARGET_TRIALS:
            if below(trial(step)):
                low = step
                if enough(trial(step)):
                    break
                step = (low + high) // 2 if high <= last else min(low + width, last)
            else:
                high = step
                step = (low + high) // 2 if low >= 0 else max(high - width, 0)
            width *= 2
        return _timed(list(tried.values()), started)

    def _encode(
        self, signals: list[np.ndarray], step: int, config: SearchConfig, coder: Coder, seed: int, warm: Encoded | None
    ) -> list[Encoded]:
        """Encodings at a quality step of signals with pictures of one shape; `warm` is an earlier one of
        the only signal, to start the search from."""
        started = time.perf_counter()
        if config.objective == "ms_ssim" and self.kind.name != "image":
            raise ValueError(f"the objective ms_ssim is for images, this is {self.kind.name}: use mse")
        self.check_size(self.kind.size(signals[0]))
        pictures, levels = zip(*(self.kind.to_picture(signal) for signal in signals))
        plain = torch.stack([self._analyze(picture, step) for picture in pictures])
        distortions = self._distortions(config.objective)
        start = plain if warm is None else self._moved(warm, step)
        found = self._search(pictures, plain, start, step, config, seed, coder, distortions)
        results = []
        for signal, picture, level, rounded, symbols in zip(signals, pictures, levels, _symbols(plain), found):
            data, saved = self._write(
                picture, rounded, symbols, step, coder, self.kind.size(signal), level, distortions
            )
            results.append(
                Encoded(data, 1 + step / QUALITY_STEPS, coder.name, config.method, config.iterations, 0.0, saved)
            )
        for encoded in results:
            encoded.seconds = (time.perf_counter() - started) / len(results)
        return results

    # -- the steps ---------------------------------------------------------------------------------

    def _coder(self, name: str | None) -> Coder:
        name = name or self.default_coder
        if name not in self.coders:
            raise ValueError(f"entropy coder {name!r} has no tables in this checkpoint, only {', '.join(self.coders)}")
        return self.coders[name]

    def _distortions(self, objective: str) -> Callable[[], Distortion]:
        """A function that makes the objective for one window: some objects serve one search only."""

        def error(x: torch.Tensor, x_hat: torch.Tensor) -> torch.Tensor:
            return clamped_squared_error(x, x_hat, self.kind.weights(x))

        if objective == "mse":
            return lambda: error
        if objective == "ms_ssim":
            return lambda: ms_ssim_distance
        distances = []
        if self.discriminator is not None:
            distances.append(discriminator_distance(self.discriminator))
        if self._vgg is not None:
            distances.append(self._vgg)
        if not distances:
            raise ValueError("the objective perceptual needs a checkpoint with a discriminator, or VGG16's weights")
        return lambda: FeatureDistance(error, distances)

    @torch.no_grad()
    def _moved(self, encoded: Encoded, step: int) -> torch.Tensor:
        """The latent of an encoding at another quality -> on the symbols' axis of this one, (1, C, h, w)."""
        header, symbols = self.read_symbols(encoded.data)
        model, old, new = self.model, self.quality_tensor(header.quality), self.quality_tensor(step)
        y = model.codebook.dequantize(torch.from_numpy(symbols.astype(np.int32))[None].to(self.device))
        ratio = (at_quality(model.gains.log_gain, new) - at_quality(model.gains.log_gain, old)).exp()
        return model.codebook.to_index(y * ratio[:, :, None, None]).clamp(-32767, 32767).cpu()

    @torch.no_grad()
    def _analyze(self, picture: np.ndarray, step: int) -> torch.Tensor:
        """picture (C, H, W) -> latent on the symbols' axis (channels, h, w), float32, on the CPU."""
        quality = self.quality_tensor(step)
        rows, columns = latent_shape(*picture.shape[1:])
        index = torch.empty(self.config.latent_channels, rows, columns)
        for window in windows(rows, columns, self.model.encoder.reach):
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

    def _search(
        self,
        pictures: Sequence[np.ndarray],
        plain: torch.Tensor,
        start: torch.Tensor,
        step: int,
        config: SearchConfig,
        seed: int,
        coder: Coder,
        distortions: Callable[[], Distortion],
    ) -> np.ndarray:
        """Search of pictures of one shape, window by window; the margin of each holds what is decided so far.

        plain, start (B, C, h, w) -> symbols int16 (B, C, h, w).
        """
        symbols = plain.round()
        if config.iterations:
            for window in windows(*plain.shape[2:], self.model.generator.reach):
                outer, own = (..., *window.outer()), (..., *window.core())
                core = (..., *window.core_in_outer())
                first, fallback = symbols[outer].clone(), symbols[outer].clone()
                movable = None
                if first.shape != plain.shape:
                    movable = torch.zeros(1, 1, *first.shape[2:], dtype=torch.bool)
                    movable[core] = True
                    movable = movable.to(self.device)
                first[core], fallback[core] = start[own], plain[own].round()
                x = torch.cat([self._window(picture, window) for picture in pictures])
                valid = pictures[0][(..., *window.outer(STRIDE))].shape[1:]
                problem = self._problem(
                    x, first.to(self.device), fallback.to(self.device), step, movable, valid, coder, distortions()
                )
                symbols[own] = optimize_latent(problem, config, seed).symbols[core].float().cpu()
        return _symbols(symbols)

    def _problem(
        self,
        x: torch.Tensor,
        start: torch.Tensor,
        fallback: torch.Tensor,
        step: int,
        movable: torch.Tensor | None,
        valid: tuple[int, int],
        coder: Coder,
        distance: Distortion,
    ) -> Problem:
        """The search's functions for one window of every picture; `valid` rows and columns of x are the signal's own."""
        weight = self.config.lmbda(1 + step / QUALITY_STEPS) * 255**2 * math.prod(valid)
        return self._searchable.problem(
            x,
            valid,
            self.quality_tensor(step),
            weight,
            distance,
            lambda prediction, candidates: coded_bits(coder, candidates, *prediction),
            start,
            fallback,
            movable,
        )

    def _write(
        self,
        picture: np.ndarray,
        plain: np.ndarray,
        symbols: np.ndarray,
        step: int,
        coder: Coder,
        size: tuple[int, int],
        level: int,
        distortions: Callable[[], Distortion],
    ) -> tuple[bytes, float]:
        """The file of the better of two symbol grids, judged by true bits and the receiver's picture."""
        coded = [coder.encode(plain, step)]
        best, saved = 0, 0.0
        if not np.array_equal(plain, symbols):
            coded.append(coder.encode(symbols, step))
            distortion = self._distortion_bits(picture, [plain, symbols], step, distortions)
            costs = [8 * len(payload) + bits for (payload, _), bits in zip(coded, distortion)]
            best = int(costs[1] < costs[0])
            saved = 1 - costs[best] / costs[0]
        payload, repeats = coded[best]
        header = bitstream.FileHeader(
            kind=self.kind.code,
            coder=coder.code,
            repeats=int(repeats),
            quality=step,
            fingerprint=self.fingerprint,
            size_a=size[0],
            size_b=size[1],
            level=level,
        )
        return bitstream.pack(header, payload, self.default_sizes), saved

    @torch.no_grad()
    def _distortion_bits(
        self, picture: np.ndarray, candidates: list[np.ndarray], step: int, distortions: Callable[[], Distortion]
    ) -> list[float]:
        """The objective of each candidate in bits, window by window like the search's."""
        rows, columns = picture.shape[1:]
        parts = [window.core(STRIDE) for window in windows(*candidates[0].shape[1:], self.model.generator.reach)]
        distances = [distortions() for _ in parts]
        weight = self.config.lmbda(1 + step / QUALITY_STEPS) * 255**2
        total = []
        for symbols in candidates:
            x_hat = np.clip(self.generate(symbols, step)[:, :rows, :columns], -1, 1)
            bits = 0.0
            for part, distance in zip(parts, distances):
                x, y = (
                    torch.from_numpy(np.ascontiguousarray(p[(slice(None), *part)]))[None].to(self.device)
                    for p in (picture, x_hat)
                )
                bits += weight * float(distance(x, y)) * x.shape[-2] * x.shape[-1]
            total.append(bits)
        return total


def _timed(tried: list[Encoded], started: float) -> list[Encoded]:
    """The same with the time since `started`: whichever is taken, it took all trials to find."""
    for encoded in tried:
        encoded.seconds = time.perf_counter() - started
    return tried


def _symbols(index: torch.Tensor) -> np.ndarray:
    """A latent on the symbols' axis -> its symbols."""
    return index.round().to(torch.int16).numpy()


def _search_config(search: str | SearchConfig, iterations: int | None, objective: str) -> SearchConfig:
    return search if isinstance(search, SearchConfig) else preset(search, iterations, objective)


def quality_step(quality: float) -> int:
    """Quality 1..8 -> the integer that a file names it by. Raises ValueError out of range."""
    if not 1 <= quality <= QUALITIES:
        raise ValueError(f"quality {quality:g} is outside 1 to {QUALITIES}")
    return round((quality - 1) * QUALITY_STEPS)


def load_codec(path: Path | str, device: torch.device | str = "cpu", limits: Limits | None = None) -> Codec:
    """A checkpoint file -> Codec. Raises ValueError with one line."""
    return Codec(load_checkpoint(Path(path)), device, limits)
