"""Checkpoints: one safetensors file with weights, centers and code tables, and JSON metadata.

Tensors:  model.*      encoder, generator, gains, codebook (float weights as float16); the entropy
                       model's weights are in its coder's tables
          realistic.*  the generator of the adversarial stage, where there is one
          tables.CODER.*  integer tables of each entropy coder
Metadata: format (version), config (ModelConfig), signal (picture settings), default_coder, info
(how it was trained). Nothing in it is executable; tensors are matched strictly by name and shape.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from models import ModelConfig
from .files import replacing

FORMAT = 1
KEPT_IN_FLOAT32 = ("gains.", "codebook.")    # exponents and centers decide symbols


@dataclass
class Checkpoint:
    """What a checkpoint file holds."""

    config: ModelConfig
    signal_settings: dict
    model: dict[str, torch.Tensor]
    realistic: dict[str, torch.Tensor] | None
    tables: dict[str, dict[str, np.ndarray]]     # coder name -> integer arrays
    default_coder: str = "huffman"
    info: dict = field(default_factory=dict)
    fingerprint: bytes = b""                     # set when loaded


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; an existing one is replaced whole."""
    tensors = {}
    groups = {"model": checkpoint.model, "realistic": checkpoint.realistic or {}}
    for prefix, state in groups.items():
        for name, tensor in state.items():
            if name.startswith("context."):
                continue
            keep = tensor.dtype != torch.float32 or name.startswith(KEPT_IN_FLOAT32)
            tensors[f"{prefix}.{name}"] = (tensor if keep else tensor.half()).cpu().contiguous()
    for coder, arrays in checkpoint.tables.items():
        for name, array in arrays.items():
            tensors[f"tables.{coder}.{name}"] = torch.from_numpy(np.array(array))   # keeps 0-d, own memory
    metadata = {"format": FORMAT, "config": checkpoint.config.to_dict(),
                "signal": checkpoint.signal_settings, "default_coder": checkpoint.default_coder,
                "info": checkpoint.info}
    with replacing(path) as temporary:
        temporary.write_bytes(save(tensors, {name: json.dumps(value, sort_keys=True) for name, value in metadata.items()}))


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
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"checkpoint {path} is damaged or not a safetensors file ({error})") from None
    try:
        metadata = {name: json.loads(value) for name, value in raw.items()}
        if metadata["format"] != FORMAT:
            raise ValueError(f"checkpoint {path} has format {metadata['format']}, this version reads {FORMAT}")
        known = {f.name for f in dataclasses.fields(ModelConfig)}
        if set(metadata["config"]) != known:
            raise ValueError(f"checkpoint {path} has another model's settings: "
                             f"{sorted(set(metadata['config']) ^ known)} differ")
        config = ModelConfig(**metadata["config"])
        settings, default_coder, info = metadata["signal"], metadata["default_coder"], metadata["info"]
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"checkpoint {path} is not one of BPGAN's: no usable {error}") from None
    model, realistic, tables = {}, {}, {}
    for name, tensor in tensors.items():
        group, _, rest = name.partition(".")
        if group == "tables":
            coder, _, array = rest.partition(".")
            tables.setdefault(coder, {})[array] = tensor.numpy()
        elif group in ("model", "realistic"):
            (model if group == "model" else realistic)[rest] = tensor.float() if tensor.is_floating_point() else tensor
        else:
            raise ValueError(f"checkpoint {path} holds an unknown tensor {name!r}")
    if default_coder not in tables:
        raise ValueError(f"checkpoint {path} has no tables of its default coder {default_coder!r}")
    return Checkpoint(config, settings, model, realistic or None, tables, default_coder, info,
                      fingerprint(tensors, metadata))


def fingerprint(tensors: dict[str, torch.Tensor], metadata: dict) -> bytes:
    """4 bytes over everything a file's meaning depends on: weights, tables, model and picture settings.

    The realistic generator is another reading of the same files: adding it later leaves them valid.
    """
    digest = hashlib.sha256(json.dumps([metadata["config"], metadata["signal"]], sort_keys=True).encode())
    for name in sorted(name for name in tensors if not name.startswith("realistic.")):
        digest.update(name.encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.digest()[:4]


def load_strictly(module: torch.nn.Module, state: dict[str, torch.Tensor], what: str) -> None:
    """`load_state_dict` whose failure is one line: ValueError."""
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{what} does not fit its own config: {str(error).splitlines()[1].strip()}") from None
