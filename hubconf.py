"""Codecs for any program, in any folder: torch.hub.load("path/to/bpgan", "bpgan_image", source="local").

The packages data, models and utils of this repository have names that other projects use too. So they are loaded
here without those of the caller in the way, and then the caller's are put back: `import utils` means the same before
and after. What the codec needs later stays loaded under its full name, such as `utils.codec.codec`, so that
`from utils.codec.settings import Settings` works in the caller's program.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType

# Packages that torch.hub looks for before it calls a function below: all that loading, coding and scoring import.
dependencies = [
    "PIL",
    "av",
    "librosa",
    "llvmlite",
    "ltfatpy",
    "numba",
    "numpy",
    "pesq",
    "pillow_heif",
    "pystoi",
    "pytorch_msssim",
    "safetensors",
    "scipy",
    "soundfile",
    "soxr",
    "tifffile",
    "torch",
    "torchvision",
    "tqdm",
]

_ROOT = Path(__file__).resolve().parent
_PACKAGES = ("data", "models", "utils")
_KEPT_AS = "bpgan:{}"  # what they are called in sys.modules between two calls


def bpgan_image(checkpoint=None, device="cpu", limits=None, objective=None):
    """The codec for images (`utils.codec.codec.Codec`).

    checkpoint  a file of trained weights; None takes those of this repository
    objective   without a checkpoint: "ms_ssim" takes the weights that are trained for MS-SSIM
    device      "cpu", "cuda" or "auto"
    limits      the largest signals that are read and decoded, as {"max_pixels": 16e6}; None: the defaults

    Raises ValueError for a checkpoint, a device or a limit that is not there, ImportError where the caller's modules are
    in the way, each with one line.
    """
    return _load("image", checkpoint, device, limits, objective)


def bpgan_speech(checkpoint=None, device="cpu", limits=None):
    """The codec for speech; the arguments are those of `bpgan_image`, the limit is "max_seconds"."""
    return _load("speech", checkpoint, device, limits)


def _load(kind: str, checkpoint, device, limits, objective=None):
    with _own_packages():
        from utils.codec.codec import load_codec
        from utils.codec.fingerprint import shipped
        from utils.codec.limits import Limits

        codec = load_codec(checkpoint or shipped(kind, objective), device, Limits(**limits or {}))
    if codec.kind.name != kind:
        raise ValueError(f"checkpoint {checkpoint} is for {codec.kind.name}: call bpgan_{codec.kind.name}")
    return codec


@contextmanager
def _own_packages() -> Iterator[None]:
    """While the block runs, data, models and utils are this repository's; afterwards they are the caller's again.

    Where the caller has none of a name, or has imported ours, ours stay.
    """
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in _PACKAGES}
    aside = {name: module for name, module in before.items() if not _is_ours(module)}
    path = [folder for folder in sys.path if Path(folder).resolve() != _ROOT]  # where torch.hub has put this folder
    theirs = [name for name in _PACKAGES if name in aside or (name not in before and PathFinder.find_spec(name, path))]
    for name in aside:
        del sys.modules[name]
    for name in theirs:  # the same packages for every codec: they hold registries
        package = sys.modules.get(_KEPT_AS.format(name))
        if package is not None and _is_ours(package):
            sys.modules[name] = package
    sys.path.insert(0, str(_ROOT))
    try:
        # Later imports of these would look for their package by its short name, which is the caller's by then.
        for package in map(import_module, _PACKAGES):
            for module in iter_modules(package.__path__, f"{package.__name__}."):
                import_module(module.name)
        clashes = sorted(name for name in aside if name in sys.modules and name not in _PACKAGES)
        if clashes:
            for name in [name for name in sys.modules if name.partition(".")[0] in _PACKAGES and name not in before]:
                del sys.modules[name]
            raise ImportError(
                f"BPGAN and this program both have a module {clashes[0]} ({_place(aside[clashes[0]])}): "
                "load BPGAN in a process of its own, or rename that module"
            )
        yield
    finally:
        sys.path.remove(str(_ROOT))
        for name in theirs:
            if name in sys.modules:
                sys.modules[_KEPT_AS.format(name)] = sys.modules.pop(name)
        sys.modules.update(aside)


def _is_ours(module: ModuleType) -> bool:
    return _ROOT in Path(_place(module)).resolve().parents


def _place(module: ModuleType) -> str:
    """The file of a module, or the folder of a package without one."""
    return getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", [])), "")
