"""The entropy coders behind one interface; the file's header names one by its code.

Both code the residuals that the integer network (`utils/entropy/integer_network.py`) leaves, each with the
network's row as its context; they differ in how a residual becomes bits. Qualities are integers
here: steps of 1/32 above quality 1.
"""

from abc import ABC, abstractmethod
from functools import cached_property

import numpy as np

from . import ans as context_coder
from . import huffman
from .integer_network import (
    ContextTables,
    CorruptPayload,
    contexts,
)
from .repeats import find_repeats, pack_repeats, unpack_repeats

MAX_RESIDUAL = 255  # `cost_table` has no larger ones


class Coder(ABC):
    """Symbols int16 (C, h, w) <-> payload, with a checkpoint's integer tables."""

    name: str
    code: int  # in the file's header

    def __init__(self, network: ContextTables, tables):
        self.network, self.tables = network, tables

    def encode(self, symbols: np.ndarray, quality_step: int) -> tuple[bytes, bool]:
        """-> payload, and whether it begins with a map of repeats: the header says so."""
        if symbols.size == 0:
            return b"", False
        modes = find_repeats(symbols)
        repeats = bool(modes.any())
        body = self._encode(*contexts(symbols, modes, quality_step, self.network))
        return (pack_repeats(modes) if repeats else b"") + body, repeats

    def decode(self, payload: bytes, shape: tuple[int, int, int], quality_step: int, repeats: bool) -> np.ndarray:
        """The symbols. Raises CorruptPayload for a payload that `encode` never wrote."""
        symbols = np.zeros(shape, np.int16)
        if symbols.size == 0:
            if payload:
                raise CorruptPayload("bytes where there are no symbols")
            return symbols
        modes, used = np.zeros(shape[1:], np.uint8), 0
        if repeats:
            try:
                modes, used = unpack_repeats(payload, *shape[1:])
            except ValueError as error:
                raise CorruptPayload(str(error)) from None
        self._decode(payload[used:], symbols, modes, quality_step)
        return symbols

    def cost_bits(self, symbols: np.ndarray, quality_step: int) -> float:
        """Bits of the symbols by this coder's own costs, without coding them and without repeats."""
        residuals, rows = contexts(symbols, np.zeros(symbols.shape[1:], np.uint8), quality_step, self.network)
        return context_coder.cost_of(residuals, rows, self.tables.radius, self.tables.costs)

    @cached_property
    def cost_table(self) -> np.ndarray:
        """Bits by row and residual -MAX_RESIDUAL..MAX_RESIDUAL, float32 (N_ROWS, 2 * MAX_RESIDUAL + 1).

        An escape is counted with about two bits for each doubling of its excess.
        """
        residual = np.arange(-MAX_RESIDUAL, MAX_RESIDUAL + 1)[None]
        limit = self.tables.radius[:, None]
        word = np.clip(residual, -limit, limit) + context_coder.MAX_RADIUS
        excess = np.maximum(np.abs(residual) - limit, 0)
        costs = np.take_along_axis(self.tables.costs, word, axis=1) + 2 * np.log2(1 + excess)
        return costs.astype(np.float32)

    @classmethod
    @abstractmethod
    def fit(cls, coded: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
        """Tables from [(residuals, rows)] of training signals, as integer arrays."""

    @classmethod
    @abstractmethod
    def load(cls, network: ContextTables, arrays: dict[str, np.ndarray]) -> "Coder":
        """Raises ValueError where the arrays are not this coder's."""

    @abstractmethod
    def _encode(self, residuals: np.ndarray, rows: np.ndarray) -> bytes: ...

    @abstractmethod
    def _decode(self, body: bytes, symbols: np.ndarray, modes: np.ndarray, quality_step: int) -> None: ...


class HuffmanCoder(Coder):
    """Canonical Huffman and runs of zeros, see `utils/entropy/huffman.py`."""

    name, code = "huffman", 0

    @classmethod
    def fit(cls, coded):
        return to_arrays(huffman.fit_tables(coded, context_coder.logistic_tables()))

    @classmethod
    def load(cls, network, arrays):
        return cls(network, from_arrays(huffman.HuffmanTables, arrays))

    def _encode(self, residuals, rows):
        return huffman.encode(residuals, rows, self.tables)

    def _decode(self, body, symbols, modes, quality_step):
        huffman.decode(body, symbols, modes, quality_step, self.network, self.tables)


class ContextCoder(Coder):
    """Asymmetric numeral system, see `utils/entropy/ans.py`."""

    name, code = "context", 1

    @classmethod
    def fit(cls, coded):
        return to_arrays(context_coder.logistic_tables())

    @classmethod
    def load(cls, network, arrays):
        return cls(network, from_arrays(context_coder.RangeTables, arrays))

    def _encode(self, residuals, rows):
        return context_coder.encode(residuals, rows, self.tables)

    def _decode(self, body, symbols, modes, quality_step):
        context_coder.decode(body, symbols, modes, quality_step, self.network, self.tables)


CODERS = {coder.name: coder for coder in (HuffmanCoder, ContextCoder)}


def to_arrays(tables) -> dict[str, np.ndarray]:
    return {name: getattr(tables, name) for name in tables.__dataclass_fields__}


def from_arrays(kind: type, arrays: dict[str, np.ndarray]):
    names = set(kind.__dataclass_fields__)
    if set(arrays) != names:
        raise ValueError(f"{kind.__name__}: {sorted(set(arrays) ^ names)} missing or unknown")
    return kind(**{name: np.ascontiguousarray(array) for name, array in arrays.items()})
