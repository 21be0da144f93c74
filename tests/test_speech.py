"""Speech files in, pictures, waveforms and files out: exact where promised, close elsewhere."""

import logging
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

import data.speech
from data.speech import SpeechKind
from data.stft import SpeechSettings, to_decibels


@pytest.fixture(scope="module")
def speech() -> SpeechKind:
    return SpeechKind()


@pytest.fixture(scope="module", params=[{}, SpeechKind.new_settings], ids=["decibels", "loudness"])
def kind(request) -> SpeechKind:
    return SpeechKind(**request.param)


@pytest.fixture(scope="module")
def sentence(speech) -> np.ndarray:
    return speech.read(speech.samples()[0])


def round_trip(kind: SpeechKind, signal: np.ndarray) -> np.ndarray:
    picture, level = kind.to_picture(signal)
    return kind.from_picture(picture, kind.size(signal), level)


def sphere(samples: np.ndarray, rate: int) -> bytes:
    """A NIST SPHERE file as on the TIMIT disc: 1024 bytes of text, then 16-bit samples."""
    lines = [
        "NIST_1A",
        "   1024",
        f"sample_count -i {len(samples)}",
        f"sample_rate -i {rate}",
        "channel_count -i 1",
        "sample_n_bytes -i 2",
        "sample_byte_format -s2 01",
        "sample_sig_bits -i 16",
        "sample_coding -s3 pcm",
        "end_head",
    ]
    header = "\n".join(lines) + "\n"
    return header.encode().ljust(1024, b" ") + samples.astype("<i2").tobytes()


# ---- the picture


@pytest.mark.parametrize("n, frames", [(1, 1), (127, 1), (128, 2), (160, 2), (16000, 126), (16383, 128)])
def test_picture_shape(kind, n, frames):
    signal = np.random.default_rng(n).uniform(-0.5, 0.5, n).astype(np.float32)
    picture, level = kind.to_picture(signal)
    assert kind.size(signal) == (n, 16000)
    assert kind.picture_shape((n, 16000)) == (128, frames)
    assert picture.shape == (1, 128, frames) and picture.dtype == np.float32
    assert picture.min() >= -1 and picture.max() <= 1 and 1 <= level <= 255


def test_loudness_goes_into_the_level(kind, sentence):
    """6 dB are 12 steps of the level; the picture stays."""
    picture, level = kind.to_picture(sentence)
    softer, softer_level = kind.to_picture(sentence * np.float32(10 ** (-6 / 20)))
    assert level - softer_level == 12
    np.testing.assert_allclose(softer, picture, atol=1e-4)
    assert -0.5 < to_decibels(picture.max(), SpeechSettings(**kind.settings)) <= 0


def test_extremes_fit_the_level(kind):
    loud, soft = np.ones(16000, np.float32), np.zeros(16000, np.float32)
    soft[8000] = 1 / 32768
    for signal in (loud, -loud, np.sign(np.sin(np.arange(16000))).astype(np.float32), soft):
        picture, level = kind.to_picture(signal)
        assert 1 <= level <= 255 and -1 < picture.max() < 1


def test_chunked_picture_equals_unchunked(kind, monkeypatch):
    signal = np.random.default_rng(3).uniform(-0.5, 0.5, 50001).astype(np.float32)
    signal *= np.linspace(0, 1, len(signal), dtype=np.float32) ** 4
    whole, level = kind.to_picture(signal)
    monkeypatch.setattr(data.speech, "CHUNK_FRAMES", 37)
    chunked, chunked_level = kind.to_picture(signal)
    assert chunked_level == level
    np.testing.assert_allclose(chunked, whole, atol=1e-5)


def test_silence_within_a_clip_is_the_floor(kind, sentence):
    gap = np.concatenate([sentence[:16000], np.zeros(16000, np.float32), sentence[16000:32000]])
    picture, _ = kind.to_picture(gap)
    assert (picture[:, :, 130:246] < -0.9999).all()
    decoded = round_trip(kind, gap)
    assert np.abs(decoded[18000:30000]).max() <= 1 / 32768


# ---- and back


@pytest.mark.parametrize("n", [1, 2, 127, 128, 129, 160, 511, 513, 4001])
def test_exact_length(kind, n):
    signal = (0.4 * np.sin(0.3 * np.arange(n) + 1)).astype(np.float32)
    decoded = round_trip(kind, signal)
    assert decoded.shape == (n,) and decoded.dtype == np.float32
    assert np.isfinite(decoded).all() and np.abs(decoded).max() <= 1


def test_digital_silence_is_exact(kind):
    silence = np.zeros(5000, np.float32)
    picture, level = kind.to_picture(silence)
    assert level == 0 and (picture == -1).all()
    assert not kind.from_picture(picture, (5000, 16000), level).any()
    assert not kind.from_picture(picture, (5000, 16000), 200).any()
    assert not kind.from_picture(picture + 1, (5000, 16000), 0).any()


def test_full_scale_square_wave_stays_in_range(kind):
    signal = np.sign(np.sin(2 * np.pi * 200 / 16000 * np.arange(16000) + 0.1)).astype(np.float32)
    decoded = round_trip(kind, signal)
    assert decoded.min() >= -1 and decoded.max() <= 32767 / 32768
    assert 0.6 < np.sqrt(np.mean(decoded**2)) <= 1  # harmonics whose phases drift apart clip


def test_samples_are_those_of_a_16_bit_file(kind, sentence, tmp_path):
    decoded = round_trip(kind, sentence)
    scaled = decoded.astype(np.float64) * 32768
    np.testing.assert_array_equal(scaled, np.round(scaled))
    kind.write(tmp_path / "decoded.wav", decoded)
    info = soundfile.info(tmp_path / "decoded.wav")
    assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
    np.testing.assert_array_equal(kind.read(tmp_path / "decoded.wav"), decoded)
    assert [p.name for p in tmp_path.iterdir()] == ["decoded.wav"]


def test_decoding_is_deterministic(kind, sentence):
    picture, level = kind.to_picture(sentence)
    first = kind.from_picture(picture, kind.size(sentence), level)
    again = SpeechKind(**kind.settings).from_picture(picture.copy(), kind.size(sentence), level)
    np.testing.assert_array_equal(first, again)


def test_picture_is_clamped_and_cropped(kind, sentence):
    picture, level = kind.to_picture(sentence[:8000])
    expected = kind.from_picture(picture, (8000, 16000), level)
    outside = np.where(picture == -1, -3, picture).astype(np.float32)
    padded = np.pad(outside, ((0, 0), (0, 0), (0, 17)), mode="edge")
    np.testing.assert_array_equal(kind.from_picture(padded, (8000, 16000), level), expected)


def test_ceiling_on_the_shipped_sample(kind, sentence):
    import pesq
    import pystoi

    decoded = round_trip(kind, sentence)
    assert pesq.pesq(16000, sentence, decoded, "wb") > 4.2
    assert pystoi.stoi(sentence, decoded, 16000, extended=True) > 0.97


@pytest.mark.slow
def test_chunks_join_without_a_seam(kind, sentence, monkeypatch):
    """Decoded in many chunks, the waveform's picture is nowhere worse than decoded in one."""
    picture, level = kind.to_picture(sentence)
    size = kind.size(sentence)
    settings = SpeechSettings(**kind.settings)
    loud = to_decibels(picture[0], settings) > -40

    def error(decoded):
        again, its_level = kind.to_picture(decoded)
        difference = to_decibels(again[0], settings) - to_decibels(picture[0], settings) + (its_level - level) / 2
        return np.sqrt(np.sum((difference * loud) ** 2, axis=0) / np.maximum(loud.sum(axis=0), 8))

    whole = error(kind.from_picture(picture, size, level))
    monkeypatch.setattr(data.speech, "CHUNK_FRAMES", 150)
    chunked_signal = kind.from_picture(picture, size, level)
    chunked = error(chunked_signal)
    assert len(chunked_signal) == len(sentence)
    assert chunked.mean() < 1.1 * whole.mean() + 0.05
    assert chunked.max() < whole.max() + 1.5


@pytest.mark.parametrize(
    "n_frames", [151, 198, *(pytest.param(n, marks=pytest.mark.slow) for n in (150, 197, 199, 252, 253, 254))]
)
def test_any_number_of_frames_can_be_chunked(kind, sentence, monkeypatch, n_frames):
    monkeypatch.setattr(data.speech, "CHUNK_FRAMES", 150)
    for n in ((n_frames - 1) * 128, n_frames * 128 - 1):
        assert len(round_trip(kind, sentence[:n])) == n


def test_wrong_pictures_are_refused(kind):
    with pytest.raises(ValueError, match="does not hold"):
        kind.from_picture(np.zeros((1, 128, 5), np.float32), (16000, 16000), 200)
    with pytest.raises(ValueError, match="NaN"):
        kind.from_picture(np.full((1, 128, 126), np.nan, np.float32), (16000, 16000), 200)
    with pytest.raises(ValueError, match="expected 16000 Hz"):
        kind.picture_shape((100, 8000))


# ---- files


def test_sphere_is_read(speech, sentence, tmp_path):
    samples = np.round(sentence[:4000] * 32768).astype(np.int16)
    for name in ("SA1.WAV", "sa1.wav", "sx2.sph"):
        path = tmp_path / name
        path.write_bytes(sphere(samples, 16000))
        assert path.suffix.lower() in speech.suffixes
        np.testing.assert_array_equal(speech.read(path), samples / np.float32(32768))


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "DOUBLE"])
def test_stereo_and_8_khz_are_converted_and_said_once(subtype, tmp_path, caplog):
    time = np.arange(8000) / 8000
    left = 0.5 * np.sin(2 * np.pi * 440 * time)
    path = tmp_path / "stereo.wav"
    soundfile.write(path, np.stack([left, 0 * left], axis=1), 8000, subtype=subtype)
    reader = SpeechKind()
    with caplog.at_level(logging.INFO):
        signal = reader.read(path)
        reader.read(path)
    assert signal.shape == (16000,) and signal.dtype == np.float32
    expected = 0.25 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    np.testing.assert_allclose(signal[1000:-1000], expected[1000:-1000], atol=1e-3)
    assert sorted(r.message for r in caplog.records) == [
        "2 channels are averaged to one",
        "8000 Hz sound is resampled to 16000 Hz",
    ]


def test_one_sample_at_a_high_rate(speech, tmp_path):
    soundfile.write(tmp_path / "one.wav", np.full(1, 0.5), 96000)
    assert len(speech.read(tmp_path / "one.wav")) == 1


def test_floats_beyond_full_scale_are_clipped(speech, tmp_path):
    soundfile.write(tmp_path / "hot.wav", np.array([0.0, 1.5, -1.9, 0.5]), 16000, subtype="FLOAT")
    np.testing.assert_array_equal(speech.read(tmp_path / "hot.wav"), np.float32([0, 1, -1, 0.5]))


def damaged(kind: str, folder, sentence):
    path = folder / f"{kind}.wav"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("this is not sound\n" * 100)
    elif kind == "no samples":
        soundfile.write(path, np.zeros(0), 16000)
    elif kind in ("NaN", "infinite"):
        samples = np.zeros(100)
        samples[50] = np.nan if kind == "NaN" else np.inf
        soundfile.write(path, samples, 16000, subtype="FLOAT")
    elif kind == "header only":
        soundfile.write(path, sentence, 16000)
        path.write_bytes(path.read_bytes()[:30])
    elif kind == "folder":
        path.mkdir()
    elif kind == "absurd rate":
        soundfile.write(path, sentence[:100], 3)
    return path


@pytest.mark.parametrize(
    "kind",
    ["missing", "empty", "text", "no samples", "NaN", "infinite", "header only", "folder", "absurd rate"],
)
def test_damaged_files_get_one_line(speech, sentence, tmp_path, kind):
    path = damaged(kind, tmp_path, sentence)
    with pytest.raises(ValueError) as error:
        speech.read(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_failed_write_leaves_nothing(speech, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(soundfile, "write", fail)
    with pytest.raises(OSError):
        speech.write(tmp_path / "x.wav", np.zeros(10, np.float32))
    assert not list(tmp_path.iterdir())


# ---- the rest of the interface


def test_settings_rebuild_the_instance():
    speech = SpeechKind(n_mels=64, griffin_lim_iterations=4)
    assert speech.settings["n_mels"] == 64
    assert SpeechKind(**speech.settings).settings == speech.settings
    with pytest.raises(TypeError):
        SpeechKind(mels=64)


def test_rate_counts_the_whole_file(speech):
    assert speech.rate(1000, (32000, 16000)) == pytest.approx(4.0)


def test_score_names_every_metric(speech, sentence):
    scores = speech.score(sentence, round_trip(speech, sentence))
    assert tuple(scores) == speech.metric_names
    assert scores["pesq_wb"] > 4.2 and scores["estoi"] > 0.97
    assert np.isnan(speech.score(sentence[:10], sentence[:10])["pesq_wb"])


def test_import_brings_nothing_heavy():
    code = (
        "import sys, data.speech; "
        "print([m for m in ('torch', 'librosa', 'numba', 'ltfatpy', 'soundfile', 'soxr', 'av', 'scipy') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_errors_weigh_by_loudness():
    assert SpeechKind(exponent=1 / 3).weights(torch.zeros(1, 1, 1, 1)) is None  # its values say so
    speech = SpeechKind()
    x = torch.tensor([-1.0, 0.0, 0.5, 1.0]).view(1, 1, 1, 4)
    weights = speech.weights(x)
    assert weights.shape == x.shape
    # half of the range is 20 dB
    assert (
        float(weights[..., 2] / weights[..., 1])
        == pytest.approx(float(weights[..., 3] / weights[..., 2]))
        == pytest.approx(4.48, abs=0.01)
    )
    picture = torch.from_numpy(speech.to_picture(speech.read(speech.samples()[0]))[0])[None]
    assert 0.4 < float(speech.weights(picture).mean()) < 2.5
