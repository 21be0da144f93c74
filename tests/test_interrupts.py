"""A batch that was stopped, by whatever means: nothing half-written, nothing done twice, no row lost."""

import dataclasses
import errno
import fcntl
import json
import os
import resource
import shutil
import subprocess
import sys
import weakref
from importlib import invalidate_caches
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import Compression_ADMM
import Decompression
import test as evaluate
from data.images import ImageKind
from tests.helpers.scripts import ROOT, environment, listing, one_line, table
from tests.helpers.signals import save_picture
from utils.batch import journal
from utils.batch.code import Coding
from utils.batch.inputs import Item
from utils.batch.run import one_by_one, run_batch
from utils.codec.checkpoint import load_checkpoint, save_checkpoint
from utils.codec.codec import Codec
from utils.codec.trials import Trials
from utils.files import locked, remove_leftovers, replacing
from utils.search.config import METHODS

pytestmark = pytest.mark.slow

N_FILES = 4


@pytest.fixture
def folder(tmp_path) -> Path:
    """Four pictures, one of them in a subfolder."""
    for number in range(N_FILES):
        save_picture(tmp_path / "in" / ("deep" if number == 3 else "") / f"{number}.png", 24, 30, number)
    return tmp_path


@pytest.fixture
def compress(run, folder):
    def call(*more, output="out"):
        # one by one, so that a test can say what was done when; the last word of two counts
        return run(
            Compression_ADMM,
            "--input",
            folder / "in",
            "--output",
            folder / output,
            "--search",
            "none",
            "--batch_size",
            "1",
            *more,
            checkpoint="--checkpoint" not in more,
        )

    return call


@pytest.fixture
def encoded(monkeypatch) -> list:
    """Grows by one with every signal that is encoded; the warm-up is left out, which encodes one of its own."""
    calls, encode = [], Codec._encode
    monkeypatch.setattr(Coding, "_warm", lambda self, codec: None)
    monkeypatch.setattr(
        Codec, "_encode", lambda self, signals, *rest: calls.extend(signals) or encode(self, signals, *rest)
    )
    return calls


def contents(output) -> dict[str, bytes]:
    return {name: (output / name).read_bytes() for name in listing(output)}


# -- the same command again ------------------------------------------------------------------------


def test_nothing_is_done_twice(compress, folder, encoded):
    code, out, _ = compress()
    assert code == 0 and len(encoded) == N_FILES and out.splitlines()[-1].endswith("metrics.csv: 4 of 4 files")
    before, metrics = contents(folder / "out"), table(folder / "out" / "metrics.csv")
    code, out, _ = compress()
    assert code == 0 and len(encoded) == N_FILES
    assert out.splitlines()[-1].endswith("4 of 4 files, 4 of them by an earlier run")
    assert contents(folder / "out") == before and table(folder / "out" / "metrics.csv") == metrics
    code, out, _ = compress("--overwrite")
    assert code == 0 and len(encoded) == 2 * N_FILES and "earlier run" not in out
    after = contents(folder / "out")
    assert all(after[name] == data for name, data in before.items() if name.endswith((".bpgan", ".png")))


@pytest.mark.parametrize(
    "option, value",
    [
        ("--quality", "5"),
        ("--target_bpp", "0.4"),
        ("--search", "ste"),
        ("--iterations", "2"),
        ("--objective", "ms_ssim"),
        ("--entropy_coder", "huffman"),
        ("--realism", "1"),
        ("--exact", None),
        ("--seed", "1"),
    ],
)
def test_with_another_option_all_is_done_again(compress, folder, encoded, option, value, caplog):
    """And that this replaces results is said, once."""
    assert compress("--iterations", "1")[0] == 0 and not caplog.messages
    before = len(encoded)
    code, out, err = compress("--iterations", "1", option, *([value] if value else []))
    assert code == 0 and len(encoded) >= before + N_FILES and "earlier run" not in out, err
    (message,) = caplog.messages
    assert f"{folder / 'out'}: has results of other options" in message and "another --output" in message


def test_what_was_coded_without_decoding_is_decoded_later(compress, folder, encoded, caplog):
    """And the other way round: what is asked for is there."""
    assert compress("--no_decode", output="out")[0] == 0
    coded = contents(folder / "out")
    code, out, err = compress()
    assert code == 0 and len(encoded) == N_FILES and "psnr_db" in out and not err and not caplog.messages
    after = contents(folder / "out")
    assert all(after[name] == data for name, data in coded.items() if name.endswith(".bpgan"))
    compress(output="whole")
    whole = contents(folder / "whole")
    for name in ("0.png", "1.png", "2.png", "deep/3.png"):
        assert after[name] == whole[name]
    rows = [table(folder / name / "metrics.csv")[1] for name in ("out", "whole")]
    same = [[{k: v for k, v in row.items() if "seconds" not in k} for row in part] for part in rows]
    assert same[0] == same[1] and all(float(row["decode_seconds"]) > 0 for row in rows[0])
    n_encoded = len(encoded)
    code, out, _ = compress("--no_decode")
    assert code == 0 and "4 of them by an earlier run" in out and len(encoded) == n_encoded
    code, out, _ = compress()
    assert code == 0 and "4 of them by an earlier run" in out and len(encoded) == n_encoded


def test_a_decoded_copy_that_is_gone_is_decoded_again(compress, folder, encoded):
    assert compress()[0] == 0
    before = contents(folder / "out")
    (folder / "out" / "1.png").unlink()
    code, out, err = compress()
    assert code == 0 and len(encoded) == N_FILES and "3 of them by an earlier run" in out and not err
    assert contents(folder / "out")["1.png"] == before["1.png"]


@pytest.mark.parametrize("what", ["source", "checkpoint", "program", "other place"])
def test_what_changes_results_is_done_again(compress, folder, encoded, tiny_checkpoints, monkeypatch, what):
    assert compress()[0] == 0
    more, expected = [], N_FILES
    if what == "source":
        save_picture(folder / "in" / "0.png", 24, 30, 9)
        expected = 1
    elif what == "checkpoint":
        more = ["--checkpoint", tiny_checkpoints["image_other"]]
    elif what == "program":
        monkeypatch.setattr(journal, "_program", lambda: "another")
    else:  # 0.png now shares its stem, and so gets another name
        shutil.copy(folder / "in" / "0.png", folder / "in" / "0.bmp")
        expected = 2
    before = len(encoded)
    code, out, _ = compress(*more)
    total = N_FILES + (what == "other place")
    assert code == 0 and len(encoded) == before + expected and f"{total} of {total} files" in out
    assert len(table(folder / "out" / "metrics.csv")[1]) == total


def test_a_plug_in_s_source_counts_as_the_program_s(tmp_path, monkeypatch):
    """Of what is registered from elsewhere; a module without a file does not count."""
    path = tmp_path / "my_search.py"
    monkeypatch.syspath_prepend(tmp_path)
    digests = set()
    for text in (None, "x = 1", "x = 2"):
        if text:
            path.write_text(text)
            monkeypatch.setitem(METHODS, "mine", ("my_search", "search", {}))
        else:
            monkeypatch.setitem(METHODS, "mine", ("nowhere.at_all", "search", {}))
        invalidate_caches()
        digests.add(journal._program.__wrapped__())
    assert len(digests) == 3


@pytest.mark.parametrize("suffix", [".bpgan", ".png"])
def test_results_that_are_missing_are_done_again(compress, folder, encoded, suffix):
    assert compress()[0] == 0
    before = contents(folder / "out")
    (folder / "out" / "deep" / f"3{suffix}").unlink()
    assert compress()[0] == 0 and len(encoded) == N_FILES + (suffix == ".bpgan")  # what it decodes to needs no search
    after = contents(folder / "out")
    assert after[f"deep/3{suffix}"] == before[f"deep/3{suffix}"] and len(table(folder / "out" / "metrics.csv")[1]) == 4


@pytest.mark.parametrize("suffix", [".bpgan", ".png"])
@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_results_that_someone_changed_are_his(compress, folder, encoded, suffix, damage):
    """They are not taken for finished, and not replaced unasked."""
    assert compress()[0] == 0
    before = contents(folder / "out")
    path = folder / "out" / "deep" / f"3{suffix}"
    data = path.read_bytes()
    changed = data[:-1] if damage == "cut" else data[:-1] + bytes([data[-1] ^ 1])
    path.write_bytes(changed)
    code, out, err = compress()
    lines = [line for line in err.splitlines() if line.startswith("error")]
    assert code == 1 and len(lines) == 1 and f"3{suffix}" in lines[0] and "--overwrite" in lines[0], err
    assert path.read_bytes() == changed and len(encoded) == N_FILES and "3 of 4 files" in out
    assert compress("--overwrite")[0] == 0
    assert path.read_bytes() == before[f"deep/3{suffix}"]


def test_the_journal_knows_what_was_written_and_not_what_lies_there(compress, folder, encoded, monkeypatch):
    """An output that is changed while its row is made is never taken for whole."""
    score = ImageKind.score

    def meddled(self, original, decoded):
        for path in (folder / "out").glob("*"):
            if path.suffix in (".bpgan", ".png"):
                path.write_bytes(b"changed")
        return score(self, original, decoded)

    monkeypatch.setattr(ImageKind, "score", meddled)
    compress()
    monkeypatch.setattr(ImageKind, "score", score)
    code, out, _ = compress()
    assert code == 1 and "1 of 4 files, 1 of them by an earlier run" in out


def test_a_journal_that_was_cut_or_scribbled_on(compress, folder, encoded):
    assert compress()[0] == 0
    path = folder / "out" / journal.Journal.name
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == N_FILES
    path.write_bytes(b"".join(lines[:2]) + lines[2][: len(lines[2]) // 2])  # a kill in the third, none of the fourth
    for stem in ("2", "deep/3"):  # results take their names after their line
        for suffix in (".bpgan", ".png"):
            (folder / "out" / f"{stem}{suffix}").unlink()
    assert compress()[0] == 0 and len(encoded) == N_FILES + 2
    assert compress()[0] == 0 and len(encoded) == N_FILES + 2
    rubbish = b'\xff\0\n{"key": 3}\n[]\n"x"\n{"key": "k", "row": 1, "files": 2}\n' + b"[" * 100000 + b"\n\n"
    path.write_bytes(rubbish + path.read_bytes())
    assert compress()[0] == 0 and len(encoded) == N_FILES + 2
    path.unlink()  # now nobody knows who wrote the results
    code, _, err = compress()
    one_line(code, err, "metrics.csv", "--overwrite", exit_code=1)
    assert compress("--overwrite")[0] == 0 and len(encoded) == 2 * N_FILES + 2
    path.write_text('{"mine": 1}\n')
    code, _, err = compress()
    one_line(code, err, "rows.jsonl", "move it away", exit_code=1)
    assert path.read_text() == '{"mine": 1}\n'


@pytest.mark.parametrize(
    "bad, is_record",
    [
        ({"signal": "smell"}, True),
        ({"signal": 3}, False),
        ({"file": 3}, False),
        ({"search": 3}, False),
        ({"objective": 3}, False),
        ({"entropy_coder": None}, False),
        ({"bytes": "many"}, False),
        ({"quality": None}, False),
        ({"files": {}}, False),
        ({"files": ["0.png"]}, False),
    ],
)
def test_a_journal_with_rows_of_another_sort(compress, folder, encoded, bad, is_record):
    """What is no record is passed over: nobody knows then who wrote its results."""
    assert compress()[0] == 0
    path = folder / "out" / journal.Journal.name
    records = [json.loads(line) for line in path.read_text().splitlines()]
    (records[0] if "files" in bad else records[0]["row"]).update(bad)
    records[0]["row"]["file"] = bad.get("file", "elsewhere.png")
    records[0]["key"] = "another"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    code, _, err = compress()
    assert code == (0 if is_record else 1) and "Traceback" not in err, err
    assert ("0.png" in err and "--overwrite" in err) == (not is_record)
    rows = table(folder / "out" / "metrics.csv")[1]
    assert [Path(row["file"]).name for row in rows] == ["0.png", "1.png", "2.png", "3.png"][not is_record :]


def test_an_interrupted_batch_goes_on(compress, folder, encoded, monkeypatch):
    encode = Codec._encode

    def stopped(self, *args):
        if len(encoded) == 2:
            raise KeyboardInterrupt
        return encode(self, *args)

    monkeypatch.setattr(Codec, "_encode", stopped)
    code, out, err = compress()
    assert code == 130 and "2 of 4 files" in out and "Traceback" not in err
    assert len(table(folder / "out" / "metrics.csv")[1]) == 2
    monkeypatch.setattr(Codec, "_encode", encode)
    code, out, _ = compress()
    assert code == 0 and len(encoded) == N_FILES and "4 of 4 files, 2 of them by an earlier run" in out
    _, rows = table(folder / "out" / "metrics.csv")
    assert [Path(row["file"]).name for row in rows] == ["0.png", "1.png", "2.png", "3.png"]
    compress("--overwrite", output="whole")
    same = [{k: v for k, v in row.items() if "seconds" not in k} for row in table(folder / "whole" / "metrics.csv")[1]]
    assert [{k: v for k, v in row.items() if "seconds" not in k} for row in rows] == same


@pytest.mark.parametrize("target", ["--target_bpp", "--target_psnr"])
def test_with_a_target_each_file_is_written_at_once(compress, folder, monkeypatch, target):
    """Also where they are in one group: an interrupt loses one search, not those of the group."""
    calls = []

    def stopped(self, _):
        calls.append(listing(folder / "out"))
        if len(calls) == 3:
            raise KeyboardInterrupt
        if len(calls) == 2:
            raise ValueError("out of reach")
        return self.sender.encode(self.signal, 3, "none")

    monkeypatch.setattr(Trials, "meet", stopped)
    code, out, err = compress(target, "8", "--batch_size", "8")
    assert code == 130 and "1 of 4 files" in out and err.count("error") == 1 and "1.png: out of reach" in err
    assert calls[0] == {".lock"} and calls[1] == calls[2] == {".lock", "0.bpgan", "0.png", "rows.jsonl"}


def test_an_interrupted_batch_s_rows_are_in_the_items_order(tmp_path, capsys):
    items = [Item(tmp_path, tmp_path / name) for name in "abc"]

    def work(items, guard):
        yield items[2], {"file": 2}
        yield items[0], {"file": 0}
        raise KeyboardInterrupt

    result = run_batch(items, work, "counting", 3)
    assert result.rows == [{"file": 0}, {"file": 2}] and result.interrupted and result.untried == 1
    assert result.exit_code == 130


def test_large_files_are_opened_in_smaller_groups(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.batch.run.BATCH_BYTES", 100)
    for name, size in zip("abcdef", (60, 40, 1, 200, 50, 50)):
        (tmp_path / name).write_bytes(bytes(size))
    groups = []

    def work(items, guard):
        groups.append("".join(item.path.name for item in items))
        return iter(())

    run_batch([Item(tmp_path / name, tmp_path / name) for name in "abcdef"], work, "opening", 8)
    assert groups == ["ab", "c", "d", "ef"]


def test_a_file_that_failed_holds_no_memory(tmp_path, capsys):
    class Large:
        pass

    alive = []

    def work(item):
        assert all(reference() is None for reference in alive)
        signal = Large()
        alive.append(weakref.ref(signal))
        raise MemoryError

    result = run_batch([Item(tmp_path / name, tmp_path / name) for name in "abc"], one_by_one(work), "failing")
    assert len(alive) == 3 and [path.name for path in result.failures] == ["a", "b", "c"] and result.exit_code == 1
    assert capsys.readouterr().err.count("MemoryError") == 3


def test_a_mistake_of_the_program_is_no_file_s(tmp_path):
    def work(item):
        raise RuntimeError("sizes differ")

    with pytest.raises(RuntimeError, match="sizes differ"):
        run_batch([Item(tmp_path, tmp_path)], one_by_one(work), "failing")


def test_evaluation_goes_on_too(run, folder, encoded):
    arguments = (evaluate, "--input", folder / "in", "--output", folder / "out", "--quality", "2", "6")
    assert run(*arguments)[0] == 0 and len(encoded) == 2 * N_FILES
    (folder / "out" / "quality_6" / "1.bpgan").unlink()
    code, out, _ = run(*arguments)
    assert code == 0 and len(encoded) == 2 * N_FILES + 1 and "4 of 4 files, 3 of them by an earlier run" in out


def test_a_realistic_generator_trained_further_is_another_checkpoint(run, folder, encoded, tiny_checkpoints):
    """Its files keep their fingerprint and their bytes, what they decode to changes."""
    checkpoint = load_checkpoint(tiny_checkpoints["image"])
    trained = {name: weight + 0.1 for name, weight in checkpoint.realistic.items()}
    save_checkpoint(folder / "further.safetensors", dataclasses.replace(checkpoint, realistic=trained))
    arguments = (evaluate, "--input", folder / "in", "--output", folder / "out", "--realism", "1")
    assert run(*arguments)[0] == 0 and len(encoded) == N_FILES
    before = contents(folder / "out")
    code, out, _ = run(*arguments, "--checkpoint", folder / "further.safetensors", checkpoint=False)
    assert code == 0 and len(encoded) == 2 * N_FILES and "earlier run" not in out
    after = contents(folder / "out")
    assert before["0.bpgan"] == after["0.bpgan"] and before["0.png"] != after["0.png"]


# -- folders ---------------------------------------------------------------------------------------


def test_results_below_the_input_are_no_input(run, folder, encoded):
    for _ in range(2):
        code, out, _ = run(
            Compression_ADMM, "--input", folder / "in", "--output", folder / "in" / "out", "--search", "none"
        )
        assert code == 0 and "4 of 4 files" in out and len(encoded) == N_FILES


def test_an_output_above_the_input_hides_nothing(run, folder, encoded):
    more = folder / "more"
    save_picture(more / "9.png", 24, 30, 9)
    code, out, _ = run(Compression_ADMM, "--input", folder / "in", more, "--output", folder, "--search", "none")
    assert (
        code == 0 and "5 of 5 files" in out and (folder / "deep" / "3.bpgan").exists() and (folder / "9.png").exists()
    )


def test_results_of_earlier_runs_are_no_photographs(run, folder, encoded, caplog):
    """Nor those that were decoded; named themselves, they are signals like others."""
    inputs = folder / "in"
    arguments = ("--input", inputs, "--search", "none", "--output")
    assert run(Compression_ADMM, *arguments, inputs / "q3")[0] == 0
    assert run(Decompression, "--input", inputs, "--output", inputs / "deep" / "decoded")[0] == 0
    save_picture(inputs / "q3" / "mine.png", 24, 30, 5)
    caplog.clear()
    code, out, _ = run(Compression_ADMM, *arguments, inputs / "q5", "--quality", "5")
    assert code == 0 and "5 of 5 files" in out and (inputs / "q5" / "q3" / "mine.png").exists()
    (message,) = (line for line in caplog.messages if "earlier runs wrote" in line)
    assert message == f"8 files that earlier runs wrote left out: {inputs / 'deep' / 'decoded'} {inputs / 'q3'}"
    code, out, _ = run(Compression_ADMM, "--input", inputs / "q3", "--search", "none", "--output", folder / "again")
    assert code == 0 and "5 of 5 files" in out
    code, out, _ = run(Decompression, "--input", inputs, "--output", folder / "all")
    assert code == 0 and "9 of 9 files decoded" in out


def test_originals_are_never_overwritten(run, folder, encoded):
    before = contents(folder / "in")
    code, _, err = run(Compression_ADMM, "--input", folder / "in", "--output", folder / "in", "--search", "none")
    one_line(code, err, "--output", "is an input folder", exit_code=1)
    code, _, err = run(Compression_ADMM, "--input", folder / "in" / "0.png", "--output", folder / "in")
    one_line(code, err, "0.png", "overwrite", exit_code=1)
    assert not encoded and {n: d for n, d in contents(folder / "in").items() if n != "options.json"} == before


def test_leftovers_of_killed_runs_go(compress, folder):
    (folder / "out" / "deep").mkdir(parents=True)
    mine, parent = os.getpid(), os.getppid()  # one's own number can only be an earlier process's
    token = "0123456789abcdef"
    gone = [
        f".0.4194999.{token}.tmp.png",
        f".0.{mine}.{token}.tmp.bpgan",
        f"deep/.3.4194999.{token}.tmp",
        f".a.b.4194999.{token}.tmp.csv",
    ]
    stay = [
        f".0.{parent}.{token}.tmp.png",
        ".0.4194999.tmp.png",
        f".0.4194999.{token}.png",
        ".tmp.png",
        f"0.4194999.{token}.tmp.png",
        ".notes",
        f"other/.0.4194999.{token}.tmp.png",
    ]
    (folder / "out" / "other").mkdir()
    for name in gone + stay:
        (folder / "out" / name).write_text("x")
    assert compress()[0] == 0
    files = listing(folder / "out")
    assert not files & set(gone) and files >= set(stay)
    remove_leftovers([folder / "not there"])


def test_a_second_run_into_one_folder_is_refused(compress, folder, encoded):
    program = (
        "import sys\nfrom pathlib import Path\nfrom utils.files import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('locked', flush=True)\n    sys.stdin.read()\n"
    )
    (folder / "out").mkdir()
    other = subprocess.Popen(
        [sys.executable, "-c", program, folder / "out"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert other.stdout.readline() == b"locked\n"
        code, _, err = compress()
        one_line(code, err, "out", "another run", exit_code=1)
        assert not encoded and listing(folder / "out") == {".lock"}
        assert compress(output="beside")[0] == 0
    finally:
        other.kill()
        other.wait()
    assert compress()[0] == 0  # the system gave the lock back
    assert ".lock" not in listing(folder / "out")


def test_a_lock_that_was_removed_in_between_is_no_lock(tmp_path, monkeypatch):
    """Who opened the file just before its holder removed it must not have a lock that nobody else sees."""
    flock, calls = fcntl.flock, []

    def slow(number, flags):
        calls.append(number)
        if len(calls) == 1:
            (tmp_path / ".lock").unlink()
        return flock(number, flags)

    monkeypatch.setattr("utils.files.fcntl.flock", slow)
    with locked(tmp_path):
        assert len(calls) == 2 and (tmp_path / ".lock").exists()
        with pytest.raises(ValueError, match="another run"), locked(tmp_path):
            pass
    assert not listing(tmp_path)


def test_temporary_names_follow_no_link(tmp_path, monkeypatch):
    (tmp_path / "victim").write_text("precious")
    monkeypatch.setattr("utils.files.secrets.token_hex", lambda n: "0" * 16)
    planted = tmp_path / f".a.{os.getpid()}.{'0' * 16}.tmp.txt"
    planted.symlink_to(tmp_path / "victim")
    with pytest.raises(FileExistsError), replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("lost")
    assert (tmp_path / "victim").read_text() == "precious" and planted.is_symlink()
    monkeypatch.undo()
    names = set()
    for _ in range(2):
        with replacing(tmp_path / "a.txt") as temporary:
            names.add(temporary.name)
            temporary.write_text("x")
    assert len(names) == 2 and (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize(
    "name", ["0.png", "0.bpgan", "conditions.json", "metrics.csv", "options.json", "report.html", "rows.jsonl"]
)
@pytest.mark.parametrize("how", ["file", "link"])
def test_files_of_others_are_never_replaced(compress, folder, name, how):
    """Of results one line and the other files go on; of tables one line at the start."""
    (folder / "out").mkdir()
    path = folder / "out" / name
    if how == "file":
        path.write_text("precious")
    else:
        (folder / "elsewhere").write_text("precious")
        path.symlink_to(folder / "elsewhere")
    code, out, err = compress()
    lines = [line for line in err.splitlines() if line.startswith("error")]
    assert code == 1 and len(lines) == 1 and name in lines[0] and "Traceback" not in err
    assert path.read_text() == "precious" and path.is_symlink() == (how == "link")
    if name.startswith("0"):
        assert "3 of 4 files, failed: 0.png" in out and "--overwrite" in lines[0]
        code, out, _ = compress("--overwrite")
        assert code == 0 and "4 of 4 files" in out and not path.is_symlink()


def test_rows_of_files_that_are_still_there_are_kept(run, folder, encoded):
    arguments = ("--output", folder / "out", "--search", "none")
    assert run(Compression_ADMM, "--input", folder / "in" / "0.png", *arguments)[0] == 0
    code, out, _ = run(Compression_ADMM, "--input", folder / "in" / "1.png", folder / "in" / "2.png", *arguments)
    assert code == 0 and out.splitlines()[-1].endswith("2 of 2 files, and 1 of earlier runs that is still there")

    def names():
        return [Path(row["file"]).name for row in table(folder / "out" / "metrics.csv")[1]]

    assert names() == ["1.png", "2.png", "0.png"]
    (folder / "out" / "1.bpgan").unlink()
    assert run(Compression_ADMM, "--input", folder / "in" / "0.png", *arguments, "--quality", "5")[0] == 0
    assert names() == ["0.png", "2.png"]
    assert {row["quality"] for row in table(folder / "out" / "metrics.csv")[1]} == {"3", "5"}


def test_a_folder_that_moved_is_not_done_again(compress, folder, encoded):
    """What a file holds is what counts, not where it lies or when it was written."""
    assert compress()[0] == 0
    (folder / "in").rename(folder / "moved")
    os.utime(folder / "moved" / "0.png", (1, 1))
    (folder / "in").symlink_to(folder / "moved")
    code, out, _ = compress()
    assert code == 0 and len(encoded) == N_FILES and "4 of them by an earlier run" in out


def test_a_file_that_changed_but_kept_size_and_time_is_done_again(compress, folder, encoded):
    path = folder / "in" / "0.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path.with_suffix(".bmp"))
    path.unlink()
    path = path.with_suffix(".bmp")
    assert compress()[0] == 0
    before, data = path.stat(), path.read_bytes()
    path.write_bytes(data[:-10] + b"\xff" * 10)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert compress()[0] == 0 and len(encoded) == N_FILES + 1


# -- disks -----------------------------------------------------------------------------------------


def test_a_disk_that_is_full_ends_the_batch(compress, folder, encoded, monkeypatch):
    write, calls = Path.write_bytes, []

    def full(path, data):
        calls.append(1)
        if len(calls) > 2:  # the second file's first result
            write(path, bytes(data)[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    code, out, err = compress()
    lines = [line for line in err.splitlines() if line.startswith("error")]
    assert code == 1 and len(lines) == 1 and "1.png" in lines[0] and "No space left" in lines[0], err
    assert "1 of 4 files" in out and len(encoded) == 2
    assert listing(folder / "out") == {
        "0.bpgan",
        "0.png",
        "rows.jsonl",
        "metrics.csv",
        "options.json",
        "conditions.json",
    }
    monkeypatch.setattr(Path, "write_bytes", write)
    code, out, _ = compress()
    assert code == 0 and "4 of 4 files, 1 of them by an earlier run" in out


def test_a_limit_on_file_sizes(folder, tiny_checkpoints):
    """What the system refuses in the middle of a file leaves no file; without the limit the rest is done."""
    save_picture(folder / "in" / "large.png", 300, 300, 0)
    command = [
        sys.executable,
        ROOT / "Compression_ADMM.py",
        "--input",
        folder / "in",
        "--output",
        folder / "out",
        "--search",
        "none",
        "--device",
        "cpu",
        "--checkpoint",
        tiny_checkpoints["image"],
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment(),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY)),
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert [
        line for line in done.stderr.splitlines() if "error" in line and "large.png" in line and "too large" in line
    ]
    assert "4 of 5 files" in done.stdout and "large.png" not in listing(folder / "out")
    assert not any(".tmp" in name for name in listing(folder / "out"))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment())
    assert done.returncode == 0 and "5 of 5 files, 4 of them by an earlier run" in done.stdout, done.stderr
    with Image.open(folder / "out" / "large.png") as image:
        image.load()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(compress, folder):
    (folder / "out").mkdir(mode=0o555)
    code, _, err = compress()
    one_line(code, err, "out", "Permission denied", exit_code=1)


def test_a_file_system_that_is_read_only(compress, folder, encoded, monkeypatch):
    open_file = os.open

    def refuse(path, *rest):
        if str(path).startswith(str(folder / "out")):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return open_file(path, *rest)

    monkeypatch.setattr("utils.files.os.open", refuse)
    code, _, err = compress()
    one_line(code, err, "out", "Read-only file system", exit_code=1)
    assert not encoded


def test_a_disk_that_fills_with_the_last_file_costs_no_table(compress, folder, monkeypatch):
    """metrics.csv cannot be written: the table is printed all the same, and one line says what failed."""

    def full(rows, path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("utils.batch.tables.write_metrics", full)
    code, out, err = compress()
    lines = [line for line in err.splitlines() if line.startswith("error")]
    assert code == 1 and len(lines) == 1 and "No space left" in lines[0] and "metrics.csv" in lines[0]
    assert "mean of 4" in out and "4 of 4 files" in out
    monkeypatch.undo()
    assert compress()[0] == 0 and len(table(folder / "out" / "metrics.csv")[1]) == 4


@pytest.mark.parametrize("batch_size", ["1", "8"])
def test_memory_that_one_file_lacks(compress, folder, monkeypatch, batch_size):
    """It fails alone, also where it was to be searched together with others."""
    encode, second = Codec._encode, np.asarray(Image.open(folder / "in" / "1.png"))

    def greedy(self, signals, *args):
        if any(np.array_equal(signal, second) for signal in signals):
            torch.empty(1 << 60, dtype=torch.uint8)
        return encode(self, signals, *args)

    monkeypatch.setattr(Codec, "_encode", greedy)
    code, out, err = compress("--batch_size", batch_size)
    lines = [line for line in err.splitlines() if line.startswith("error")]
    assert code == 1 and len(lines) == 1 and "1.png" in lines[0] and "memory" in lines[0] and "3 of 4 files" in out


# -- kills -----------------------------------------------------------------------------------------


def test_kills_at_random_moments():
    """A short run of `python -m tests.long.kills`."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.long.kills", "--times", "6", "--seed", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    assert "batch: 3 kills" in done.stdout and "training: 3 kills" in done.stdout


def test_rows_are_plain_json(compress, folder):
    compress()
    records = [json.loads(line) for line in (folder / "out" / journal.Journal.name).read_text().splitlines()]
    assert {name for record in records for name in record["files"]} == {
        name for name in listing(folder / "out") if name.endswith((".bpgan", ".png"))
    }
