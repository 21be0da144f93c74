"""What symbols cost in a coder's file, as the search sees it: by the float network, in PyTorch."""

import torch

from utils.entropy.coders import MAX_RESIDUAL, Coder
from utils.entropy.integer_network import MEAN_STEPS, MIN_LOG_SCALE, N_SCALES, SCALE_STEPS


def coded_bits(coder: Coder, symbols: torch.Tensor, mean: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
    """Bits of each symbol by the coder's cost table, float32 (..., C, h, w).

    symbols (..., C, h, w), integers as floats; mean and log_scale are the float network's for them.
    `Coder.cost_bits` counts the same with the integer network, whose rows differ only by rounding.
    """
    sixteenths = (mean * MEAN_STEPS).round()
    center = ((sixteenths + MEAN_STEPS // 2) / MEAN_STEPS).floor()
    scale = ((log_scale - MIN_LOG_SCALE) * SCALE_STEPS).round().clamp(0, N_SCALES - 1)
    row = scale * MEAN_STEPS + sixteenths - center * MEAN_STEPS + MEAN_STEPS // 2
    middle = row * (2 * MAX_RESIDUAL + 1) + MAX_RESIDUAL  # below 2^24: exact in float32
    index = (symbols - center).clamp_(-MAX_RESIDUAL, MAX_RESIDUAL).add_(middle).int()
    costs = torch.from_numpy(coder.cost_table).view(-1).to(index.device)
    return costs.index_select(0, index.view(-1)).view(index.shape)
