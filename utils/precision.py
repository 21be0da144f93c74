"""The type in which networks run fast on this machine."""

from collections.abc import Mapping

import torch

# Instructions by which a CPU multiplies in bfloat16, by PyTorch's names: x86, then ARM.
BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "avx10_2", "avx_ne_convert", "bf16", "sve_bf16")


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16, in which networks take half the time or less; float32 on a CPU that has to emulate it.

    Without bfloat16 instructions (AVX2 only) a pass through the image generator and back takes 8.9 s in bfloat16 and
    1.3 s in float32 (512x384 pixels, two busy cores). A PyTorch that does not tell what the CPU has gets bfloat16.
    """
    told = capabilities()
    known = device.type == "cpu" and "architecture" in told  # then all the others are named too
    emulated = known and not any(told.get(name) for name in BFLOAT16_INSTRUCTIONS)
    return torch.float32 if emulated else torch.bfloat16


def autocast(device: torch.device) -> torch.autocast:
    """A context in which networks run in the `fast_dtype`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=fast_dtype(device) == torch.bfloat16)


def capabilities() -> Mapping[str, bool | int | str]:
    """The CPU's instructions by PyTorch's names, as far as this version tells them."""
    tell = getattr(torch.cpu, "get_capabilities", None)
    if tell is not None:
        return tell()
    private = {name: getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile")}
    return {name: function() for name, function in private.items() if function is not None}
