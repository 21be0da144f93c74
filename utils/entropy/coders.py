"""The entropy coders behind one interface; the file's header names one by its code.

Both code the residuals that the integer network (`utils/entropy/integer_network.py`) leaves, each with the
network's row as its context; they differ in how a residual becomes bits. Qualities are integers
here: steps of 1/32 above quality 1.
"""

from abc import ABC, abstractmethod

import numpy as np
import torch

from models.bpgan import BPGAN
from models.config import KERNEL
from models.entropy_model import ContextModel
from utils.codec.checkpoint import Checkpoint, load_strictly

from . import ans as context_coder
from . import huffman
from .integer_network import (
    MEAN_STEPS,
    MIN_LOG_SCALE,
    N_SCALES,
    SCALE_STEPS,
    ContextTables,
    CorruptPayload,
    contexts,
    freeze,
    thaw,
)
from .repeats import find_repeats, pack_repeats, unpack_repeats

NETWORK = "network"  # the name of its tables in a checkpoint
MAX_RESIDUAL = 255  # the search sees larger ones as this one


class Coder(ABC):
    """Symbols int16 (C, h, w) <-> payload, with a checkpoint's integer tables."""

    name: str
    code: int  # in the file's header

    def __init__(self, network: ContextTables, tables):
        self.network, self.tables = network, tables
        self._costs = torch.from_numpy(_costs_with_escapes(tables)).view(-1)

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

    def bits(self, symbols: torch.Tensor, mean: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
        """Bits of symbols, float integers, where the float network names mean and log scale; all (..., C, h, w).

        The search's view of `cost_bits`: the float network's rows are the integer one's but for rounding.
        """
        sixteenths = (mean * MEAN_STEPS).round()
        center = ((sixteenths + MEAN_STEPS // 2) / MEAN_STEPS).floor()
        scale = ((log_scale - MIN_LOG_SCALE) * SCALE_STEPS).round().clamp(0, N_SCALES - 1)
        row = scale * MEAN_STEPS + sixteenths - center * MEAN_STEPS + MEAN_STEPS // 2
        middle = row * (2 * MAX_RESIDUAL + 1) + MAX_RESIDUAL  # below 2^24: exact in float32
        index = (symbols - center).clamp_(-MAX_RESIDUAL, MAX_RESIDUAL).add_(middle).int()
        return self._costs.to(index.device).index_select(0, index.view(-1)).view(index.shape)

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
        return _arrays(huffman.fit_tables(coded, context_coder.logistic_tables()))

    @classmethod
    def load(cls, network, arrays):
        return cls(network, _tables(huffman.HuffmanTables, arrays))

    def _encode(self, residuals, rows):
        return huffman.encode(residuals, rows, self.tables)

    def _decode(self, body, symbols, modes, quality_step):
        huffman.decode(body, symbols, modes, quality_step, self.network, self.tables)


class ContextCoder(Coder):
    """Asymmetric numeral system, see `utils/entropy/ans.py`."""

    name, code = "context", 1

    @classmethod
    def fit(cls, coded):
        return _arrays(context_coder.logistic_tables())

    @classmethod
    def load(cls, network, arrays):
        return cls(network, _tables(context_coder.RangeTables, arrays))

    def _encode(self, residuals, rows):
        return context_coder.encode(residuals, rows, self.tables)

    def _decode(self, body, symbols, modes, quality_step):
        context_coder.decode(body, symbols, modes, quality_step, self.network, self.tables)


CODERS = {coder.name: coder for coder in (HuffmanCoder, ContextCoder)}


def _costs_with_escapes(tables) -> np.ndarray:
    """Bits by row and residual -MAX_RESIDUAL..MAX_RESIDUAL, float32.

    Between the largest residuals that have a word and the escape the difference is small.
    """
    residual = np.arange(-MAX_RESIDUAL, MAX_RESIDUAL + 1)[None]
    limit = tables.radius[:, None]
    word = np.clip(residual, -limit, limit) + context_coder.MAX_RADIUS
    excess = np.maximum(np.abs(residual) - limit, 0)
    return (np.take_along_axis(tables.costs, word, axis=1) + 2 * np.log2(1 + excess)).astype(np.float32)


def _arrays(tables) -> dict[str, np.ndarray]:
    return {name: getattr(tables, name) for name in tables.__dataclass_fields__}


def _tables(kind: type, arrays: dict[str, np.ndarray]):
    names = set(kind.__dataclass_fields__)
    if set(arrays) != names:
        raise ValueError(f"{kind.__name__}: {sorted(set(arrays) ^ names)} missing or unknown")
    return kind(**{name: np.ascontiguousarray(array) for name, array in arrays.items()})


def load_coders(checkpoint: Checkpoint) -> dict[str, Coder]:
    """All coders that a checkpoint has tables of. Raises ValueError where tables do not fit."""
    network = network_of(checkpoint)
    return {
        name: coder.load(network, checkpoint.tables[name])
        for name, coder in CODERS.items()
        if name in checkpoint.tables
    }


def network_of(checkpoint: Checkpoint) -> ContextTables:
    """The checkpoint's integer network. Raises ValueError where it is missing or does not fit the model."""
    if NETWORK not in checkpoint.tables:
        raise ValueError("the checkpoint has no tables of the entropy model's integer network")
    return _tables(ContextTables, checkpoint.tables[NETWORK])


def network_tables(model: ContextModel, usual: np.ndarray) -> ContextTables:
    """The entropy model's weights in fixed point; usual symbols int16 (8, C) only make the coder fast."""
    with torch.no_grad():
        first = (model.first.weight * model.first_mask).flatten(2).permute(1, 2, 0)  # (2C, 25, U)
        row_bias = model.row_bias[0, :, :, 0].T if model.row_bias is not None else torch.zeros(0, len(model.first.bias))
        arrays = dict(
            first=first,
            second=(model.second.weight * model.second_mask)[:, :, 0, 0],
            last=(model.last.weight * model.last_mask)[:, :, 0, 0],
            first_bias=model.quality_bias + model.first.bias,
            row_bias=row_bias,
            second_bias=model.second.bias,
            last_bias=model.prior + model.last.bias,
        )
    return freeze(model.groups, **{name: value.detach().cpu().numpy() for name, value in arrays.items()}, usual=usual)


def usual_symbols(grids: list[tuple[np.ndarray, int]], channels: int, qualities: int) -> np.ndarray:
    """The median symbol of each channel at each quality 1..8, int16 (8, C); 0 where there is none."""
    usual = np.zeros((qualities, channels), np.int16)
    for quality in {q for _, q in grids}:
        seen = [symbols.reshape(channels, -1) for symbols, q in grids if q == quality]
        usual[quality - 1] = np.median(np.concatenate(seen, axis=1), axis=1)
    return usual


def load_weights(model: BPGAN, checkpoint: Checkpoint) -> None:
    """Set a model's weights to a checkpoint's; the entropy model's are what the integers stand for.

    A model without an encoder takes everything else. Raises ValueError where a part is missing or
    does not fit.
    """
    state = {
        name: tensor
        for name, tensor in checkpoint.model.items()
        if model.encoder is not None or not name.startswith("encoder.")
    }
    real = thaw(network_of(checkpoint))
    real = {name: torch.from_numpy(value) for name, value in real.items()}
    context = model.context
    state.update(
        {
            "context.first.weight": real["first"].permute(2, 0, 1).unflatten(2, (KERNEL, KERNEL)),
            "context.first.bias": torch.zeros_like(context.first.bias),
            "context.second.weight": real["second"][:, :, None, None],
            "context.second.bias": real["second_bias"],
            "context.last.weight": real["last"][:, :, None, None],
            "context.last.bias": torch.zeros_like(context.last.bias),
            "context.quality_bias": real["first_bias"],
            "context.prior": real["last_bias"],
        }
    )
    if context.row_bias is not None:
        state["context.row_bias"] = real["row_bias"].T[None, :, :, None]
    load_strictly(model, state, "the checkpoint's model")
