"""What the README tells a reader to type is what the scripts accept."""

import re
import shlex
from pathlib import Path

import pytest

import Compression_ADMM
import Decompression
import test as evaluate
import train

README = (Path(__file__).resolve().parent.parent / "README.md").read_text()
SCRIPTS = {
    "Compression_ADMM.py": Compression_ADMM,
    "Decompression.py": Decompression,
    "test.py": evaluate,
    "train.py": train,
}
COMMANDS = sorted(set(re.findall(r"python ((?:%s)[^\n`#|>]*)" % "|".join(map(re.escape, SCRIPTS)), README)))


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command, capsys):
    words = [word for word in shlex.split(command) if word != "..."]
    assert SCRIPTS[words[0]].main([*words[1:], "--dry-run"]) == 0


def test_every_script_is_shown_and_no_file_is_missing():
    assert {command.split()[0] for command in COMMANDS} == set(SCRIPTS)
    root = Path(__file__).resolve().parent.parent
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (root / target).exists(), target


def test_python_example_names_what_exists():
    block = re.search(r"```python\n(.*?)```", README, re.S).group(1)
    for module, name in re.findall(r"from ([\w.]+) import (\w+)", block):
        assert hasattr(__import__(module, fromlist=[name]), name)
