"""What the scripts tell of their searches and of the conditions of a run: bars, traces, conditions.json."""

import json
import sys
from pathlib import Path

import pytest

import Compression_ADMM
import Decompression
import test as evaluate
from tests.helpers.scripts import listing, one_line, table
from tests.helpers.signals import save_picture
from utils import __version__
from utils.batch import progress
from utils.codec import tiling
from utils.codec.settings import Settings

pytestmark = pytest.mark.slow

SEARCH = ("--iterations", "5")


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two pictures of one size, which are searched together."""
    for number in range(2):
        save_picture(tmp_path / "in" / f"{number}.png", 40, 50, number)
    return tmp_path


@pytest.fixture
def terminal(run, monkeypatch):
    """`run` where standard error is a terminal, and searches show bars at once."""
    monkeypatch.setattr(progress, "BAR_SECONDS", 0.0)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments):
        # Not before: what captures standard error may be another object while fixtures are made.
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        return run(*arguments)

    return call


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(tiling, "CORE_POSITIONS", 4)
    monkeypatch.setattr(tiling, "CORE_SIDE", 2)


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# -- the bar ---------------------------------------------------------------------------------------


def test_a_search_shows_a_bar_on_a_terminal(folder, terminal):
    code, out, err = terminal(Compression_ADMM, folder / "in" / "0.png", folder / "o.bpgan", *SEARCH)
    assert code == 0 and "0.png: " in err and " of 5 [" in err and "iteration" not in out
    code, out, err = terminal(Compression_ADMM, folder / "in", folder / "out", *SEARCH)
    assert code == 0 and "0.png and 1 more: " in err and "compressing: " in err and "iteration" not in out


def test_a_bar_tells_bytes_distortion_and_tile(folder, terminal, small_tiles, monkeypatch):
    monkeypatch.setattr("tqdm.tqdm.update", lambda bar, n=1: (setattr(bar, "n", bar.n + n), bar.refresh()))
    code, _, err = terminal(Compression_ADMM, folder / "in" / "0.png", folder / "o.bpgan", *SEARCH)
    bars = [text for text in err.split("\r") if "iteration" in text and " dB]" in text]
    assert code == 0 and bars and " bytes, " in bars[-1] and "<" in bars[-1]
    assert "tile 1 of 4" in bars[0] and "tile 4 of 4" in bars[-1]
    places = [int(text.split("iteration ")[1].split()[0]) for text in bars]
    assert places == sorted(places) and places[-1] > 15


def test_there_is_no_bar_in_a_log_when_quiet_or_for_a_short_search(run, folder, monkeypatch):
    arguments = (Compression_ADMM, "--input", folder / "in", *SEARCH, "--overwrite", "--output", folder / "out")
    monkeypatch.setattr(progress, "BAR_SECONDS", 0.0)
    assert run(*arguments)[2] == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert run(*arguments, "--quiet")[1:] == ("", "")
    monkeypatch.setattr(progress, "BAR_SECONDS", 60.0)
    code, _, err = run(*arguments)
    assert code == 0 and "compressing" in err and "iteration" not in err


# -- the trace -------------------------------------------------------------------------------------


def test_a_trace_has_every_iteration_of_every_file(run, folder):
    trace, arguments = folder / "new" / "t.jsonl", (Compression_ADMM, "--input", folder / "in", *SEARCH)
    assert run(*arguments, "--output", folder / "plain")[0] == 0
    assert run(*arguments, "--output", folder / "out", "--trace", trace)[0] == 0
    lines = lines_of(trace)
    for number in range(2):
        name = f"{number}.bpgan"
        assert (folder / "out" / name).read_bytes() == (folder / "plain" / name).read_bytes()
        mine = [line for line in lines if line["file"] == (folder / "in" / f"{number}.png").as_posix()]
        assert {line["iteration"] for line in mine} == set(range(5)) and "trial" not in mine[0]
        assert mine[0]["penalty"] is None and mine[-1]["penalty"] > 0
        for line in mine:
            assert line["cost"] == pytest.approx(line["distortion"] + line["bits"], rel=1e-6)
            assert line["search"] == "admm" and line["seconds"] > 0 and (line["tile"], line["tiles"]) == (1, 1)
    # Again: nothing is searched. A further file: its lines come after.
    assert run(*arguments, "--output", folder / "out", "--trace", trace)[0] == 0 and lines_of(trace) == lines
    save_picture(folder / "in" / "2.png", 40, 50, 2)
    with open(trace, "a") as file:
        file.write('{"file": "cut sho')
    assert run(*arguments, "--output", folder / "out", "--trace", trace)[0] == 0
    more = lines_of(trace)
    assert more[: len(lines)] == lines and {Path(line["file"]).name for line in more[len(lines) :]} == {"2.png"}
    assert run(*arguments, "--output", folder / "out", "--trace", trace, "--overwrite")[0] == 0
    assert len(lines_of(trace)) == len(more)


def test_a_trace_names_tiles_and_trials(run, folder, codecs, small_tiles):
    source, trace, codec = folder / "in" / "0.png", folder / "t.jsonl", codecs["image"]
    target = len(codec.compress(codec.kind.read(source), 4, Settings.of("admm", 5)))  # so that some quality meets it
    arguments = (*SEARCH, "--trace", trace, "--target_bytes", target)
    assert run(Compression_ADMM, source, folder / "o.bpgan", *arguments)[0] == 0
    lines = lines_of(trace)
    assert {line["tile"] for line in lines} == {1, 2, 3, 4} and {line["tiles"] for line in lines} == {4}
    assert [line["trial"] for line in lines] == sorted(line["trial"] for line in lines) and lines[0]["trial"] == 1


def test_a_trace_replaces_no_file_of_others(run, folder):
    arguments = (Compression_ADMM, "--input", folder / "in", "--output", folder / "out", *SEARCH, "--trace")
    for name, content in (("notes.jsonl", '{"mine": 1}\n'), ("link.jsonl", None)):
        path = folder / name
        path.write_text(content) if content else path.symlink_to(folder / "elsewhere")
        code, _, err = run(*arguments, path)
        one_line(code, err, name, "--overwrite", exit_code=1)
        assert path.is_symlink() or path.read_text() == content
    assert run(*arguments, folder / "notes.jsonl", "--overwrite")[0] == 0
    assert lines_of(folder / "notes.jsonl")[0]["file"].endswith("0.png")
    before = (folder / "out" / "rows.jsonl").read_bytes()
    code, _, err = run(*arguments, folder / "out" / "rows.jsonl", "--overwrite")
    one_line(code, err, "rows.jsonl", "another name", exit_code=1)
    assert (folder / "out" / "rows.jsonl").read_bytes() == before
    code, _, err = run(*arguments, folder / "in" / "0.png")
    one_line(code, err, "0.png", "FILE.jsonl", exit_code=2)
    (folder / "dir.jsonl").mkdir()
    one_line(*run(*arguments, folder / "dir.jsonl")[::2], "dir.jsonl", exit_code=1)


# -- conditions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [Compression_ADMM, evaluate], ids=lambda module: module.__name__)
def test_a_second_run_keeps_the_first_one_s_rows_and_conditions(run, folder, codecs, module):
    output, search = folder / "out", SEARCH if module is Compression_ADMM else ()
    assert run(module, "--input", folder / "in" / "0.png", "--output", output, *search, "--seed", "7")[0] == 0
    assert run(module, "--input", folder / "in" / "1.png", "--output", output, *search)[0] == 0
    _, rows = table(output / "metrics.csv")
    assert [(Path(row["file"]).name, row["seed"], row["objective"]) for row in rows] == [
        ("1.png", "0", "mse"),
        ("0.png", "7", "mse"),
    ]
    first, second = runs = json.loads((output / "conditions.json").read_text())
    assert f"python {module.__name__}.py --input {folder / 'in' / '0.png'} " in first["command"]
    assert "--seed 7" in first["command"] and "--seed" not in second["command"]
    for each in runs:
        assert each["checkpoints"][0]["file"] == "image.safetensors"
        assert each["checkpoints"][0]["fingerprint"] == codecs["image"].fingerprint.hex()
        assert each["bpgan"] == __version__ and each["device"] == "cpu" and each["threads"] >= 1
        assert all(each[name] for name in ("date", "cpu", "instruction_set", "python", "torch", "numpy", "system"))
        assert "commit" not in each or (len(each["commit"]) == 40 and each["dirty"] in (True, False))
    # A run that finds all done adds nothing.
    assert run(module, "--input", folder / "in" / "1.png", "--output", output, *search)[0] == 0
    assert json.loads((output / "conditions.json").read_text()) == runs
    assert len(table(output / "metrics.csv")[1]) == 2


def test_decoded_files_have_conditions_too(run, folder):
    assert run(evaluate, "--input", folder / "in", "--output", folder / "out")[0] == 0
    for number in (0, 1, 1):
        assert run(Decompression, "--input", folder / "out" / f"{number}.bpgan", "--output", folder / "back")[0] == 0
    assert listing(folder / "back") == {"0.png", "1.png", "conditions.json", "decoded.jsonl"}
    runs = json.loads((folder / "back" / "conditions.json").read_text())  # the same run again takes its place
    assert ["0.bpgan" in each["command"] for each in runs] == [True, False]
    (folder / "back" / "conditions.json").write_text('{"mine": 1}')
    code, _, err = run(Decompression, "--input", folder / "out", "--output", folder / "back")
    one_line(code, err, "conditions.json", "move it away", exit_code=1)
    assert (folder / "back" / "conditions.json").read_text() == '{"mine": 1}'


def test_a_report_names_files_weights_and_machine(run, folder, codecs):
    assert run(evaluate, "--input", folder / "in", "--output", folder / "out", "--report")[0] == 0
    text = (folder / "out" / "report.html").read_text()
    assert f"2 files of in; image.safetensors {codecs['image'].fingerprint.hex()}; " in text
