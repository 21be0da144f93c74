"""Data parallelism under torchrun: one process per device, nothing to configure without it."""

import os
import sys
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def world() -> tuple[int, int]:
    """(rank, world size); (0, 1) outside torchrun."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def start(device: "torch.device") -> "torch.device":
    """Join the process group where torchrun started us; -> the device of this process."""
    _, size = world()
    if size == 1:
        return device
    import torch
    import torch.distributed as dist

    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(minutes=30))
    return device


def _group():
    """`torch.distributed` where `start` joined a group, else None; a program that never loaded PyTorch has none."""
    dist = sys.modules.get("torch.distributed")
    return dist if dist is not None and dist.is_initialized() else None


def stop() -> None:
    """Leave the process group, if `start` joined one."""
    if dist := _group():
        dist.destroy_process_group()


def average_gradients(parameters) -> None:
    """Mean of the gradients over all processes, in one message."""
    dist = _group()
    if dist is None:
        return
    import torch

    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients])):
        gradient.copy_(mean.view_as(gradient))


def broadcast_number(value: float) -> float:
    """The first process's number, for decisions on which all must agree (the clock's, say)."""
    dist = _group()
    if dist is None:
        return value
    import torch

    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    message = torch.tensor([value], dtype=torch.float64, device=device)
    dist.broadcast(message, src=0)
    return float(message.item())


def barrier() -> None:
    """Wait until all processes have come here."""
    if dist := _group():
        dist.barrier()


def share(items: list) -> list:
    """This process's part of a list: every item belongs to exactly one process."""
    rank, size = world()
    return items[rank::size]


def gather(value) -> list:
    """Every process's value, in order of rank, on the first process; [] on the others."""
    dist = _group()
    if dist is None:
        return [value]
    rank, size = world()
    values = [None] * size if rank == 0 else None
    dist.gather_object(value, values)
    return values or []
