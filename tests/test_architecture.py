"""The arrows between the rooms: who imports whom, read from the source, imports inside functions included."""

import ast
import functools
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.scripts import ROOT

GROUND = {
    "utils.files",
    "utils.metrics",
    "utils.distributed",
    "utils.memory",
    "utils.precision",
    "utils.console",
    "utils.compiled",
}
SCRIPTS = ("train", "test", "Compression_ADMM", "Decompression")
# A room may import the rooms below it, and itself. What every command line shares is below them, as some modules of
# training are commands too.
BASE_OPTIONS = "options.base_options"
FLOORS = (
    {"utils"},
    {"models", "data"},
    {BASE_OPTIONS},
    {"utils.search", "utils.entropy"},
    {"utils.codec"},
    {"utils.training", "utils.batch"},
    {"options"},
    {"scripts", "benchmarks"},
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# The receiver imports nothing of these, directly or through others.
NOT_THE_RECEIVER_S = (
    "models.encoder",
    "models.discriminator",
    "models.winograd",
    "utils.search.admm",
    "utils.search.model_problem",
    "utils.search.objectives",
    "utils.search.optimize",
    "utils.search.problem",
    "utils.search.rivals",
    "utils.search.winograd",
    "utils.codec.codec",
    "utils.codec.distortions",
    "utils.codec.sender",
    "utils.codec.tiled_search",
    "utils.codec.trials",
    "data.corpora",
    "data.dataset",
    "utils.training",
)


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {
    module_of(path): path
    for place in ("*.py", "*/*.py", "*/*/*.py")
    for path in ROOT.glob(place)
    if path.relative_to(ROOT).parts[0] in ("models", "data", "utils", "options", "benchmarks") or path.stem in SCRIPTS
}


def room_of(module: str) -> str | None:
    """The folder of a module of the project, "scripts" for the four; None for another package's module."""
    if module in SCRIPTS:
        return "scripts"
    if module == BASE_OPTIONS:
        return BASE_OPTIONS
    first, *rest = module.split(".")
    if first not in ("models", "data", "utils", "options", "benchmarks"):
        return None
    inner = ".".join([first, *rest[:1]])
    return inner if first == "utils" and inner in FLOOR else first


@functools.cache
def imports_of(module: str, path: Path, everywhere: bool = True) -> frozenset[str]:
    """Names of the project's modules that a source imports, everywhere or at module level; relative ones resolved."""
    package = module.split(".") if path.stem == "__init__" else module.split(".")[:-1]
    tree = ast.parse(path.read_text())
    # What is imported for annotations alone is imported by type checkers alone.
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
    ]
    found = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *(node.module.split(".") if node.module else [])])
            for alias in node.names:
                inner = f"{name}.{alias.name}"
                found.add(inner if inner in SOURCES else name)
    return frozenset(name for name in found if room_of(name))


IMPORTS = {module: imports_of(module, path) for module, path in SOURCES.items()}


def test_the_rooms_are_those_of_the_tree():
    assert {room_of(module) for module in SOURCES} == set(FLOOR)
    assert {module for module in SOURCES if room_of(module) == "utils"} == GROUND | {"utils"}


@pytest.mark.parametrize("room", sorted(FLOOR))
def test_arrows_point_down(room):
    """ground <- models, data <- search, entropy <- codec <- training, batch <- options <- scripts, benchmarks."""
    upward = [
        f"{module} imports {name}"
        for module, names in IMPORTS.items()
        if room_of(module) == room
        for name in names
        if room_of(name) != room and FLOOR[room_of(name)] >= FLOOR[room]
    ]
    assert not upward, upward


def test_the_ground_imports_nothing_of_the_project():
    for module in GROUND:
        assert IMPORTS[module] <= GROUND, module


def test_the_entropy_coders_know_no_network():
    for module, names in IMPORTS.items():
        if room_of(module) == "utils.entropy":
            of_models = {name for name in names if room_of(name) == "models"}
            assert of_models <= {"models.config"}, (module, of_models)


def test_the_search_knows_no_files():
    for module, names in IMPORTS.items():
        if room_of(module) == "utils.search":
            assert not names & {"utils.files"}, module
            assert not {name for name in names if room_of(name) == "data"}, module


def test_what_numba_keeps_on_disk_depends_on_all_its_sources():
    """Numba's own cache would look at one file only."""
    assert not [module for module, path in SOURCES.items() if "cache=True" in path.read_text()]


def test_no_modules_import_in_a_circle():
    """An order of all modules exists in which each comes after what it imports at module level."""
    left = {module: imports_of(module, path, everywhere=False) - {module} for module, path in SOURCES.items()}
    while left:
        free = {module for module, names in left.items() if not names & set(left)}
        assert free, sorted(left)
        left = {module: names for module, names in left.items() if module not in free}


def reached_from(script: str) -> set[str]:
    """The modules of the project that a script loads: all that it imports, and what these import at module level."""
    found, todo = set(), list(IMPORTS[script])
    while todo:
        module = todo.pop()
        if module not in found:
            found.add(module)
            if module in SOURCES:
                todo += imports_of(module, SOURCES[module], everywhere=False)
            if "." in module:
                todo.append(module.rpartition(".")[0])  # its package's __init__
    return found


@pytest.mark.parametrize("name", NOT_THE_RECEIVER_S)
def test_the_receiver_needs_no_sender(name):
    assert not {module for module in reached_from("Decompression") if f"{module}.".startswith(f"{name}.")}


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_needs_no_other_package(script):
    """Python's own library alone: NumPy by itself would take half of the time."""
    program = (
        "import sys\nbefore = set(sys.modules)\n"
        f"try:\n    import {script}\n    {script}.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "first = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(*sorted(first - sys.stdlib_module_names), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--device" in done.stdout
    assert set(done.stderr.split()) <= {script, "data", "models", "options", "utils"}


def processor_seconds(*arguments: str) -> float:
    """Of `python ARGUMENTS`, the least of three: what other processes do hardly counts."""
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(seconds)


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_help_comes_at_once(script):
    """Within 0.3 s; on a slow machine within twice the time that NumPy takes, which is not among what is imported."""
    assert processor_seconds(f"{script}.py", "--help") < max(0.3, 2 * processor_seconds("-c", "import numpy"))
