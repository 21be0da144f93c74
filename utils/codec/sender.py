"""The sender: signals of one shape at one quality into the bytes of .bpgan files."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch

from models.discriminator import Discriminator
from utils.entropy.coders import Coder
from utils.precision import autocast

from . import bitstream
from .checkpoint import Checkpoint, load_strictly
from .decoder import Decoder
from .distortions import Distortions
from .limits import Limits
from .observing import Watch
from .settings import Settings, quality_at
from .tiled_search import Task, TiledSearch
from .tiling import latent_shape, outer_part, windows

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


class Sender(Decoder):
    """A Decoder that can also encode signals of one shape: analyze, search, and write the better symbols."""

    with_encoder = True

    def __init__(self, checkpoint: Checkpoint, device: torch.device | str = "cpu", limits: Limits | None = None):
        """The arguments and the errors are those of `Decoder`."""
        super().__init__(checkpoint, device, limits)
        self.discriminator = None
        if checkpoint.discriminator is not None and not self.kind.has_colors:
            self.discriminator = Discriminator(self.config.in_channels)
            load_strictly(self.discriminator, checkpoint.discriminator, "the checkpoint's discriminator")
            self.discriminator.requires_grad_(False).eval().to(self.device)
        self.distortions = Distortions(self.kind, self.config, self.discriminator, self.device)
        self.tiled_search = TiledSearch(self.model, self.generator, self.distortions)

    def _encode(
        self,
        signals: Sequence[np.ndarray],
        step: int,
        settings: Settings,
        metadata: Sequence[Metadata],
        watch: Watch | None = None,
    ) -> list[Encoded]:
        """Encodings at a quality step of signals with pictures of one shape, all of them gray or none."""
        started = time.perf_counter()
        settings = self._settled(settings)
        search, coder = settings.search, self._coder(settings.entropy_coder)
        self.distortions.check(search.objective)
        self.check_realism(settings.realism)
        if settings.exact:
            self.check_exact()
        self.check_size(self.kind.size(signals[0]))
        pictures, levels = zip(*map(self.kind.to_picture, signals))
        task = Task(pictures, self.kind.is_gray(signals[0]), step, coder, settings)
        headers = [self._header(task, *each) for each in zip(signals, levels, metadata)]
        latents = torch.stack([self.analyze(picture, step) for picture in pictures])
        found = self.tiled_search.run(task, latents, watch)
        files = [self._file(task, *each) for each in zip(headers, pictures, _symbols(latents), _symbols(found))]
        seconds = (time.perf_counter() - started) / len(files)
        return [
            Encoded(
                data=data,
                quality=quality_at(step),
                coder=coder.name,
                search=search.method,
                iterations=search.iterations,
                seconds=seconds,
                bits_saved=saved,
                objective=search.objective,
                seed=settings.seed,
            )
            for data, saved in files
        ]

    def _settled(self, settings: Settings) -> Settings:
        """The settings with an objective, where they leave that to the checkpoint."""
        objective = settings.search.objective or self.config.objective
        return dataclasses.replace(settings, search=dataclasses.replace(settings.search, objective=objective))

    def _coder(self, name: str | None) -> Coder:
        name = name or self.default_coder
        if name not in self.coders:
            raise ValueError(f"entropy coder {name!r} has no tables in this checkpoint, only {', '.join(self.coders)}")
        return self.coders[name]

    def _header(self, task: Task, signal: np.ndarray, level: int, metadata: Metadata) -> bitstream.FileHeader:
        """The header of a signal's file, complete but for the repeats."""
        size_a, size_b = self.kind.size(signal)
        return bitstream.FileHeader(
            kind=self.kind.code,
            coder=task.coder.code,
            quality_step=task.quality_step,
            fingerprint=self.fingerprint,
            size_a=size_a,
            size_b=size_b,
            level=level,
            gray=int(task.gray),
            exact=int(task.settings.exact),
            sections=self.kind.to_sections(signal, metadata),
        )

    @torch.no_grad()
    def analyze(self, picture: np.ndarray, step: int) -> torch.Tensor:
        """Picture (C, H, W) -> latent on the symbols' axis (channels, h, w), float32, on the CPU."""
        quality_row = self.quality_row(step)
        rows, columns = latent_shape(*picture.shape[1:])
        index = torch.empty(self.config.latent_channels, rows, columns)
        for window in windows(rows, columns, self.model.encoder.reach):
            with autocast(self.device):
                y = self.model.analyze(outer_part(picture, window, self.device), quality_row)
            part = self.model.codebook.to_index(y)[0].clamp(-32767, 32767)
            index[window.core()] = part[window.core_in_outer()].cpu()
        return index

    def _file(
        self, task: Task, header: bitstream.FileHeader, picture: np.ndarray, plain: np.ndarray, found: np.ndarray
    ) -> tuple[bytes, float]:
        """The file of the better of two symbol grids (C, h, w), judged by true bits and the receiver's picture.

        `plain` is encode-and-round. -> the file, and the fraction of F + bits that was saved.
        """
        coded = [task.coder.encode(plain, task.quality_step)]
        best, saved = 0, 0.0
        if not np.array_equal(plain, found):
            coded.append(task.coder.encode(found, task.quality_step))
            distortion = self.distortion_bits(task, picture, [plain, found])
            costs = [8 * len(payload) + bits for (payload, _), bits in zip(coded, distortion)]
            best = int(costs[1] < costs[0])
            saved = 1 - costs[best] / costs[0]
        payload, repeats = coded[best]
        return bitstream.pack(dataclasses.replace(header, repeats=int(repeats)), payload, self.default_sizes), saved

    def distortion_bits(self, task: Task, picture: np.ndarray, candidates: Sequence[np.ndarray]) -> list[float]:
        """F in bits of what the receiver makes of symbols (C, h, w); the first are those where the search starts."""
        _, rows, columns = picture.shape
        step, tiles = task.quality_step, self.tiled_search.tiles(*candidates[0].shape[1:])
        settings = task.settings
        pictures = (self.generate(symbols, step, settings.realism, settings.exact) for symbols in candidates)
        decoded = (np.clip(picture[:, :rows, :columns], -1, 1) for picture in pictures)
        return self.distortions.bits(settings.search.objective, picture, decoded, tiles, step, task.gray)


def _symbols(index: torch.Tensor) -> np.ndarray:
    """Latents on the symbols' axis -> their symbols."""
    return index.round().to(torch.int16).numpy()
