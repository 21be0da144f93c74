"""The search of pictures of any size: window by window, where a picture is too large for one pass."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from models.bpgan import BPGAN
from models.config import STRIDE
from models.generator import Generator
from models.quality import quality_row
from utils.entropy.coders import Coder
from utils.search.model_problem import Searchable
from utils.search.optimize import optimize_latent
from utils.search.problem import Problem

from .costs import coded_bits
from .distortions import Distortions
from .mixes import made_for
from .observing import Watch
from .settings import Settings, quality_at
from .tiling import Window, outer_part, windows


@dataclass(frozen=True)
class Task:
    """Pictures of one shape that are encoded together, and how."""

    pictures: Sequence[np.ndarray]  # each float32 (C, H, W) in [-1, 1]
    gray: bool  # the receiver shows the gray of each alone
    quality_step: int
    coder: Coder
    settings: Settings


class TiledSearch:
    """Searches latents through the generators of one model."""

    def __init__(self, model: BPGAN, generator: Callable[[float], Generator], distortions: Distortions):
        """`generator` gives the generator of a realism."""
        self.model, self.generator, self.distortions = model, generator, distortions
        self.device, self.reach = distortions.device, model.generator.reach
        self._searchables: dict[float, Searchable] = {}

    def searchable(self, realism: float) -> Searchable:
        """The model with the generator of a realism, in the number type of the search.

        That one may be faster: what is found is judged by what the float32 generator makes of it.
        """
        return made_for(realism, self._searchables, lambda: Searchable(self.model, self.generator(realism)))

    def tiles(self, rows: int, columns: int) -> list[Window]:
        """The windows in which a latent of that size is searched."""
        return list(windows(rows, columns, self.reach))

    def run(self, task: Task, latents: torch.Tensor, watch: Watch | None = None) -> torch.Tensor:
        """What the encoder made of the pictures (B, C, h, w), on the symbols' axis -> symbols, alike, as floats."""
        symbols, search = latents.round(), task.settings.search
        if not search.iterations:
            return symbols
        tiles = self.tiles(*latents.shape[2:])
        for number, window in enumerate(tiles, 1):
            problem, weight = self.problem(task, latents, symbols, window)
            observe = None
            if watch is not None:
                observe = watch.of_tile(number, len(tiles), search, quality_at(task.quality_step), weight)
            found = optimize_latent(problem, search, task.settings.seed, observe)
            symbols[window.core()] = found.symbols[window.core_in_outer()].float().cpu()
        return symbols

    def problem(
        self, task: Task, latents: torch.Tensor, symbols: torch.Tensor, window: Window
    ) -> tuple[Problem, float]:
        """What is searched in one window of every picture, and the bits that a distortion of 1 weighs there.

        latents as in `run`. The window's margin holds what is decided so far, which is in `symbols`, and stays.
        """
        outer, own, core = window.outer(), window.core(), window.core_in_outer()
        start, fallback, movable = symbols[outer].clone(), symbols[outer].clone(), None
        start[core], fallback[core] = latents[own], latents[own].round()
        start, fallback = start.to(self.device), fallback.to(self.device)
        if start.shape != latents.shape:
            movable = torch.zeros(1, 1, *start.shape[2:], dtype=torch.bool)
            movable[core] = True
            movable = movable.to(self.device)
        x = torch.cat([outer_part(picture, window, self.device) for picture in task.pictures])
        rows, columns = valid = task.pictures[0][window.outer(STRIDE)].shape[1:]  # the others pad x to the stride
        quality, searchable = quality_row(task.quality_step, self.device), self.searchable(task.settings.realism)
        origin = window.origin(self.device)
        distance = self.distortions.of(
            task.settings.search.objective,
            x[..., :rows, :columns].contiguous(memory_format=torch.channels_last),
            lambda: searchable.decode(fallback, quality, origin)[..., :rows, :columns],
            task.gray,
        )
        weight = self.distortions.weight(task.quality_step) * math.prod(valid)

        def bits(prediction, candidates: torch.Tensor) -> torch.Tensor:
            return coded_bits(task.coder, candidates, *prediction)

        problem = searchable.problem(x, valid, quality, weight, distance, bits, start, fallback, movable, origin)
        return problem, weight
