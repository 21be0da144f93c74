"""Files appear whole or not at all."""

import os
import re
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path

_TEMPORARY = re.compile(r"\..*\.(\d+)\.tmp(\.\w+)?")


@contextmanager
def replacing(path: Path):
    """Yields a temporary path in the same folder; it takes the final name when the block ends well.

    Its suffix is the final one, since writers choose formats by suffix; its name begins with a dot,
    so that no listing takes it for a result, and holds the process, for `remove_leftovers`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # cut: the name's own additions must not make it longer than file systems allow
    temporary = path.with_name(f".{path.stem[:40]}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb") as file:  # else a power failure can leave the new name empty
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folders: Iterable[Path]) -> None:
    """Remove what killed processes left half-written directly in these folders.

    What another process of this machine is still writing stays.
    """
    for folder in {Path(folder) for folder in folders}:
        for path in folder.glob(".*.tmp*"):
            match = _TEMPORARY.fullmatch(path.name)
            if match and not _is_other_process(int(match[1])):
                path.unlink(missing_ok=True)


def _is_other_process(number: int) -> bool:
    if number == os.getpid():  # containers give the same few numbers again and again
        return False
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True
