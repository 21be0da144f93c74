"""The four scripts as a user calls them: files in, files out, tables, mistakes, several processes."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from PIL.ExifTags import IFD

import Compression_ADMM
import Decompression
import test as evaluate
import train
from data import build_kind
from tests.helpers.scripts import ROOT, environment, listing, one_line, signal_handlers_kept, table
from tests.helpers.signals import save_picture
from utils import __version__
from utils.codec.bitstream import FileHeader, pack
from utils.codec.codec import Codec
from utils.codec.decoder import Decoder, load_decoder
from utils.codec.info import describe
from utils.codec.settings import Settings
from utils.codec.targets import Target
from utils.codec.trials import Trials

pytestmark = pytest.mark.slow

IMAGE_SIZE, SPEECH_SIZE, BYTES = ["height", "width"], ["seconds", "sample_rate"], ["original_bytes", "bytes"]
SETTINGS = [
    "encode_seconds", "decode_seconds", "search", "iterations", "objective", "seed", "entropy_coder", "quality", "realism", "exact",
]  # fmt: skip
IMAGE_COLUMNS, SPEECH_COLUMNS = ["psnr_db", "ms_ssim"], ["pesq_wb", "stoi", "estoi", "log_spectral_distance"]
ALL_COLUMNS = [
    "file", "signal", *IMAGE_SIZE, *SPEECH_SIZE, *BYTES, "bpp", "kbps", *IMAGE_COLUMNS, *SPEECH_COLUMNS, *SETTINGS,
]  # fmt: skip


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    """A folder of both kinds: a.png beside a.jpg, a clip of the same stem, subfolders, other files."""
    folder = tmp_path_factory.mktemp("mixed") / "in"
    save_picture(folder / "a.png", 40, 50, 0)
    save_picture(folder / "a.jpg", 33, 17, 1)
    save_picture(folder / "deep" / "er" / "b.PNG", 64, 48, 2)
    (folder / "notes.txt").write_text("not a signal\n")
    (folder / ".hidden").mkdir()
    save_picture(folder / ".hidden" / "c.png", 8, 8, 3)
    time = np.arange(6000) / 16000
    sound = 0.3 * np.sin(2 * np.pi * 200 * time) * np.sin(2 * np.pi * 2 * time)
    soundfile.write(folder / "deep" / "clip.wav", sound, 16000)
    soundfile.write(folder / "a.flac", np.repeat(sound, 2), 32000)
    return folder


RESULTS = {
    "a.png": "a.png",
    "a.jpg": "a.jpg",
    "a.flac": "a.flac",
    "deep/er/b.PNG": "deep/er/b",
    "deep/clip.wav": "deep/clip",
}


@pytest.fixture(scope="module")
def compressed(mixed, tiny_checkpoints, tmp_path_factory) -> Path:
    """What Compression_ADMM.py makes of that folder."""
    output = tmp_path_factory.mktemp("mixed") / "out"
    with signal_handlers_kept():
        code = Compression_ADMM.main(
            [
                "--input",
                str(mixed),
                "--output",
                str(output),
                "--iterations",
                "3",
                "--quality",
                "4.5",
                "--device",
                "cpu",
                "--checkpoint",
                str(tiny_checkpoints["image"]),
                str(tiny_checkpoints["speech"]),
            ]
        )
    assert code == 0
    return output


# -- compress -------------------------------------------------------------------------------------------


def test_results_lie_where_they_belong(compressed):
    expected = {"conditions.json", "metrics.csv", "options.json", "rows.jsonl"}
    for source, stem in RESULTS.items():
        decoded = ".png" if source.lower().endswith(("png", "jpg")) else ".wav"
        expected |= {stem + ".bpgan", stem + decoded}
    assert listing(compressed) == expected


def test_decoded_files_come_from_the_files_beside_them(compressed, codecs):
    for source, stem in RESULTS.items():
        data = (compressed / f"{stem}.bpgan").read_bytes()
        if source.lower().endswith(("png", "jpg")):
            written = np.asarray(Image.open(compressed / f"{stem}.png"))
            expected = codecs["image"].decompress(data)
        else:
            written, rate = soundfile.read(compressed / f"{stem}.wav", dtype="int16")
            expected = np.rint(codecs["speech"].decompress(data) * 32768).astype(np.int16)
            assert rate == 16000 and len(written) == 6000
        assert np.array_equal(written, expected), source


def test_metrics_table(compressed, mixed, codecs):
    columns, rows = table(compressed / "metrics.csv")
    assert columns == ALL_COLUMNS
    assert {row["file"] for row in rows} == {(mixed / source).as_posix() for source in RESULTS} and len(rows) == 5
    for row in rows:
        stem = RESULTS[Path(row["file"]).relative_to(mixed).as_posix()]
        size = (compressed / f"{stem}.bpgan").stat().st_size
        assert int(row["bytes"]) == size and int(row["original_bytes"]) == Path(row["file"]).stat().st_size
        if row["signal"] == "image":
            with Image.open(row["file"]) as image:
                pixels, original = image.width * image.height, np.asarray(image.convert("RGB"), np.float64)
                assert (row["height"], row["width"]) == (str(image.height), str(image.width))
            assert float(row["bpp"]) == pytest.approx(8 * size / pixels, rel=1e-5)
            decoded = np.asarray(Image.open(compressed / f"{stem}.png"), np.float64)
            psnr = 10 * np.log10(255**2 / np.mean((original - decoded) ** 2))
            assert float(row["psnr_db"]) == pytest.approx(psnr, abs=1e-3)
            assert row["kbps"] == row["stoi"] == ""
        else:
            assert float(row["kbps"]) == pytest.approx(8 * size / 1000 / (6000 / 16000), rel=1e-5)
            assert float(row["log_spectral_distance"]) > 0 and row["bpp"] == row["psnr_db"] == ""
            assert (row["seconds"], row["sample_rate"], row["height"]) == ("0.375", "16000", "")
        assert float(row["encode_seconds"]) > 0 and float(row["decode_seconds"]) > 0
        assert [row[name] for name in SETTINGS[2:]] == ["admm", "3", "mse", "0", "context", "4.5", "0", "0"]


def test_one_kind_alone_has_its_own_columns(run, mixed, tmp_path):
    code, out, err = run(
        Compression_ADMM, "--input", mixed / "a.png", mixed / "deep" / "er", "--output", tmp_path, "--search", "none"
    )
    assert code == 0, err
    columns, rows = table(tmp_path / "metrics.csv")
    assert columns == ["file", "signal", *IMAGE_SIZE, *BYTES, "bpp", *IMAGE_COLUMNS, *SETTINGS]
    files = {"a.bpgan", "a.png", "b.bpgan", "b.png"}
    assert listing(tmp_path) == files | {"conditions.json", "metrics.csv", "options.json", "rows.jsonl"}
    assert "mean of 2" in out and rows[0]["search"] == "none" and rows[0]["iterations"] == "0"
    psnr = [float(row["psnr_db"]) for row in rows]
    mean_line = next(line for line in out.splitlines() if "mean of 2" in line)
    assert f"{sum(psnr) / 2:.3f}" in mean_line


def test_options_are_kept_with_the_results(compressed):
    options = json.loads((compressed / "options.json").read_text())
    assert options["quality"] == 4.5 and options["search"] == "admm" and options["iterations"] == 3


def test_options_reach_search_and_decoder(run, mixed, codecs, tmp_path):
    words = ("--iterations", 3, "--objective", "ms_ssim", "--seed", 5, "--realism", 1)
    code, _, err = run(Compression_ADMM, "--input", mixed / "a.png", "--output", tmp_path, *words)
    assert code == 0, err
    data = (tmp_path / "a.bpgan").read_bytes()
    settings = Settings.of("admm", 3, "ms_ssim", seed=5, realism=1.0)
    assert data == codecs["image"].compress(mixed / "a.png", 3, settings)
    assert np.array_equal(Image.open(tmp_path / "a.png"), codecs["image"].decompress(data, 1.0))
    (row,) = table(tmp_path / "metrics.csv")[1]
    assert [row[name] for name in SETTINGS[2:]] == ["admm", "3", "ms_ssim", "5", "context", "3", "1", "0"]


@pytest.mark.parametrize("coder", ["huffman", "context"])
def test_targets_and_coders_from_the_command_line(run, mixed, tmp_path, coder):
    code, out, err = run(
        Compression_ADMM,
        "--input",
        mixed / "deep",
        "--output",
        tmp_path,
        "--target_bpp",
        "0.2",
        "--target_kbps",
        "8",
        "--search",
        "none",
        "--entropy_coder",
        coder,
    )
    assert code == 0, err
    _, rows = table(tmp_path / "metrics.csv")
    picture = next(row for row in rows if row["signal"] == "image")
    speech = next(row for row in rows if row["signal"] == "speech")
    assert 0.15 < float(picture["bpp"]) <= 0.2 and float(picture["quality"]) > 1
    assert 7.5 < float(speech["kbps"]) <= 8 and float(speech["quality"]) > 1
    assert {row["entropy_coder"] for row in rows} == {coder}
    for row in rows:  # the printed table shows what was chosen
        heading = next(line.split() for line in out.splitlines() if line.startswith(row["signal"]))
        line = next(line.split() for line in out.splitlines() if line.startswith(Path(row["file"]).name))
        assert float(line[heading.index("quality")]) == pytest.approx(float(row["quality"]), abs=1e-3)


@pytest.mark.parametrize(
    "option, value, metric", [("bytes", 150, "bytes"), ("ms_ssim", 0.5, "ms_ssim"), ("pesq", 1.5, "pesq_wb")]
)
def test_targets_of_sizes_and_scores(run, mixed, tmp_path, monkeypatch, option, value, metric):
    """What the user asks for reaches the encoder under the name of the metric."""
    asked = []

    def meet(self, _):
        asked.append((self.sender.kind.name, self.target))
        return self.sender.encode(self.signal, 3, Settings.of("none"))

    monkeypatch.setattr(Trials, "meet", meet)
    source = mixed / ("a.flac" if option == "pesq" else "a.png")
    code, out, err = run(Compression_ADMM, "--input", source, "--output", tmp_path, f"--target_{option}", value)
    assert code == 0, err
    assert asked == [("speech" if option == "pesq" else "image", Target(metric, value))] and "quality" in out


def test_a_target_of_another_kind_is_an_error_of_that_file(run, mixed, tmp_path):
    """Never ignored: the files to which it applies go on."""
    given = ("--target_psnr", "1", "--search", "none", "--quiet")
    code, _, err = run(Compression_ADMM, "--input", mixed / "deep", "--output", tmp_path, *given)
    one_line(code, err, "clip.wav", "--target_psnr", "speech", "--target_kbps", "--target_pesq", exit_code=1)
    assert "er/b.bpgan" in listing(tmp_path) and not list(tmp_path.rglob("clip*"))
    code, _, err = run(
        Compression_ADMM, mixed / "a.png", tmp_path / "o.bpgan", "--target_kbps", "2", "--search", "none"
    )
    one_line(code, err, "a.png", "--target_kbps", "image", "--target_bpp", "--target_ms_ssim", exit_code=1)


def test_one_target_for_each_kind(run):
    for given, word in (
        (["--target_bpp", "1", "--target_psnr", "30"], "for image"),
        (["--target_kbps", "1", "--target_pesq", "2"], "for speech"),
        (["--target_bytes", "900", "--target_kbps", "1"], "for speech"),
        (["--target_bpp", "1", "--target_kbps", "1", "--target_ms_ssim", "0.9"], "for image"),
    ):
        code, _, err = run(Compression_ADMM, *given, checkpoint=False)
        one_line(code, err, *given[:: 2 if len(given) == 4 else 4], word, exit_code=2)
    for given in (["--target_bpp", "1", "--target_kbps", "1"], ["--target_psnr", "30", "--target_pesq", "2"]):
        code, _, err = run(Compression_ADMM, *given, "--dry-run", checkpoint=False)
        assert code == 0, err


def test_a_target_out_of_reach_names_the_file_and_the_nearest(run, mixed, tmp_path):
    code, _, err = run(
        Compression_ADMM, "--input", mixed / "a.png", "--output", tmp_path, "--target_bpp", "0.0002", "--search", "none"
    )
    one_line(code, err, "a.png", "nearest reachable rate", exit_code=1)


def test_two_roots_with_one_stem_do_not_overwrite(run, mixed, tmp_path):
    for name in ("one", "two"):
        save_picture(tmp_path / name / "x.png", 20, 20, len(name))
    shutil.copy(tmp_path / "one" / "x.png", tmp_path / "two" / "y.png")
    code, _, err = run(
        Compression_ADMM,
        "--input",
        tmp_path / "one",
        tmp_path / "two",
        "--output",
        tmp_path / "out",
        "--search",
        "none",
    )
    assert code == 0, err
    assert len([name for name in listing(tmp_path / "out") if name.endswith(".bpgan")]) == 3


# -- decompress -----------------------------------------------------------------------------------------


def same_decoded_files(decoded, compressed):
    names = {name for name in listing(compressed) if name.endswith((".png", ".wav"))}
    assert listing(decoded) == names | {"conditions.json", "decoded.jsonl"}
    for name in names:
        assert (decoded / name).read_bytes() == (compressed / name).read_bytes(), name


def test_decompression_gives_the_same_bytes(run, compressed, tmp_path):
    code, out, err = run(Decompression, "--input", compressed, "--output", tmp_path)
    assert code == 0 and "5 of 5 files decoded" in out, err
    same_decoded_files(tmp_path, compressed)


def test_decompression_needs_nothing_of_the_sender(compressed, tiny_checkpoints, tmp_path):
    program = (
        "import sys\n"
        "for name in ('models.encoder', 'models.discriminator', 'models.losses', 'data.dataset', 'utils.search.admm',\n"
        "             'data.download', 'utils.codec.codec', 'utils.training.trainer', 'utils.search.objectives',\n"
        "             'utils.metrics', 'sklearn', 'pesq', 'pystoi', 'tensorboard'):\n"
        "    sys.modules[name] = None\n"
        "import Decompression\n"
        "sys.exit(Decompression.main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            program,
            "--input",
            compressed,
            "--output",
            tmp_path,
            "--device",
            "cpu",
            "--checkpoint",
            tiny_checkpoints["image"],
            tiny_checkpoints["speech"],
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    same_decoded_files(tmp_path, compressed)


def test_one_damaged_file_among_good_ones(run, compressed, tmp_path):
    folder = tmp_path / "in"
    shutil.copytree(compressed, folder, ignore=lambda _, names: [n for n in names if n.endswith((".png", ".wav"))])
    data = bytearray((folder / "a.png.bpgan").read_bytes())
    data[len(data) // 2] ^= 4
    (folder / "a.png.bpgan").write_bytes(data)
    (folder / "empty.bpgan").write_bytes(b"")
    code, out, err = run(Decompression, "--input", folder, "--output", tmp_path / "out")
    lines = [line for line in err.splitlines() if "error" in line]
    assert code == 1 and "4 of 6 files decoded" in out
    assert len(lines) == 2 and "Traceback" not in err
    assert any("a.png.bpgan" in line and "damaged" in line for line in lines)
    assert any("empty.bpgan" in line and "truncated" in line for line in lines)
    good = {name for name in listing(compressed) if name.endswith((".png", ".wav"))} - {"a.png.png"}
    assert listing(tmp_path / "out") == good | {"conditions.json", "decoded.jsonl"}


def test_a_damaged_input_does_not_stop_the_others(run, mixed, tmp_path):
    folder = tmp_path / "in"
    shutil.copytree(mixed / "deep", folder)
    (folder / "bad.png").write_bytes((mixed / "a.png").read_bytes()[:200])
    (folder / "bad.wav").write_bytes(b"RIFF")
    code, _, err = run(Compression_ADMM, "--input", folder, "--output", tmp_path / "out", "--search", "none")
    lines = [line for line in err.splitlines() if line.startswith("error")]
    assert code == 1 and len(lines) == 2 and "Traceback" not in err
    assert any("bad.png" in line for line in lines) and any("bad.wav" in line for line in lines)
    assert len(table(tmp_path / "out" / "metrics.csv")[1]) == 2
    assert not any("bad" in name for name in listing(tmp_path / "out"))


def test_another_checkpoint_is_refused_by_name(compressed, tiny_checkpoints, run, tmp_path):
    code, _, err = run(
        Decompression,
        "--input",
        compressed / "a.png.bpgan",
        "--output",
        tmp_path,
        "--checkpoint",
        tiny_checkpoints["image_other"],
        checkpoint=False,
    )
    one_line(code, err, "a.png.bpgan", "--checkpoint", "FORMER.md", exit_code=1)
    code, _, err = run(
        Decompression,
        "--input",
        compressed / "a.flac.bpgan",
        "--output",
        tmp_path,
        "--checkpoint",
        tiny_checkpoints["image"],
        checkpoint=False,
    )
    one_line(code, err, "a.flac.bpgan", "speech", exit_code=1)


def test_files_of_several_checkpoints_of_one_kind(run, compressed, codecs, tiny_checkpoints, tmp_path):
    """Each file is decoded by the checkpoint that it names; who compresses has to choose."""
    given = ("--checkpoint", tiny_checkpoints["image_other"], tiny_checkpoints["image"])
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(compressed / "a.png.bpgan", folder / "one.bpgan")
    pixels = codecs["image"].kind.read(compressed / "a.png.png")
    (folder / "two.bpgan").write_bytes(codecs["image_other"].compress(pixels, 2, "none"))
    code, _, err = run(Decompression, "--input", folder, "--output", tmp_path / "out", *given, checkpoint=False)
    assert code == 0, err
    for name, codec in (("one", codecs["image"]), ("two", codecs["image_other"])):
        decoded = codec.kind.read(tmp_path / "out" / f"{name}.png")
        assert np.array_equal(decoded, codec.decompress(folder / f"{name}.bpgan"))
    code, _, err = run(
        Compression_ADMM, compressed / "a.png.png", tmp_path / "no.bpgan", *given, "--iterations", "0", checkpoint=False
    )
    one_line(code, err, "image_other.safetensors", "image.safetensors are both for image", exit_code=1)


def test_shipped_weights_for_an_objective(run, mixed, tiny_checkpoints, tmp_path, monkeypatch):
    """Who compresses for it gets them, who decodes gets those that each file names."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    monkeypatch.setattr("utils.codec.fingerprint.CHECKPOINTS", folder)
    for name, source in (("image", "image"), ("image_ms_ssim", "image_other"), ("speech", "speech")):
        shutil.copy(tiny_checkpoints[source], folder / f"{name}.safetensors")
    made = {"image": [], "image_other": ["--objective", "ms_ssim"]}
    for name, words in made.items():
        packed = tmp_path / "packed" / f"{name}.bpgan"
        packed.parent.mkdir(exist_ok=True)
        words = (mixed / "a.png", packed, "--iterations", "1", *words)
        assert run(Compression_ADMM, *words, checkpoint=False)[0] == 0
        info = describe(packed.read_bytes(), {})
        assert info["fingerprint"] == load_decoder(tiny_checkpoints[name]).fingerprint.hex()
    code, _, err = run(Decompression, "--input", tmp_path / "packed", "--output", tmp_path / "out", checkpoint=False)
    assert code == 0, err
    for name in made:
        expected = load_decoder(tiny_checkpoints[name]).decompress(tmp_path / "packed" / f"{name}.bpgan")
        assert np.array_equal(build_kind("image").read(tmp_path / "out" / f"{name}.png"), expected)
    (folder / "image_ms_ssim.safetensors").unlink()
    code, _, err = run(Decompression, "--input", tmp_path / "packed", "--output", tmp_path / "again", checkpoint=False)
    one_line(code, err, "image_other", "pass the checkpoint it was made with", exit_code=1)


def test_in_and_out_around_options(run, mixed, tiny_checkpoints, tmp_path):
    source, weights, written = mixed / "a.png", ("--checkpoint", tiny_checkpoints["image"]), []
    for number, words in enumerate(
        (
            lambda out: (*weights, source, out, "--iterations", "0"),
            lambda out: (source, "--iterations", "0", out, *weights),
            lambda out: ("--iterations", "0", source, *weights, out),
        )
    ):
        out = tmp_path / f"{number}.bpgan"
        code, _, err = run(Compression_ADMM, *words(out), checkpoint=False)
        assert code == 0, err
        written.append(out.read_bytes())
    assert written[0] == written[1] == written[2]
    code, _, err = run(Compression_ADMM, *weights, source, checkpoint=False)
    one_line(code, err, "give one IN and one OUT", exit_code=2)


@pytest.mark.parametrize(
    "script, name",
    [(Compression_ADMM, "a.png"), (evaluate, "a.bpgan"), (evaluate, "there.txt"), (Decompression, "a.bpgan")],
)
def test_a_file_s_name_makes_no_folder(run, mixed, compressed, tmp_path, script, name):
    (tmp_path / "there.txt").write_text("mine")
    source = compressed / "a.png.bpgan" if script is Decompression else mixed / "a.png"
    code, _, err = run(script, "--input", source, "--output", tmp_path / name)
    one_line(code, err, name, "folder", exit_code=1)
    assert listing(tmp_path) == {"there.txt"} and (tmp_path / "there.txt").read_text() == "mine"


def test_realism_from_the_command_line(run, compressed, tiny_checkpoints, tmp_path):
    code, _, err = run(Decompression, "--input", compressed / "a.png.bpgan", "--output", tmp_path, "--realism", "1")
    assert code == 0, err
    assert (tmp_path / "a.png.png").read_bytes() != (compressed / "a.png.png").read_bytes()
    code, _, err = run(
        Compression_ADMM,
        "--input",
        compressed / "deep" / "er" / "b.png",
        "--output",
        tmp_path / "f",
        "--search",
        "none",
        "--checkpoint",
        tiny_checkpoints["image_faithful"],
        checkpoint=False,
    )
    code, _, err = run(
        Decompression,
        "--input",
        tmp_path / "f",
        "--output",
        tmp_path / "g",
        "--realism",
        "0.5",
        "--checkpoint",
        tiny_checkpoints["image_faithful"],
        checkpoint=False,
    )
    one_line(code, err, "b.bpgan", "no realistic generator", exit_code=1)


# -- what files hold -----------------------------------------------------------------------------------


def test_info(run, compressed, codecs, tmp_path, monkeypatch):
    """As a table and as JSON; nothing is decoded or written, and no network is built."""

    def never(*_, **__):
        raise AssertionError("a network was built")

    monkeypatch.setattr(Decoder, "__init__", never)
    monkeypatch.chdir(tmp_path)
    picture, clip = compressed / "a.png.bpgan", compressed / "deep" / "clip.bpgan"
    code, out, err = run(Decompression, "--info", picture, clip)
    assert code == 0 and not err and not listing(tmp_path)
    heading, *lines = out.splitlines()
    assert heading.split()[:4] == ["file", "signal", "size", "bytes"] and len(lines) == 2
    for line, path, name, size, unit in zip(
        lines, (picture, clip), ("image", "speech"), ("40x50", "0.38 s, 16000 Hz"), ("bpp", "kbps")
    ):
        for word in (str(path), name, size, unit, str(path.stat().st_size), "4.5", "context"):
            assert f" {word} " in f" {line} ", word
        assert f"{codecs[name].fingerprint.hex()}  " in line and f"{name}.safetensors" in line
    code, out, err = run(Decompression, "--info", "--json", "--input", compressed / "deep" / "clip.bpgan", picture)
    speech, image = map(json.loads, out.splitlines())
    assert code == 0 and not err
    assert (speech["seconds"], speech["sample_rate"], speech["rate_unit"]) == (6000 / 16000, 16000, "kbps")
    assert (image["height"], image["width"], image["quality"], image["entropy_coder"]) == (40, 50, 4.5, "context")
    assert image["rate"] == pytest.approx(8 * picture.stat().st_size / 2000) and image["flags"] == []
    assert image["fingerprint"] == codecs["image"].fingerprint.hex() and image["file"] == picture.as_posix()
    assert [Path(name).name for name in image["checkpoints"]] == ["image.safetensors"]


def test_info_without_the_checkpoint(run, compressed, tiny_checkpoints, monkeypatch, tmp_path, caplog):
    """Those in checkpoints/ are looked into where none are given; a damaged one there costs a warning alone."""
    monkeypatch.setattr("utils.codec.fingerprint.CHECKPOINTS", tmp_path / "checkpoints")
    (tmp_path / "checkpoints").mkdir()
    packed = compressed / "a.png.bpgan"
    code, out, _ = run(Decompression, "--info", packed, checkpoint=False)
    assert code == 0 and "none here" in out
    shutil.copy(tiny_checkpoints["image"], tmp_path / "checkpoints" / "mine.safetensors")
    (tmp_path / "checkpoints" / "bad.safetensors").write_text("no weights")
    code, out, _ = run(Decompression, "--info", packed, checkpoint=False)
    assert code == 0 and "checkpoints/mine.safetensors" in out and "bad.safetensors" in caplog.text
    code, out, err = run(
        Decompression, "--info", packed, "--checkpoint", tmp_path / "checkpoints" / "bad.safetensors", checkpoint=False
    )
    one_line(code, err, "bad.safetensors", exit_code=1)


def test_info_of_damaged_files(run, compressed, tmp_path):
    """Each is one line, and the others go on."""
    good = bytearray((compressed / "a.png.bpgan").read_bytes())
    (tmp_path / "good.bpgan").write_bytes(good)
    good[-6] ^= 1
    (tmp_path / "changed.bpgan").write_bytes(good)
    (tmp_path / "empty.bpgan").write_bytes(b"")
    header = dict(quality_step=0, fingerprint=bytes(4), size_a=100, size_b=100)
    for name, changes in (
        ("kind", dict(kind=7, coder=0)),
        ("coder", dict(kind=0, coder=4)),
        ("no_pixels", dict(kind=0, coder=0, size_a=0)),
        ("no_rate", dict(kind=1, coder=0, size_b=0)),
        ("repeats", dict(kind=0, coder=0, repeats=1)),
    ):
        (tmp_path / f"{name}.bpgan").write_bytes(pack(FileHeader(**{**header, **changes}), b"x"))
    code, out, err = run(Decompression, "--info", tmp_path, "--json")
    rows = {Path(row["file"]).stem: row for row in map(json.loads, out.splitlines())}
    assert code == 1 and set(rows) == {"good", "repeats"} and "Traceback" not in err
    assert rows["repeats"]["flags"] == ["repeats"] and rows["repeats"]["checkpoints"] == []
    lines = err.splitlines()
    for name in ("changed", "empty", "kind", "coder", "no_pixels", "no_rate"):
        assert sum(f"{name}.bpgan" in line and line.startswith("error: ") for line in lines) == 1, name
    assert len(lines) == 6


def test_info_decodes_nothing_so_that_options_of_decoding_are_mistakes(run, compressed, tmp_path):
    packed = compressed / "a.png.bpgan"
    for arguments, word in (
        (["--info", packed, "--output", tmp_path / "o"], "--output"),
        (["--info", packed, "--realism", "1"], "--realism"),
        (["--info", packed, "--overwrite"], "--overwrite"),
        (["--input", packed, "--json"], "--info"),
    ):
        code, _, err = run(Decompression, *arguments)
        one_line(code, err, word, exit_code=2)
    code, _, err = run(Decompression, "--info")
    one_line(code, err, "--input", exit_code=1)


# -- gray, transparency, metadata ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def layouts(tmp_path_factory) -> Path:
    """A gray picture, one with transparency, one of a camera that says where it was."""
    folder = tmp_path_factory.mktemp("layouts") / "in"
    save_picture(folder / "color.png", 40, 50, 0)
    color = Image.open(folder / "color.png")
    color.convert("L").save(folder / "gray.png")
    ramp = np.tile(np.linspace(0, 255, 50).astype(np.uint8), (40, 1))
    Image.fromarray(np.dstack([color, ramp])).save(folder / "clear.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(IFD.GPSInfo)[1] = "N"
    color.save(folder / "camera.jpg", exif=exif)
    return folder


@pytest.mark.parametrize("kept", [False, True])
def test_layouts_and_metadata_come_back(run, layouts, tmp_path, kept):
    option = ["--keep_metadata"] if kept else []
    out, decoded = tmp_path / "out", tmp_path / "decoded"
    arguments = ["--input", layouts, "--output", out, "--iterations", 2, *option]
    assert run(Compression_ADMM, *arguments)[0] == 0
    assert run(Decompression, "--input", out, "--output", decoded)[0] == 0
    for name, mode, size in (
        ("color", "RGB", (50, 40)),
        ("gray", "L", (50, 40)),
        ("clear", "RGBA", (50, 40)),
        ("camera", "RGB", (40, 50)),
    ):
        with Image.open(decoded / f"{name}.png") as image:
            image.load()
            exif = image.getexif()
            assert (image.mode, image.size) == (mode, size), name
            assert dict(exif.get_ifd(IFD.GPSInfo)) == ({1: "N"} if kept and name == "camera" else {})
            assert exif.get(0x0112, 1) == 1
        assert (decoded / f"{name}.png").read_bytes() == (out / f"{name}.png").read_bytes()
    ramp = np.asarray(Image.open(layouts / "clear.png"))[..., 3]
    np.testing.assert_array_equal(np.asarray(Image.open(decoded / "clear.png"))[..., 3], ramp)
    code, text, _ = run(Decompression, "--info", "--json", out)
    rows = {Path(row["file"]).stem: row for row in map(json.loads, text.splitlines())}
    assert code == 0 and {name: row["flags"] for name, row in rows.items() if row["flags"]} == {"gray": ["gray"]}
    sections = {name: set(row["sections"]) for name, row in rows.items() if row["sections"]}
    assert sections == {"clear": {"alpha"}, **({"camera": {"exif"}} if kept else {})}
    lines = run(Decompression, "--info", out)[1].splitlines()
    alpha = rows["clear"]["sections"]["alpha"]
    assert any("clear.bpgan" in line and line.endswith(f"alpha {alpha}") for line in lines)
    metrics = {row["file"]: row for row in table(out / "metrics.csv")[1]}
    n_bytes = (out / "clear.bpgan").stat().st_size
    assert int(metrics[(layouts / "clear.png").as_posix()]["bytes"]) == n_bytes > alpha
    # the journal: what is finished stays, and the other choice is another result
    assert "4 of them by an earlier run" in run(Compression_ADMM, *arguments)[1]
    other = [a for a in arguments if a != "--keep_metadata"] + ([] if kept else ["--keep_metadata"])
    assert "earlier run" not in run(Compression_ADMM, *other)[1]


def test_a_target_counts_the_sections(run, layouts, tmp_path, codecs):
    codec, packed = codecs["image"], tmp_path / "a.bpgan"
    pixels, metadata = codec.kind.read_with_metadata(layouts / "camera.jpg")
    room = len(codec.compress(pixels, 3, "none", metadata=metadata))
    words = ("--target_bytes", room, "--search", "none", "--keep_metadata")
    code, _, err = run(Compression_ADMM, layouts / "camera.jpg", packed, *words)
    assert code == 0 and 0.97 * room <= packed.stat().st_size <= room, err
    assert metadata and codec.metadata(packed) == metadata


def test_damaged_sections_are_one_line(run, layouts, tmp_path, codecs):
    codec = codecs["image"]
    data = codec.compress(codec.kind.read(layouts / "clear.png"), 3, Settings.of("none"))
    header, payload = codec.unpack(data)
    for name, content in (("alpha", b"RIFF of something"), ("exif", b"not deflated"), ("icc", b"x")):
        damaged = dataclasses.replace(header, sections={**header.sections, name: content})
        (tmp_path / f"{name}.bpgan").write_bytes(pack(damaged, payload))
        code, _, err = run(Decompression, tmp_path / f"{name}.bpgan", tmp_path / "out.png")
        one_line(code, err.splitlines()[0], name if name != "icc" else "icc", exit_code=1)
        assert not (tmp_path / "out.png").exists()


def test_info_does_not_load_pytorch(compressed):
    """Which takes seconds; nor is there anything that would not name the checkpoint."""
    program = (
        "import sys, Decompression\n"
        f"code = Decompression.main(['--info', {str(compressed / 'a.png.bpgan')!r}])\n"
        "assert code == 0 and 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# -- one file to one file -------------------------------------------------------------------------------


def test_in_and_out(run, mixed, compressed, tmp_path):
    """As other codecs have it: IN OUT.bpgan, IN.bpgan OUT.png, and nothing beside them."""
    packed, unpacked = tmp_path / "new" / "o.bpgan", tmp_path / "back" / "o.png"
    code, out, err = run(Compression_ADMM, mixed / "a.png", packed, "--iterations", "3", "--quality", "4.5")
    assert code == 0 and listing(tmp_path) == {"new/o.bpgan"}, err
    assert packed.read_bytes() == (compressed / "a.png.bpgan").read_bytes()
    assert out.splitlines()[-1] == f"{packed}: 1 of 1 files" and "psnr_db" in out
    code, out, err = run(Decompression, packed, unpacked)
    assert code == 0 and out == f"{unpacked}: 1 of 1 files decoded\n", err
    assert unpacked.read_bytes() == (compressed / "a.png.png").read_bytes()
    code, _, err = run(Decompression, "--input", packed, "--output", tmp_path / "b.PNG")  # options say the same
    assert code == 0 and (tmp_path / "b.PNG").read_bytes() == unpacked.read_bytes(), err


def test_in_and_out_replace_nothing_unasked(run, mixed, compressed, tmp_path):
    taken = tmp_path / "o.bpgan"
    taken.write_text("precious")
    code, _, err = run(Compression_ADMM, mixed / "a.png", taken)
    one_line(code, err, "o.bpgan", "--overwrite", exit_code=1)
    assert taken.read_text() == "precious"
    code, _, err = run(Compression_ADMM, mixed / "a.png", taken, "--overwrite", "--search", "none")
    assert code == 0 and taken.read_bytes() != b"precious", err
    original = tmp_path / "x.bpgan"
    shutil.copy(mixed / "a.png", original)
    code, _, err = run(Compression_ADMM, original, original, "--overwrite")
    one_line(code, err, "x.bpgan", "overwrite it", exit_code=1)
    (tmp_path / "o.png").write_text("precious")
    code, _, err = run(Decompression, taken, tmp_path / "o.png")
    one_line(code, err, "o.png", "--overwrite", exit_code=1)
    assert (tmp_path / "o.png").read_text() == "precious"


def test_in_and_out_say_at_once_what_cannot_be_written(run, mixed, compressed, tmp_path, monkeypatch):
    """A long search comes after that."""
    monkeypatch.setattr(Codec, "encode_batch", None)
    monkeypatch.setattr("utils.codec.decoder.Decoder.decompress", None)
    (tmp_path / "file").write_text("no folder")
    code, _, err = run(Compression_ADMM, mixed / "a.png", tmp_path / "file" / "o.bpgan")
    one_line(code, err, "file", exit_code=1)
    code, _, err = run(Decompression, compressed / "a.png.bpgan", tmp_path / "o.wav")
    one_line(code, err, "o.wav", "decodes to .png", exit_code=1)
    assert listing(tmp_path) == {"file"}


def test_in_and_out_do_not_replace_what_came_meanwhile(run, mixed, tmp_path, monkeypatch):
    encode = Codec.encode_batch

    def slow(self, *arguments, **options):
        (tmp_path / "o.bpgan").write_text("another process's")
        return encode(self, *arguments, **options)

    monkeypatch.setattr(Codec, "encode_batch", slow)
    arguments = (Compression_ADMM, mixed / "a.png", tmp_path / "o.bpgan", "--search", "none")
    code, _, err = run(*arguments)
    one_line(code, err, "o.bpgan: is there already", "--overwrite", exit_code=1)
    assert (tmp_path / "o.bpgan").read_text() == "another process's" and listing(tmp_path) == {"o.bpgan"}
    assert run(*arguments, "--overwrite")[0] == 0 and (tmp_path / "o.bpgan").read_bytes()[:1] == b"\xb6"


def test_in_and_out_mistakes(run, mixed, compressed, tmp_path):
    packed = compressed / "a.png.bpgan"
    for module, arguments, words, exit_code in (
        (Compression_ADMM, [mixed / "a.png"], ["one IN and one OUT"], 2),
        (Compression_ADMM, [mixed / "a.png", mixed / "a.jpg", tmp_path / "o.bpgan"], ["one IN and one OUT"], 2),
        (Compression_ADMM, [mixed / "a.png", tmp_path / "o", "--input", mixed], ["one IN and one OUT"], 2),
        (Compression_ADMM, [mixed, tmp_path / "o.bpgan"], ["o.bpgan is one file", "no folder"], 1),
        (Compression_ADMM, [mixed / "a.png", tmp_path / "o.bpgan", "--report"], ["--report needs a folder"], 1),
        (Compression_ADMM, [mixed / "no.png", tmp_path / "o.bpgan"], ["no.png", "no such file"], 1),
        (Decompression, [packed, tmp_path / "o.jpg"], ["o.jpg", "decodes to .png"], 1),
        (Decompression, [packed, tmp_path / "o.wav"], ["o.wav", "decodes to .png", "o.png"], 1),
        (Decompression, [mixed / "a.png", tmp_path / "o.png"], ["a.png", "not a .bpgan file"], 1),
    ):
        code, _, err = run(module, *arguments)
        one_line(code, err, *words, exit_code=exit_code)
    assert not listing(tmp_path)


def test_in_and_out_take_folders(run, mixed, compressed, tmp_path):
    code, _, err = run(Compression_ADMM, mixed / "deep", tmp_path / "o", "--search", "none")
    assert code == 0 and {"er/b.bpgan", "clip.bpgan"} <= listing(tmp_path / "o"), err
    code, _, err = run(Decompression, tmp_path / "o", tmp_path / "p")
    assert code == 0 and listing(tmp_path / "p") == {"er/b.png", "clip.wav", "conditions.json", "decoded.jsonl"}, err


def test_without_decoding(run, mixed, compressed, tmp_path, monkeypatch):
    monkeypatch.setattr(Codec, "decompress", None)
    monkeypatch.setattr("utils.batch.code.Coding._warm", lambda self, codec: None)
    arguments = ("--input", mixed, "--output", tmp_path, "--iterations", "3", "--quality", "4.5", "--no-decode")
    code, out, err = run(Compression_ADMM, *arguments)
    assert code == 0, err
    files = {name for name in listing(compressed) if name.endswith(".bpgan")}
    assert listing(tmp_path) == files | {"conditions.json", "metrics.csv", "options.json", "rows.jsonl"}
    assert all((tmp_path / name).read_bytes() == (compressed / name).read_bytes() for name in files)
    _, rows = table(tmp_path / "metrics.csv")
    assert all(row["bytes"] and row["encode_seconds"] and not row["decode_seconds"] for row in rows)
    assert "psnr_db" not in out and "bpp" in out and "5 of 5 files" in out
    code, out, _ = run(Compression_ADMM, *arguments)
    assert code == 0 and "5 of them by an earlier run" in out
    code, _, err = run(Compression_ADMM, *arguments, "--report")
    one_line(code, err, "--report", "--no_decode", exit_code=1)


def test_limits_of_sizes(run, mixed, compressed, tmp_path):
    """The sender refuses what the receiver would, and each names the option."""
    for module, source in ((Compression_ADMM, mixed / "a.png"), (Decompression, compressed / "a.png.bpgan")):
        code, _, err = run(module, source, tmp_path / "o", "--max_pixels", "1999")
        one_line(code, err, source.name, "max_pixels", exit_code=1)
    for module, source in ((Compression_ADMM, mixed / "a.flac"), (Decompression, compressed / "a.flac.bpgan")):
        code, _, err = run(module, source, tmp_path / "o", "--max-seconds", "0.3")
        one_line(code, err, source.name, "max_seconds", exit_code=1)
    code, _, err = run(Decompression, compressed, tmp_path / "p", "--max_pixels", "1e9", "--max_seconds", "inf")
    assert code == 0, err


# -- what is decoded replaces nothing -------------------------------------------------------------------


def test_decoding_into_the_folder_of_the_originals_replaces_nothing(run, tmp_path):
    """photo.bpgan beside photo.png: the original stays, the other files go on; the same command again is no error."""
    for name in ("photo", "other"):
        save_picture(tmp_path / "in" / f"{name}.png", 20, 30, 0)
    assert run(Compression_ADMM, "--input", tmp_path / "in", "--output", tmp_path / "out", "--search", "none")[0] == 0
    (tmp_path / "in" / "other.png").unlink()
    before = (tmp_path / "in" / "photo.png").read_bytes()
    for _ in range(2):
        code, out, err = run(
            Decompression, "--input", tmp_path / "out" / "photo.bpgan", tmp_path / "out" / "other.bpgan",
            "--output", tmp_path / "in",
        )  # fmt: skip
        lines = [line for line in err.splitlines() if line.startswith("error")]
        assert code == 1 and len(lines) == 1 and "photo.png" in lines[0] and "--overwrite" in lines[0], err
        assert "1 of 2 files decoded" in out and "failed: photo.bpgan" in out
        assert (tmp_path / "in" / "photo.png").read_bytes() == before
        assert (tmp_path / "in" / "other.png").read_bytes() == (tmp_path / "out" / "other.png").read_bytes()
    code, _, _ = run(
        Decompression, "--input", tmp_path / "out" / "photo.bpgan", "--output", tmp_path / "in", "--overwrite"
    )
    assert code == 0 and (tmp_path / "in" / "photo.png").read_bytes() != before


@pytest.fixture
def decoded(monkeypatch) -> list:
    """Grows by one with every file that is decoded."""
    calls, decompress = [], Decoder.decompress
    monkeypatch.setattr(
        Decoder, "decompress", lambda self, data, *rest: calls.append(data) or decompress(self, data, *rest)
    )
    return calls


def test_decoding_goes_on_where_it_was_and_takes_other_options(run, compressed, tmp_path, decoded):
    """The commands of the manual, one after the other into one folder."""
    arguments = (Decompression, "--input", compressed / "a.png.bpgan", compressed / "a.jpg.bpgan", "--output", tmp_path)
    assert run(*arguments)[0] == 0 and len(decoded) == 2
    faithful = {name: (tmp_path / name).read_bytes() for name in ("a.png.png", "a.jpg.png")}
    code, out, err = run(*arguments)
    assert code == 0 and len(decoded) == 2 and "2 of 2 files decoded, 2 of them by an earlier run" in out, err
    (tmp_path / "a.png.png").unlink()
    assert run(*arguments)[0] == 0 and len(decoded) == 3
    assert {name: (tmp_path / name).read_bytes() for name in faithful} == faithful
    for more in (["--realism", "1"], ["--exact"]):
        before, n = {name: (tmp_path / name).read_bytes() for name in faithful}, len(decoded)
        code, out, err = run(*arguments, *more)
        assert code == 0 and len(decoded) == n + 2 and "2 of 2 files decoded\n" in out, err
        if more[0] == "--realism":
            assert all((tmp_path / name).read_bytes() != data for name, data in before.items())
    code, _, err = run(*arguments)
    assert code == 0 and {name: (tmp_path / name).read_bytes() for name in faithful} == faithful
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png.png")
    code, out, err = run(*arguments, "--realism", "1")
    assert code == 1 and "a.png.png: is there already, and is not what this program wrote" in err
    assert "1 of 2 files decoded, failed: a.png.bpgan" in out
    assert run(*arguments, "--realism", "1", "--overwrite")[0] == 0


def test_results_of_compression_stay_beside_other_options_of_decoding(run, compressed, tmp_path):
    """Else the next compression would search again."""
    shutil.copytree(compressed, tmp_path / "out")
    before = (tmp_path / "out" / "a.png.png").read_bytes()
    arguments = (Decompression, "--input", tmp_path / "out" / "a.png.bpgan", "--output", tmp_path / "out")
    assert run(*arguments)[0] == 0
    code, _, err = run(*arguments, "--realism", "1")
    one_line(code, err, "a.png.png", "--overwrite", exit_code=1)
    assert (tmp_path / "out" / "a.png.png").read_bytes() == before


# -- what is said ---------------------------------------------------------------------------------------


def test_forty_files_with_five_bad_ones(run, tmp_path):
    bad = ["03.png", "11.png", "20.png", "33.png", "39.png"]
    for number in range(40):
        path = tmp_path / "in" / f"{number:02d}.png"
        save_picture(path, 16, 16, number)
        if path.name in bad:
            path.write_bytes(path.read_bytes()[: 8 * (1 + number // 2)])
    code, out, err = run(Compression_ADMM, "--input", tmp_path / "in", "--output", tmp_path / "out", "--search", "none")
    lines = [line for line in err.splitlines() if line.startswith("error")]
    assert code == 1 and len(lines) == 5 and all(name in line for name, line in zip(bad, lines)), err
    assert len(table(tmp_path / "out" / "metrics.csv")[1]) == 35 and "mean of 35" in out
    assert out.splitlines()[-1].endswith(f"35 of 40 files, failed: {' '.join(bad)}")


def script(name, *arguments, **more) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, ROOT / name, *arguments], capture_output=True, text=True, env=environment(), **more
    )


def test_what_is_left_out_is_counted(mixed, tiny_checkpoints, tmp_path):
    (tmp_path / "in" / ".git").mkdir(parents=True)
    for name in ("a.xyz", "b.txt", "no_suffix", ".git/c.abc"):
        (tmp_path / "in" / name).write_text("x")
    shutil.copy(mixed / "a.png", tmp_path / "in")
    arguments = (tmp_path / "in", tmp_path / "out", "--device", "cpu", "--checkpoint", tiny_checkpoints["image"])
    done = script("test.py", *arguments)
    assert done.returncode == 0
    assert done.stderr == "WARNING: 3 files of other formats left out: (no suffix) .txt .xyz\n"
    quiet = script("test.py", *arguments, "--quiet")
    assert quiet.returncode == 0 and not quiet.stdout and not quiet.stderr


def test_the_built_in_samples_are_said_to_be_used(run, mixed, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("utils.batch.inputs.kind_class", lambda name: Samples)
    Samples.path = mixed / "a.png"
    code, _, err = run(Compression_ADMM, "--output", tmp_path, "--search", "none")
    assert code == 0 and "built-in samples" in caplog.text, err


class Samples:
    """The one method of a kind of signal that gives samples."""

    path: Path

    def samples(self):
        return [self.path]


@pytest.mark.parametrize("name", ["Compression_ADMM.py", "Decompression.py", "test.py"])
def test_version_and_help_are_quick(name):
    """Neither PyTorch nor numba is imported for them."""
    assert script(name, "--version").stdout == f"BPGAN {__version__}\n"
    program = (
        "import runpy, sys\nfor name in ('torch', 'numba', 'scipy', 'PIL', 'soundfile'):\n    sys.modules[name] = None\n"
        f"sys.argv = [{name!r}, '--help']\nrunpy.run_path({str(ROOT / name)!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "--device" in done.stdout, done.stderr


def test_hyphens_and_underscores_are_one(run):
    for spelled in (
        ["--target-bpp", "0.5", "--dry-run"],
        ["--target_bpp=0.5", "--dry_run"],
        ["--target-bpp=0.5", "--dry-run"],
    ):
        code, out, err = run(Compression_ADMM, *spelled, checkpoint=False)
        assert code == 0 and "target_bpp: 0.5" in out, err
    code, _, err = run(Compression_ADMM, "--no-such-option", checkpoint=False)
    one_line(code, err, "--no-such-option", exit_code=2)


def test_inputs_are_found_in_the_folder_of_the_data(run, mixed, tmp_path, monkeypatch):
    monkeypatch.setenv("BPGAN_DATA", str(mixed.parent))
    monkeypatch.chdir(tmp_path)
    code, out, err = run(evaluate, "--input", f"{mixed.name}/deep", "--output", tmp_path / "o")
    assert code == 0 and "2 of 2 files" in out, err
    code, _, err = run(evaluate, "--input", "nothing", "--output", tmp_path / "o")
    one_line(code, err, "nothing", str(mixed.parent), exit_code=1)


def test_a_warm_up_is_in_no_files_seconds(run, mixed, tmp_path, monkeypatch):
    """What happens once is over before the first file's clock runs."""
    encode, decompress, slow = Codec._encode, Codec.decompress, {"encode": True, "decode": True}

    def once(what):
        if slow.pop(what, False):
            time.sleep(1.5)

    monkeypatch.setattr(Codec, "_encode", lambda self, *rest: (once("encode"), encode(self, *rest))[1])
    monkeypatch.setattr(Codec, "decompress", lambda self, *rest: (once("decode"), decompress(self, *rest))[1])
    assert run(Compression_ADMM, "--input", mixed / "a.png", "--output", tmp_path, "--iterations", "2")[0] == 0
    (row,) = table(tmp_path / "metrics.csv")[1]
    assert not slow and float(row["encode_seconds"]) < 1.5 and float(row["decode_seconds"]) < 1.5


# -- test.py --------------------------------------------------------------------------------------------


def test_evaluation_at_several_qualities(run, mixed, tmp_path):
    code, _out, err = run(evaluate, "--input", mixed / "deep", "--output", tmp_path, "--quality", "2", "7.5")
    assert code == 0, err
    sizes = {}
    for quality in ("2", "7.5"):
        columns, rows = table(tmp_path / f"quality_{quality}" / "metrics.csv")
        assert columns == ALL_COLUMNS
        assert all((row["search"], row["iterations"], row["quality"]) == ("none", "0", quality) for row in rows)
        sizes[quality] = sum(int(row["bytes"]) for row in rows)
        assert {"er/b.bpgan", "er/b.png", "clip.bpgan", "clip.wav"} <= listing(tmp_path / f"quality_{quality}")
    assert sizes["2"] < sizes["7.5"]


def test_evaluation_is_compression_without_search(run, mixed, tmp_path):
    words = ("--input", mixed / "a.png", "--quality", 4, "--entropy_coder", "huffman", "--realism", 1, "--seed", 5)
    assert run(evaluate, *words, "--output", tmp_path / "t")[0] == 0
    assert run(Compression_ADMM, *words, "--output", tmp_path / "c", "--search", "none")[0] == 0
    for name in ("a.bpgan", "a.png"):
        assert (tmp_path / "t" / name).read_bytes() == (tmp_path / "c" / name).read_bytes()
    (one,), (other,) = (table(tmp_path / name / "metrics.csv")[1] for name in "tc")
    assert [one[name] for name in SETTINGS[2:]] == [other[name] for name in SETTINGS[2:]]
    assert [one[name] for name in ("entropy_coder", "realism", "seed")] == ["huffman", "1", "5"]


# -- mistakes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [Compression_ADMM, evaluate, Decompression], ids=lambda m: m.__name__)
def test_mistakes_are_one_line(run, module, mixed, compressed, tmp_path, monkeypatch):
    source = compressed / "a.png.bpgan" if module is Decompression else mixed / "a.png"
    one_line(
        *_codes(run(module, "--input", tmp_path / "nothing", "--output", tmp_path / "o")),
        "nothing",
        "no such file",
        exit_code=1,
    )
    (tmp_path / "void").mkdir()
    one_line(*_codes(run(module, "--input", tmp_path / "void", "--output", tmp_path / "o")), "void", exit_code=1)
    one_line(
        *_codes(
            run(
                module,
                "--input",
                source,
                "--output",
                tmp_path / "o",
                "--checkpoint",
                tmp_path / "none.safetensors",
                checkpoint=False,
            )
        ),
        "none.safetensors",
        exit_code=1,
    )
    (tmp_path / "file").write_text("in the way")
    one_line(*_codes(run(module, "--input", source, "--output", tmp_path / "file")), "file", exit_code=1)
    one_line(*_codes(run(module, "--input", source, "--colour")), "--colour", exit_code=2)
    assert not (tmp_path / "o").exists() or not listing(tmp_path / "o")


def _codes(result):
    code, _, err = result
    return code, err


def test_mistakes_in_options(run, mixed, tmp_path, capsys):
    for module, arguments, word in (
        (Compression_ADMM, ["--quality", "9"], "9.0 is outside 1 to 8"),
        (Compression_ADMM, ["--quality", "fine"], "'fine'"),
        (Compression_ADMM, ["--quality", "nan"], "outside"),
        (Compression_ADMM, ["--quality", "2", "--target_bpp", "1"], "not allowed with"),
        (Compression_ADMM, ["--iterations", "-1"], "outside"),
        (Compression_ADMM, ["--search", "luck"], "luck"),
        (Compression_ADMM, ["--entropy_coder", "zip"], "zip"),
        (Compression_ADMM, ["--seed", "-1"], "outside"),
        (evaluate, ["--quality", "0.5"], "outside 1 to 8"),
        (Decompression, ["--realism", "2"], "outside 0.0 to 1.0"),
        (train, ["--signal", "smell"], "smell"),
        (train, [], "--signal"),
        (train, ["--signal", "image", "--steps", "0"], "outside"),
    ):
        code, _, err = run(module, *arguments, checkpoint=False)
        one_line(code, err, word, exit_code=2)
    code, _, err = run(Compression_ADMM, "--input", mixed / "notes.txt", "--output", tmp_path)
    one_line(code, err, "notes.txt", ".txt", ".png", exit_code=1)
    code, _, err = run(Decompression, "--output", tmp_path)
    one_line(code, err, "--input", exit_code=1)
    code, _, err = run(
        train,
        "--signal",
        "image",
        "--dataroot",
        tmp_path / "none",
        "--valroot",
        tmp_path,
        "--runs",
        tmp_path,
        checkpoint=False,
    )
    one_line(code, err, "none", exit_code=1)


@pytest.mark.parametrize("module", [Compression_ADMM, evaluate, Decompression], ids=lambda m: m.__name__)
def test_cuda_without_a_gpu(module, mixed, compressed, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code = module.main(["--input", str(mixed), "--output", str(tmp_path), "--device", "cuda"])
    one_line(code, capsys.readouterr().err, "--device cuda", exit_code=1)


@pytest.mark.parametrize("module", [Compression_ADMM, evaluate, Decompression, train], ids=lambda m: m.__name__)
def test_dry_run_does_nothing(run, module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["--signal", "image"] if module is train else ["--output", tmp_path / "out"]
    code, out, err = run(module, *arguments, "--dry-run", "--seed", "5", checkpoint=False)
    assert code == 0 and not err and not list(tmp_path.iterdir())
    assert any("seed: 5" in line and "[default: 0]" in line for line in out.splitlines())


# -- several processes ----------------------------------------------------------------------------------


def test_two_processes_share_a_folder(mixed, compressed, tiny_checkpoints, tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node",
            "2",
            ROOT / "Compression_ADMM.py",
            "--input",
            mixed,
            "--output",
            tmp_path,
            "--iterations",
            "3",
            "--quality",
            "4.5",
            "--device",
            "cpu",
            "--checkpoint",
            tiny_checkpoints["image"],
            tiny_checkpoints["speech"],
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    _, rows = table(tmp_path / "metrics.csv")
    assert sorted(row["file"] for row in rows) == sorted((mixed / source).as_posix() for source in RESULTS)
    assert done.stdout.count("metrics.csv: 5 of 5 files") == 1
    done_once = [json.loads(line)["key"] for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len(done_once) == len(set(done_once)) == 5
    assert listing(tmp_path) == listing(compressed)
    for name in listing(tmp_path):
        if name.endswith(".bpgan"):
            assert (tmp_path / name).read_bytes() == (compressed / name).read_bytes(), name


@pytest.mark.parametrize(
    "arguments", [["--dry-run"], ["--input", "{a}", "--output", "{out}"]], ids=lambda arguments: arguments[0]
)
def test_a_reader_that_has_gone_ends_in_silence(mixed, tiny_checkpoints, tmp_path, arguments):
    arguments = [part.format(a=mixed / "a.png", out=tmp_path / "out") for part in arguments]
    process = subprocess.Popen(
        [sys.executable, ROOT / "test.py", *arguments, "--checkpoint", tiny_checkpoints["image"], "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait() == 128 + signal.SIGPIPE and not err
