"""Entropy coders of seeded random networks, and golden payloads of ones made of integers alone."""

import functools

import numpy as np
import torch

from models.entropy_model import ContextModel
from tests.helpers.models import randomize_context
from utils.codec.weights import network_tables
from utils.entropy import CODERS, coder_class
from utils.entropy.ans import ContextCoder, RangeTables
from utils.entropy.coders import Coder
from utils.entropy.huffman import HuffmanCoder, HuffmanTables, code_lengths
from utils.entropy.integer_network import N_ROWS, N_SCALES, ContextTables, contexts


def make_network(groups=(4, 4, 8), hidden=8, rows=0, seed=0, usual=None, **parts) -> ContextTables:
    """Tables of a seeded random network; its usual symbols are random too, which must not matter.

    `parts`: whether it has `scales` by quality and a `leading` linear prediction."""
    torch.manual_seed(seed)
    model = ContextModel(groups, hidden, rows, **parts)
    randomize_context(model)
    if usual is None:
        usual = np.random.default_rng(seed).integers(-3, 4, (8, sum(groups))).astype(np.int16)
    return network_tables(model, usual)


def grid(shape, seed=0, spread=1.5) -> np.ndarray:
    """Mostly small symbols, as latents are."""
    return np.rint(np.random.default_rng(seed).laplace(0, spread, shape)).astype(np.int16)


def nothing_repeats(symbols):
    return np.zeros(symbols.shape[1:], np.uint8)


def make_coders(network: ContextTables) -> dict[str, Coder]:
    """Every coder on this network, its tables fitted to a few grids."""
    coded = [
        contexts(symbols, nothing_repeats(symbols), 60, network) for symbols in (grid((16, 8, 9), s) for s in range(3))
    ]
    return {name: coder_class(name)(network, coder_class(name).fit(coded)) for name in CODERS}


@functools.cache
def golden_coders() -> dict:
    """Coders made of integers alone: no library's random numbers or exponentials are in them."""
    state = 12345

    def numbers(shape, limit):
        nonlocal state
        out = np.empty(int(np.prod(shape)), np.int64)
        for k in range(out.size):
            state = (state * 1103515245 + 12345) % 2**31
            out[k] = (state >> 12) % (2 * limit + 1) - limit
        return out.reshape(shape)

    groups, hidden = np.array([1, 2], np.int32), 3
    channels, units = 3, 6
    unit_group, channel_group = np.repeat([0, 1], hidden), np.repeat([0, 1], groups)
    source = np.tile(channel_group, 2)
    place = np.arange(25)
    sees = (source[:, None, None] < unit_group) | ((source[:, None, None] == unit_group) & (place < 12)[None, :, None])
    network = ContextTables(
        groups,
        np.array([12, 12, 12], np.int32),
        (numbers((2 * channels, 25, units), 300) * sees).astype(np.int16),
        (numbers((units, units), 1500) * (unit_group[None] <= unit_group[:, None])).astype(np.int16),
        (numbers((2 * channels, units), 1500) * (unit_group[None] <= source[:, None])).astype(np.int16),
        numbers((8, units), 3000).astype(np.int32),
        numbers((4, units), 500).astype(np.int32),
        numbers((units,), 200000).astype(np.int32),
        numbers((8, 2 * channels), 600000).astype(np.int32),
        numbers((8, channels), 2).astype(np.int16),
    )

    d = np.abs(np.arange(-64, 65))
    radius = np.minimum(64, 2 + np.arange(N_SCALES)).astype(np.int32).repeat(16)
    frequency = np.zeros((N_ROWS, 130), np.uint16)
    for i, r in enumerate(radius):
        weight = np.where(d <= r, (r + 1 - d) ** 2, 0)
        row = np.append(np.where(d <= r, 1 + weight * 50000 // weight.sum(), 0), 40)
        row[64] += 65536 - row.sum()
        frequency[i] = row

    direct = np.arange(N_ROWS) >= 8 * 16
    run_class = np.stack([np.arange(N_ROWS) // 16 % 5] * 4, axis=1)
    run_class[:, 1:] = (run_class[:, 1:] + [1, 2, 3]) % 5
    run_class[direct] = 255
    likely = (np.arange(N_ROWS)[:, None] + np.arange(4)) // 3 % 2
    lengths = np.zeros((N_ROWS, 130), np.uint8)
    for i in range(N_ROWS):
        used = np.append(d <= radius[i] if direct[i] else np.arange(129) <= radius[i] - 2, True)
        lengths[i, used] = code_lengths(1 + (np.arange(used.sum())[::-1] * (i % 7 + 1)))
    return {
        "context": ContextCoder(network, RangeTables(radius, frequency, np.array([1], np.int32))),
        "context, before": ContextCoder(network, RangeTables(radius, frequency)),
        "huffman": HuffmanCoder(
            network,
            HuffmanTables(
                radius,
                run_class.astype(np.uint8),
                likely.astype(np.uint8),
                np.array([1, 2, 3, 7, 100], np.int32),
                lengths,
            ),
        ),
    }


def golden_symbols() -> np.ndarray:
    """Three channels of 4x16, the right half like its first column."""
    i = np.arange(3 * 4 * 8)
    symbols = (i * i * 7 + 3 * i) % 11 % 5 - 2
    symbols[[7, 30, 55]] = [32767, -32768, -41]
    symbols = symbols.reshape(3, 4, 8)
    return np.concatenate([symbols, np.repeat(symbols[..., -1:], 8, axis=2)], axis=2).astype(np.int16)


GOLDEN = {  # (coder, quality step): payload, with a map of repeats in front
    ("context", 0): "02081000013fee4457a168c977d371c9514304592e54955686cf3c7fcbf9ccf5e29df8eb5f81f69397e294a8"
    "f58237bb81d694895e8444ca2d5d5286a1e743f29329f0db",
    ("context", 73): "020810007efced5056a2fd0dee74843d9396fb52bc5d455918de0d0597af73fe05a11af9d83f501973ceadd8"
    "eb311246d6100fc92bc863b46e55eff7e8b7057448",
    ("context", 224): "020810001277ee24c8ed65aaa5e0f00205b7709c42c8a6da30b95a8ad7c76fc5d803387a8b917059d2ee38bf"
    "75288ca72c4ad2169907ec2d174eecd2910bec576ceeb81d1d",
    ("context, before", 0): "0208100010cd50b942ca11e7e7a44cf7c36ab6ec681f13bbdd13b8d177c7cb6db54d15280ad27508f783b674"
    "f2b362123efbc4e0011ca3bf701e2da0aeec1581c62c0f35b2",
    ("context, before", 73): "0208100005ef4af8b3150a70cfc9cc59bf9d7154df4b5125fb05c1feffa2ceca93b45cdf712868c5b85f8c34"
    "eda3104c0466547c53a16d50dd33320fd56804748e3a06",
    ("context, before", 224): "0208100000ee4c5a7c9684cb77c4caf265c643e75ecd08bd7a3cbc7ce7aaca1ba228838ae9cee386a337ca98"
    "2abbeef0123d47582ece9dddfac98fdcb1253e85c1d93e2ccd17b2",
    ("huffman", 0): "02081000b6dbaec30bbff77fccb6dc6db6ebafc2ebadb71b6975d86175dffbbfe7db8dad8db6bad75d85f8e3"
    "7e175d6dd6dd8dd6cadb6ebaebf0bf0c2ec6ebed7db7636fff8c71b6ebad75d85d8617617dd6dc",
    ("huffman", 73): "02081000b5aebb0c2effddff3ad6c6b5b5b0c2eb5ad8d696bb0c2ebbff77fd1b675b636adeb7b656ce17c2f6"
    "b5ad5ceb6c6b6bdd75f95b2c2f85ed6badb71b7ff8d71b56f5bdb2b6585f0beeb6e0",
    ("huffman", 224): "02081000ad6d6c62dffbbfe956b956b6b6316b56b95696b6316b7feeffab5cadae35b6d6daec5d9c2d85aead"
    "d5b72b6b8d6db5b6bb17630b616bad75b6e367ff1ce35b6d6daec5d8c2d85eeb6e",
}
