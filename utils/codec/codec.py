"""The sender: a signal into the bytes of a .bpgan file, with as much search as one likes.

codec = load_codec("checkpoints/image.safetensors")
data = codec.compress("photo.jpg", quality=3)
pixels = codec.decompress(data)
"""

import dataclasses
import functools
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch

from models.config import QUALITIES, QUALITY_STEPS, STRIDE
from models.discriminator import Discriminator
from models.perceptual import PerceptualDistance, perceptual_distance
from utils.entropy.coders import Coder
from utils.precision import autocast
from utils.search.config import OBJECTIVES, objective_class, preset
from utils.search.model_problem import Searchable
from utils.search.objectives import Distortion, Reference, discriminator_distance
from utils.search.optimize import optimize_latent
from utils.search.problem import Problem

from . import bitstream
from .checkpoint import Checkpoint, load_checkpoint, load_strictly
from .costs import coded_bits
from .decoder import Decoder
from .limits import Limits
from .observing import Observe, Watch
from .settings import DEFAULT, Settings
from .targets import Target, meet
from .tiling import Window, latent_shape, pad_to_stride, windows

# Latent positions that are searched at once. A CPU gains nothing from more than a picture of half a
# megapixel at a time, and much from small pictures together; a GPU takes more.
BATCH_POSITIONS = {"cpu": 2048, "cuda": 65536}


Metadata = Mapping[str, bytes]
NO_METADATA: Metadata = MappingProxyType({})


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
    objective: str = "mse"  # what the search minimized beside the bits
    seed: int = 0  # of its random draws


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

    @property
    def objectives(self) -> list[str]:
        """Names of the distortions that a search of this kind of signal can minimize."""
        metrics = (None, *self.kind.metric_names)
        return [name for name in OBJECTIVES if objective_class(name).metric in metrics]

    def compress(
        self,
        source,
        quality: float | Target = 3,
        settings: Settings | str = DEFAULT,
        *,
        sample_rate: int | None = None,
        observe: Observe | None = None,
        metadata: Metadata = NO_METADATA,
    ) -> bytes | list[bytes]:
        """A signal -> the bytes of a file; a batch of signals -> a list. See `encode`."""
        encoded = self.encode(source, quality, settings, sample_rate=sample_rate, observe=observe, metadata=metadata)
        return encoded.data if isinstance(encoded, Encoded) else [member.data for member in encoded]

    def encode(
        self,
        source,
        quality: float | Target = 3,
        settings: Settings | str = DEFAULT,
        *,
        sample_rate: int | None = None,
        observe: Observe | None = None,
        metadata: Metadata = NO_METADATA,
    ) -> Encoded | list[Encoded]:
        """Like `compress`, with what is known of the result.

        source       what `Kind.signal_of` takes: for images a path, a Pillow image, an array (H, W, 3) or (H, W), a
                     tensor (3, H, W) or (1, H, W), these also with alpha as one channel more; for speech a path, an
                     array or a tensor (samples,). A list of them, or a tensor with a batch dimension before, gives a
                     list: see `encode_batch`
        quality      1..8, to 1/32; or a `Target` for the file's size or the decoded signal's score
        settings     `Settings`; a search method's name stands for its preset
        sample_rate  of arrays and tensors, in Hz; None: the kind's own
        observe      called with a `SearchStep` after each iteration of the search; where it returns True, the search
                     of this tile ends with the best that it has found
        metadata     what `Kind.read_with_metadata` gives beside the signal, to be kept in the file, or in each one

        Raises ValueError for a source or an argument out of range, a signal beyond the limits, a target that cannot
        be met; TypeError for a source of another type.
        """
        batch = self.kind.batch_of(source)
        sources = [source] if batch is None else batch
        encoded = self.encode_batch(
            sources, quality, settings, sample_rate=sample_rate, observe=observe, metadata=[metadata] * len(sources)
        )
        return encoded[0] if batch is None else encoded

    def encode_batch(
        self,
        sources: Sequence,
        quality: float | Target = 3,
        settings: Settings | str = DEFAULT,
        *,
        sample_rate: int | None = None,
        observe: Observe | None = None,
        metadata: Sequence[Metadata] | None = None,
    ) -> list[Encoded]:
        """`encode` of several signals, faster: those that go `together` are searched at once.

        With a target each is searched alone, for a quality of its own. `metadata`: that of each signal.
        """
        if isinstance(settings, str):
            settings = Settings.of(settings)
        signals = [self.kind.signal_of(source, sample_rate) for source in sources]
        beside = metadata or [NO_METADATA] * len(signals)
        if isinstance(quality, Target):
            return [
                self._encode_to(signal, quality, settings, kept, observe, place)
                for place, (signal, kept) in enumerate(zip(signals, beside))
            ]
        step, encoded = quality_step(quality), {}
        for places in self.together(signals):
            group, kept = [signals[place] for place in places], [beside[place] for place in places]
            watch = Watch(observe, places) if observe else None
            encoded.update(zip(places, self._encode(group, step, settings, kept, watch)))
        return [encoded[place] for place in range(len(signals))]

    def together(self, signals: list[np.ndarray]) -> list[list[int]]:
        """Places in the list, in groups of one picture shape, gray or not, as large as BATCH_POSITIONS allow."""
        alike: dict[tuple[tuple[int, int], bool], list[int]] = {}
        for place, signal in enumerate(signals):
            shape = self.kind.picture_shape(self.kind.size(signal))
            alike.setdefault((shape, self.kind.is_gray(signal)), []).append(place)
        groups = []
        for (shape, _), places in alike.items():
            count = max(1, BATCH_POSITIONS[self.device.type] // max(1, math.prod(latent_shape(*shape))))
            groups += [places[start : start + count] for start in range(0, len(places), count)]
        return groups

    def _encode_to(
        self,
        signal: np.ndarray,
        target: Target,
        settings: Settings,
        metadata: Metadata,
        observe: Observe | None,
        place: int,
    ) -> Encoded:
        """The encoding that meets a target; its time is that of all that were tried."""
        started = time.perf_counter()
        target.check(self.kind)  # before any work

        plain = dataclasses.replace(settings, search=preset("none", objective=settings.search.objective))
        if not settings.search.iterations:
            plain = settings

        trials = itertools.count(1)

        @functools.cache
        def encoded(step: int, settings: Settings) -> Encoded:
            watch = None
            if observe and settings.search.iterations:
                watch = Watch(observe, [place], next(trials), started)
            return self._encode([signal], step, settings, [metadata], watch)[0]

        @functools.cache
        def measure(step: int, settings: Settings) -> float:
            data = encoded(step, settings).data
            if target.metric == "bytes":
                return len(data)
            if target.is_rate(self.kind):
                return self.kind.rate(len(data), self.kind.size(signal))
            return self.kind.score(signal, self.decompress(data))[target.metric]

        last = (QUALITIES - 1) * QUALITY_STEPS
        step = meet(target, self.kind, last, lambda s: measure(s, plain), lambda s: measure(s, settings))
        return dataclasses.replace(encoded(step, settings), seconds=time.perf_counter() - started)

    def _encode(
        self,
        signals: list[np.ndarray],
        step: int,
        settings: Settings,
        metadata: Sequence[Metadata],
        watch: Watch | None = None,
    ) -> list[Encoded]:
        """Encodings at a quality step of signals with pictures of one shape, all of them gray or none."""
        started = time.perf_counter()
        search, coder = settings.search, self._coder(settings.entropy_coder)
        if search.objective not in self.objectives:
            raise ValueError(
                f"the objective {search.objective} is not for {self.kind.name}: possible are {', '.join(self.objectives)}"
            )
        self.check_size(self.kind.size(signals[0]))
        pictures, levels = zip(*(self.kind.to_picture(signal) for signal in signals))
        sections = [self.kind.to_sections(signal, kept) for signal, kept in zip(signals, metadata)]
        gray = self.kind.is_gray(signals[0])
        plain = torch.stack([self._analyze(picture, step) for picture in pictures])
        found = self._search(pictures, plain, step, settings, coder, gray, watch)
        results = []
        for place, signal in enumerate(signals):
            size_a, size_b = self.kind.size(signal)
            header = bitstream.FileHeader(
                kind=self.kind.code,
                coder=coder.code,
                quality_step=step,
                fingerprint=self.fingerprint,
                size_a=size_a,
                size_b=size_b,
                level=levels[place],
                gray=int(gray),
                sections=sections[place],
            )
            rounded = _symbols(plain[place])
            data, saved = self._write(header, pictures[place], rounded, found[place], coder, search.objective)
            results.append(
                Encoded(
                    data,
                    1 + step / QUALITY_STEPS,
                    coder.name,
                    search.method,
                    search.iterations,
                    0.0,
                    saved,
                    search.objective,
                    settings.seed,
                )
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

    def _distortion(
        self, objective: str, x: torch.Tensor, start: Callable[[], torch.Tensor], gray: bool = False
    ) -> Distortion:
        """What the search minimizes beside the bits, for pictures x (B, C, H, W).

        `start()` is what they are before the search: some objectives are relative to it. `gray`: the receiver shows
        the gray of a picture alone, so that nothing but its errors counts.
        """
        if gray:

            def shown(x_hat: torch.Tensor) -> torch.Tensor:
                return self.kind.gray_picture(x_hat.float()).expand_as(x_hat)

            distance = self._distortion(objective, x, lambda: shown(start()))
            return lambda x, x_hat: distance(x, shown(x_hat))

        return objective_class(objective)(Reference(x, start, self.kind.weights, self._feature_distances))

    def _feature_distances(self) -> list[Distortion]:
        """Distances of features of the checkpoint's discriminator and of VGG16, where there are any."""
        distances = []
        if self.discriminator is not None:
            distances.append(discriminator_distance(self.discriminator))
        if self._vgg is not None:
            distances.append(self._vgg)
        return distances

    @torch.no_grad()
    def _analyze(self, picture: np.ndarray, step: int) -> torch.Tensor:
        """picture (C, H, W) -> latent on the symbols' axis (channels, h, w), float32, on the CPU."""
        quality_row = self.quality_row(step)
        rows, columns = latent_shape(*picture.shape[1:])
        index = torch.empty(self.config.latent_channels, rows, columns)
        for window in windows(rows, columns, self.model.encoder.reach):
            x = self._window(picture, window)
            with autocast(self.device):
                y = self.model.analyze(x, quality_row)
            part = self.model.codebook.to_index(y)[0].clamp(-32767, 32767)
            index[window.core()] = part[window.core_in_outer()].cpu()
        return index

    def _window(self, picture: np.ndarray, window: Window) -> torch.Tensor:
        """The window's outer part of a picture -> (1, C, H, W), padded to the stride."""
        part = torch.from_numpy(np.ascontiguousarray(picture[window.outer(STRIDE)]))
        x = pad_to_stride(part[None]).to(self.device)
        return x.contiguous(memory_format=torch.channels_last)

    def _search(
        self,
        pictures: Sequence[np.ndarray],
        plain: torch.Tensor,
        step: int,
        settings: Settings,
        coder: Coder,
        gray: bool,
        watch: Watch | None,
    ) -> np.ndarray:
        """Search of pictures of one shape, window by window; the margin of each holds what is decided so far.

        plain (B, C, h, w) -> symbols int16 (B, C, h, w).
        """
        symbols = plain.round()
        if settings.search.iterations:
            tiles = list(windows(*plain.shape[2:], self.model.generator.reach))
            for number, window in enumerate(tiles, 1):
                outer, own, core = window.outer(), window.core(), window.core_in_outer()
                first, fallback = symbols[outer].clone(), symbols[outer].clone()
                movable = None
                if first.shape != plain.shape:
                    movable = torch.zeros(1, 1, *first.shape[2:], dtype=torch.bool)
                    movable[core] = True
                    movable = movable.to(self.device)
                first[core], fallback[core] = plain[own], plain[own].round()
                first, fallback = first.to(self.device), fallback.to(self.device)
                x = torch.cat([self._window(picture, window) for picture in pictures])
                valid = pictures[0][window.outer(STRIDE)].shape[1:]
                area = (..., slice(valid[0]), slice(valid[1]))
                distance = self._distortion(
                    settings.search.objective,
                    x[area].contiguous(memory_format=torch.channels_last),
                    lambda f=fallback, a=area: self._searchable.decode(f, self.quality_row(step))[a],
                    gray,
                )
                problem = self._problem(x, first, fallback, step, movable, valid, coder, distance)
                observe = None
                if watch is not None:
                    quality = 1 + step / QUALITY_STEPS
                    observe = watch.of_tile(number, len(tiles), settings.search, quality, self._weight(step, valid))
                found = optimize_latent(problem, settings.search, settings.seed, observe)
                symbols[own] = found.symbols[core].float().cpu()
        return _symbols(symbols)

    def _weight(self, step: int, valid: tuple[int, int]) -> float:
        """Bits that an objective of 1 weighs at a quality step, in a window with so many valid rows and columns."""
        return self.config.lmbda(1 + step / QUALITY_STEPS) * 255**2 * math.prod(valid)

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
        weight = self._weight(step, valid)
        return self._searchable.problem(
            x,
            valid,
            self.quality_row(step),
            weight,
            distance,
            lambda prediction, candidates: coded_bits(coder, candidates, *prediction),
            start,
            fallback,
            movable,
        )

    def _write(
        self,
        header: bitstream.FileHeader,
        picture: np.ndarray,
        plain: np.ndarray,
        symbols: np.ndarray,
        coder: Coder,
        objective: str,
    ) -> tuple[bytes, float]:
        """The file of the better of two symbol grids, judged by true bits and the receiver's picture.

        `header` is complete but for the repeats. -> the file, and the fraction of F + bits that was saved.
        """
        step = header.quality_step
        coded = [coder.encode(plain, step)]
        best, saved = 0, 0.0
        if not np.array_equal(plain, symbols):
            coded.append(coder.encode(symbols, step))
            distortion = self._distortion_bits(picture, [plain, symbols], step, objective, bool(header.gray))
            costs = [8 * len(payload) + bits for (payload, _), bits in zip(coded, distortion)]
            best = int(costs[1] < costs[0])
            saved = 1 - costs[best] / costs[0]
        payload, repeats = coded[best]
        header = dataclasses.replace(header, repeats=int(repeats))
        return bitstream.pack(header, payload, self.default_sizes), saved

    @torch.no_grad()
    def _distortion_bits(
        self, picture: np.ndarray, candidates: list[np.ndarray], step: int, objective: str, gray: bool = False
    ) -> list[float]:
        """The objective of each candidate in bits, window by window like the search's, the first being its start."""
        rows, columns = picture.shape[1:]
        parts = [window.core(STRIDE) for window in windows(*candidates[0].shape[1:], self.model.generator.reach)]
        weight = self.config.lmbda(1 + step / QUALITY_STEPS) * 255**2
        total, distances = [], []
        for symbols in candidates:
            x_hat = np.clip(self.generate(symbols, step)[:, :rows, :columns], -1, 1)
            bits = 0.0
            for place, part in enumerate(parts):
                x, y = (torch.from_numpy(np.ascontiguousarray(p[part]))[None].to(self.device) for p in (picture, x_hat))
                if not total:
                    distances.append(self._distortion(objective, x, lambda y=y: y, gray))
                bits += weight * float(distances[place](x, y)) * x.shape[-2] * x.shape[-1]
            total.append(bits)
        return total


def _symbols(index: torch.Tensor) -> np.ndarray:
    """A latent on the symbols' axis -> its symbols."""
    return index.round().to(torch.int16).numpy()


def quality_step(quality: float) -> int:
    """Quality 1..8 -> the integer that a file names it by. Raises ValueError out of range."""
    if not 1 <= quality <= QUALITIES:
        raise ValueError(f"quality {quality:g} is outside 1 to {QUALITIES}")
    return round((quality - 1) * QUALITY_STEPS)


def load_codec(path: Path | str, device: torch.device | str = "cpu", limits: Limits | None = None) -> Codec:
    """A checkpoint file -> Codec. Raises ValueError with one line."""
    return Codec(load_checkpoint(Path(path)), device, limits)
