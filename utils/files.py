"""Files appear whole or not at all."""

import os
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path):
    """Yields a temporary path in the same folder; it takes the final name when the block ends well.

    Its suffix is the final one, since writers choose formats by suffix; its name begins with a dot,
    so that no listing takes it for a result.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
