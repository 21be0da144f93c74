"""Listing: plain folders, the TIMIT layout in its distributions, and BPGAN_DATA."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from data import KINDS, build_kind, corpora, folders
from data.folders import prompt_name
from data.images import ImageKind
from data.speech import SpeechKind
from models.config import STRIDE, ModelConfig

AUDIO = (".wav", ".flac")


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def listed(paths, root):
    return [path.relative_to(root).as_posix() for path in paths]


def test_list_files_is_recursive_sorted_and_skips_hidden(tmp_path):
    touch(
        tmp_path,
        "b.png",
        "a/z.JPG",
        "a/y.Png",
        "notes.txt",
        ".hidden.png",
        ".git/c.png",
        "a/.cache/d.png",
        "a/list.csv",
        "no_suffix",
    )
    found = ImageKind().list_files(tmp_path, "val")
    assert listed(found, tmp_path) == ["a/y.Png", "a/z.JPG", "b.png"]
    assert listed(folders.list_files(str(tmp_path), AUDIO), tmp_path) == []


def test_a_hidden_folder_above_the_root_does_not_matter(tmp_path):
    touch(tmp_path, ".data/a.png")
    found = folders.list_files(tmp_path / ".data", ImageKind.suffixes)
    assert listed(found, tmp_path) == [".data/a.png"]


def test_links_are_followed_once(tmp_path):
    touch(tmp_path, "elsewhere/a.png", "root/b.png")
    (tmp_path / "root" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "up").symlink_to(tmp_path / "root")
    found = folders.list_files(tmp_path / "root", ImageKind.suffixes)
    assert listed(found, tmp_path / "root") == ["b.png", "linked/a.png"]


def test_no_folder(tmp_path):
    touch(tmp_path, "a.png")
    for root in (tmp_path / "missing", tmp_path / "a.png"):
        with pytest.raises(ValueError, match="no such folder"):
            folders.list_files(root, ImageKind.suffixes)
        with pytest.raises(ValueError, match="no such folder"):
            folders.is_timit(root)


@pytest.fixture(params=[("", str.upper), ("timit/timit/", str.lower), ("data/", str.upper)])
def timit(request, tmp_path):
    """A small TIMIT of real SPHERE files, in upper and lower case, at three depths."""
    prefix, case = request.param
    for name in (
        "TRAIN/DR1/FCJF0/SA1",
        "TRAIN/DR1/FCJF0/SI648",
        "TRAIN/DR8/MBCG0/SA2",
        "TRAIN/DR8/MBCG0/SX57",
        "TEST/DR1/FAKS0/SA1",
        "TEST/DR1/FAKS0/SX43",
    ):
        path = tmp_path / (prefix + case(name + ".WAV"))
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.zeros(160), 16000, format="NIST", subtype="PCM_16")
        path.with_suffix(case(".PHN")).touch()
    return tmp_path


def test_timit_train_leaves_out_sa_and_test_is_complete(timit):
    assert folders.is_timit(timit)
    train, test = (folders.timit_files(timit, split) for split in ("train", "test"))
    assert [path.name.lower() for path in train] == ["si648.wav", "sx57.wav"]
    assert [path.name.lower() for path in test] == ["sa1.wav", "sx43.wav"]
    assert all("train" in path.as_posix().lower() for path in train)
    assert len(folders.list_files(timit, AUDIO)) == 6
    assert soundfile.info(train[0]).format == "NIST"


def test_timit_with_converted_copies(timit):
    for path in folders.list_files(timit, AUDIO):
        path.with_name(path.name + ".wav").touch()
    assert len(folders.timit_files(timit, "train")) == 2
    assert len(folders.list_files(timit, AUDIO)) == 6


def test_not_timit(tmp_path):
    touch(tmp_path, "train/a.wav", "test/b.wav")
    assert not folders.is_timit(tmp_path)
    with pytest.raises(ValueError, match="TIMIT layout"):
        folders.timit_files(tmp_path, "train")
    with pytest.raises(ValueError, match="train, test"):
        folders.timit_files(tmp_path, "val")


@pytest.mark.parametrize(
    "signal, split, folder",
    [
        ("image", "train", "images/train"),
        ("image", "val", "images/val"),
        ("image", "test", "kodak"),
        ("speech", "train", "speech/train"),
        ("speech", "test", "speech/test"),
    ],
)
def test_default_dataroot(tmp_path, monkeypatch, signal, split, folder):
    monkeypatch.setenv("BPGAN_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="no such folder"):
        corpora.default_dataroot(signal, split)
    (tmp_path / folder).mkdir(parents=True)
    assert corpora.default_dataroot(signal, split) == tmp_path / folder


def test_default_dataroot_refuses(monkeypatch):
    monkeypatch.delenv("BPGAN_DATA", raising=False)
    with pytest.raises(ValueError, match="BPGAN_DATA is not set"):
        corpora.default_dataroot("image", "train")
    with pytest.raises(ValueError, match="music train"):
        corpora.default_dataroot("music", "train")


# -- what a kind of signal says of its files and sizes ------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_the_network_of_a_kind_fits_its_picture(name):
    kind = build_kind(name)
    config = ModelConfig(signal=name, **kind.network)
    assert config.in_channels == kind.channels
    rows, _ = kind.picture_shape((1, kind.usual_size_b or 1))
    assert config.latent_rows in (0, -(-rows // STRIDE))
    assert set(kind.folders) == {"train", "val", "test"}


def test_a_kind_lists_the_files_of_a_split(tmp_path):
    touch(tmp_path, "plain/b.png", "plain/a.flac")
    for split in ("train", "val", "test"):
        assert listed(build_kind("image").list_files(tmp_path / "plain", split), tmp_path) == ["plain/b.png"]
        assert listed(build_kind("speech").list_files(tmp_path / "plain", split), tmp_path) == ["plain/a.flac"]
    touch(tmp_path, *(f"timit/{split}/DR1/MABC0/{s}.WAV" for split in ("TRAIN", "TEST") for s in ("SA1", "SI2")))
    speech = build_kind("speech")
    assert listed(speech.list_files(tmp_path / "timit", "train"), tmp_path / "timit") == ["TRAIN/DR1/MABC0/SI2.WAV"]
    for split in ("val", "test"):
        assert speech.list_files(tmp_path / "timit", split) == folders.timit_files(tmp_path / "timit", "test")


@pytest.mark.parametrize(
    "name, speaker",
    [
        ("speech/train/0036_000360013.flac", "0036"),
        ("LibriSpeech/84/121123/84-121123-0000.flac", "84"),
        ("TIMIT/TRAIN/DR1/FCJF0/SI1027.WAV", "fcjf0"),
        (f"any/{prompt_name('fillets', 'cs', 'v', 'a clip')}", "fillets cs v"),
        (f"any/{prompt_name('klettres', 'pt-br', 'pt-br', 'a')}", "klettres pt pt-br"),
        ("podcast/monday.mp3", ""),
    ],
)
def test_speakers_are_told_by_names(name, speaker):
    assert SpeechKind().speaker_of(Path(name)) == speaker


def test_training_leaves_out_prompts_that_are_held_out_by_name(tmp_path):
    kept = ["prompt_asterisk-core_fr_june_a.flac", "prompt_klettres_pt-br_pt-br_es.flac", "es.flac"]
    held = [
        folders.prompt_name("asterisk-core", "es", "Allison", "dictate/a"),
        folders.prompt_name("klettres", "es_MX", "es_MX", "b"),
        folders.prompt_name("ktuberling", "sr@latin", "sr@latin", "c"),
        folders.prompt_name("asterisk-core", "it", "Carlo", "d_1"),
    ]
    assert held[3] == "prompt_asterisk-core_it_carlo_d-1.flac"
    touch(tmp_path, *kept, *held)
    speech = build_kind("speech")
    assert listed(speech.list_files(tmp_path, "train"), tmp_path) == sorted(kept)
    assert listed(speech.list_files(tmp_path, "val"), tmp_path) == sorted(kept + held)
