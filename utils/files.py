"""Files appear whole or not at all; folders are walked, and locked, in one way."""

import fcntl
import logging
import os
import re
import secrets
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)

LOCK = ".lock"
_TEMPORARY = re.compile(r"\..*\.(\d+)\.[0-9a-f]{16}\.tmp(\.\w+)?")


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """Yields a new, empty file in the folder of `path`, which is made; the file is gone when the block ends.

    Its name cannot be foreseen, and it is created exclusively: nothing that lies in the folder, a
    link above all, is written through. The suffix is that of `path`, since writers choose formats by
    suffix. The name begins with a dot, so that no listing takes it for a result, and it holds the
    process, for `remove_leftovers`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # cut: the name's own additions must not make it longer than file systems allow
    name = f".{path.stem[:40]}.{os.getpid()}.{secrets.token_hex(8)}.tmp{path.suffix}"
    temporary = path.with_name(name)
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666))
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def put_in_place(temporary: Path, path: Path, replace: bool = True) -> None:
    """Give a finished file its name; what has this name already is replaced, or raises FileExistsError."""
    with open(temporary, "rb") as file:  # else a power failure can leave the new name empty
        os.fsync(file.fileno())
    if not replace:
        try:
            os.link(temporary, path)  # fails where the name is taken, as renaming does not
            return
        except FileExistsError:
            raise
        except OSError:  # a file system without links
            if os.path.lexists(path):
                raise FileExistsError(path) from None
    os.replace(temporary, path)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder; it takes the final name when the block ends well."""
    with temporary_beside(path) as temporary:
        yield temporary
        put_in_place(temporary, Path(path))


def append_lines(path: Path, lines: bytes) -> None:
    """Add whole lines to the end of a file, which is made, and sync it.

    It is one write, so that processes do not cut into each other's lines; after a line that was cut short it
    begins a new one. Raises OSError where not all could be written, and for a link.
    """
    number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)
    try:
        end = os.lseek(number, 0, os.SEEK_END)
        if end and os.pread(number, 1, end - 1) != b"\n":
            lines = b"\n" + lines
        if os.write(number, lines) < len(lines):
            raise OSError(f"{path}: a line could not be written whole, the disk is full")
        os.fsync(number)
    finally:
        os.close(number)


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


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """While the block runs, no other process enters a block for the same folder.

    The system gives the lock back when the process ends, however it ends. Raises ValueError where
    another process has it, OSError where the folder cannot be written to.
    """
    path = Path(folder) / LOCK
    while True:
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(number)
            raise ValueError(f"{folder}: another run is writing there; wait for it, or choose another folder") from None
        except OSError as error:  # a network folder without locks: a batch is worth more than its lock
            logger.warning("%s: cannot be locked (%s), so see that no other run writes there", folder, error.strerror)
        if _is_still_named(number, path):
            break
        os.close(number)  # who had the lock has just removed the file
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(number)


def _is_still_named(number: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(number), os.lstat(path))
    except FileNotFoundError:
        return False


def walk(root: Path) -> Iterator[Path]:
    """All files under `root` whose path below it has no hidden part, in no particular order.

    Links to folders are followed, each folder is entered once. A folder that cannot be read is left
    out, which is logged. Raises ValueError if `root` is not a folder.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder")

    def left_out(error: OSError) -> None:
        logger.warning("%s: left out, it cannot be read (%s)", error.filename, error.strerror)

    entered = set()
    # Corpora are often linked into place, so links are followed; a link upwards ends here.
    for folder, folders, files in os.walk(root, followlinks=True, onerror=left_out):
        real = os.path.realpath(folder)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        # Sorted, so that of two links to one folder it is always the same that is listed.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder, name) for name in files if not name.startswith("."))


def checksum(source: Path | bytes) -> list[int]:
    """[bytes, CRC-32] of a file, or of its content."""
    if isinstance(source, bytes):
        return [len(source), zlib.crc32(source)]
    size = crc = 0
    with open(source, "rb") as file:
        while block := file.read(1 << 20):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return [size, crc]
