"""Functions compiled by Numba, whose machine code is kept on disk for as long as their sources stay the same.

Numba itself keeps a compiled function until the file of that function changes. What was compiled into it from other
modules, functions and constants, would then be of an older version: a decoder would go on with integers that the sender
no longer uses.
"""

import ast
import hashlib
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import resolve_name
from pathlib import Path

from numba import njit
from numba.core.caching import FunctionCache
from numba.core.ccallback import CFunc
from numba.core.sigutils import normalize_signature

_ROOT = Path(__file__).resolve().parents[1]


def compiled(**options) -> Callable[[Callable], Callable]:
    """Decorator: `numba.njit` with its options, and a cache on disk."""

    def decorate(function: Callable) -> Callable:
        dispatcher = njit(**options)(function)
        if dispatcher is not function:  # as it is where Numba is switched off
            dispatcher._cache = _Cache(function)
        return dispatcher

    return decorate


def compiled_callback(signature) -> Callable[[Callable], CFunc]:
    """Decorator: `numba.cfunc` of a signature, and a cache on disk."""

    def decorate(function: Callable) -> CFunc:
        callback = CFunc(function, normalize_signature(signature), locals={}, options={})
        callback._cache = _Cache(function)
        callback.compile()
        return callback

    return decorate


class _Cache(FunctionCache):
    """Numba's cache of one function; what was compiled from other sources than today's counts as missing."""

    def __init__(self, function: Callable):
        super().__init__(function)
        index = self._cache_file
        index._source_stamp = (index._source_stamp, _digest(function.__code__.co_filename, function.__module__))


@cache
def _digest(file: str, name: str) -> str:
    """Digest of a module's source and of the project's sources that it imports at its top, directly or not."""
    found: dict[str, Path] = {}
    todo = [(name, Path(file))]
    while todo:
        name, path = todo.pop()
        if name not in found:
            found[name] = path
            todo += _imports(name, path)
    digest = hashlib.sha256()
    for name, path in sorted(found.items()):
        digest.update(name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


@cache
def _imports(name: str, path: Path) -> tuple[tuple[str, Path], ...]:
    """The modules of the project that a source imports at its top, by name, and their files."""
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    return tuple(_of_project(_names(ast.parse(path.read_bytes()), package)))


def _names(tree: ast.Module, package: str) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)  # names of modules among them


def _of_project(names: Iterator[str]) -> Iterator[tuple[str, Path]]:
    for name in names:
        place = _ROOT.joinpath(*name.split("."))
        for path in (place.with_suffix(".py"), place / "__init__.py"):
            if path.is_file():
                yield name, path
