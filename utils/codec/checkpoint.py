"""Checkpoints: one safetensors file with weights, centers and code tables, and JSON metadata.

Tensors:  model.*      encoder, generator, gains, codebook (float weights as float16)
          realistic.*, discriminator.*  of the adversarial stage, where there was one
          tables.network.*  the entropy model's weights, as the integers that the coders use
          tables.CODER.*  integer tables of each entropy coder
Metadata: format (version), config (ModelConfig), signal (picture settings), default_coder, info
(how it was trained). Nothing in it is executable; tensors are matched strictly by name and shape.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from models.config import ModelConfig
from utils.files import replacing

from .fingerprint import NOT_FINGERPRINTED, fingerprint, hash_of

FORMAT = 2
FLOATS = (torch.float16, torch.float32)
INTEGERS = (torch.uint8, torch.uint16, torch.int8, torch.int16, torch.int32, torch.int64)
MAX_SIZE, MAX_DEPTH = 4096, 64  # bounds of a config's numbers, far above what is ever built
KEPT_IN_FLOAT32 = ("gains.", "codebook.")  # exponents and centers decide symbols


@dataclass
class Checkpoint:
    """What a checkpoint file holds."""

    config: ModelConfig
    signal_settings: dict
    model: dict[str, torch.Tensor]
    realistic: dict[str, torch.Tensor] | None
    discriminator: dict[str, torch.Tensor] | None
    tables: dict[str, dict[str, np.ndarray]]  # 'network' or a coder's name -> integer arrays
    default_coder: str = "huffman"
    info: dict = dataclasses.field(default_factory=dict)
    # Set when loaded: what files name their checkpoint by, and a hexadecimal digest of all but `info`.
    fingerprint: bytes = b""
    digest: str = ""


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; an existing one is replaced whole."""
    tensors = {}
    groups = {"model": checkpoint.model, **{name: getattr(checkpoint, name) or {} for name in NOT_FINGERPRINTED}}
    for prefix, state in groups.items():
        for name, tensor in state.items():
            if name.startswith("context."):
                continue
            keep = tensor.dtype != torch.float32 or name.startswith(KEPT_IN_FLOAT32)
            tensors[f"{prefix}.{name}"] = (tensor if keep else tensor.half()).cpu().contiguous()
    for coder, arrays in checkpoint.tables.items():
        for name, array in arrays.items():
            tensors[f"tables.{coder}.{name}"] = torch.from_numpy(np.array(array))  # keeps 0-d, own memory
    metadata = {
        "format": FORMAT,
        "config": checkpoint.config.to_dict(),
        "signal": checkpoint.signal_settings,
        "default_coder": checkpoint.default_coder,
        "info": checkpoint.info,
    }
    with replacing(path) as temporary:
        temporary.write_bytes(
            save(tensors, {name: json.dumps(value, sort_keys=True) for name, value in metadata.items()})
        )


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises ValueError with one line where the file is missing, damaged, of another format, or lacks
    a part.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"checkpoint {path} does not exist: give --checkpoint FILE, or train one with train.py")
    try:
        with safe_open(path, "pt") as file:
            raw = file.metadata() or {}
            # copies: the file is mapped, and may be overwritten while its tensors are in use
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"checkpoint {path} is damaged or not a safetensors file ({error})") from None
    try:
        metadata = {name: json.loads(value) for name, value in raw.items()}
        if metadata["format"] != FORMAT:
            raise ValueError(f"checkpoint {path} has format {metadata['format']}, this version reads {FORMAT}")
        if not isinstance(metadata["config"], dict):
            raise TypeError(f"config {metadata['config']!r:.40}")
        try:
            config = ModelConfig.from_dict(metadata["config"])
        except ValueError as error:
            raise ValueError(f"checkpoint {path} has another model's settings: {error}") from None
        settings, default_coder, info = metadata["signal"], str(metadata["default_coder"]), metadata["info"]
        for name in ("signal", "info"):
            if not isinstance(metadata[name], dict):
                raise TypeError(f"{name} {metadata[name]!r:.40}")
    except (KeyError, TypeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"checkpoint {path} is not one of BPGAN's: no usable {error}") from None
    _check_config(config, path)
    groups, tables = {"model": {}, **{name: {} for name in NOT_FINGERPRINTED}}, {}
    for name, tensor in tensors.items():
        group, _, rest = name.partition(".")
        if tensor.dtype not in (FLOATS if group != "tables" else INTEGERS):
            raise ValueError(f"checkpoint {path}: tensor {name!r} has the type {tensor.dtype}".replace("torch.", ""))
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"checkpoint {path}: tensor {name!r} holds numbers that are not finite")
        if group == "tables":
            coder, _, array = rest.partition(".")
            tables.setdefault(coder, {})[array] = tensor.numpy()
        elif group in groups:
            groups[group][rest] = tensor.float()
        else:
            raise ValueError(f"checkpoint {path} holds an unknown tensor {name!r}")
    if default_coder not in tables:
        raise ValueError(f"checkpoint {path} has no tables of its default coder {default_coder!r}")
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    return Checkpoint(
        config,
        settings,
        groups["model"],
        groups["realistic"] or None,
        groups["discriminator"] or None,
        tables,
        default_coder,
        info,
        fingerprint(arrays, metadata),
        hash_of(arrays, [metadata[name] for name in ("config", "signal", "default_coder")]).hexdigest(),
    )


def _check_config(config: ModelConfig, path: Path) -> None:
    """Raise ValueError for numbers of which nobody would build a model, before any memory is allocated."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in ("signal", "objective"):
            continue
        if field.type is bool:
            if type(value) is not bool:
                raise ValueError(f"checkpoint {path}: {field.name} {value} in its config is neither true nor false")
            continue
        listed = field.type not in (int, float)
        numbers = value if isinstance(value, tuple) and listed else (value,)
        limit = MAX_DEPTH if field.name.endswith("depths") else MAX_SIZE
        whole = not field.name.startswith("lmbda")
        low = 0 if field.name == "latent_rows" or field.name.endswith("depths") else 1 if whole else 1e-9
        fits = all(type(n) in ((int,) if whole else (int, float)) and low <= n <= limit for n in numbers)
        if not fits or (listed and field.name != "context_groups" and len(numbers) != 3):
            raise ValueError(f"checkpoint {path}: {field.name} {value} in its config is not possible")


def load_strictly(module: torch.nn.Module, state: dict[str, torch.Tensor], what: str) -> None:
    """`load_state_dict` whose failure is one line: ValueError."""
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{what} does not fit its own config: {str(error).splitlines()[1].strip()}") from None
