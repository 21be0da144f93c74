"""Compiled functions on disk: used again while their sources stay the same, and never after that."""

import importlib.util
import sys

import pytest

from tests.helpers.scripts import ROOT

CASE = {
    "constants.py": "ONE = 1\n",
    "room/__init__.py": "",
    "room/inner.py": "from numba import njit\nfrom constants import ONE\n@njit\ndef inner(x):\n    return x + ONE\n",
    "room/outer.py": "from numba import int64\nfrom compiled import compiled, compiled_callback\nfrom .inner import inner\n"
    "@compiled(nogil=True)\ndef outer(x):\n    return inner(x)\n"
    "def plain(x):\n    return inner(x)\n"
    "callback = compiled_callback(int64(int64))(plain)\n",
    "room/other.py": "UNUSED = 1\n",
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A function for a small project: its modules of now -> (results of both functions of 1, whether from disk)."""
    for name, source in CASE.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(source)
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils" / "compiled.py").write_text((ROOT / "utils" / "compiled.py").read_text())
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def load():
        for name in ("constants", "room", "room.inner", "room.outer"):
            sys.modules.pop(name, None)
        spec = importlib.util.spec_from_file_location("compiled", tmp_path / "utils" / "compiled.py")
        monkeypatch.setitem(sys.modules, "compiled", importlib.util.module_from_spec(spec))
        spec.loader.exec_module(sys.modules["compiled"])
        outer = importlib.import_module("room.outer")
        results = outer.outer(1), outer.callback.ctypes(1)
        return results, (bool(outer.outer.stats.cache_hits), bool(outer.callback.cache_hits))

    yield load
    for name in ("constants", "room", "room.inner", "room.outer"):
        sys.modules.pop(name, None)


def test_code_is_kept_until_any_of_its_sources_changes(project, tmp_path):
    assert project() == ((2, 2), (False, False))
    assert project() == ((2, 2), (True, True))
    (tmp_path / "room" / "other.py").write_text("UNUSED = 2\n")
    assert project() == ((2, 2), (True, True))
    (tmp_path / "constants.py").write_text("ONE = 100\n")
    assert project() == ((101, 101), (False, False))
    inner = tmp_path / "room" / "inner.py"
    inner.write_text(inner.read_text().replace("x + ONE", "x - ONE"))
    assert project() == ((-99, -99), (False, False))
    assert project() == ((-99, -99), (True, True))
