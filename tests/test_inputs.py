"""Odd pictures and recordings through the whole way: each works or gets one clear line, the rest goes on."""

import csv
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from PIL import Image

import Compression_ADMM
import Decompression
from data.images import ImageKind
from tests.helpers.scripts import ROOT, environment, listing, table

pytestmark = pytest.mark.slow

RATE = 16000


def pixels(height, width, channels=3) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    planes = [128 + 90 * np.sin(columns / 5 + k) * np.cos(rows / 7) for k in range(channels)]
    return np.stack(planes, axis=-1).astype(np.uint8)


def make_pictures(folder) -> dict[str, tuple[int, int]]:
    """Readable pictures of every odd sort -> (width, height) by name."""
    made = {}

    def save(name, image, **options):
        image.save(folder / name, **options)
        made[name] = image.size

    save("one.png", Image.fromarray(pixels(1, 1)))
    save("wide.png", Image.fromarray(pixels(1, 5000)))
    save("tall.png", Image.fromarray(pixels(5000, 1)))
    frames = [Image.fromarray(pixels(20, 30)), Image.fromarray(255 - pixels(20, 30))]
    save("animated.gif", frames[0], save_all=True, append_images=frames[1:])
    save("animated.webp", frames[0], save_all=True, append_images=frames[1:])
    save("cmyk.jpg", Image.fromarray(pixels(20, 30)).convert("CMYK"))
    save("deep.png", Image.fromarray(pixels(20, 30, 1)[..., 0].astype(np.uint16) * 257))
    palette = Image.fromarray(pixels(20, 30)).quantize(16)
    save("palette.png", palette, transparency=3)
    save("grey_alpha.png", Image.fromarray(pixels(20, 30, 2), "LA"))
    save("bits.png", Image.fromarray(pixels(20, 30)).convert("1"))
    save("schwarz weiß ☃.png", Image.fromarray(pixels(9, 9)))
    save("-dash.png", Image.fromarray(pixels(9, 9)))
    save("n" * 240 + ".png", Image.fromarray(pixels(9, 9)))
    return made


def make_clips(folder) -> dict[str, int]:
    """Readable recordings of every odd sort -> samples at 16 kHz by name."""
    time = np.arange(RATE) / RATE
    voice = 0.4 * np.sin(2 * np.pi * 180 * time) * np.sin(2 * np.pi * 3 * time)
    made = {}

    def save(name, samples, rate=RATE, **options):
        soundfile.write(folder / name, samples, rate, **options)
        made[name] = -(-len(samples) * RATE // rate)

    save("sample.wav", voice[:1])
    save("ten_ms.wav", voice[:160])
    save("eight_channels.wav", np.stack([voice * k / 8 for k in range(8)], axis=1))
    save("8kHz.wav", voice[::2], 8000)
    save("96kHz.flac", np.repeat(voice, 6), 96000)
    save("zeros.wav", np.zeros(RATE))
    save("clipped.wav", np.clip(40 * voice, -1, 1))
    save("beyond.wav", (4 * voice).astype(np.float32), subtype="FLOAT")
    save("24bit.wav", voice, subtype="PCM_24")
    return made


def make_unreadable(folder) -> set[str]:
    whole = folder / "whole.jpg"
    Image.fromarray(pixels(60, 80)).save(whole)
    data = whole.read_bytes()
    whole.unlink()
    (folder / "truncated.jpg").write_bytes(data[: len(data) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("not a picture\n")
    (folder / "noise.jpg").write_bytes(np.random.default_rng(0).bytes(3000))
    soundfile.write(folder / "nan.wav", np.array([0, 0.1, np.nan, 0.2], np.float32), RATE, subtype="FLOAT")
    soundfile.write(folder / "none.wav", np.zeros(0, np.float32), RATE)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.flac").write_text("not a recording\n")
    (folder / "picture.wav").write_bytes(data)
    soundfile.write(folder / "slow.wav", np.zeros(100), 1000)
    return {
        "truncated.jpg",
        "empty.png",
        "text.png",
        "noise.jpg",
        "nan.wav",
        "none.wav",
        "empty.wav",
        "text.flac",
        "picture.wav",
        "slow.wav",
    }


def errors(err) -> list[str]:
    assert "Traceback" not in err
    return [line for line in err.splitlines() if line.startswith("error")]


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A folder of everything odd -> (folder, pictures, clips, names that cannot be read)."""
    folder = tmp_path_factory.mktemp("odd")
    pictures, clips, unreadable = make_pictures(folder), make_clips(folder), make_unreadable(folder)
    (folder / "folder.png").mkdir()
    return folder, pictures, clips, unreadable


@pytest.mark.parametrize("coder", ["huffman", "context"])
def test_odd_files_work_or_get_one_line(run, odd, tmp_path, coder):
    folder, pictures, clips, unreadable = odd
    code, out, err = run(
        Compression_ADMM, "--input", folder, "--output", tmp_path / "out", "--search", "none", "--entropy_coder", coder
    )
    lines = errors(err)
    assert code == 1 and len(lines) == len(unreadable), err
    for name in unreadable:
        assert sum(name in line for line in lines) == 1, (name, lines)
    good = {**pictures, **clips}
    assert out.splitlines()[-1].endswith(
        f"{len(good)} of {len(good) + len(unreadable)} files, failed: {' '.join(sorted(unreadable))}"
    )
    _, rows = table(tmp_path / "out" / "metrics.csv")
    assert {row["file"] for row in rows} == {(folder / name).as_posix() for name in good}
    files = listing(tmp_path / "out")
    assert len(files) == 2 * len(good) + 4 and not any(".tmp" in name for name in files)

    stems = {row["file"]: row for row in rows}
    for name, size in pictures.items():
        results = [path for path in (tmp_path / "out").glob("*.png") if path.stem in (name, name.rsplit(".", 1)[0])]
        assert [Image.open(path).size for path in results] == [size], name
        assert float(stems[(folder / name).as_posix()]["psnr_db"]) > 3  # weights are random
    for name, samples in clips.items():
        with soundfile.SoundFile(tmp_path / "out" / f"{name.rsplit('.', 1)[0]}.wav") as file:
            assert (file.frames, file.samplerate, file.channels) == (samples, RATE, 1), name
    silent, _ = soundfile.read(tmp_path / "out" / "zeros.wav")
    assert not silent.any()

    shutil.copytree(tmp_path / "out", tmp_path / "in", ignore=lambda _, names: [n for n in names if ".bpgan" not in n])
    code, out, err = run(Decompression, "--input", tmp_path / "in", "--output", tmp_path / "again")
    assert code == 0 and not errors(err) and f"{len(good)} of {len(good)} files decoded" in out
    for name in listing(tmp_path / "again") - {"conditions.json", "decoded.jsonl"}:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes(), name


def test_a_folder_with_a_picture_s_name(run, odd, tmp_path):
    code, _, err = run(Compression_ADMM, "--input", odd[0] / "folder.png", "--output", tmp_path, "--search", "none")
    assert code == 1 and len(errors(err)) == 1 and "folder.png" in err


def test_a_name_as_long_as_names_can_be(run, tmp_path):
    """Its result's name would be too long: one line, and the file beside it is coded."""
    (tmp_path / "in").mkdir()
    for name in ("a" * 251 + ".png", "b.png"):
        Image.fromarray(pixels(9, 9)).save(tmp_path / "in" / name)
    code, out, err = run(Compression_ADMM, "--input", tmp_path / "in", "--output", tmp_path / "out", "--search", "none")
    assert code == 1 and len(errors(err)) == 1 and "too long" in err and "1 of 2 files" in out


# -- names ----------------------------------------------------------------------------------------------

HOSTILE = {
    b"bad\xff\xfe.png": r"bad\xff\xfe.png",
    b"clear\x1b[2J\x07.png": r"clear\x1b[2J\x07.png",
    b"two\nlines.png": r"two\nlines.png",
    "turn\u202egnp.png".encode(): r"turn\u202egnp.png",
    b"<b>.png": "<b>.png",
}


@pytest.fixture
def hostile(tmp_path):
    """A folder of pictures under such names, and a damaged one of each."""
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels(9, 9)).save(tmp_path / "in" / "first.png")
    data = (tmp_path / "in" / "first.png").read_bytes()
    for name in HOSTILE:
        with open(os.path.join(os.fsencode(tmp_path / "in"), name), "wb") as file:
            file.write(data)
        with open(os.path.join(os.fsencode(tmp_path / "in"), b"x" + name), "wb") as file:
            file.write(data[:30])
    return tmp_path


def test_names_of_any_bytes(run, hostile, caplog):
    """They cost nothing, and do nothing to the terminal, the table, the page."""
    arguments = ("--input", hostile / "in", "--output", hostile / "out", "--search", "none", "--report")
    for attempt in range(2):
        code, out, err = run(Compression_ADMM, *arguments)
        assert code == 1 and "6 of 11 files" in out and "Traceback" not in err
        assert ("6 of them by an earlier run" in out) == bool(attempt)
        lines = errors(err)
        assert len(lines) == 5
        for shown in HOSTILE.values():
            assert sum(f"x{shown}: " in line for line in lines) == 1, lines
            assert f"\n{shown} " in out and f"x{shown}" in out.splitlines()[-1]
        assert not set("\x1b\x07\u202e") & set(out + err)
    with open(hostile / "out" / "metrics.csv", newline="", encoding="utf-8") as file:
        names = {os.path.basename(row["file"]) for row in csv.DictReader(file)}
    assert names == {
        "first.png",
        "two\nlines.png",
        "clear\x1b[2J\x07.png",
        "turn\u202egnp.png",
        "<b>.png",
        r"bad\xff\xfe.png",
    }
    page = (hostile / "out" / "report.html").read_text(encoding="utf-8")
    assert r"clear\x1b[2J\x07" in page and r"bad\xff\xfe" in page and "&lt;b&gt;" in page
    assert not set("\x1b\x07\u202e") & set(page)
    results = set(os.listdir(os.fsencode(hostile / "out")))
    assert {name[:-4] + b".bpgan" for name in HOSTILE} | {b"rows.jsonl", b"options.json"} <= results
    code, out, err = run(Decompression, "--input", hostile / "out", "--output", hostile / "back")
    assert code == 0 and "6 of 6 files decoded" in out, err


@pytest.mark.slow
def test_names_in_warnings_and_in_a_terminal_without_unicode(hostile, tiny_checkpoints):
    done = subprocess.run(
        [sys.executable, ROOT / "test.py", hostile / "in", hostile / "o\x1b[2Jut", "--device", "cpu", "--verbose",
         "--checkpoint", tiny_checkpoints["image"]],
        capture_output=True,
        env={**environment(), "PYTHONIOENCODING": "ascii", "BPGAN_DATA": ""},
    )  # fmt: skip
    assert done.returncode == 1 and b"6 of 11 files" in done.stdout, done.stderr
    assert b"\x1b" not in done.stdout + done.stderr.replace(b"\x1b[A", b"") and b"Traceback" not in done.stderr


def test_linked_folders_are_entered_once(run, tmp_path):
    for name in ("in/a.png", "elsewhere/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels(9, 9)).save(tmp_path / name)
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "up").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "gone.png").symlink_to(tmp_path / "nowhere")
    code, out, err = run(Compression_ADMM, "--input", tmp_path / "in", "--output", tmp_path / "out", "--search", "none")
    assert code == 0 and "2 of 2 files" in out, err
    assert {"a.bpgan", "linked/b.bpgan"} <= listing(tmp_path / "out")


def test_whatever_a_decoder_raises_is_one_file_s(run, tmp_path, monkeypatch):
    for name in ("a.png", "b.png"):
        Image.fromarray(pixels(9, 9)).save(tmp_path / name)
    read = ImageKind.read

    def broken(self, path):
        if path.name == "a.png":
            raise RuntimeError("decoder of others")
        return read(self, path)

    monkeypatch.setattr(ImageKind, "read", broken)
    code, out, err = run(
        Compression_ADMM,
        "--input",
        tmp_path / "a.png",
        tmp_path / "b.png",
        "--output",
        tmp_path / "out",
        "--search",
        "none",
    )
    assert code == 1 and len(errors(err)) == 1 and "decoder of others" in err and "1 of 2 files, failed: a.png" in out
