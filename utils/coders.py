"""The entropy coders behind one interface; the file's header names one by its code.

Qualities are integers here: steps of 1/32 above quality 1.
"""

from abc import ABC, abstractmethod

import numpy as np
import torch

from models import BPGAN, QUALITIES, QUALITY_STEPS
from models.entropy_model import KERNEL, ContextModel
from . import context_coder, huffman

MAX_COST_RADIUS = 24      # candidates beyond cost as this one: the difference between neighbors is small there

CORRUPT = (context_coder.CorruptPayload, huffman.CorruptPayload)


class Coder(ABC):
    """Symbols int16 (C, h, w) <-> payload, with the checkpoint's integer tables."""

    name: str
    code: int       # in the file's header
    estimated_well: bool    # by the float entropy model: within a percent

    @staticmethod
    @abstractmethod
    def fit(model: BPGAN, grids: list[tuple[np.ndarray, int]]) -> dict[str, np.ndarray]:
        """Tables for [(symbols (C, h, w), quality 1..8)], as integer arrays."""

    @abstractmethod
    def __init__(self, arrays: dict[str, np.ndarray]):
        """Raises ValueError where the arrays are not this coder's."""

    @abstractmethod
    def encode(self, symbols: np.ndarray, quality_step: int) -> bytes: ...

    @abstractmethod
    def decode(self, payload: bytes, shape: tuple[int, int, int], quality_step: int) -> np.ndarray:
        """Raises one of CORRUPT for a payload that `encode` never wrote."""

    @abstractmethod
    def cost_bits(self, symbols: np.ndarray, quality_step: int) -> float:
        """Bits that `encode` would need."""

    def candidate_costs(self, symbols: np.ndarray, candidates: np.ndarray, quality_step: int) -> np.ndarray:
        """Bits of each of N candidates (N, C, h, w) where the grid holds `symbols` -> float32, like them.

        Coders that the entropy model estimates well need not have it.
        """
        raise NotImplementedError(self.name)


class HuffmanCoder(Coder):
    """Canonical Huffman, see `utils/huffman.py`; channels are put in order of their energy."""

    name, code = "huffman", 0
    estimated_well = False

    @staticmethod
    def fit(model, grids):
        energy = sum(np.abs(symbols.astype(np.float64)).mean((1, 2)) for symbols, _ in grids)
        order = np.argsort(-energy, kind="stable").astype(np.int32)
        tables = huffman.fit_tables([(symbols[order], quality) for symbols, quality in grids])
        return {"order": order, **tables.to_arrays()}

    def __init__(self, arrays):
        arrays = dict(arrays)
        self.order = arrays.pop("order", np.zeros(0, np.int32))
        self.tables = huffman.HuffmanTables.from_arrays(arrays)
        if sorted(self.order) != list(range(self.tables.channels)):
            raise ValueError("huffman tables: the order of the channels is not a permutation")

    @staticmethod
    def _quality(quality_step: int) -> int:
        return min(QUALITIES, 1 + (quality_step + QUALITY_STEPS // 2) // QUALITY_STEPS)

    def encode(self, symbols, quality_step):
        return huffman.encode(symbols[self.order], self._quality(quality_step), self.tables)

    def decode(self, payload, shape, quality_step):
        symbols = np.empty(shape, np.int16)
        symbols[self.order] = huffman.decode(payload, shape, self._quality(quality_step), self.tables)
        return symbols

    def cost_bits(self, symbols, quality_step):
        return float(huffman.cost_bits(symbols[self.order], self._quality(quality_step), self.tables))

    def candidate_costs(self, symbols, candidates, quality_step):
        radius = min(int(np.abs(candidates).max(initial=0)), MAX_COST_RADIUS)
        costs = np.empty((2 * radius + 1, *symbols.shape), np.float32)
        costs[:, self.order] = huffman.symbol_costs(
            symbols[self.order], self._quality(quality_step), self.tables, radius)
        return np.take_along_axis(costs, np.clip(candidates, -radius, radius) + radius, axis=0)


class ContextCoder(Coder):
    """The entropy model in fixed point, see `utils/context_coder.py`."""

    name, code = "context", 1
    estimated_well = True

    @staticmethod
    def fit(model, grids):
        return context_tables(model.context).to_arrays()

    def __init__(self, arrays):
        self.tables = context_coder.ContextTables.from_arrays(arrays)

    def encode(self, symbols, quality_step):
        return context_coder.encode(symbols, quality_step, self.tables)

    def decode(self, payload, shape, quality_step):
        return context_coder.decode(payload, shape, quality_step, self.tables)

    def cost_bits(self, symbols, quality_step):
        return context_coder.cost_bits(symbols, quality_step, self.tables)


CODERS = {coder.name: coder for coder in (HuffmanCoder, ContextCoder)}


def context_tables(model: ContextModel) -> context_coder.ContextTables:
    """The entropy model's weights in fixed point."""
    with torch.no_grad():
        first = (model.first.weight * model.first_mask).flatten(2).permute(1, 2, 0)    # (2C, 25, U)
        row_bias = model.row_bias[0, :, :, 0].T if model.row_bias is not None else torch.zeros(0, len(model.first.bias))
        arrays = dict(
            first=first, second=(model.second.weight * model.second_mask)[:, :, 0, 0],
            last=(model.last.weight * model.last_mask)[:, :, 0, 0],
            first_bias=model.quality_bias + model.first.bias, row_bias=row_bias,
            second_bias=model.second.bias, last_bias=model.prior + model.last.bias)
    return context_coder.freeze(model.groups, **{name: value.detach().cpu().numpy() for name, value in arrays.items()})


def load_context(model: ContextModel, tables: context_coder.ContextTables) -> None:
    """Set the entropy model's weights to exactly what the integers stand for."""
    real = {name: torch.from_numpy(value) for name, value in context_coder.thaw(tables).items()}
    with torch.no_grad():
        model.first.weight.copy_(real["first"].permute(2, 0, 1).unflatten(2, (KERNEL, KERNEL)))
        model.second.weight.copy_(real["second"][:, :, None, None])
        model.last.weight.copy_(real["last"][:, :, None, None])
        model.quality_bias.copy_(real["first_bias"])
        model.second.bias.copy_(real["second_bias"])
        model.prior.copy_(real["last_bias"])
        model.first.bias.zero_()
        model.last.bias.zero_()
        if model.row_bias is not None:
            model.row_bias.copy_(real["row_bias"].T[None, :, :, None])
