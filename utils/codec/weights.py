"""Between a checkpoint's tensors and tables, and the models and coders made of them.

The entropy model is stored as the integers of its network (`utils/entropy/integer_network.py`); its float
weights are those integers divided by powers of two.
"""

import numpy as np
import torch

from models.bpgan import BPGAN
from models.config import KERNEL
from models.entropy_model import ContextModel
from utils.entropy import CODERS, coder_class
from utils.entropy.coders import Coder
from utils.entropy.integer_network import CAUSAL, ContextTables, freeze, thaw, unpack

from .checkpoint import Checkpoint, load_strictly

NETWORK = "network"  # the name of its tables in a checkpoint


def load_coders(checkpoint: Checkpoint) -> dict[str, Coder]:
    """All coders that a checkpoint has tables of. Raises ValueError where tables do not fit."""
    network = network_of(checkpoint)
    return {
        name: coder_class(name).load(network, checkpoint.tables[name]) for name in CODERS if name in checkpoint.tables
    }


def network_of(checkpoint: Checkpoint) -> ContextTables:
    """The checkpoint's integer network. Raises ValueError where it is missing or does not fit the model."""
    if NETWORK not in checkpoint.tables:
        raise ValueError("the checkpoint has no tables of the entropy model's integer network")
    return unpack(checkpoint.tables[NETWORK])


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
            first_scale=model.first_scale,
            second_scale=model.second_scale,
            second_quality_bias=model.second_quality_bias,
        )
        if model.leading is not None:
            arrays["leading"] = model.leading_kernel().flatten(2)[:, :, :CAUSAL].transpose(1, 2)
    given = {name: value.detach().cpu().numpy() for name, value in arrays.items() if value is not None}
    return freeze(model.groups, **given, usual=usual)


def usual_symbols(grids: list[tuple[np.ndarray, int]], channels: int, qualities: int) -> np.ndarray:
    """The median symbol of each channel at each quality 1..8, int16 (8, C); 0 where there is none."""
    usual = np.zeros((qualities, channels), np.int16)
    for quality in {q for _, q in grids}:
        values = [symbols.reshape(channels, -1) for symbols, q in grids if q == quality]
        usual[quality - 1] = np.median(np.concatenate(values, axis=1), axis=1)
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
    real = {name: torch.from_numpy(value) for name, value in real.items() if value is not None}
    context = model.context
    if (context.leading is None, context.first_scale is None) != ("leading" not in real, "first_scale" not in real):
        raise ValueError("the checkpoint's integer network has other parts than its config claims")
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
    if context.first_scale is not None:
        for name in ("first_scale", "second_scale", "second_quality_bias"):
            state[f"context.{name}"] = real[name]
    if context.leading is not None:
        kernel = torch.zeros_like(context.leading.weight).flatten(2)
        kernel[:, :, :CAUSAL] = real["leading"].transpose(1, 2)
        state["context.leading.weight"] = kernel.unflatten(2, (KERNEL, KERNEL))
    load_strictly(model, state, "the checkpoint's model")
