"""The encodings of one signal that are tried for a target."""

import dataclasses
import itertools
import time
from typing import TYPE_CHECKING

import numpy as np

from models.config import QUALITIES
from utils.search.config import preset

from .observing import Observe, Watch
from .settings import Settings, quality_step
from .targets import Target, meet

if TYPE_CHECKING:
    from .sender import Encoded, Metadata, Sender


class Trials:
    """Encodes a signal at qualities of its choice, each one once without search and once with it at most."""

    def __init__(
        self,
        sender: "Sender",
        signal: np.ndarray,
        metadata: "Metadata",
        target: Target,
        observe: Observe | None = None,
        place: int = 0,
    ):
        """`place` is the signal's in the list that is encoded, for the observer.

        Raises ValueError where the target's metric is not of the signal's kind.
        """
        self.started = time.perf_counter()
        target.check(sender.kind)  # before any work
        self.sender, self.signal, self.metadata, self.target = sender, signal, metadata, target
        self.observe, self.place, self.numbers = observe, place, itertools.count(1)
        # Not by `functools.cache` of methods: in the cycle that this makes, signal and encodings would outlive the trials.
        self._encoded: dict[tuple[int, Settings], Encoded] = {}
        self._measured: dict[tuple[int, Settings], float] = {}

    def meet(self, settings: Settings) -> "Encoded":
        """The encoding that meets the target; its time is that of all that were tried. Raises ValueError for none."""
        plain = settings
        if settings.search.iterations:
            plain = dataclasses.replace(settings, search=preset("none", objective=settings.search.objective))
        step = meet(
            self.target,
            self.sender.kind,
            quality_step(QUALITIES),
            lambda step: self.measure(step, plain),
            lambda step: self.measure(step, settings),
        )
        return dataclasses.replace(self.encode(step, settings), seconds=time.perf_counter() - self.started)

    def encode(self, step: int, settings: Settings) -> "Encoded":
        if (step, settings) not in self._encoded:
            self._encoded[step, settings] = self._encode(step, settings)
        return self._encoded[step, settings]

    def measure(self, step: int, settings: Settings) -> float:
        if (step, settings) not in self._measured:
            self._measured[step, settings] = self._measure(step, settings)
        return self._measured[step, settings]

    def _encode(self, step: int, settings: Settings) -> "Encoded":
        watch = None
        if self.observe and settings.search.iterations:
            watch = Watch(self.observe, [self.place], next(self.numbers), self.started)
        return self.sender._encode([self.signal], step, settings, [self.metadata], watch)[0]

    def _measure(self, step: int, settings: Settings) -> float:
        """The target's metric, of the file or of the decoded signal."""
        kind, data = self.sender.kind, self.encode(step, settings).data
        if self.target.metric == "bytes":
            return len(data)
        if self.target.is_rate(kind):
            return kind.rate(len(data), kind.size(self.signal))
        return kind.score(self.signal, self.sender.decompress(data, settings.realism))[self.target.metric]
