"""What scripts say at the end: one line for an error, a table for results."""

import sys

import torch


def fail(error: BaseException, prefix: str = "") -> int:
    """One line on standard error; -> exit code 1."""
    text = " ".join(str(error).split()) or type(error).__name__
    print(f"error: {prefix}{text}", file=sys.stderr)
    return 1


def pick_device(name: str) -> torch.device:
    """--device -> torch device. Raises ValueError if cuda is asked for and there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: no CUDA device is to be had here; use --device cpu or auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
