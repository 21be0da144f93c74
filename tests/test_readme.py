"""What README and docs tell a reader to type works, and what they point to exists."""

import json
import re
import shlex
import shutil
from importlib import import_module
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

import utils
from tests.helpers.scripts import ROOT
from utils.codec.fingerprint import CHECKPOINTS, fingerprint_of_file, shipped

SCRIPTS = ("train.py", "test.py", "Compression_ADMM.py", "Decompression.py")
PAGES = sorted(path for folder in (".", "docs", "checkpoints") for path in (ROOT / folder).glob("*.md"))
# Where commands stand for a reader to type; elsewhere they record what was done once.
GUIDES = [ROOT / "README.md", ROOT / "docs" / "usage.md", ROOT / "docs" / "results.md"]
README = GUIDES[0].read_text()


def command_lines(text: str) -> set[str]:
    """`python ...` and `torchrun ...` of a page's code, up to a pipe, a redirection or a comment."""
    return {line.strip() for line in re.findall(r"\b(?:python|torchrun) ([^\n`#|<>]+)", text)}


COMMANDS = sorted(set().union(*(command_lines(page.read_text()) for page in GUIDES)))


def module_and_arguments(command: str) -> tuple[str, list[str]]:
    words = shlex.split(command)
    if "-m" in words:
        return words[words.index("-m") + 1], words[words.index("-m") + 2 :]
    place = next(place for place, word in enumerate(words) if word in SCRIPTS)
    return words[place].removesuffix(".py"), words[place + 1 :]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command, capsys):
    name, arguments = module_and_arguments(command)
    module = import_module(name)
    if name == "data.download":  # it has no dry run
        assert arguments[0] in ("kodak", "openimages", "speech_prompts")
    elif name.startswith("tests."):
        assert not arguments
    else:
        assert module.main([*arguments, "--dry-run"]) == 0


def test_torchrun_hands_the_options_on():
    """It takes a script's option that begins one of its own, as --signal does, unless -- comes before the script."""
    lines = re.findall(r"^torchrun ([^\n`#|<>]+)", GUIDES[1].read_text(), re.M)
    assert lines
    for line in lines:
        options = get_args_parser().parse_args(shlex.split(line))
        assert options.training_script in SCRIPTS
        assert shlex.split(line)[-len(options.training_script_args) :] == options.training_script_args


def test_every_script_is_shown():
    shown = {module_and_arguments(command)[0] for command in command_lines(README)}
    assert {script.removesuffix(".py") for script in SCRIPTS} <= shown


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 180


def anchors(page: Path) -> set[str]:
    """Names of a page's headings as they are linked to: lower case, no punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        to = (page.parent / name).resolve() if name else page
        assert to.exists(), target
        assert not anchor or anchor in anchors(to), target


def test_the_overview_names_every_module():
    overview = (ROOT / "docs" / "overview.md").read_text()
    sections = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", overview, re.M | re.S))
    rooms = [f"utils/{path.parent.name}" for path in (ROOT / "utils").glob("*/__init__.py")]
    for folder in ("models", "data", *rooms, "benchmarks"):
        named = set(re.findall(r"`([\w.]+\.(?:py|css|js))`", sections[folder]))
        there = {path.name for path in (ROOT / folder).iterdir() if path.suffix in (".py", ".css", ".js")}
        assert named == there - {"__init__.py"}, folder


def test_one_version():
    assert re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.M).group(1) == utils.__version__
    headings = re.findall(r"^## (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert next(heading for heading in headings if heading != "Unreleased") == utils.__version__


@pytest.mark.parametrize("kind", ["image", "speech"])
def test_the_list_of_former_weights_is_that_of_the_present_ones(kind):
    """New weights make another entry."""
    page, present = (ROOT / "checkpoints" / "FORMER.md").read_text(), fingerprint_of_file(shipped(kind)).hex()
    assert f"{kind} `{present}`" in page
    for path in CHECKPOINTS.glob("*.safetensors"):
        assert f"`{fingerprint_of_file(path).hex()}`" in page.split("| Signal")[0], path.name
    former = re.findall(rf"^\| {kind} \| `(\w{{8}})`( *\|)", page, re.M)
    assert former and present not in [name for name, _ in former]


def python_code(page: str) -> str:
    """All Python blocks of a page, one after the other."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)
    assert blocks
    return "\n".join(blocks)


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/usage.md"])
def test_python_examples_run(page, ramp_image, tmp_path, monkeypatch, capsys):
    from PIL import Image

    shutil.copytree(ROOT / "checkpoints", tmp_path / "checkpoints")
    (tmp_path / "path" / "to").mkdir(parents=True)
    (tmp_path / "path" / "to" / "bpgan").symlink_to(ROOT)
    small = ramp_image[:32, :32]
    Image.fromarray(small).save(tmp_path / "photo.jpg")
    steps = [{"file": "photo.jpg", "iteration": number, "cost": 900.0 - number} for number in range(3)]
    (tmp_path / "trace.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    names = {}
    exec(compile(python_code(page), page, "exec"), names)
    assert names["decoded"].shape == small.shape
    assert "psnr_db" in capsys.readouterr().out


def test_the_tests_that_are_named_exist():
    """docs/robustness.md names a test in every row."""
    page = (ROOT / "docs" / "robustness.md").read_text()
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    functions, files = re.findall(r"`(test_\w+)`", page), re.findall(r"`(tests/[\w/]+\.py)`", page)
    assert len(functions) > 30 and files
    assert not [name for name in functions if f"def {name}(" not in sources]
    assert not [name for name in files if not (ROOT / name).is_file()]
