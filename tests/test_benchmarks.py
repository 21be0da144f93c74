"""The benchmarks on one small file each: what they write, what they skip, what they say."""

import argparse
import csv
import dataclasses
import io
import itertools
import json
import re
import zlib

import numpy as np
import pytest
from PIL import Image

from benchmarks import coders, common, crops, gray, images, page, same_bytes, speech
from benchmarks.common import Codec, Curve, Missing, Points
from data import build_kind
from tests.helpers.scripts import one_line
from utils.batch import conditions
from utils.codec.checkpoint import load_checkpoint, save_checkpoint
from utils.codec.codec import load_codec
from utils.codec.settings import Settings
from utils.entropy import CODERS
from utils.metrics import psnr
from utils.search.config import OBJECTIVES, preset

pytestmark = pytest.mark.slow


@pytest.fixture
def picture(tmp_path, texture_image):
    path = tmp_path / "in" / "texture.png"
    path.parent.mkdir()
    Image.fromarray(texture_image).save(path)
    return path


@pytest.fixture
def recording(tmp_path, voiced_clip):
    path = tmp_path / "in" / "voice.wav"
    path.parent.mkdir(exist_ok=True)
    build_kind("speech").write(path, voiced_clip)
    return path


def own_options(checkpoint, **changes):
    values = dict(
        device="cpu",
        checkpoint=checkpoint,
        entropy_coder=None,
        seed=0,
        quality=[5.0],
        iterations=[0, 1],
        search=["admm"],
        objective=["mse"],
        realism=[0.0],
        search_realism=[0.0],
    )
    return argparse.Namespace(**{**values, **changes})


def test_versions_name_all_that_a_point_depends_on(tiny_checkpoints, tmp_path):
    """Those of points that took hours must not change: what is added is added for others."""
    made = load_checkpoint(tiny_checkpoints["image"])
    save_checkpoint(
        tmp_path / "further.safetensors",
        dataclasses.replace(made, discriminator={name: weight + 0.1 for name, weight in made.discriminator.items()}),
    )
    versions = [
        {codec.name: codec.version for codec in common.own_codecs(own_options(path, objective=list(OBJECTIVES)))}
        for path in (tiny_checkpoints["image"], tmp_path / "further.safetensors")
    ]
    usual = f"{made.fingerprint.hex()} context cpu seed 0"
    assert versions[0]["bpgan-0"] == usual
    for name, objective in (("bpgan-1", "mse"), ("bpgan-ms_ssim-1", "ms_ssim")):
        search = zlib.crc32(repr(preset("admm", 1, objective)).encode())
        assert versions[0][name] == versions[1][name] == f"{usual} search {search:08x}"
    assert versions[0]["bpgan-perceptual-1"] != versions[1]["bpgan-perceptual-1"]


def test_each_curve_of_this_codec_can_be_made_alone(tiny_checkpoints):
    options = own_options(tiny_checkpoints["image"], realism=[0.0, 0.5], search_realism=[0.0, 0.5])
    codecs = common.own_codecs(options)
    assert len(codecs) == 6
    for codec in codecs:
        (alone,) = common.own_codecs(argparse.Namespace(**{**vars(options), **codec.alone}))
        assert (alone.name, alone.version) == (codec.name, codec.version)


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def run_images(picture, checkpoint, output, *more):
    return images.main(
        [
            "--input",
            str(picture),
            "--output",
            str(output),
            "--checkpoint",
            str(checkpoint),
            "--device",
            "cpu",
            "--quality",
            "5",
            "--iterations",
            "0",
            "1",
            *more,
        ]
    )


def test_images_are_measured_resumed_and_reported(
    picture, texture_image, tiny_checkpoints, tmp_path, monkeypatch, capsys
):
    output = tmp_path / "out"
    assert run_images(picture, tiny_checkpoints["image"], output, "--codecs", "bpgan", "jpeg", "webp") == 0
    rows = {(row["codec"], row["setting"]): row for row in rows_of(output / "points.csv")}
    assert len(rows) == 2 + 9 + 9

    row = rows["bpgan-1", "5"]
    codec = load_codec(tiny_checkpoints["image"])
    data = codec.compress(texture_image, 5, Settings.of("admm", 1))
    assert int(row["bytes"]) == int(row["file_bytes"]) == len(data)
    assert float(row["bpp"]) == pytest.approx(8 * len(data) / (203 * 251), rel=1e-5)
    assert float(row["psnr_db"]) == pytest.approx(psnr(texture_image, codec.decompress(data)), rel=1e-5)

    row = rows["jpeg", "34"]
    file = io.BytesIO()
    Image.fromarray(texture_image).save(file, "JPEG", quality=34, optimize=True, subsampling="4:2:0")
    assert int(row["bytes"]) == len(file.getvalue())
    assert float(row["psnr_db"]) == pytest.approx(psnr(texture_image, np.asarray(Image.open(file))), rel=1e-5)

    summary = rows_of(output / "summary.csv")
    assert [row["files"] for row in summary] == ["1"] * len(rows)
    table = (output / "bd_rate.md").read_text()
    assert "| JPEG (4:2:0) |" in table and "BPG " not in table
    assert "other files" in capsys.readouterr().err  # published figures are of Kodak

    # The second run measures nothing, after a torn row that row alone.
    calls = []
    measure = common.measure
    monkeypatch.setattr(common, "measure", lambda *args: calls.append(args) or measure(*args))
    arguments = ("--codecs", "bpgan", "jpeg", "webp")
    before = (output / "points.csv").read_text()
    assert run_images(picture, tiny_checkpoints["image"], output, *arguments) == 0
    assert not calls and (output / "points.csv").read_text() == before
    (output / "points.csv").write_text(before[:-10])
    assert run_images(picture, tiny_checkpoints["image"], output, *arguments, "--tables_only") == 0
    assert not calls and len(rows_of(output / "summary.csv")) == len(rows) - 1
    assert run_images(picture, tiny_checkpoints["image"], output, *arguments) == 0
    assert len(calls) == 1 and len(rows_of(output / "points.csv")) == len(rows)

    # Another checkpoint's points are other points, measured under other conditions.
    calls.clear()
    assert run_images(picture, tiny_checkpoints["image_other"], output, *arguments) == 0
    assert len(calls) == 2
    runs = json.loads((output / "conditions.json").read_text())
    assert [run["checkpoints"][0]["file"] for run in runs] == ["image.safetensors", "image_other.safetensors"]
    assert runs[0]["checkpoints"][0]["fingerprint"] == codec.fingerprint.hex()
    assert all(run["command"].startswith("python -m benchmarks.images --input ") for run in runs)
    (output / "conditions.json").write_text("precious")
    assert run_images(picture, tiny_checkpoints["image"], output, *arguments) == 1
    assert "conditions.json" in capsys.readouterr().err and (output / "conditions.json").read_text() == "precious"


def test_plots_are_drawn(picture, tiny_checkpoints, tmp_path, monkeypatch):
    """Each names its files, the weights and the machine."""
    plot, titles = common.plot, []
    monkeypatch.setattr(common, "plot", lambda *args: titles.append(args[-1]) or plot(*args))
    assert run_images(picture, tiny_checkpoints["image"], tmp_path / "out", "--codecs", "bpgan", "jpeg") == 0
    assert len(titles) == 2
    fingerprint = load_codec(tiny_checkpoints["image"]).fingerprint.hex()
    for title in titles:
        assert title.startswith(f"Means over 1 file of in; image.safetensors {fingerprint}; ") and "thread" in title
    for name in ("psnr_db.png", "ms_ssim.png"):
        with Image.open(tmp_path / "out" / name) as image:
            assert image.width > 1000


def test_speech_is_measured_and_missing_programs_are_named(
    recording, voiced_clip, tiny_checkpoints, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(speech.shutil, "which", lambda program: None)
    output = tmp_path / "out"
    assert (
        speech.main(
            [
                "--input",
                str(recording),
                "--output",
                str(output),
                "--quality",
                "3",
                "--iterations",
                "0",
                "--checkpoint",
                str(tiny_checkpoints["speech"]),
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    rows = {row["codec"]: row for row in rows_of(output / "points.csv")}
    assert set(rows) <= {"bpgan-0", "opus-pyav"}  # which needs no program
    row = rows["bpgan-0"]
    codec = load_codec(tiny_checkpoints["speech"])
    data = codec.compress(codec.kind.read(recording), 3, "none")
    assert int(row["bytes"]) == len(data)
    assert float(row["kbps"]) == pytest.approx(8 * len(data) / 1000 / 2.5, rel=1e-5)
    said = capsys.readouterr().err
    for package in ("opus-tools", "speex", "codec2", "ffmpeg"):
        assert f"apt-get install {package}" in said


@pytest.mark.parametrize("name", [name for name in speech.BENCHMARK.codecs if name != common.OURS])
def test_speech_codecs_return_the_clip_in_place(name, voiced_clip):
    try:
        (codec,) = speech.BENCHMARK.codecs[name](None)
    except Missing as missing:
        pytest.skip(str(missing))
    coded = codec.encode(voiced_clip, codec.settings[-1])
    decoded = codec.finish(voiced_clip, codec.decode(coded.data, codec.settings[-1]))
    assert decoded.shape == voiced_clip.shape and decoded.dtype == np.float32
    assert 0 < coded.counted <= len(coded.data)
    if name == "codec2":
        return  # its waveform is another one
    assert np.corrcoef(voiced_clip, decoded)[0, 1] > 0.7


@pytest.mark.parametrize("name", [name for name in images.BENCHMARK.codecs if name != common.OURS])
def test_image_codecs_return_the_picture(name, texture_image):
    try:
        (codec,) = images.BENCHMARK.codecs[name](None)
    except Missing as missing:
        pytest.skip(str(missing))
    sizes = [len(codec.encode(texture_image, setting).data) for setting in codec.settings[::4]]
    assert sizes == sorted(sizes)
    decoded = codec.decode(codec.encode(texture_image, codec.settings[-1]).data, codec.settings[-1])
    assert psnr(texture_image, decoded) > 25


@pytest.mark.parametrize("name", ["jpeg", "jpeg2000", "webp", "avif"])
def test_codecs_are_brought_to_a_size(name, texture_image):
    try:
        (codec,) = images.BENCHMARK.codecs[name](None)
    except Missing as missing:
        pytest.skip(str(missing))
    sizes = [len(codec.encode(texture_image, setting).data) for setting in (codec.scale[0], codec.scale[-1])]
    for wanted in (2 * sizes[0], 4 * sizes[0]):
        setting, coded = common.at_size(codec, texture_image, wanted)
        assert coded.data == codec.encode(texture_image, setting).data
        below = codec.scale[codec.scale.index(setting) - 1]
        assert len(codec.encode(texture_image, below).data) < wanted <= len(coded.data)
    assert common.at_size(codec, texture_image, 1)[0] == codec.scale[0]
    assert common.at_size(codec, texture_image, 10 * sizes[1])[0] == codec.scale[-1]


def test_same_bytes_figure(picture, tiny_checkpoints, tmp_path, capsys):
    arguments = [
        "--input",
        str(picture),
        "--checkpoint",
        str(tiny_checkpoints["image"]),
        "--device",
        "cpu",
        "--iterations",
        "1",
        "--output",
        str(tmp_path / "figure.png"),
    ]
    assert same_bytes.main([*arguments, "--crop", "10", "20", "100", "90"]) == 0
    with Image.open(tmp_path / "figure.png") as figure:
        assert figure.size == (3 * 100 + 2 * 8, 2 * (90 + 24) + 8)  # the tiny checkpoint has a realistic generator
        assert np.array_equal(np.asarray(figure)[24:114, :100], np.asarray(Image.open(picture))[20:110, 10:110])
        conditions = json.loads(figure.text["conditions"])
        assert (
            conditions["command"].startswith("python -m benchmarks.same_bytes --input ") and conditions["checkpoints"]
        )
    said = capsys.readouterr().out
    assert all(f"{name} (4:" in said for name in ("JPEG", "WebP", "AVIF"))
    assert same_bytes.main([*arguments, "--crop", "200", "20", "100", "90"]) == 1


def test_enlarged_crops(picture, tiny_checkpoints, tmp_path, capsys):
    arguments = ["--checkpoint", str(tiny_checkpoints["image"]), "--device", "cpu"]
    arguments += ["--output", str(tmp_path / "crops.png"), "--quality", "3"]

    def crop(*place):
        return ["--crop", str(picture), *map(str, place)]

    assert crops.main([*arguments, *crop(10, 20, 40, 30), *crop(0, 0, 40, 30), "--zoom", "2"]) == 0
    with Image.open(tmp_path / "crops.png") as figure:
        assert figure.size == (4 * 80 + 3 * 8, 2 * (60 + 24) + 8)
        shown = np.asarray(figure)[24:84, :80]
        assert np.array_equal(shown[::2, ::2], np.asarray(Image.open(picture))[20:50, 10:50])
        assert np.array_equal(shown[::2], shown[1::2])
        assert json.loads(figure.text["conditions"])["checkpoints"]
    said = capsys.readouterr().out
    assert said.count("realism 0: ") == said.count("realism 1: ") == said.count("AVIF (4:4:4): ") == 2
    assert crops.main([*arguments, "4", *crop(10, 20, 40, 30)]) == 0  # another quality is another row
    coarse, fine = capsys.readouterr().out.splitlines()[:2]
    assert float(coarse.split(" bpp")[0].split()[-1]) < float(fine.split(" bpp")[0].split()[-1])
    (tmp_path / "crops.png").unlink()
    for places, words in (
        ([crop(10, 20, 4000, 30)], "leaves the picture"),
        ([crop(10, 20, "wide", 30)], "LEFT TOP WIDTH HEIGHT in pixels"),
        ([crop(10, 20, 0, 30)], "LEFT TOP WIDTH HEIGHT in pixels"),
        ([crop(10, 20, 40, 30), crop(10, 20, 30, 40)], "choose the same for all"),
    ):
        code = crops.main([*arguments, *itertools.chain(*places)])
        one_line(code, capsys.readouterr().err, words, exit_code=1)
        assert not (tmp_path / "crops.png").exists()


# -- the page -------------------------------------------------------------------------------------------


def page_of(tiny_checkpoints, picture, recording, output, *more):
    code = page.main(
        [
            "--input",
            str(picture.parent),
            "--output",
            str(output),
            "--device",
            "cpu",
            "--iterations",
            "1",
            "--quality",
            "2",
            "6",
            "--checkpoint",
            str(tiny_checkpoints["image"]),
            str(tiny_checkpoints["speech"]),
            *more,
        ]
    )
    return code, re.findall(r'<img class="[^"]*" alt="([^"]*)"', output.read_text()) if output.exists() else []


def test_the_page_has_all_at_the_same_bytes(picture, recording, texture_image, tiny_checkpoints, tmp_path):
    code, labels = page_of(tiny_checkpoints, picture, recording, tmp_path / "page.html", "--codecs", "jpeg", "webp")
    assert code == 0
    codec = load_codec(tiny_checkpoints["image"])
    (jpeg,), (webp,) = images.jpeg(None), images.webp(None)
    expected = ["original"]
    for quality in (2, 6):
        n_bytes = len(codec.compress(texture_image, quality, Settings.of("admm", 1)))
        expected += [f"BPGAN, quality {quality}", f"BPGAN, quality {quality}, realistic"]
        for other in (jpeg, webp):
            label = f"{other.label} at {common.at_size(other, texture_image, n_bytes)[0]}"
            expected += [label] * (label not in expected)
    assert labels == [
        *expected,
        "original",
        "BPGAN, quality 2",
        "BPGAN, quality 2, realistic",
        "BPGAN, quality 6",
        "BPGAN, quality 6, realistic",
    ]
    text = (tmp_path / "page.html").read_text()
    assert f"2 files of in; image.safetensors {codec.fingerprint.hex()}; speech.safetensors " in text
    assert f'<td data-head="bytes">{n_bytes:,}</td>' in text and text.count("<audio") == 5


def test_a_codec_that_fails_is_left_out_of_the_page(
    picture, recording, tiny_checkpoints, tmp_path, monkeypatch, capsys
):
    def broken(data, setting):
        raise RuntimeError("out of ink")

    (jpeg,) = images.jpeg(None)
    monkeypatch.setitem(images.BENCHMARK.codecs, "jpeg", lambda _: [dataclasses.replace(jpeg, decode=broken)])
    monkeypatch.setattr(speech.shutil, "which", lambda program: None)
    (picture.parent / "bad.png").write_bytes(b"no picture")
    code, labels = page_of(tiny_checkpoints, picture, recording, tmp_path / "page.html", "--codecs", "jpeg", "opus")
    assert code == 1 and len(labels) == 10 and not any("JPEG" in label for label in labels)
    said = capsys.readouterr().err
    assert "jpeg: out of ink" in said and "bad.png" in said and "apt-get install opus-tools" in said


# -- speech -------------------------------------------------------------------------------------------


def test_shifts_are_undone(voiced_clip):
    for shift in (0, 95, 160):
        late = np.concatenate([np.zeros(shift, np.float32), voiced_clip])
        assert np.allclose(speech.align(voiced_clip, late), voiced_clip)
    assert np.allclose(speech.align(voiced_clip, voiced_clip[30:])[30:], voiced_clip[30:])


def test_containers_are_measured():
    page = b"OggS" + bytes(22) + bytes([3, 255, 10, 7]) + bytes(272)
    assert speech.ogg_packets(page + page) == [265, 7, 265, 7]
    narrow = b"#!AMR\n" + bytes([0]) + bytes(12) + bytes([7 << 3]) + bytes(31) + bytes([15 << 3])
    assert speech.amr_payload(narrow) == 43
    packets = [b"abc", b"", bytes(300)]
    packed = speech.pack(packets)
    assert speech.unpack(packed.data) == packets and (packed.counted, len(packed.data)) == (303, 309)
    # parameter sets (32 to 34) and messages (39) are no slices; 19 is a key frame's
    stream = b"".join(b"\0\0\0\1" + bytes([kind << 1, 1]) + b"\7" * 10 for kind in (32, 33, 34, 39, 19))
    assert images.slices(stream) == 3 + 12
    with pytest.raises(ValueError):
        speech.ogg_packets(b"RIFF")
    with pytest.raises(ValueError):
        speech.amr_payload(b"RIFF")


def test_a_failing_codec_is_named_and_the_others_go_on(picture, tmp_path, monkeypatch, capsys):
    def broken(signal, setting):
        raise RuntimeError("out of ink")

    def ink(_):
        return [Codec("ink", "Ink", ("1",), "1", broken, None)]

    monkeypatch.setitem(images.BENCHMARK.codecs, "ink", ink)
    arguments = ["--input", str(picture), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert images.main([*arguments, "--codecs", "ink", "jpeg"]) == 1
    said = capsys.readouterr()
    assert "ink at 1" in said.err and "out of ink" in said.err and "Traceback" not in said.err
    assert {row["codec"] for row in rows_of(tmp_path / "out" / "summary.csv")} == {"jpeg"}

    # A checkpoint that is not there, a damaged input.
    (picture.parent / "damaged.png").write_bytes(b"no picture")
    assert (
        images.main(
            [
                "--input",
                str(picture.parent),
                *arguments[2:],
                "--codecs",
                "bpgan",
                "jpeg",
                "--checkpoint",
                str(tmp_path / "none.safetensors"),
            ]
        )
        == 1
    )
    said = capsys.readouterr().err
    assert "damaged.png" in said and "none.safetensors" in said


def test_an_interrupt_keeps_the_points(picture, tmp_path, monkeypatch, capsys):
    measure, calls = common.measure, []

    def impatient(*args):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(args)
        return measure(*args)

    monkeypatch.setattr(common, "measure", impatient)
    assert images.main(["--input", str(picture), "--output", str(tmp_path / "out"), "--codecs", "jpeg"]) == 130
    assert len(rows_of(tmp_path / "out" / "points.csv")) == len(rows_of(tmp_path / "out" / "summary.csv")) == 3
    assert "interrupted" in capsys.readouterr().err


def test_points_of_other_columns_are_refused(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text("file,bytes\n")
    with pytest.raises(ValueError, match="columns"):
        Points(path, images.BENCHMARK.columns)


def test_a_setting_that_lacks_files_has_no_mean(tmp_path, picture, capsys):
    other = picture.with_name("other.png")
    Image.fromarray(np.full((200, 200, 3), 90, np.uint8)).save(other)
    output = tmp_path / "out"
    arguments = ["--input", str(picture.parent), "--output", str(output), "--codecs", "jpeg"]
    options = common.benchmark_parser(images.BENCHMARK, "").parse(arguments)
    sources, _ = common.find_sources(images.BENCHMARK, options)
    (codec,) = images.jpeg(None)
    points = Points(output / "points.csv", images.BENCHMARK.columns)
    for setting, source in (("5", sources[0]), ("8", sources[0]), ("8", sources[1])):
        points.add(common.measure(images.BENCHMARK.kind, codec, setting, source, points))
    curve = common.mean_curves(images.BENCHMARK, [codec], sources, points)["jpeg"]
    assert [(point["setting"], point["files"]) for point in curve.points] == [("8", 2)]
    sizes = [points.get(source.key(codec, "8"))["bytes"] for source in sources]
    assert curve.points[0]["bytes"] == sum(sizes) / 2
    assert "jpeg at 5: 1 of 2" in capsys.readouterr().err


def curve(label, factor, group="others"):
    """Of `factor` times the rates of others at the same qualities."""
    points = [
        {"bpp": factor * rate, "psnr_db": 20.0 + 5 * index, "ms_ssim": 1 - 0.1 / rate, "encode_seconds": rate}
        for index, rate in enumerate((1, 2, 4, 8))
    ]
    return Curve(label, points, group)


def test_bd_table():
    high = Curve("High", [{"bpp": 1.0, "psnr_db": 34.9}, {"bpp": 2.0, "psnr_db": 50.0}], "others")
    curves = {
        "jpeg": curve("JPEG", 1),
        "half": curve("Half", 0.5, "ours"),
        "high": high,
        "published bpg": curve("BPG", 2, "published"),
    }
    lines = common.bd_table(images.BENCHMARK, curves).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == [
        "",
        "bpp",
        "PSNR (dB) against JPEG",
        "MS-SSIM (dB) against JPEG",
        "PSNR (dB) against BPG",
        "MS-SSIM (dB) against BPG",
    ]
    assert cells[2] == ["JPEG", "1 to 8", "0", "0", "-50.0 %", "-50.0 %"]
    assert cells[3] == ["Half", "0.5 to 4", "-50.0 %", "-50.0 %", "-75.0 %", "-75.0 %"]
    assert cells[4][2:] == ["", "", "", ""]  # hardly a common quality, no MS-SSIM


@pytest.mark.parametrize("module", [images, speech])
def test_published_figures_belong_to_their_files(module):
    benchmark = module.BENCHMARK
    carried = json.loads(benchmark.published.read_text())
    assert len(set(carried["files"])) == {"image": 24, "speech": 48}[benchmark.kind.name]
    for entry in carried["curves"].values():
        assert entry["source"] in carried["sources"]
        lengths = {len(values) for values in entry.values() if isinstance(values, list)}
        assert len(lengths) == 1

    class Named:
        def __init__(self, name):
            self.item = common.Item(None, common.Path(name))

    curves = common.published_curves(benchmark, [Named(name) for name in carried["files"]])
    assert len(curves) == len(carried["curves"])
    assert not common.published_curves(benchmark, [Named(name) for name in carried["files"][1:]])


@pytest.mark.parametrize("module", [images, speech])
def test_dry_run_does_nothing(module, tmp_path, capsys):
    assert module.main(["--dry-run", "--output", str(tmp_path / "out")]) == 0
    assert not (tmp_path / "out").exists()
    assert "iterations" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        module.main(["--codecs", "mp3"])


# -- realism and search ----------------------------------------------------------------------------


def test_sliced_wasserstein_tells_a_blurred_picture_from_other_patches_of_the_same(texture_image):
    from scipy.ndimage import gaussian_filter

    from benchmarks.realism import laplacian_pyramid, patches, sliced_wasserstein

    def finest(pixels, seed):
        return patches(laplacian_pyramid(pixels), np.random.default_rng(seed))[0]

    blurred = gaussian_filter(texture_image, (2, 2, 0))
    rng = np.random.default_rng(0)
    same = sliced_wasserstein(finest(texture_image, 1), finest(texture_image, 1), rng)
    alike = sliced_wasserstein(finest(texture_image, 1), finest(texture_image, 2), rng)
    unlike = sliced_wasserstein(finest(texture_image, 1), finest(blurred, 1), rng)
    assert same == 0 and alike < 0.5 * unlike


def test_laplacian_pyramid_has_what_the_picture_has(texture_image):
    from benchmarks.realism import laplacian_pyramid

    bands = laplacian_pyramid(texture_image)
    assert [band.shape for band in bands] == [(203, 251, 3), (102, 126, 3), (51, 63, 3), (26, 32, 3)]
    assert abs(bands[-1].mean() - texture_image.mean()) < 8 and all(abs(band.mean()) < 1 for band in bands[:-1])


def test_realism_benchmark_prints_both_generators(tiny_checkpoints, tmp_path, capsys, texture_image):
    from PIL import Image

    from benchmarks import realism

    Image.fromarray(texture_image).save(tmp_path / "a.png")
    arguments = ["--input", str(tmp_path), "--quality", "3", "--checkpoint"]
    assert realism.main([*arguments, str(tiny_checkpoints["image"])]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 6 and lines[5].startswith(f"Means over 1 file of {tmp_path.name}; image.safetensors ")
    assert lines[2].startswith("| 3 | 0 |") and lines[3].startswith("| 3 | 1 |")
    for line in lines[2:4]:  # of 203 rows there are four levels
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        assert len(cells) == lines[0].count("|") - 1 == 9 and cells[7] == ""
        assert float(cells[8]) == pytest.approx(np.mean([float(cell) for cell in cells[3:7]]), abs=0.11)
    assert realism.main([*arguments, str(tiny_checkpoints["image_faithful"])]) == 1
    assert "no realistic generator" in capsys.readouterr().err


@pytest.mark.parametrize("kind, crop", [("image", "64"), ("speech", "0.8")])
def test_search_benchmark_compares_methods_with_none(
    tiny_checkpoints, tmp_path, capsys, texture_image, voiced_clip, kind, crop
):
    import soundfile
    from PIL import Image

    from benchmarks import search

    if kind == "image":
        Image.fromarray(texture_image).save(tmp_path / "a.png")
    else:
        soundfile.write(tmp_path / "a.wav", voiced_clip, 16000)
    source = next(tmp_path.glob("a.*"))
    arguments = [
        "--signal",
        kind,
        "--crop",
        crop,
        "--input",
        str(source),
        "--checkpoint",
        str(tiny_checkpoints[kind]),
        "--search",
        "admm",
        "round",
        "--iterations",
        "2",
        "3",
        "--quality",
        "2",
        "5",
        "8",
        "--output",
        str(tmp_path / "out"),
    ]
    assert search.main(arguments) == 0
    table = (tmp_path / "out" / "search.md").read_text()
    fingerprint = load_codec(tiny_checkpoints[kind]).fingerprint.hex()
    assert (
        table.count("\n") == 2 + 2 * 2 + 2 and f"1 file of {tmp_path.name}; {kind}.safetensors {fingerprint}; " in table
    )
    (run,) = json.loads((tmp_path / "out" / "conditions.json").read_text())
    assert run["command"].startswith(f"python -m benchmarks.search --signal {kind} --crop {crop} ")
    assert "| round, 3 iterations |" in table and "| 2 iterations |" in table
    points = (tmp_path / "out" / "points.csv").read_text().splitlines()
    assert len(points) == 1 + 3 * (1 + 2 * 2)
    if (tmp_path / "out" / "search.png").exists():
        assert Image.open(tmp_path / "out" / "search.png").size[0] > 600
    # points of another part of the file are others; the benchmarks of whole files read whole files still
    assert search.main([*arguments, "--crop", {"image": "96", "speech": "1"}[kind]]) == 0
    more = (tmp_path / "out" / "points.csv").read_text().splitlines()
    assert more[: len(points)] == points and len(more) == 2 * len(points) - 1
    whole = search.BENCHMARKS[kind].kind.read(source)
    assert whole.shape == (texture_image if kind == "image" else voiced_clip).shape
    with pytest.raises(SystemExit):
        search.main([*arguments, "--codecs", "jpeg"])


def test_half_the_bits_of_no_search_are_50_percent_less():
    from benchmarks import search

    curves = {"bpgan-0": curve("BPGAN, no search", 1), "bpgan-9": curve("BPGAN, 9 iterations", 0.5)}
    (row,) = search.comparison(images.BENCHMARK, curves)
    half = pytest.approx(-50)
    assert row == {"curve": "9 iterations", "seconds": 15 / 4, "psnr_db": half, "ms_ssim": half}


# -- gray pictures -------------------------------------------------------------------------------------


def test_the_table_of_gray_pictures(codecs, picture, tiny_checkpoints, capsys):
    """The middle of each, coded as color and as gray."""
    arguments = ["--input", picture, "--checkpoint", tiny_checkpoints["image"], "--quality", 5, "--iterations", 3]
    assert gray.main([*map(str, arguments), "--side", "64", "--device", "cpu"]) == 0
    middle = np.asarray(Image.open(picture).convert("L"))[69:133, 93:157]
    originals = np.dstack([middle] * 3), middle
    files = [codecs["image"].compress(pixels, 5, Settings.of("admm", 3)) for pixels in originals]
    decoded = [codecs["image"].decompress(data) for data in files]
    sizes = " | ".join(str(len(data)) for data in files)
    scores = " | ".join(f"{codecs['image'].kind.score(*pair)['psnr_db']:.2f}" for pair in zip(originals, decoded))
    tint = np.ptp(decoded[0].astype(int), axis=2).max()
    assert capsys.readouterr().out.splitlines()[-1] == f"| 3 | 5 | {sizes} | {scores} | {tint} |"


# -- entropy coders ------------------------------------------------------------------------------------


def test_the_table_of_coders_has_every_registered_one(
    codecs, ramp_image, tiny_checkpoints, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(CODERS, "new", CODERS["context"])  # the checkpoint has no tables for it
    Image.fromarray(ramp_image).save(tmp_path / "a.png")
    arguments = ["--input", str(tmp_path), "--checkpoint", str(tiny_checkpoints["image"]), "--quality", "3"]
    assert coders.main(arguments) == 0
    heading, _, row, _, about = capsys.readouterr().out.splitlines()
    assert about.startswith("Means over 1 file of ") and codecs["image"].fingerprint.hex() in about
    cells = dict(zip(heading.split(" | "), row.split(" | ")))
    assert set(CODERS) < set(cells) and cells["new"].strip() == ""
    sizes = {
        name: len(codecs["image"].compress(ramp_image, 3, Settings.of("none", entropy_coder=name)))
        for name in codecs["image"].coders
    }
    assert {name: int(cells[name]) for name in sizes} == sizes
    assert float(cells["context ms"]) > 0 and int(cells["first order"]) > 0


def test_pictures_are_the_same_for_all_codecs(tmp_path, codecs, monkeypatch):
    """Gray in three channels, and transparent ones on a white page: what most codecs cannot keep is no error of theirs."""
    rng = np.random.default_rng(0)
    pixels = np.repeat(np.repeat(rng.integers(0, 256, (8, 8, 4), np.uint8), 8, 0), 8, 1)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "b.png")
    read = images.BENCHMARK.kind.read
    share = pixels[..., 3:] / 255
    np.testing.assert_allclose(read(tmp_path / "a.png"), 255 + share * (pixels[..., :3] - 255.0), atol=1)
    assert np.array_equal(read(tmp_path / "b.png"), np.repeat(pixels[..., :1], 3, 2))
    for name in ("a.png", "b.png"):
        original = read(tmp_path / name)
        (codec,) = images.webp(None)
        assert psnr(original, codec.decode(codec.encode(original, "87").data, "87")) > 25
        own = codecs["image"]
        assert own.decompress(own.compress(original, 3, "none")).shape == original.shape


def test_conditions_of_a_table_are_those_of_all_runs(tmp_path):
    common_facts = {"bpgan": "1", "checkpoints": [], "device": "cpu", "instruction_set": "AVX2"}
    runs = [{**common_facts, "cpu": "one", "threads": threads} for threads in (2, 1)]
    shown = {name: conditions.over_all_runs(tmp_path, runs[0])[name] for name in ("cpu", "threads")}
    assert shown == {"cpu": "one", "threads": "2"}
    for run in runs:
        conditions.note_conditions(tmp_path, run)
    found = conditions.over_all_runs(tmp_path, runs[0])
    assert conditions.caption(found, 1, [tmp_path]).endswith("; one, AVX2, 1 or 2 threads")
    assert conditions.caption(runs[1], 1, [tmp_path]).endswith("; one, AVX2, 1 thread")
