"""What scripts say: names as a terminal can show them, one line for an error; and the device they take."""

import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Direction marks: they make a name look like another one.
_BIDIRECTIONAL = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_NOT_SHOWN = ("Cc", "Cs", "Zl", "Zp")  # Unicode categories: control characters, surrogates, line separators

_called: dict[str, str] = {}


@contextmanager
def called(path: Path, name: str) -> Iterator[None]:
    """While the block runs, messages call the file `path` by this name: a copy of standard input, say."""
    _called[str(path)] = name
    try:
        yield
    finally:
        del _called[str(path)]


def name_of(path: Path) -> str:
    """What a user knows a file by."""
    return _called.get(str(path), path.as_posix())


def as_text(name: str) -> str:
    r"""A file's name as valid text: bytes of it that are no UTF-8 become `\xff`, all else stays."""
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # surrogates that stand for no byte
        return name.encode("utf-8", "backslashreplace").decode()


def printable(text: str) -> str:
    r"""Text with names of files in it, as a terminal may show it: nothing in it acts, `\x1b` stands for an escape."""
    for path, name in _called.items():
        text = text.replace(path, name)
    return "".join(
        char.encode("unicode_escape").decode()
        if unicodedata.category(char) in _NOT_SHOWN or char in _BIDIRECTIONAL
        else char
        for char in as_text(text)
    )


def one_line(error: BaseException, path: Path | None = None) -> str:
    """An error's text in one printable line; one about the file `path` names it."""
    text = str(error)
    if path is not None:
        if str(path) not in text:
            text = f"{path}: {text or type(error).__name__}"
        text = text.replace(str(path), printable(name_of(path)))  # before its own line ends become spaces
    return printable(" ".join(text.split())) or type(error).__name__


def fail(error: BaseException, prefix: str = "") -> int:
    """One line on standard error; -> exit code 1."""
    print(f"error: {printable(prefix)}{one_line(error)}", file=sys.stderr)
    return 1


def pick_device(name: "str | torch.device") -> "torch.device":
    """--device -> torch device; a torch device or its name, such as "cuda:1", will do.

    Raises ValueError if cuda is asked for and there is none, or for another kind of device.
    """
    import torch  # here, so that errors and help need not wait for it

    kind, _, number = str(name).partition(":")
    if kind not in ("cpu", "cuda", "auto") or not (number or "0").isdecimal():
        raise ValueError(f"device {name} is not one of cpu, cuda, auto")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    elif kind == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: no CUDA device is available here; use --device cpu or auto")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name}: the last one here is cuda:{torch.cuda.device_count() - 1}")
    return torch.device(kind, int(number)) if number else torch.device(kind)
