"""Every kind of sound file: all of it is read, and what ends early, is damaged or makes no sense is said."""

import argparse
import logging
import shutil
from io import BytesIO

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

import Compression_ADMM
import data.sound_files
from data.sound_files import read_mono
from data.speech import SpeechKind
from tests.helpers.scripts import table
from utils.batch.pipes import suffix_by_content

RATE = 16000


@pytest.fixture(scope="module")
def voice() -> np.ndarray:
    """float32 (40000,), 2.5 s at 16 kHz: syllables that grow louder, so that no two parts are alike."""
    time = np.arange(40000) / RATE
    tone = sum(np.sin(2 * np.pi * f * time + f) for f in (180, 360, 540, 1100))
    noise = 0.02 * np.random.default_rng(0).standard_normal(len(time))
    return (0.12 * (0.3 + time / 3) * np.sin(2 * np.pi * 3 * time) ** 2 * tone + noise * time / 9).astype(np.float32)


def encode(path, samples, codec, rate=RATE, container=None, muxer=None, bit_rate=None, copies=1, **options):
    """Write float32 (n,) by FFmpeg: the samples at 16 kHz, in as many streams as there are copies."""
    with av.open(str(path), "w", format=container, options=muxer or {}) as file:
        streams = [file.add_stream(codec, rate=rate, layout="mono", options=options) for _ in range(copies)]
        for stream in streams if bit_rate else []:
            stream.bit_rate = bit_rate
        file.start_encoding()
        for stream in streams:
            frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = RATE, 0
            resampler = av.AudioResampler(
                stream.codec_context.format, "mono", rate, frame_size=stream.codec_context.frame_size or 1024
            )
            for resampled in (*resampler.resample(frame), *resampler.resample(None)):
                file.mux(stream.encode(resampled))
            file.mux(stream.encode(None))
    return path


def by_ffmpeg(codec, **options):
    return lambda path, samples: encode(path, samples, codec, **options)


def by_libsndfile(subtype="PCM_16", rate=RATE, **options):
    return lambda path, samples: soundfile.write(path, samples[:: RATE // rate], rate, subtype=subtype, **options)


FRONT_INDEX = {"movflags": "faststart"}
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "300000"}
NO_XING = {"write_xing": "0"}
# Every suffix that is listed, and every other way in which a kind of file states its length.
FILES = {
    "a.wav": by_libsndfile(),
    "gsm.wav": by_libsndfile("GSM610", 8000),
    "adpcm.wav": by_libsndfile("IMA_ADPCM"),
    "float.wav": by_libsndfile("FLOAT"),
    "a.flac": by_libsndfile(),
    "ffmpeg.flac": by_ffmpeg("flac"),
    "a.ogg": by_libsndfile("VORBIS"),
    "a.oga": by_ffmpeg("flac", container="ogg"),
    "a.opus": by_ffmpeg("libopus", rate=48000),
    "a.mp3": by_ffmpeg("libmp3lame", rate=44100),
    "cbr_no_xing.mp3": by_ffmpeg("libmp3lame", rate=44100, muxer=NO_XING),
    "vbr_no_xing.mp3": by_ffmpeg("libmp3lame", muxer=NO_XING, flags="+qscale", global_quality=str(4 * 118)),
    "a.m4a": by_ffmpeg("aac", rate=44100, muxer=FRONT_INDEX),
    "lossless.m4a": by_ffmpeg("alac", muxer=FRONT_INDEX),
    "a.mp4": by_ffmpeg("aac", rate=44100, muxer=FRAGMENTS),
    "a.3gp": by_ffmpeg("libopencore_amrnb", rate=8000, muxer=FRONT_INDEX),
    "a.webm": by_ffmpeg("libopus", rate=48000),
    "live.webm": by_ffmpeg("libopus", rate=48000, muxer={"live": "1"}),
    "a.aac": by_ffmpeg("aac", rate=44100, container="adts"),
    "a.amr": by_ffmpeg("libopencore_amrnb", rate=8000),
    "a.wma": by_ffmpeg("wmav2", container="asf", rate=44100, bit_rate=96000),
    "a.sph": by_libsndfile(format="NIST"),
    "a.nist": by_libsndfile("ULAW", format="NIST"),
    "a.aif": by_libsndfile(format="AIFF"),
    "a.aiff": by_libsndfile("PCM_24"),
    "a.aifc": by_libsndfile("FLOAT", format="AIFF"),
    "gsm.aifc": by_libsndfile("GSM610", 8000, format="AIFF"),
    "a.au": by_libsndfile(),
    "a.snd": by_libsndfile("ULAW", format="AU"),
    "a.caf": by_libsndfile(),
    "lossless.caf": by_libsndfile("ALAC_16"),
    "a.w64": by_libsndfile(),
    "a.rf64": by_libsndfile(format="RF64"),
}
EXACT = {  # PCM and lossless kinds
    "a.wav",
    "float.wav",
    "a.flac",
    "ffmpeg.flac",
    "a.oga",
    "lossless.m4a",
    "a.sph",
    "a.aif",
    "a.aiff",
    "a.aifc",
    "a.au",
    "a.caf",
    "lossless.caf",
    "a.w64",
    "a.rf64",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory, voice):
    """name of FILES -> path; each file is made once."""
    folder = tmp_path_factory.mktemp("sound")

    def make(name):
        path = folder / name
        if not path.exists():
            FILES[name](path, voice)
        return path

    return make


def warnings(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def decoded_seconds(path) -> float:
    """What FFmpeg itself makes of the first sound stream."""
    with av.open(str(path)) as file:
        seconds = 0.0
        for packet in file.demux(audio=0):
            try:
                seconds += sum(frame.samples / frame.sample_rate for frame in packet.decode())
            except av.InvalidDataError:  # the padding of a chunk
                continue
        return seconds


def closeness(a, b) -> float:
    """Correlation over the samples that both have."""
    n = min(len(a), len(b))
    return float(np.corrcoef(a[:n], b[:n])[0, 1])


def test_every_suffix_is_tried():
    assert {name[name.index(".") :] for name in FILES} == set(SpeechKind.suffixes)


@pytest.mark.parametrize("name", FILES)
def test_whole_files_are_read_whole_and_in_silence(made, voice, name, caplog):
    path = made(name)
    signal = read_mono(path, RATE)
    assert not warnings(caplog)
    if name in EXACT:
        assert len(signal) == len(voice)
        np.testing.assert_allclose(signal, voice, atol=1.01 / 32768)
    else:
        assert abs(len(signal) / RATE - decoded_seconds(path)) <= 0.03
        assert -0.05 < len(signal) / RATE - 2.5 < 0.12  # delay and padding of the codec
        delay = 0 if abs(len(signal) - len(voice)) < 200 else None
        assert delay is None or closeness(signal, voice) > 0.7


@pytest.mark.parametrize("name", FILES)
def test_cut_files_are_read_up_to_the_cut_and_said(made, name, tmp_path, caplog):
    whole = read_mono(made(name), RATE)
    data = made(name).read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: len(data) * 6 // 10])
    caplog.clear()
    signal = read_mono(path, RATE)
    assert warnings(caplog) == [f"{path}: the file ends early; the {len(signal) / RATE:.1f} s that are there are used"]
    assert 0.3 * len(whole) < len(signal) < 0.7 * len(whole)  # an Ogg page may hold a second
    n = len(signal) - 2000  # a decoder may conceal the last frame
    assert closeness(signal[:n], whole[:n]) > 0.99


@pytest.mark.slow
def test_a_cut_file_is_coded_and_its_warning_seen(run, made, tmp_path, caplog):
    data = made("a.mp3").read_bytes()
    (tmp_path / "cut.mp3").write_bytes(data[: len(data) * 6 // 10])
    code, out, _ = run(
        Compression_ADMM, "--input", tmp_path / "cut.mp3", "--output", tmp_path / "out", "--search", "none"
    )
    assert code == 0 and "1 of 1 files" in out
    assert len(table(tmp_path / "out" / "metrics.csv")[1]) == 1
    assert len([line for line in warnings(caplog) if "cut.mp3: the file ends early" in line]) == 1


def test_mp4_cut_before_its_index_is_refused_in_these_words(voice, tmp_path):
    path = encode(tmp_path / "a.m4a", voice, "aac")
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(ValueError, match="ends before its index"):
        read_mono(path, RATE)


# ---- several in one file


@pytest.mark.parametrize("first", ["a.ogg", "a.opus", "a.oga"])
@pytest.mark.parametrize("second", ["a.ogg", "a.opus", "a.oga"])
def test_every_link_of_an_ogg_chain_is_read(made, first, second, tmp_path, caplog):
    """Also where codec and rate change from one to the next."""
    path = tmp_path / "chain.ogg"
    path.write_bytes(made(first).read_bytes() + made(second).read_bytes())
    expected = np.concatenate([read_mono(made(first), RATE), read_mono(made(second), RATE)])
    signal = read_mono(path, RATE)
    assert len(signal) == len(expected) and not warnings(caplog)
    assert closeness(signal, expected) > 0.999


@pytest.mark.parametrize("first, second", [("a.mp3", "a.mp3"), ("vbr_no_xing.mp3", "a.mp3")])
def test_joined_mp3_is_read_to_the_end(made, first, second, tmp_path, caplog):
    path = tmp_path / "joined.mp3"
    path.write_bytes(made(first).read_bytes() + made(second).read_bytes())
    assert 4.99 < len(read_mono(path, RATE)) / RATE < 5.25 and not warnings(caplog)


def test_several_streams_are_said(voice, tmp_path, caplog):
    path = encode(tmp_path / "two.mp4", voice, "aac", copies=2)
    assert len(read_mono(path, RATE)) >= len(voice)
    assert warnings(caplog) == [f"{path}: 2 sound streams; the first alone is read"]


def test_the_sound_of_a_film_is_read(voice, tmp_path, caplog):
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as file:
        video, sound = file.add_stream("mpeg4", rate=25), file.add_stream("aac", rate=RATE, layout="mono")
        video.width = video.height = 32
        for number in range(50):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), number, np.uint8), format="rgb24")
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
        for start in range(0, 32768, 1024):
            frame = av.AudioFrame.from_ndarray(voice[None, start : start + 1024], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = RATE, start
            file.mux(sound.encode(frame))
        file.mux(sound.encode(None))
    assert 32768 <= len(read_mono(path, RATE)) <= 32768 + 2048
    assert warnings(caplog) == [f"{path}: a film; its sound alone is read"]


def test_a_cover_makes_no_film(made, tmp_path, caplog):
    picture = BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    frame = b"\0image/png\0\x03\0" + picture.getvalue()
    tag = b"APIC" + len(frame).to_bytes(4, "big") + b"\0\0" + frame
    size = bytes((len(tag) >> 7 * place) & 127 for place in (3, 2, 1, 0))
    sound = made("vbr_no_xing.mp3").read_bytes()
    (tmp_path / "a.mp3").write_bytes(b"ID3\x03\0\0" + size + tag + sound)
    with av.open(str(tmp_path / "a.mp3")) as file:
        assert len(file.streams.video) == 1
    assert np.array_equal(read_mono(tmp_path / "a.mp3", RATE), read_mono(made("vbr_no_xing.mp3"), RATE))
    assert not warnings(caplog)


@pytest.mark.slow
def test_films_among_photographs_are_left_out_unless_they_are_named(run, made, tmp_path, caplog):
    """Their sound alone is not what a folder of photographs is for."""
    (tmp_path / "in").mkdir()
    shutil.copy(made("a.mp4"), tmp_path / "in" / "b.MP4")
    Image.new("RGB", (20, 20)).save(tmp_path / "in" / "a.png")
    arguments = ("--output", tmp_path / "out", "--search", "none")
    code, out, _ = run(Compression_ADMM, "--input", tmp_path / "in", *arguments)
    assert code == 0 and "1 of 1 files" in out and caplog.messages == ["1 file of other formats left out: .mp4"]
    code, out, _ = run(Compression_ADMM, "--input", tmp_path / "in" / "b.MP4", *arguments)
    assert code == 0 and (tmp_path / "out" / "b.wav").exists()


# ---- lengths that are not stated


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF000, 0x80000000])
def test_wav_of_unknown_size(made, voice, size, tmp_path, caplog):
    """A recorder that crashed, and programs that write to a pipe."""
    data = bytearray(made("a.wav").read_bytes())
    place = data.index(b"data") + 4
    data[place : place + 4] = size.to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(data)
    assert len(read_mono(tmp_path / "a.wav", RATE)) == len(voice) and not warnings(caplog)


@pytest.mark.parametrize("part", [1, 0.6])
def test_flac_without_a_number_of_samples(made, voice, part, tmp_path, caplog):
    data = bytearray(made("ffmpeg.flac").read_bytes())
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    (tmp_path / "a.flac").write_bytes(data[: int(part * len(data))])
    signal = read_mono(tmp_path / "a.flac", RATE)
    assert len(signal) == len(voice) if part == 1 else len(signal) > 0.4 * len(voice)
    assert ["ends early" in line for line in warnings(caplog)] == ([] if part == 1 else [True])


def test_tags_behind_mp3_are_no_early_end(made, tmp_path, caplog):
    data = made("vbr_no_xing.mp3").read_bytes()
    n = len(read_mono(made("vbr_no_xing.mp3"), RATE))
    for tag in (b"TAG" + b"a" * 125, b"APETAGEX" + b"\xd0\x07\0\0" + b"x" * 500):
        (tmp_path / "a.mp3").write_bytes(data + tag)
        assert abs(len(read_mono(tmp_path / "a.mp3", RATE)) - n) < 600
    assert not warnings(caplog)


def test_damage_inside_is_said(made, tmp_path, caplog):
    data = bytearray(made("ffmpeg.flac").read_bytes())
    for place in range(len(data) // 2, len(data) // 2 + 3000):
        data[place] ^= 0x5A
    (tmp_path / "a.flac").write_bytes(data)
    assert len(read_mono(tmp_path / "a.flac", RATE)) > 20000
    assert any("damaged" in line or "ends early" in line for line in warnings(caplog))


# ---- no sound


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "the file is empty"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "an HTML page"),
        (b"not a recording\n" * 9, "it is text"),
        ("kein Ton, nur Text: äöü\n".encode(), "it is text"),
        (b"\xff\xd8\xff\xe0" + b"JFIF" * 99, "a JPEG picture"),
        (b"PK\x03\x04" + bytes(99), "a ZIP archive"),
        (bytes(5000), "nothing but zeros"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9,\n/etc/hostname\n#EXT-X-ENDLIST\n", "a playlist"),
        (np.random.default_rng(0).bytes(3000), "of no known sound format"),
    ],
)
@pytest.mark.parametrize("suffix", [".mp3", ".wav"])
def test_what_is_no_sound_is_named(tmp_path, content, words, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        read_mono(path, RATE)
    assert str(error.value).startswith(f"{path}: not readable as sound: ") and words in str(error.value)


def test_no_other_file_is_opened(made, tmp_path):
    """A list of files for FFmpeg is no sound, and a colon in a name is no address."""
    (tmp_path / "list.wav").write_text(f"ffconcat version 1.0\nfile '{made('a.wav')}'\n")
    with pytest.raises(ValueError, match="it is text"):
        read_mono(tmp_path / "list.wav", RATE)
    odd = tmp_path / "http:a.wav"
    odd.write_bytes(made("a.wav").read_bytes())
    assert len(read_mono(odd, RATE)) == 40000


@pytest.mark.slow
def test_flipped_bytes_end_in_a_signal_or_one_line(made, tmp_path):
    rng = np.random.default_rng(0)
    for name in FILES:
        whole = np.frombuffer(made(name).read_bytes(), np.uint8)
        for most in (200, len(whole)):
            for _ in range(3):
                data = whole.copy()
                data[rng.integers(0, most, 8)] = rng.integers(0, 256, 8)
                path = tmp_path / name
                path.write_bytes(data.tobytes())
                try:
                    signal = read_mono(path, RATE)
                except ValueError as error:
                    assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
                else:
                    assert signal.dtype == np.float32 and len(signal) and np.abs(signal).max() <= 1


@pytest.mark.parametrize("error", [RuntimeError("of a decoder"), MemoryError(), KeyError("x")])
def test_no_other_exception_leaves(made, monkeypatch, error):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(av, "open", fail)
    with pytest.raises(ValueError, match=r"a\.wav: not readable as sound: "):
        read_mono(made("a.wav"), RATE)


def test_a_failing_disk_is_no_damaged_file(made, monkeypatch):
    def fail(*arguments):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(data.sound_files._Part, "read", fail)
    with pytest.raises((OSError, ValueError)) as error:
        read_mono(made("a.wav"), RATE)
    assert "Input/output error" in str(error.value)


# ---- offset, channels, range


def with_drift(voice):
    return voice + 0.2 * np.sin(2 * np.pi * 0.4 * np.arange(len(voice)) / RATE).astype(np.float32)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda voice: voice + np.float32(0.05),
        lambda voice: voice - np.float32(0.3),
        with_drift,
        lambda voice: voice + np.where(np.arange(len(voice)) > 20000, np.float32(0.2), np.float32(-0.2)),
    ],
    ids=["small", "large", "drift", "step"],
)
def test_offsets_are_removed(voice, tmp_path, spoil):
    soundfile.write(tmp_path / "a.wav", spoil(voice), RATE, subtype="FLOAT")
    signal = read_mono(tmp_path / "a.wav", RATE)
    assert abs(signal[:19000].mean()) < 0.003 and abs(signal[24000:].mean()) < 0.003
    clear = np.r_[2000:19000, 24000:38000]
    assert np.std(signal[clear] - voice[clear]) < 0.15 * np.std(voice)


def test_negligible_offsets_keep_every_bit(voice, tmp_path):
    for offset in (0, 10, 30):  # of 32768
        samples = np.round(voice * 32768).astype(np.int16) + np.int16(offset)
        soundfile.write(tmp_path / "a.wav", samples, RATE)
        np.testing.assert_array_equal(read_mono(tmp_path / "a.wav", RATE), samples / np.float32(32768))


@pytest.mark.slow
def test_an_offset_does_not_cost_pesq(tmp_path):
    pesq = pytest.importorskip("pesq").pesq
    speech = SpeechKind()
    sentence = speech.read(speech.samples()[0])
    sentence = sentence[:40000] * np.float32(0.4 / np.abs(sentence).max())
    scores = []
    for offset in (0, 0.3):
        soundfile.write(tmp_path / "a.wav", sentence + np.float32(offset), RATE, subtype="FLOAT")
        signal = speech.read(tmp_path / "a.wav")
        picture, level = speech.to_picture(signal)
        scores.append(pesq(RATE, sentence, speech.from_picture(picture, speech.size(signal), level), "wb"))
    assert scores[1] > scores[0] - 0.05


@pytest.mark.parametrize(
    "channels, chosen",
    [([1, -1], 0), ([0.9, -1], 1), ([1, -1, 0, 0], 0)],
    ids=["opposite", "nearly opposite", "with silent ones"],
)
@pytest.mark.parametrize("offset", [0, 0.1])
def test_channels_that_cancel_are_not_averaged(voice, tmp_path, caplog, channels, chosen, offset):
    path = tmp_path / "a.wav"
    samples = np.stack([voice * np.float32(gain) for gain in channels], axis=1)
    soundfile.write(path, samples + offset, RATE, subtype="FLOAT")
    notes = []
    signal = read_mono(path, RATE, inform=notes.append)
    assert closeness(signal, samples[:, chosen]) > 0.98
    assert abs(np.std(signal) / np.std(samples[:, chosen]) - 1) < 0.02
    assert warnings(caplog) == [
        f"{path}: the {len(channels)} channels cancel each other in an average; channel {chosen + 1} alone is used"
    ]
    assert not any("averaged" in note for note in notes)


@pytest.mark.parametrize("channels", [[1, 1], [1, 0], [1, 0, 0, 0, 0, 0, 0, 0], [1, -0.5], [0, 0]])
def test_other_channels_are_averaged(voice, tmp_path, caplog, channels):
    samples = np.stack([voice * np.float32(gain) for gain in channels], axis=1)
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    np.testing.assert_array_equal(read_mono(tmp_path / "a.wav", RATE), samples.mean(axis=1))
    assert not warnings(caplog)


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
@pytest.mark.parametrize("bits", [16, 24, 32])
def test_integers_in_a_float_file_are_scaled(voice, tmp_path, caplog, bits, subtype):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.round(0.9 / np.abs(voice).max() * voice * 2.0 ** (bits - 1)), RATE, subtype=subtype)
    signal = read_mono(path, RATE)
    assert np.abs(signal).max() == pytest.approx(0.9, abs=1e-3) and closeness(signal, voice) > 0.9999
    assert len(warnings(caplog)) == 1 and f"{bits}-bit integers" in warnings(caplog)[0]


@pytest.mark.parametrize("peak", [3.0, 100.0, 1e11, 1e300])
def test_floats_that_fit_no_range_are_refused(voice, tmp_path, peak):
    soundfile.write(tmp_path / "a.wav", voice.astype(np.float64) / np.abs(voice).max() * peak, RATE, subtype="DOUBLE")
    with pytest.raises(ValueError, match=r"a\.wav: (its float samples reach|contains NaN or infinite)"):
        read_mono(tmp_path / "a.wav", RATE)


# ---- limits of memory


def test_blocks_join_without_a_seam(made, voice, tmp_path, monkeypatch):
    """Small blocks, at another rate, with two channels: as in one piece."""
    path = tmp_path / "a.wav"
    soundfile.write(path, np.stack([voice, 0.5 * voice], axis=1), 22050)
    whole = read_mono(path, RATE)
    monkeypatch.setattr(data.sound_files, "BLOCK_SAMPLES", 1000)
    np.testing.assert_allclose(read_mono(path, RATE), whole, atol=1e-6)


def test_the_check_of_the_length_ends_the_reading(made):
    seen = []

    def check(n_samples, n_declared):
        seen.append((n_samples, n_declared))
        raise ValueError("too large")

    with pytest.raises(ValueError, match=r"a\.flac: too large"):
        read_mono(made("a.flac"), RATE, check)
    assert seen == [(40000, 40000)]


@pytest.mark.parametrize("name", sorted(FILES))
def test_every_kind_is_known_by_its_content(made, name, tmp_path, caplog):
    """As it comes through a pipe: without a name, whole or cut; what is wrong with it is said by whoever reads it next."""
    content = made(name).read_bytes()
    path = tmp_path / "stdin"
    for part in (content, content[: len(content) * 3 // 5]):
        path.write_bytes(part)
        assert suffix_by_content(path, argparse.Namespace(max_pixels=None, max_seconds=None)) in SpeechKind.suffixes
    assert not warnings(caplog)


def with_data_size(path, n_bytes: int) -> None:
    """Writes another size into a WAV file's header: of the data, and of the whole."""
    content = bytearray(path.read_bytes())
    place = content.index(b"data") + 4
    content[place : place + 4] = n_bytes.to_bytes(4, "little")
    content[4:8] = (place + 4 + n_bytes - 8).to_bytes(4, "little")
    path.write_bytes(content)


@pytest.mark.parametrize("n_bytes", [100, 101, 40000])
def test_wav_that_goes_on_behind_its_size_is_read_whole(tmp_path, caplog, voice, n_bytes):
    """As where a recorder has crashed, or 4 GiB were passed."""
    path = tmp_path / "a.wav"
    soundfile.write(path, voice, RATE, subtype="PCM_16")
    whole = read_mono(path, RATE)
    with_data_size(path, n_bytes)
    assert np.array_equal(read_mono(path, RATE), whole)
    assert [
        r.getMessage().endswith("the sound goes on behind what its header counts; all 2.5 s are used")
        for r in caplog.records
    ] == [True]


CHUNK = b"junk" + (5000).to_bytes(4, "little") + bytes(range(1, 251)) * 20


@pytest.mark.parametrize("tail", [CHUNK, b"\0" + CHUNK, b"ID3\4" + bytes(range(256)) * 20, bytes(9000), b"x\1" * 99])
def test_what_else_follows_a_wav_s_samples_is_no_sound(tmp_path, caplog, voice, tail):
    path = tmp_path / "a.wav"
    soundfile.write(path, voice, RATE, subtype="PCM_16")
    whole = read_mono(path, RATE)
    path.write_bytes(path.read_bytes() + tail)
    assert np.array_equal(read_mono(path, RATE), whole) and not caplog.records


@pytest.mark.parametrize("samples", [1000, 4000, 9000, 15900, 16000, 20000, 33000])
def test_short_vorbis_has_its_length(tmp_path, caplog, voice, samples):
    path = tmp_path / "a.ogg"
    soundfile.write(path, voice[:samples], RATE, format="OGG", subtype="VORBIS")
    decoded = read_mono(path, RATE)
    assert len(decoded) == samples and not caplog.records
    np.testing.assert_allclose(decoded, soundfile.read(path, dtype="float32")[0], atol=1e-5)


def test_standard_input_tells_every_reason(tmp_path):
    path = tmp_path / "stdin"
    soundfile.write(path, np.full(4000, 9.0), RATE, format="WAV", subtype="FLOAT")
    with pytest.raises(ValueError, match=r"image: not an image .*; speech: .*9"):
        suffix_by_content(path, argparse.Namespace())
