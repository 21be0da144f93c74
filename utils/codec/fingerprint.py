"""The name by which files know their checkpoint, without PyTorch, which takes seconds to load."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

CHECKPOINTS = Path(__file__).resolve().parents[2] / "checkpoints"  # the trained weights that are shipped
NOT_FINGERPRINTED = ("realistic", "discriminator")  # parts without which a file means the same


def shipped(kind: str, objective: str | None = None) -> Path:
    """Where the trained weights for a kind of signal are, by its name: those for an objective where it has such."""
    own = CHECKPOINTS / f"{kind}_{objective}.safetensors"
    return own if own.is_file() else CHECKPOINTS / f"{kind}.safetensors"


def fingerprint(tensors: Mapping[str, np.ndarray], metadata: Mapping) -> bytes:
    """4 bytes over everything a file's meaning depends on: weights, tables, model and picture settings.

    The realistic generator is another reading of the same files, and the discriminator only steers
    the search: adding them later leaves files valid.
    """
    of_files = {name: tensor for name, tensor in tensors.items() if _is_of_files(name)}
    return hash_of(of_files, [metadata["config"], metadata["signal"]]).digest()[:4]


def fingerprint_of_file(path: Path) -> bytes:
    """The fingerprint of a checkpoint file. Nothing else of it is checked, so it may still fail to load.

    Raises ValueError with one line where the file is missing or damaged.
    """
    try:
        with safe_open(path, "np") as file:
            metadata = {name: json.loads(value) for name, value in (file.metadata() or {}).items()}
            tensors = {name: file.get_tensor(name) for name in file.keys() if _is_of_files(name)}
        return fingerprint(tensors, metadata)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"checkpoint {path} is damaged or not a safetensors file ({error})") from None
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"checkpoint {path} is not one of BPGAN's: no usable {error}") from None


def hash_of(tensors: Mapping[str, np.ndarray], settings: list):
    """SHA-256 of settings, as JSON has them, and of names and bytes of tensors."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].tobytes())
    return digest


def _is_of_files(name: str) -> bool:
    return name.partition(".")[0] not in NOT_FINGERPRINTED
