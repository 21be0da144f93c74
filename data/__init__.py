"""Kinds of signal, by name. A new kind is one module and one line here."""

from importlib import import_module
from pathlib import Path

from .base import Kind

KINDS = {"image": ("data.images", "ImageKind"), "speech": ("data.speech", "SpeechKind")}


def kind_class(name: str) -> type[Kind]:
    """The class of a kind; its module is imported only when it is needed."""
    module, cls = KINDS[name]
    return getattr(import_module(module), cls)


def build_kind(name: str, settings: dict | None = None) -> Kind:
    """A kind with the settings of a checkpoint (`Kind.settings`); None takes the defaults.

    Raises KeyError for an unknown name, TypeError for unknown settings.
    """
    return kind_class(name)(**(settings or {}))


def kind_of(path: Path) -> str | None:
    """Name of the kind that a file's suffix belongs to, None if to none."""
    suffix = Path(path).suffix.lower()
    return next((name for name in KINDS if suffix in kind_class(name).suffixes), None)


__all__ = ["KINDS", "Kind", "build_kind", "kind_class", "kind_of"]
