"""Fit what is counted rather than trained: centers of the codebook and the coders' tables.

    python -m utils.training.fitting CHECKPOINT --coder NAME --output FILE --dataroot FOLDER

`train.py` fits all of it. The command gives a trained checkpoint the tables of an entropy coder that it
has none of, from training files; weights and all other tables stay as they are.
"""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import torch

from data import Kind, build_kind
from data.corpora import default_dataroot
from data.dataset import PictureSet
from models.bpgan import BPGAN
from models.config import QUALITIES, QUALITY_STEPS
from models.losses import rate_distortion
from options.base_options import Parser
from utils.codec.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from utils.codec.weights import NETWORK, load_weights, network_of, network_tables, usual_symbols
from utils.console import pick_device
from utils.entropy import CODERS, coder_class
from utils.entropy.integer_network import ContextTables, contexts, pack
from utils.precision import autocast

from .distortion import trained_distortion

FITTING_BATCHES, FITTING_CROPS = 12, 8
# High-rate theory: at the optimum a unit of squared error, in quantization steps, is worth 6/ln 2 bits.
BITS_PER_SQUARED_STEP = 6 / np.log(2)
LLOYD_ITERATIONS = 8
WAYS_TO_LLOYD = (0.0, 0.125, 0.25, 0.375, 0.5, 0.75, 1.0)  # from the integers
COST_BATCHES = 4  # that choose among them
PRIOR_COUNT = 20.0  # a center moves from its integer only as far as this many samples at it allow


@torch.no_grad()
def latents(model: BPGAN, batches: list[torch.Tensor]) -> list[tuple[torch.Tensor, int]]:
    """[(y (B, C, h, w) float32 in steps, quality 1..8)] of every batch at every quality."""
    result = []
    for x in batches:
        for q in range(QUALITIES):
            quality_row = torch.full((len(x),), q, device=x.device)
            with autocast(x.device):
                result.append((model.analyze(x, quality_row), q + 1))
    return result


@torch.no_grad()
def fit_centers(model: BPGAN, batches: list[torch.Tensor], kind: Kind) -> None:
    """Centers of the codebook, in place, for latents that were trained with rounding to integers.

    Lloyd's cells are chosen by distance and code length, so around the frequent symbols they are wide. An encoder
    takes the nearest center, however, and Lloyd's centers as its own thresholds lie wrong for them: at low rates, where
    nearly all symbols are 0, they cost more than they bring. So the centers go from the integers as far towards Lloyd's as
    the mean logarithm of rate + distortion, over all qualities, falls.
    """
    coded, codebook = latents(model, batches), model.codebook
    codebook.reset()
    integers = codebook.centers.clone()
    lloyd = lloyd_centers(torch.cat([y.transpose(0, 1).flatten(1) for y, _ in coded], dim=1), codebook.max_symbol)
    costs = {}
    for way in WAYS_TO_LLOYD:
        codebook.centers.copy_(torch.lerp(integers, lloyd, way))
        costs[way] = _log_cost(model, batches[:COST_BATCHES], coded, kind)
    codebook.centers.copy_(torch.lerp(integers, lloyd, min(costs, key=costs.get)))


def _log_cost(model: BPGAN, batches: list[torch.Tensor], coded: list[tuple[torch.Tensor, int]], kind: Kind) -> float:
    """Mean logarithm over the qualities of rate + distortion of batches, by truly quantized latents.

    `coded` are the latents of the batches, and of more, as `latents` has them.
    """
    losses = torch.zeros(QUALITIES, device=batches[0].device)
    for place, (y, quality) in enumerate(coded[: len(batches) * QUALITIES]):
        x = batches[place // QUALITIES]
        quality_row = torch.full((len(x),), quality - 1, device=x.device)
        with autocast(x.device):
            symbols = model.codebook.quantize(y)
            bits = model.rate(symbols.float(), quality_row)
            x_hat = model.generate(model.codebook.dequantize(symbols), quality_row)
        distortion = trained_distortion(model.config, kind)(x, x_hat)
        terms = rate_distortion(x, bits, model.config.lmbda(quality), distortion)
        losses[quality - 1] += terms["loss"].mean()
    return float(losses.log().mean())


def lloyd_centers(y: torch.Tensor, max_symbol: int) -> torch.Tensor:
    """Latents y (C, n) in steps -> centers (C, 2 max_symbol + 1), ascending, by entropy-constrained Lloyd per channel.

    Cells minimize BITS_PER_SQUARED_STEP * (y - center)^2 + code length, centers are the cells' means (Chou, Lookabaugh,
    Gray 1989, "Entropy-constrained vector quantization").
    """
    k = max_symbol
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
    return centers


def fitting_batches(data: PictureSet, device: torch.device) -> list[torch.Tensor]:
    """Crops (B, C, h, w) to fit on, the same in every process and at every call."""
    rng = np.random.default_rng(0)
    return [data.batch(FITTING_CROPS, rng).to(device) for _ in range(FITTING_BATCHES)]


@torch.no_grad()
def quantized(model: BPGAN, batches: list[torch.Tensor]) -> list[tuple[np.ndarray, int]]:
    """[(symbols int16 (C, h, w), quality 1..8)] of every crop at every quality."""
    return [
        (symbols, quality)
        for latent, quality in latents(model, batches)
        for symbols in model.codebook.quantize(latent).cpu().numpy()
    ]


def residuals_of(grids: list[tuple[np.ndarray, int]], network: ContextTables) -> list[tuple[np.ndarray, np.ndarray]]:
    """[(residuals int32, rows int16)] of grids: what a coder is fitted to."""
    return [
        contexts(symbols, np.zeros(symbols.shape[1:], np.uint8), (quality - 1) * QUALITY_STEPS, network)
        for symbols, quality in grids
    ]


def fit_coders(model: BPGAN, batches: list[torch.Tensor]) -> tuple[dict[str, dict[str, np.ndarray]], str]:
    """Integer tables of the network and of every entropy coder, and the better coder's name.

    From truly quantized latents; the last sixth of the batches is left out of the fit and decides
    which coder needs fewer bits.
    """
    held_out = max(1, len(batches) // 6)
    fit, test = quantized(model, batches[:-held_out] or batches), quantized(model, batches[-held_out:])
    network = network_tables(model.context, usual_symbols(fit, model.config.latent_channels, QUALITIES))
    residuals = residuals_of(fit, network)
    tables, bits = {NETWORK: pack(network)}, {}
    for name in CODERS:
        coder = coder_class(name)(network, coder_class(name).fit(residuals))
        tables[name] = coder.tables.to_arrays()
        bits[name] = sum(coder.cost_bits(symbols, (quality - 1) * QUALITY_STEPS) for symbols, quality in test)
    return tables, min(bits, key=bits.get)


def add_coder(checkpoint: Checkpoint, name: str, data: PictureSet, device: torch.device) -> Checkpoint:
    """The checkpoint with tables of one more coder, fitted to all of its fitting batches.

    Files name their checkpoint by its weights and tables, so those of the checkpoint as it was go with
    that one only. Raises ValueError where it has tables of this coder: its files depend on them.
    """
    if name in checkpoint.tables:
        raise ValueError(f"the checkpoint has tables of the coder {name}: its files depend on them, they stay")
    model = BPGAN(checkpoint.config)
    load_weights(model, checkpoint)
    model.requires_grad_(False).eval().to(device, memory_format=torch.channels_last)
    grids = quantized(model, fitting_batches(data, device))
    tables = coder_class(name).fit(residuals_of(grids, network_of(checkpoint))).to_arrays()
    return dataclasses.replace(checkpoint, tables={**checkpoint.tables, name: tables})


def main(argv: list[str] | None = None) -> int:
    parser = Parser("Fit the tables of an entropy coder that a checkpoint has none of. No weight changes.")
    parser.add_argument("checkpoint", type=Path, help="the trained checkpoint, which stays as it is")
    parser.add_argument("--coder", choices=CODERS, required=True, help="the coder that it gets tables of")
    parser.add_argument("--output", type=Path, required=True, help="where the new checkpoint goes")
    parser.add_argument(
        "--dataroot",
        type=Path,
        nargs="+",
        default=None,
        help="folders of training files; without it, the kind's own under $BPGAN_DATA is taken",
    )

    def run(options) -> int:
        if options.output.exists():
            raise ValueError(f"--output {options.output} exists already: choose another name")
        checkpoint, device = load_checkpoint(options.checkpoint), pick_device(options.device)
        kind = build_kind(checkpoint.config.signal, checkpoint.signal_settings)
        roots = options.dataroot or [default_dataroot(kind.name, "train")]
        data = PictureSet(kind, [path for root in roots for path in kind.list_files(root, "train")], device)
        save_checkpoint(options.output, add_coder(checkpoint, options.coder, data, device))
        print(f"wrote {options.output}; files of {options.checkpoint} are decoded by that one only")
        return 0

    return parser.run(argv, run)


if __name__ == "__main__":
    sys.exit(main())
