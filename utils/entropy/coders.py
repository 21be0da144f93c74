"""What the entropy coders have in common; `utils/entropy/__init__.py` lists them by name.

All code the residuals that the integer network (`utils/entropy/integer_network.py`) leaves, each with the
network's row as its context; they differ in how a residual becomes bits. A residual beyond its row's
radius escapes: an escape symbol says so, and what goes beyond the radius follows. Qualities are
integers here: steps of 1/32 above quality 1.

A coder is a module with a class derived from `Coder`, its tables derived from `Tables`, and a compiled
reader of its residuals for `walk`. A checkpoint gets tables of a coder it has none of by
`python -m utils.training.fitting`.
"""

from abc import ABC, abstractmethod
from functools import cached_property

import numpy as np

from utils.compiled import compiled

from . import CorruptPayload
from .integer_network import DAMAGED, ENDS_EARLY, LEFT_OVER, ContextTables, Network, contexts, start_network
from .repeats import find_repeats, pack_repeats, unpack_repeats
from .tables import Tables

MAX_RADIUS = 64  # residuals beyond this escape in every row
ESCAPE = 2 * MAX_RADIUS + 1  # index of the escape; residual r has index r + MAX_RADIUS
ESCAPE_LENGTH_BITS = 5  # of the number of bits of an excess, less one
MAX_ESCAPE_LENGTH = 17  # the largest such number: residuals are differences of 16-bit symbols
MAX_RESIDUAL = 255  # `Coder.cost_table` has no larger ones
PROBLEMS = {
    ENDS_EARLY: "the payload ends early",
    DAMAGED: "the payload is damaged",
    LEFT_OVER: "the payload has bytes left over",
}


class ResidualTables(Tables, ABC):
    """Tables of a coder, by row of the network."""

    radius: np.ndarray  # int32 (N_ROWS,), residuals -radius..radius have a symbol of their own

    @property
    @abstractmethod
    def costs(self) -> np.ndarray:
        """Bits of each index in each row, float32 (N_ROWS, ESCAPE + 1); the escape's without the excess."""


class Coder(ABC):
    """Symbols int16 (C, h, w) <-> payload, with a checkpoint's integer tables."""

    name: str  # as in CODERS
    code: int  # in the file's header
    tables_class: type[ResidualTables]

    def __init__(self, network: ContextTables, tables: ResidualTables):
        self.network, self.tables = network, tables

    @classmethod
    def load(cls, network: ContextTables, arrays: dict[str, np.ndarray]) -> "Coder":
        """Raises ValueError where the arrays are not this coder's tables."""
        return cls(network, cls.tables_class.from_arrays(arrays))

    def encode(self, symbols: np.ndarray, quality_step: int) -> tuple[bytes, bool]:
        """-> payload, and whether it begins with a map of repeats: the header says so."""
        if symbols.size == 0:
            return b"", False
        modes = find_repeats(symbols)
        plain = self._coded(symbols, np.zeros_like(modes), quality_step)
        # In the pauses of speech the network expects as much, and the map would cost more than it saves.
        if modes.any():
            mapped = pack_repeats(modes) + self._coded(symbols, modes, quality_step)
            if len(mapped) < len(plain):
                return mapped, True
        return plain, False

    def _coded(self, symbols: np.ndarray, modes: np.ndarray, quality_step: int) -> bytes:
        return self._encode(*contexts(symbols, modes, quality_step, self.network)).tobytes()

    def decode(self, payload: bytes, shape: tuple[int, int, int], quality_step: int, repeats: bool) -> np.ndarray:
        """The symbols. Raises CorruptPayload for a payload that `encode` never wrote."""
        symbols = np.zeros(shape, np.int16)
        if symbols.size == 0:
            if payload:
                raise CorruptPayload("bytes where there are no symbols")
            return symbols
        modes, used = unpack_repeats(payload, *shape[1:]) if repeats else (np.zeros(shape[1:], np.uint8), 0)
        # a writable copy: numba would compile everything once more for read-only bytes
        body = np.frombuffer(payload[used:], np.uint8).copy()
        status = self._decode(body, symbols, modes, start_network(shape, quality_step, self.network))
        if status in PROBLEMS:
            raise CorruptPayload(PROBLEMS[status])
        return symbols

    def cost_bits(self, symbols: np.ndarray, quality_step: int) -> float:
        """Bits of the symbols by this coder's own costs, without coding them and without repeats."""
        residuals, rows = contexts(symbols, np.zeros(symbols.shape[1:], np.uint8), quality_step, self.network)
        beyond = np.abs(residuals) - self.tables.radius[rows]
        escapes = beyond > 0
        bits = self.tables.costs[rows, np.where(escapes, ESCAPE, residuals + MAX_RADIUS)].sum(dtype=np.float64)
        lengths = np.floor(np.log2(beyond[escapes]))
        return float(bits + (ESCAPE_LENGTH_BITS + 1 + lengths).sum())

    @cached_property
    def cost_table(self) -> np.ndarray:
        """Bits by row and residual -MAX_RESIDUAL..MAX_RESIDUAL, float32 (N_ROWS, 2 * MAX_RESIDUAL + 1).

        Smooth, for the search: a residual beyond the radius costs as much as the last one within, and two
        bits more for each doubling of the excess.
        """
        residual = np.arange(-MAX_RESIDUAL, MAX_RESIDUAL + 1)[None]
        limit = self.tables.radius[:, None]
        index = np.clip(residual, -limit, limit) + MAX_RADIUS
        excess = np.maximum(np.abs(residual) - limit, 0)
        costs = np.take_along_axis(self.tables.costs, index, axis=1) + 2 * np.log2(1 + excess)
        return costs.astype(np.float32)

    @classmethod
    @abstractmethod
    def fit(cls, coded: list[tuple[np.ndarray, np.ndarray]]) -> ResidualTables:
        """Tables from [(residuals int32, rows int16)] of training signals."""

    @abstractmethod
    def _encode(self, residuals: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Residuals int32 and rows int16 in coding order -> uint8."""

    @abstractmethod
    def _decode(self, data: np.ndarray, symbols: np.ndarray, modes: np.ndarray, network: Network) -> int:
        """Set the symbols from data uint8 by `walk` -> COMPLETE, ENDS_EARLY, DAMAGED or LEFT_OVER."""


def inside(radius: np.ndarray) -> np.ndarray:
    """radius (N,) -> bool (N, 2 * MAX_RADIUS + 1): which residuals do not escape."""
    return np.abs(np.arange(-MAX_RADIUS, MAX_RADIUS + 1))[None] <= radius[:, None]


@compiled(nogil=True)
def floor_log2(value):
    """Whole part of the binary logarithm of an integer of at least 1."""
    bits = 0
    while value >> (bits + 1):
        bits += 1
    return bits
