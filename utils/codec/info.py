"""What .bpgan files hold, by their headers: nothing is decoded, and PyTorch is not loaded."""

import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from data import KINDS, build_kind, kind_class
from utils.entropy import CODERS, coder_class

from . import bitstream, fingerprint
from .settings import quality_at

logger = logging.getLogger(__name__)


def describe(data: bytes, checkpoints: Mapping[str, Sequence[str]]) -> dict:
    """A whole .bpgan file -> what its header says, as plain values; its payload is not decoded.

    `checkpoints` are those of `fingerprints`. Raises BitstreamError for a file that is damaged, or that
    this version does not know.
    """
    kind = build_kind(kind_of_packed(data))
    usual = {known.code: known.usual_size_b for known in map(kind_class, KINDS) if known.usual_size_b is not None}
    header, _ = bitstream.unpack(data, usual)
    bitstream.check_kind(header, kind)
    coder = next((name for name in CODERS if coder_class(name).code == header.coder), None)
    if coder is None:
        raise bitstream.BitstreamError(f"entropy coder {header.coder} is unknown to this version")
    size, weights = (header.size_a, header.size_b), header.fingerprint.hex()
    return {
        "signal": kind.name,
        "size": kind.size_text(size),
        **kind.dimensions(size),
        "bytes": len(data),
        "rate": kind.rate(len(data), size),
        "rate_unit": kind.rate_unit,
        "quality": quality_at(header.quality_step),
        "entropy_coder": coder,
        "fingerprint": weights,
        "checkpoints": list(checkpoints.get(weights, [])),
        "flags": [name for name in bitstream.FLAGS if getattr(header, name)],
        "sections": {name: len(content) for name, content in header.sections.items()},
    }


def fingerprints(paths: Sequence[Path] | None) -> dict[str, list[str]]:
    """The checkpoint files that have each fingerprint (hexadecimal).

    `paths`: the files to look into, which raise ValueError where they are damaged; None: those in
    checkpoints/, of which damaged ones are logged and passed over.
    """
    found: dict[str, list[str]] = {}
    for path in sorted(fingerprint.CHECKPOINTS.glob("*.safetensors")) if paths is None else paths:
        try:
            weights = _fingerprint(path)
        except ValueError as error:
            if paths is not None:
                raise
            logger.warning("%s", error)
            continue
        shown = path.relative_to(fingerprint.CHECKPOINTS.parent) if paths is None else path
        found.setdefault(weights, []).append(shown.as_posix())
    return found


def shipped_for(weights: str, kind: str) -> Path:
    """The file in checkpoints/ of this fingerprint (hexadecimal); the usual one for the kind of signal where it is among
    several, and where there is none."""
    usual = fingerprint.shipped(kind)
    paths = [fingerprint.CHECKPOINTS.parent / name for name in fingerprints(None).get(weights, [])]
    return paths[0] if paths and usual not in paths else usual


def _fingerprint(path: Path) -> str:
    """Of a checkpoint file, which is read again only where it has changed."""
    state = path.stat() if path.is_file() else None
    return _fingerprint_of(path, *((state.st_mtime_ns, state.st_size) if state else (0, 0)))


@functools.lru_cache(maxsize=64)
def _fingerprint_of(path: Path, changed: int, size: int) -> str:
    return fingerprint.fingerprint_of_file(path).hex()


def kind_of_packed(data: bytes) -> str:
    """Name of the kind of signal that a .bpgan file holds, by its header. Raises BitstreamError."""
    code = bitstream.kind_of_file(data)
    for name in KINDS:
        if kind_class(name).code == code:
            return name
    raise bitstream.BitstreamError(f"kind of signal {code} is unknown to this version")
