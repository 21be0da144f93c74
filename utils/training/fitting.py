"""Fit what is counted rather than trained: centers of the codebook and the coders' tables."""

import numpy as np
import torch

from models.bpgan import BPGAN
from models.config import QUALITIES, QUALITY_STEPS
from utils.codec.weights import NETWORK, network_tables, usual_symbols
from utils.entropy.coders import CODERS
from utils.entropy.integer_network import contexts

# High-rate theory: at the optimum a unit of squared error, in quantization steps, is worth 6/ln 2 bits.
BITS_PER_SQUARED_STEP = 6 / np.log(2)
LLOYD_ITERATIONS = 8
PRIOR_COUNT = 20.0  # a center moves from its integer only as far as this many samples at it allow


@torch.no_grad()
def latents(model: BPGAN, batches: list[torch.Tensor]) -> list[tuple[torch.Tensor, int]]:
    """[(y (B, C, h, w) float32 in steps, quality 1..8)] of every batch at every quality."""
    result = []
    for x in batches:
        for q in range(QUALITIES):
            quality = torch.full((len(x),), q, device=x.device)
            with torch.autocast(x.device.type, torch.bfloat16):
                result.append((model.analyze(x, quality), q + 1))
    return result


@torch.no_grad()
def fit_centers(model: BPGAN, batches: list[torch.Tensor]) -> None:
    """Entropy-constrained Lloyd (Chou, Lookabaugh, Gray 1989) per channel, in place.

    Cells minimize BITS_PER_SQUARED_STEP * (y - center)^2 + code length, centers are the cells' means.
    """
    codebook = model.codebook
    k = codebook.max_symbol
    y = torch.cat([latent.transpose(0, 1).flatten(1) for latent, _ in latents(model, batches)], dim=1)
    uniform = torch.arange(-k, k + 1, dtype=torch.float32, device=y.device).repeat(y.shape[0], 1)
    if y.shape[1] > 40000:  # the same ones in every process and at every call
        chance = torch.Generator(y.device).manual_seed(0)
        y = y[:, torch.rand(y.shape[1], device=y.device, generator=chance) < 40000 / y.shape[1]]
    base = y.round().clamp(-k, k)
    candidates = torch.stack([(base + d).clamp(-k, k) for d in (-1, 0, 1)]).long() + k  # (3, C, n)
    centers, symbols = uniform.clone(), base.long() + k
    for _ in range(LLOYD_ITERATIONS):
        ones = torch.ones_like(y)
        count = torch.zeros_like(centers).scatter_add_(1, symbols, ones)
        bits = -torch.log2((count + 0.5) / (count + 0.5).sum(1, keepdim=True))
        cost = torch.stack(
            [BITS_PER_SQUARED_STEP * (y - centers.gather(1, c)).square() + bits.gather(1, c) for c in candidates]
        )
        symbols = candidates.gather(0, cost.argmin(0, keepdim=True))[0]
        count = torch.zeros_like(centers).scatter_add_(1, symbols, ones)
        total = torch.zeros_like(centers).scatter_add_(1, symbols, y.clamp(-k - 0.5, k + 0.5))
        centers = (total + PRIOR_COUNT * uniform) / (count + PRIOR_COUNT)
        centers = uniform + (centers - uniform).clamp(-0.4, 0.4)  # ascending by construction
    codebook.centers.copy_(centers)


@torch.no_grad()
def fit_coders(model: BPGAN, batches: list[torch.Tensor]) -> tuple[dict[str, dict[str, np.ndarray]], str]:
    """Integer tables of the network and of every entropy coder, and the better coder's name.

    From truly quantized latents; the last sixth of the batches is left out of the fit and decides
    which coder needs fewer bits.
    """
    held_out = max(1, len(batches) // 6)

    def grids(some):
        return [
            (symbols, quality)
            for latent, quality in latents(model, some)
            for symbols in model.codebook.quantize(latent).cpu().numpy()
        ]

    def coded(some):
        return [
            contexts(symbols, np.zeros(symbols.shape[1:], np.uint8), (quality - 1) * QUALITY_STEPS, network)
            for symbols, quality in some
        ]

    fit, test = grids(batches[:-held_out] or batches), grids(batches[-held_out:])
    network = network_tables(model.context, usual_symbols(fit, model.config.latent_channels, QUALITIES))
    residuals = coded(fit)
    tables = {name: coder.fit(residuals) for name, coder in CODERS.items()}
    bits = {}
    for name, coder in CODERS.items():
        loaded = coder.load(network, tables[name])
        bits[name] = sum(loaded.cost_bits(symbols, (quality - 1) * QUALITY_STEPS) for symbols, quality in test)
    return {NETWORK: network.to_arrays(), **tables}, min(bits, key=bits.get)
