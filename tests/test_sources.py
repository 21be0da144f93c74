"""What Python programs may give to a codec: paths, Pillow images, arrays, tensors, batches; all as files are read."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from data.images import ImageKind
from data.speech import SpeechKind
from utils.codec import bitstream
from utils.codec.codec import Encoded
from utils.codec.settings import Settings
from utils.codec.targets import Target

IMAGE, SPEECH = ImageKind(), SpeechKind()
# Every mode of Pillow that `convert` or `new` can make.
MODES = [
    "1",
    "L",
    "P",
    "RGB",
    "RGBA",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I",
    "F",
    "LA",
    "PA",
    "RGBX",
    "RGBa",
    "La",
    "I;16",
    "I;16B",
    "I;16L",
]


# -- images --------------------------------------------------------------------------------------------


def test_a_picture_in_every_form_is_the_same(ramp_image, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(ramp_image).save(path)
    tensor = torch.from_numpy(ramp_image).permute(2, 0, 1)
    forms = (
        str(path),
        path,
        Image.open(path),
        Image.fromarray(ramp_image),
        ramp_image.astype(np.uint16) * 257,
        ramp_image / 255,
        (ramp_image / 255).astype(np.float32),
        tensor,
        tensor / 255,
        (tensor / 255).double(),
        (tensor / 255).requires_grad_(),
        torch.from_numpy(ramp_image.astype(np.uint16) * 257).permute(2, 0, 1),
    )
    for form in forms:
        pixels = IMAGE.signal_of(form)
        assert pixels.dtype == np.uint8 and np.array_equal(pixels, ramp_image), type(form)
    assert IMAGE.signal_of(ramp_image) is ramp_image  # what was read is not copied
    near = IMAGE.signal_of((tensor / 255).bfloat16())  # which has 8 bits
    assert np.abs(near.astype(int) - ramp_image).max() <= 1


def test_gray_and_transparency_keep_their_layout(ramp_image):
    gray = ramp_image[..., 0]
    for form in (gray, gray[..., None], gray / 255, torch.from_numpy(gray)[None], Image.fromarray(gray)):
        assert np.array_equal(IMAGE.signal_of(form), gray)
    alpha = np.maximum(gray, 1)  # what is fully transparent is white in images and files
    for layout in (np.dstack([gray, alpha]), np.dstack([ramp_image, alpha])):
        for form in (layout, layout / 255, torch.from_numpy(layout).permute(2, 0, 1), Image.fromarray(layout)):
            assert np.array_equal(IMAGE.signal_of(form), layout)


@pytest.mark.parametrize("mode", MODES)
def test_pillow_s_modes_as_in_files(mode, ramp_image, tmp_path):
    """The same pixels as from a file of this mode, where there is one that Pillow writes."""
    try:
        image = Image.fromarray(ramp_image).convert("P" if mode == "PA" else "L" if mode in ("LA", "I;16") else "RGB")
        image = image.convert("LA").convert(mode) if mode == "La" else image.convert(mode)
    except ValueError:  # no conversion leads there
        image = Image.new(mode, (80, 48), 0)
    pixels = IMAGE.signal_of(image)
    assert pixels.shape[:2] == (48, 80) and pixels.dtype == np.uint8
    try:
        image.save(tmp_path / "a.tif")
    except (OSError, KeyError, ValueError):
        return
    expected = IMAGE.read(tmp_path / "a.tif")
    assert pixels.shape == expected.shape
    # The way to the file may round: YCbCr and the bytes of I;16B are converted.
    assert np.abs(pixels.astype(int) - expected).max() <= 2


def test_what_a_pillow_image_carries_counts(ramp_image, tmp_path, caplog):
    """Orientation, transparency and a color profile, as `read` treats them."""
    from PIL import ImageCms

    exif = Image.Exif()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.fromarray(np.dstack([ramp_image, ramp_image[..., 1]]))
    image.save(tmp_path / "a.png", exif=exif, icc_profile=profile)
    expected = IMAGE.read(tmp_path / "a.png")
    opened = Image.open(tmp_path / "a.png")
    assert expected.shape == (80, 48, 4) and np.array_equal(IMAGE.signal_of(opened), expected)
    assert np.array_equal(IMAGE.signal_of(ImageOps.exif_transpose(opened)), expected)
    assert not caplog.text


def test_the_frame_that_is_shown_is_taken(ramp_image, tmp_path, caplog):
    frames = [Image.fromarray(ramp_image), Image.fromarray(255 - ramp_image)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    opened = Image.open(tmp_path / "a.png")
    assert np.array_equal(IMAGE.signal_of(opened), ramp_image) and "only the first" in caplog.text
    caplog.clear()
    opened.seek(1)
    assert np.array_equal(IMAGE.signal_of(opened), 255 - ramp_image) and not caplog.text


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (np.zeros((4, 5, 5), np.uint8), ("(H, W, 3) or (H, W)", "uint8 (4, 5, 5)")),
        (np.zeros((0, 5, 3), np.uint8), ("not empty", "(0, 5, 3)")),
        (np.zeros((4, 5, 3), int), ("uint8, uint16 or float", "int64")),
        (np.zeros((1, 4, 5, 3), np.uint8), ("(H, W, 3) or (H, W)", "(1, 4, 5, 3)")),
        (np.full((4, 5, 3), 127.5), ("in [0, 1]", "found 127.5 to 127.5")),
        (np.full((4, 5), np.nan), ("in [0, 1]", "nan")),
        (torch.zeros(4, 5), ("(3, H, W) or (1, H, W)", "float32 (4, 5)")),
        (torch.zeros(5, 4, 3), ("(3, H, W) or (1, H, W)", "float32 (5, 4, 3)")),
        (torch.full((3, 4, 5), -1.0), ("in [0, 1]", "found -1 to -1")),
        (Image.new("RGB", (0, 5)), ("Pillow image", "no pixels")),
        (3, ("a path, a Pillow image, a NumPy array or a PyTorch tensor", "found int")),
        (b"x", ("a path", "found bytes")),
        ("none.png", ("none.png", "no such file")),
    ],
)
def test_what_is_no_image_is_said_in_one_line(source, words):
    with pytest.raises((ValueError, TypeError)) as caught:
        IMAGE.signal_of(source)
    assert "\n" not in str(caught.value) and all(word in str(caught.value) for word in words), caught.value


def test_a_damaged_pillow_image_is_said_in_one_line(texture_image, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(texture_image).save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"a\.png: damaged or truncated image"):
        IMAGE.signal_of(Image.open(path))


# -- speech --------------------------------------------------------------------------------------------


def test_sound_in_every_form_is_the_same(voiced_clip, tmp_path):
    samples = np.rint(voiced_clip[:8000] * 32768).astype(np.int16)
    clip = samples / np.float32(32768)
    SPEECH.write(tmp_path / "a.wav", clip)
    forms = (tmp_path / "a.wav", str(tmp_path / "a.wav"), samples, clip.astype(float), torch.from_numpy(clip))
    for form in (*forms, torch.from_numpy(samples), torch.from_numpy(clip).double()):
        signal = SPEECH.signal_of(form)
        assert signal.dtype == np.float32 and np.array_equal(signal, clip), type(form)
    assert SPEECH.signal_of(clip) is clip and SPEECH.signal_of(clip, sample_rate=16000) is clip


@pytest.mark.parametrize("rate", [8000, 44100.0])
def test_other_rates_are_resampled_as_files_are(rate, voiced_clip, tmp_path):
    import soundfile

    samples = np.rint(voiced_clip * 32768).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", samples, int(rate))
    expected = SPEECH.read(tmp_path / "a.wav")
    for form in (samples, torch.from_numpy(samples)):
        assert np.array_equal(SPEECH.signal_of(form, sample_rate=rate), expected)


@pytest.mark.parametrize(
    ("source", "sample_rate", "words"),
    [
        (np.zeros((100, 2)), None, ("(samples,)", "float64 (100, 2)", "average the channels")),
        (np.zeros(0), None, ("not empty",)),
        (np.zeros(9, int), None, ("float in [-1, 1] or int16", "int64")),
        (np.full(9, 1.5), None, ("in [-1, 1]", "1.5")),
        (np.array([0, np.nan]), None, ("in [-1, 1]", "nan")),
        (np.zeros(9), 100, ("sample rate 100 Hz", "2000 to 768000")),
        (np.zeros(9), "16k", ("'16k'", "Hz")),
        ("a.wav", 16000, ("a.wav", "its own sample rate")),
        (3.5, None, ("a path, a NumPy array or a PyTorch tensor", "found float")),
    ],
)
def test_what_is_no_sound_is_said_in_one_line(source, sample_rate, words):
    with pytest.raises((ValueError, TypeError)) as caught:
        SPEECH.signal_of(source, sample_rate)
    assert "\n" not in str(caught.value) and all(word in str(caught.value) for word in words), caught.value


def test_images_have_no_sample_rate(ramp_image):
    for source in (ramp_image, Image.fromarray(ramp_image)):
        with pytest.raises(ValueError, match="image has no sample rate"):
            IMAGE.signal_of(source, sample_rate=16000)


# -- codecs --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_codec_takes_all_of_it(codecs, ramp_image, tmp_path):
    codec, path = codecs["image"], tmp_path / "a.png"
    Image.fromarray(ramp_image).save(path)
    data = codec.compress(ramp_image, 4, "none")
    (tmp_path / "a.bpgan").write_bytes(data)
    decoded = codec.decompress(data)
    assert np.array_equal(codec.decompress(tmp_path / "a.bpgan"), decoded)
    assert np.array_equal(codec.decompress(str(tmp_path / "a.bpgan")), decoded)
    assert np.array_equal(codec.decompress(bytearray(data)), decoded)
    for form in (path, Image.open(path), torch.from_numpy(ramp_image).permute(2, 0, 1)):
        assert codec.compress(form, 4, "none") == data and codec.encode(form, 4, "none").data == data
    exact = codec.encode(path, Target("bytes", len(data)), Settings.of("none"))
    assert isinstance(exact, Encoded) and len(exact.data) <= len(data)
    with pytest.raises(TypeError, match="its bytes or its path, found ndarray"):
        codec.decompress(ramp_image)


@pytest.mark.slow
def test_batches_give_lists(codecs, ramp_image, voiced_clip, tmp_path):
    image, speech = codecs["image"], codecs["speech"]
    Image.fromarray(ramp_image).save(tmp_path / "a.png")
    small = ramp_image[:32, :32]
    one, other = image.compress(ramp_image, 4, "none"), image.compress(small, 4, "none")
    assert image.compress([tmp_path / "a.png", Image.fromarray(small)], 4, "none") == [one, other]
    batch = torch.from_numpy(np.stack([ramp_image, ramp_image])).permute(0, 3, 1, 2)
    for form in (batch, batch / 255):
        assert [member.data for member in image.encode(form, 4, "none")] == [one, one]
    assert image.compress(batch[:1], 4, "none") == [one] and image.compress([], 4, "none") == []
    clips = torch.from_numpy(voiced_clip[:8000]).reshape(2, 4000)
    expected = [speech.compress(clip, 4, "none") for clip in voiced_clip[:8000].reshape(2, 4000)]
    assert speech.compress(clips, 4, "none") == expected
    halved = speech.compress(clips, 4, "none", sample_rate=8000)
    assert [bitstream.unpack(data, speech.default_sizes)[0].size_a for data in halved] == [8000, 8000]


@pytest.mark.slow
def test_info_is_what_the_header_says(codecs, ramp_image, voiced_clip, tmp_path):
    """Of files of every kind and checkpoint, from bytes and paths."""
    image, speech = codecs["image"], codecs["speech"]
    data = image.compress(ramp_image, 4.5, Settings.of("none", entropy_coder="huffman"))
    (tmp_path / "a.bpgan").write_bytes(data)
    facts = speech.info(tmp_path / "a.bpgan")
    assert facts == image.info(data)
    assert (facts["signal"], facts["height"], facts["width"], facts["bytes"]) == ("image", 48, 80, len(data))
    assert (facts["quality"], facts["entropy_coder"], facts["rate_unit"]) == (4.5, "huffman", "bpp")
    assert facts["fingerprint"] == image.fingerprint.hex() and facts["checkpoints"] == []
    sound = image.info(speech.compress(voiced_clip[:8000], 2, "none"))
    assert (sound["signal"], sound["seconds"], sound["sample_rate"]) == ("speech", 0.5, 16000)
    with pytest.raises(bitstream.BitstreamError, match="checksum"):
        image.info(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.slow
def test_info_finds_checkpoints_that_have_changed(codecs, tiny_checkpoints, ramp_image, tmp_path, monkeypatch):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    monkeypatch.setattr("utils.codec.fingerprint.CHECKPOINTS", folder)
    data = codecs["image"].compress(ramp_image, 4, "none")
    for name, found in (("image_other", []), ("image", ["checkpoints/a.safetensors"]), ("speech", [])):
        (folder / "a.safetensors").write_bytes(tiny_checkpoints[name].read_bytes())
        assert codecs["image"].info(data)["checkpoints"] == found


def test_devices_that_are_not_there_are_said(tiny_checkpoints):
    from utils.codec.codec import load_codec

    with pytest.raises(ValueError, match="device mps is not one of cpu, cuda, auto"):
        load_codec(tiny_checkpoints["image"], "mps")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no CUDA device is available here"):
            load_codec(tiny_checkpoints["image"], torch.device("cuda", 0))
