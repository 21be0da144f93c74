"""What a search tells while it runs: a step per iteration and signal, for bars, traces and notebooks."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from utils.search.config import SearchConfig
from utils.search.problem import Iterate, Observer, StopSearch


class SearchStep(NamedTuple):
    """One iterate of the search of one signal.

    Iterations begin anew in each tile of a large picture, and in each trial for a `Target`.
    """

    signal: int  # its place in the list that is encoded, from 0
    trial: int | None  # of the encodings with search for a target, from 1; None without a target
    quality: float  # 1..8
    tile: int  # from 1
    tiles: int
    iteration: int  # 0 is encode-and-round
    iterations: int  # the most that there can be; a search that has converged ends earlier
    distortion: float  # F, in bits
    distortion_db: float  # the same as -10 log10 of the objective: for images and the objective mse, PSNR
    bits: float
    cost: float  # J = F + bits
    penalty: float | None  # mean of mu, in bits; None at the start, and for methods without one
    quantized: bool  # False for the relaxed latent of a rival, whose bits are estimated
    seconds: float  # since the encoding began


# Returns True where the search may end with the best that it has found so far.
Observe = Callable[[SearchStep], bool | None]


@dataclass(frozen=True)
class Watch:
    """The observer of an encoding, and the facts that its searches do not know."""

    observe: Observe
    places: Sequence[int]  # of the signals that are searched together
    trial: int | None = None
    started: float = field(default_factory=time.perf_counter)

    def of_tile(self, tile: int, tiles: int, search: SearchConfig, quality: float, weight: float) -> Observer:
        """The observer of one tile's search.

        F is the objective times `weight`. The search ends once the answer has been True for each of the signals that
        are searched together.
        """
        satisfied = set()

        def tell(iterate: Iterate) -> None:
            seconds = time.perf_counter() - self.started
            for row, place in enumerate(self.places):
                distortion = iterate.distortion[row]
                step = SearchStep(
                    place,
                    self.trial,
                    quality,
                    tile,
                    tiles,
                    iterate.iteration,
                    search.iterations,
                    distortion,
                    -10 * math.log10(distortion / weight) if distortion > 0 else math.inf,
                    iterate.bits[row],
                    iterate.cost[row],
                    iterate.penalty and iterate.penalty[row],
                    iterate.quantized,
                    seconds,
                )
                if self.observe(step):
                    satisfied.add(place)
            if len(satisfied) == len(self.places):
                raise StopSearch

        return tell
