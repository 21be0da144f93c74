"""Where training and evaluation files lie if no folder is given: below the folder that BPGAN_DATA names."""

import os
from pathlib import Path

from . import KINDS, kind_class
from .folders import DATAROOT_VARIABLE


def default_dataroot(kind_name: str, split: str) -> Path:
    """The folder of a split ("train", "val", "test") under the folder that BPGAN_DATA names.

    Its layout is `Kind.folders`. Raises ValueError with what to do if the kind has no such split,
    the variable is not set, or the folder does not exist.
    """
    folders = kind_class(kind_name).folders if kind_name in KINDS else {}
    if split not in folders:
        known = ", ".join(f"{name} {split}" for name in KINDS for split in kind_class(name).folders)
        raise ValueError(f"no default folder for {kind_name} {split}; there are: {known}")
    base = os.environ.get(DATAROOT_VARIABLE)
    if not base:
        raise ValueError(
            f"no folder given (--dataroot, --input) and {DATAROOT_VARIABLE} is not set; "
            f"name the folder of {kind_name} files for {split} with either"
        )
    folder = Path(base) / folders[split]
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder (from {DATAROOT_VARIABLE}={base})")
    return folder
