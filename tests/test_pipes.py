"""`-` for standard input and output: one file through a pipe, nothing but its bytes on standard output."""

import subprocess
import sys

import numpy as np
import pytest
import soundfile
from PIL import Image

import Compression_ADMM
import Decompression
from tests.helpers.scripts import ROOT, environment, one_line
from tests.helpers.signals import save_picture

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipes")
    save_picture(folder / "a.png", 40, 50, 0)
    Image.open(folder / "a.png").save(folder / "a.jpg", quality=95)
    sound = 0.3 * np.sin(2 * np.pi * 200 * np.arange(4000) / 16000)
    soundfile.write(folder / "a.flac", sound, 16000)
    return folder


def through(script, checkpoint, data: bytes, *arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, ROOT / script, *arguments, "--device", "cpu", "--checkpoint", checkpoint],
        input=data,
        cwd=ROOT,
        capture_output=True,
        env=environment(),
    )


@pytest.mark.parametrize("name, kind", [("a.jpg", "image"), ("a.flac", "speech")])
def test_there_and_back_through_pipes(sources, tiny_checkpoints, codecs, tmp_path, name, kind):
    """The kind is seen from the content; --verbose and the table do not get into the data."""
    checkpoint, original = tiny_checkpoints[kind], (sources / name).read_bytes()
    packed = through(
        "Compression_ADMM.py", checkpoint, original, "--input", "-", "--output", "-", "--search", "none", "--verbose"
    )
    assert packed.returncode == 0, packed.stderr
    codec = codecs[kind]
    assert packed.stdout == codec.compress(codec.kind.read(sources / name), 3, "none")
    assert b"standard output: 1 of 1 files" in packed.stderr and b"Traceback" not in packed.stderr
    assert b"standard input  " in packed.stderr and b"/stdin" not in packed.stderr and b"/results" not in packed.stderr
    unpacked = through("Decompression.py", checkpoint, packed.stdout, "--input", "-", "--output", "-")
    assert unpacked.returncode == 0, unpacked.stderr
    codec.kind.write(tmp_path / "expected", codec.decompress(packed.stdout))
    assert (
        unpacked.stdout == (tmp_path / "expected").read_bytes()
        and b"standard output: 1 of 1 files decoded" in unpacked.stderr
    )


def test_one_end_alone(sources, tiny_checkpoints, tmp_path):
    """Standard input into a folder; a named file to standard output."""
    checkpoint = tiny_checkpoints["image"]
    done = through(
        "Compression_ADMM.py",
        checkpoint,
        (sources / "a.png").read_bytes(),
        "--input",
        "-",
        "--output",
        tmp_path,
        "--search",
        "none",
    )
    assert done.returncode == 0 and b"1 of 1 files" in done.stdout, done.stderr
    assert {path.name for path in tmp_path.glob("stdin*")} == {"stdin.bpgan", "stdin.png"}
    assert "standard input,image," in (tmp_path / "metrics.csv").read_text()
    done = through("Decompression.py", checkpoint, b"", "--input", tmp_path / "stdin.bpgan", "--output", "-")
    assert done.returncode == 0 and done.stdout == (tmp_path / "stdin.png").read_bytes()


@pytest.mark.parametrize(
    "data, reasons",
    [
        (b"", ("an empty file", "the file is empty")),
        (b"neither\n" * 50, ("not an image", "it is text")),
        (b"RIFF\0\0\0\0WAVE", ("not an image", "it is damaged")),
    ],
)
def test_what_is_no_signal(sources, tiny_checkpoints, data, reasons):
    done = through("Compression_ADMM.py", tiny_checkpoints["image"], data, "--input", "-", "--output", "-")
    one_line(done.returncode, done.stderr.decode(), "standard input: nothing that can be read", *reasons, exit_code=1)
    assert done.stdout == b""


def test_a_damaged_file_gives_no_data(sources, tiny_checkpoints, codecs):
    data = codecs["image"].compress(codecs["image"].kind.read(sources / "a.png"), 3, "none")
    for wrong in (data[:-1], b"", b"PNG"):
        done = through("Decompression.py", tiny_checkpoints["image"], wrong, "--input", "-", "--output", "-")
        assert done.returncode == 1 and done.stdout == b"" and b"Traceback" not in done.stderr
        assert done.stderr.count(b"error: standard input: ") == 1 and b"stdin" not in done.stderr


@pytest.mark.parametrize("module", [Compression_ADMM, Decompression], ids=lambda m: m.__name__)
def test_a_pipe_takes_one_file(run, module, sources):
    for arguments in (
        ["--input", "-", sources / "a.png", "--output", "-"],
        ["--input", sources, "--output", "-"],
        ["--input", sources / "a.png", "-"],
        [sources, "-"],
        ["--output", "-"],
    ):
        code, out, err = run(module, *arguments)
        one_line(code, err, "- stands for one file", exit_code=1)
        assert not out


def test_in_and_out_may_be_pipes(sources, tiny_checkpoints, codecs, tmp_path):
    data = (sources / "a.png").read_bytes()
    packed = through("Compression_ADMM.py", tiny_checkpoints["image"], data, "-", tmp_path / "o.bpgan", "--no-decode")
    assert packed.returncode == 0 and not packed.stdout.count(b"/stdin"), packed.stderr
    done = through("Decompression.py", tiny_checkpoints["image"], b"", tmp_path / "o.bpgan", "-", "--quiet")
    assert done.returncode == 0 and done.stdout.startswith(b"\x89PNG") and not done.stderr
