"""Kinds of signal, by name. A new kind is one module and one line here."""

from importlib import import_module
from pathlib import Path

from .base import Signal

KINDS = {"image": ("data.images", "ImageSignal"), "speech": ("data.speech", "SpeechSignal")}


def signal_class(name: str) -> type[Signal]:
    """The class of a kind; its module is imported only when it is needed."""
    module, cls = KINDS[name]
    return getattr(import_module(module), cls)


def build_signal(name: str, settings: dict | None = None) -> Signal:
    return signal_class(name)(**(settings or {}))


def kind_of(path: Path) -> str | None:
    """Name of the kind that a file's suffix belongs to, None if to none."""
    suffix = Path(path).suffix.lower()
    return next((name for name in KINDS if suffix in signal_class(name).suffixes), None)


__all__ = ["KINDS", "Signal", "build_signal", "kind_of", "signal_class"]
