"""What the networks cost, counted from their sizes."""

import torch
from torch import nn

from .bpgan import BPGAN
from .config import STRIDE, ModelConfig

SIDE = 4  # latent positions per side of the picture that is counted


def multiply_adds(config: ModelConfig) -> dict[str, float]:
    """Multiply-adds per picture sample of "encoder", "generator" and "entropy model".

    Only convolutions count, and of the entropy model only the weights that its masks leave.
    """
    count = 0

    def add(conv: nn.Conv2d, _, output: torch.Tensor) -> None:
        nonlocal count
        count += conv.weight[0].numel() * output.numel()  # shuffled or not

    rows = config.latent_rows or SIDE
    model = BPGAN(config).requires_grad_(False)
    z_hat = torch.zeros(1, config.latent_channels, rows, SIDE)
    x = torch.zeros(1, config.in_channels, rows * STRIDE, SIDE * STRIDE)
    costs, context = {}, model.context
    for name, network, inputs in (
        ("encoder", model.encoder, (x, torch.zeros(1))),
        ("generator", model.generator, (z_hat, torch.zeros(1))),
    ):
        count = 0
        hooks = [module.register_forward_hook(add) for module in network.modules() if isinstance(module, nn.Conv2d)]
        network(*inputs)
        costs[name] = count / (rows * SIDE * STRIDE**2)
        for hook in hooks:
            hook.remove()
    kept = sum(
        float(mask.expand_as(conv.weight).sum())
        for conv, mask in (
            (context.first, context.first_mask),
            (context.second, context.second_mask),
            (context.last, context.last_mask),
            (context.leading, context.causal),
        )
        if conv is not None
    )
    costs["entropy model"] = kept / STRIDE**2
    return costs
