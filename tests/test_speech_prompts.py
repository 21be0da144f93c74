"""Prompts out of tiny packages that are made here: no network, no apt-get."""

import csv
import io
import shutil
import subprocess
import tarfile

import numpy as np
import pytest
import soundfile

from data import download, speech_prompts
from data.speech_prompts import Package, PromptsError

EXCHANGE = Package("a-prompts", "exchange", speech_prompts._EXCHANGE, "CC BY 3.0", "Ann")
WORDS = Package("b-words", "klettres", r"words/(?P<language>[^/]+)/(?P<clip>.+)\.(ogg|wav)", "GPL 2", "Bob")


def voice(seconds, seed=0, rate=16000, peak=0.5):
    """Harmonics that swell and fade four times a second, and half a second of silence around them."""
    time = np.arange(int(seconds * rate)) / rate
    tone = sum(np.sin(2 * np.pi * 130 * (1 + seed / 50) * k * time) / k for k in range(1, 25))
    tone *= 0.55 + 0.45 * np.sin(2 * np.pi * 4 * time)
    pause = np.zeros(rate // 2)
    return np.concatenate([pause, peak * tone / np.abs(tone).max(), pause])


def wav(samples, rate=16000):
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format="WAV", subtype="PCM_16")
    return stream.getvalue()


def raw(samples, name, codec, rate):
    """As FFmpeg's muxer of a raw format writes it."""
    import av

    stream = io.BytesIO()
    with av.open(stream, "w", format=name) as container:
        out = container.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray((samples * 32767).astype(np.int16)[None], "s16", "mono")
        frame.sample_rate = rate
        for packet in [*out.encode(frame), *out.encode(None)]:
            container.mux(packet)
    return stream.getvalue()


def deb(folder, name, files, suffix="xz"):
    """A Debian package with these files (path: bytes)."""
    folder.mkdir(exist_ok=True)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=f"w:{suffix}") as tar:
        for path, content in {f"usr/share/doc/{name}/copyright": b"the terms", **files}.items():
            member = tarfile.TarInfo("./" + path)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    data = b"!<arch>\n"
    for member, content in (
        ("debian-binary", b"2.0\n"),
        ("control.tar.gz", b"odd"),
        (f"data.tar.{suffix}", stream.getvalue()),
    ):
        header = f"{member:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n"
        data += header.encode() + content + b"\n" * (len(content) % 2)
    path = folder / f"{name}_1.0-1_all.deb"
    path.write_bytes(data)
    return path


@pytest.fixture
def packages(tmp_path, monkeypatch):
    sounds = "usr/share/asterisk/sounds"
    files = {
        f"{sounds}/fr_CA_f_June/dictate/pause.g722": raw(voice(2), "g722", "g722", 16000),
        f"{sounds}/fr_CA_f_June/letters/a.g722": raw(voice(0.5), "g722", "g722", 16000),
        f"{sounds}/fr_CA_f_June/beep.g722": raw(voice(3, 9), "g722", "g722", 16000),
        f"{sounds}/fr_CA_f_June/vm-hot.wav": wav(np.clip(5 * voice(2, 1), -1, 1)),
        f"{sounds}/fr_CA_f_June/readme.txt": b"no sound",
        f"{sounds}/it_IT_m_Carlo/phone.wav": wav(voice(2, 2, 8000), 8000),
    }
    deb(tmp_path / "debs", EXCHANGE.name, files)
    words = {f"usr/share/words/es/word{i:02}.wav": wav(voice(4 if i < 8 else 2, i)) for i in range(10)}
    words["usr/share/words/es/word02_again.wav"] = words["usr/share/words/es/word02.wav"]
    words["usr/share/words/de/odd.ogg"] = b"OggS is not all"
    words["usr/share/words/de/wort.wav"] = wav(voice(2, 7))
    deb(tmp_path / "debs", WORDS.name, words, "gz")
    monkeypatch.setattr(speech_prompts.build, "__defaults__", (None, (EXCHANGE, WORDS)))
    return tmp_path / "debs"


def run(output, packages):
    return download.main(["speech_prompts", "--output", str(output), "--packages", str(packages)])


def names(folder):
    return sorted(path.name for path in folder.glob("*.flac"))


def test_the_set(packages, tmp_path, capsys):
    output = tmp_path / "set"
    assert run(output, packages) == 0
    assert "2 in train, 7 in val, 4 in test" in capsys.readouterr().out
    assert names(output / "train") == [
        "prompt_exchange_fr_june_dictate-pause.flac",
        "prompt_klettres_de_de_wort.flac",
    ]
    validated = names(output / "val")
    assert validated[0] == "prompt_exchange_it_carlo_phone.flac"
    assert all(int(name[-7:-5]) < 8 for name in validated[1:])  # the short ones are for tests
    samples, rate = soundfile.read(output / "train" / "prompt_exchange_fr_june_dictate-pause.flac")
    assert rate == 16000 and 2.0 < len(samples) / rate < 2.4  # of 3 s, the pauses are cut
    with open(output / "index" / "a-prompts_1.0-1_all.csv", newline="") as file:
        rows = {row["speaker"]: row for row in csv.DictReader(file)}
    assert 3000 < int(rows["carlo"]["highest_hz"]) <= 4000 and rows["carlo"]["split"] == "val"
    assert rows["june"]["language"] == "fr" and rows["june"]["source"] == "exchange"
    for split in speech_prompts.SPLITS:
        said = (output / split / "LICENSES.txt").read_text()
        for line, source in (
            ("a-prompts 1.0-1: CC BY 3.0, Ann", "exchange"),
            ("b-words 1.0-1: GPL 2, Bob", "klettres"),
        ):
            there = any(f"_{source}_" in name for name in names(output / split))
            assert (f"Debian package {line}\n" in said) == there, split
    assert (output / "licenses" / "b-words.txt").read_text() == "the terms"


@pytest.mark.slow
def test_another_run_goes_on(packages, tmp_path, monkeypatch):
    output = tmp_path / "set"
    write = speech_prompts._write
    n_written = 0

    def interrupted(path, signal):
        nonlocal n_written
        n_written += 1
        if n_written == 4:
            raise KeyboardInterrupt
        write(path, signal)

    monkeypatch.setattr(speech_prompts, "_write", interrupted)
    assert run(output, packages) == 1
    assert not (output / "train" / "LICENSES.txt").exists()
    done = (output / "train" / "prompt_exchange_fr_june_dictate-pause.flac").stat()
    monkeypatch.setattr(speech_prompts, "_write", write)
    assert run(output, packages) == 0
    assert sum(len(names(output / split)) for split in speech_prompts.SPLITS) == 13
    assert (output / "train" / "prompt_exchange_fr_june_dictate-pause.flac").stat().st_ino == done.st_ino


def test_a_missing_and_a_damaged_package_are_a_line_each(packages, tmp_path, capsys):
    archive = packages / "b-words_1.0-1_all.deb"
    archive.write_bytes(archive.read_bytes()[:-3000])
    (packages / "a-prompts_1.0-1_all.deb").unlink()
    assert run(tmp_path / "set", packages) == 1
    said = capsys.readouterr()
    assert "a-prompts: no a-prompts_*.deb in" in said.err and "2 packages are missing" in said.err
    assert "b-words_1.0-1_all.deb: not a Debian package, or damaged" in said.err
    assert "Traceback" not in said.err
    assert run(tmp_path / "set", tmp_path / "nowhere") == 1
    assert "nowhere: no such folder" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"!<arch>\n", b"PK\3\4" * 50, b"!<arch>\n" + b"x" * 200])
def test_what_is_no_package(tmp_path, content):
    path = tmp_path / "a_1_all.deb"
    path.write_bytes(content)
    with pytest.raises(PromptsError, match="a_1_all.deb: not a Debian package"):
        list(speech_prompts.members(path))


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no dpkg-deb")
def test_packages_that_dpkg_makes(tmp_path):
    (tmp_path / "tree" / "DEBIAN").mkdir(parents=True)
    (tmp_path / "tree" / "DEBIAN" / "control").write_text(
        "Package: a\nVersion: 1\nArchitecture: all\nMaintainer: A <a@example.org>\nDescription: a\n"
    )
    (tmp_path / "tree" / "file").write_bytes(b"content")
    for method in ("xz", "zstd"):
        made = ["dpkg-deb", "--root-owner-group", f"-Z{method}", "-b", tmp_path / "tree", tmp_path / "a_1_all.deb"]
        subprocess.run(made, check=True, capture_output=True)
        assert list(speech_prompts.members(tmp_path / "a_1_all.deb")) == [("file", b"content")]


def test_apt_get_fetches_once(tmp_path, monkeypatch):
    calls = []

    def apt_get(command, cwd, **options):
        calls.append(command[-1])
        if command[-1] == "absent":
            return subprocess.CompletedProcess(command, 100, "", "W: odd\nE: Unable to locate package absent\n")
        (tmp_path / cwd / f"{command[-1]}_1_all.deb").write_bytes(b"package")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(speech_prompts.subprocess, "run", apt_get)
    monkeypatch.setattr(speech_prompts.shutil, "which", lambda name: name)
    for _ in range(2):
        assert speech_prompts.fetch(tmp_path / "debs", "a").read_bytes() == b"package"
    assert calls == ["a"]
    with pytest.raises(PromptsError, match="absent: Unable to locate package absent; `apt-get update`"):
        speech_prompts.fetch(tmp_path / "debs", "absent")
    assert [path.name for path in (tmp_path / "debs").iterdir()] == ["a_1_all.deb"]
    monkeypatch.setattr(speech_prompts.shutil, "which", lambda name: None)
    with pytest.raises(PromptsError, match="no apt-get; name a folder"):
        speech_prompts.fetch(tmp_path / "debs", "b")


@pytest.mark.parametrize("arguments", [["speech_prompts", "--count", "3"], ["kodak", "--packages", "debs"]])
def test_options_of_the_other_corpora(arguments):
    with pytest.raises(SystemExit) as stop:
        download.main(arguments)
    assert stop.value.code == 2


def test_english_prompts_of_the_exchange_stay_out():
    assert not any(package.name.startswith("asterisk-core-sounds-en") for package in speech_prompts.PACKAGES)


@pytest.mark.parametrize(
    "package, path, name",
    [
        ("festvox-ru", "festival/voices/russian/msu_ru_nsh_clunits/wav/ru_0113.wav", "festvox_ru_nsh_ru-0113"),
        ("festvox-ru", "festival/voices/russian/msu_ru_nsh_clunits/mcep/ru_0113.mcep", None),
        ("tuxpaint-stamps-default", "tuxpaint/stamps/food/egg_desc_ru.ogg", "tuxpaint_ru_ru_food-egg"),
        ("tuxpaint-stamps-default", "tuxpaint/stamps/food/egg_desc_pt_BR.wav", "tuxpaint_pt-br_pt-br_food-egg"),
        ("tuxpaint-stamps-default", "tuxpaint/stamps/food/egg_desc_es.ogg", None),
        ("tuxpaint-stamps-default", "tuxpaint/stamps/food/egg_desc.ogg", None),
        ("tuxpaint-stamps-default", "tuxpaint/stamps/food/egg.ogg", None),
    ],
)
def test_what_is_speech_in_a_package(tmp_path, monkeypatch, package, path, name):
    """Of stamps neither what they sound like, nor the Spanish that the test set leaves out."""
    (package,) = (each for each in speech_prompts.PACKAGES if each.name == package)
    monkeypatch.setattr(speech_prompts, "members", lambda archive: iter([(f"usr/share/{path}", b"")]))
    monkeypatch.setattr(speech_prompts, "_read", lambda *_: voice(2).astype(np.float32))
    if name is None:
        with pytest.raises(PromptsError, match="holds no speech"):
            speech_prompts.convert(tmp_path / "a.deb", package, tmp_path)
    else:
        assert speech_prompts.convert(tmp_path / "a.deb", package, tmp_path) == 1
        assert [path.name for path in (tmp_path / "train").iterdir()] == [f"prompt_{name}.flac"]
