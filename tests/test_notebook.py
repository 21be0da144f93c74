"""docs/notebook.ipynb runs from top to bottom, in the folder where Jupyter would run it."""

import json
import subprocess
import sys

import pytest

from tests.helpers.scripts import ROOT, environment

NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
# Each cell in the names of those before and of the main module, as a kernel runs them; a mark follows what it prints.
RUNNER = """
import json, sys
for number, cell in enumerate(json.load(open(sys.argv[1]))["cells"]):
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), globals())
        print(f"-- cell {number} --", flush=True)
"""


def cells(kind: str) -> list[dict]:
    return [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == kind]


def test_no_outputs_are_stored():
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells("code"))


@pytest.mark.slow
def test_it_runs_from_top_to_bottom():
    variables = {**environment(), "MPLBACKEND": "Agg"}
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUNNER, NOTEBOOK],
        cwd=NOTEBOOK.parent,
        env=variables,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("-- cell ") == len(cells("code"))
    for words in ("'psnr_db'", "the search saved", "penalty 0.85", "in the middle", "quality 6: ", "Audio object"):
        assert words in ended.stdout, words
    saved = [float(line.split()[-2].rstrip("%")) for line in ended.stdout.splitlines() if line.startswith("penalty")]
    assert len(saved) == 3 and min(saved) >= 0 and max(saved) > 5  # one of the settings is too weak to find anything
    plain, centered = (
        float(line.split("mean squared error ")[1].split()[0])
        for line in ended.stdout.splitlines()
        if "mean squared error" in line
    )
    assert centered < plain
