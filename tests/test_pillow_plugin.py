"""utils/codec/pillow_plugin.py: .bpgan files for Pillow."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from tests.helpers.scripts import ROOT
from utils.codec import pillow_plugin
from utils.codec.settings import Settings

pytestmark = pytest.mark.slow


@pytest.fixture
def image_codec(codecs, tiny_checkpoints, tmp_path_factory, monkeypatch):
    """The tiny codec, where the plugin looks for the shipped ones, alone."""
    folder = tmp_path_factory.mktemp("checkpoints")
    (folder / "image.safetensors").write_bytes(tiny_checkpoints["image"].read_bytes())
    monkeypatch.setattr("utils.codec.fingerprint.CHECKPOINTS", folder)
    pillow_plugin._codec.cache_clear()
    yield codecs["image"]
    pillow_plugin._codec.cache_clear()


def test_there_and_back(image_codec, ramp_image, tmp_path):
    path = tmp_path / "a.bpgan"
    Image.fromarray(ramp_image).save(path, quality=4, iterations=3)
    assert path.read_bytes() == image_codec.compress(ramp_image, 4, Settings.of(iterations=3))
    decoded = image_codec.decompress(path)
    with Image.open(path) as image:
        assert (image.format, image.mode, image.size) == ("BPGAN", "RGB", (80, 48))
        assert np.array_equal(np.asarray(image), decoded)
        assert np.array_equal(np.asarray(image.rotate(180)), decoded[::-1, ::-1])
    assert np.array_equal(image_codec.kind.signal_of(Image.open(path)), decoded)


def test_weights_for_an_objective(image_codec, codecs, tiny_checkpoints, ramp_image, tmp_path, monkeypatch):
    """Saving takes those for the objective, opening those that the file names."""
    for name, source in (("image", "image"), ("image_ms_ssim", "image_other")):
        (tmp_path / f"{name}.safetensors").write_bytes(tiny_checkpoints[source].read_bytes())
    monkeypatch.setattr("utils.codec.fingerprint.CHECKPOINTS", tmp_path)
    for name, more in (("image", {}), ("image_other", {"objective": "ms_ssim"})):
        Image.fromarray(ramp_image).save(tmp_path / "a.bpgan", quality=4, iterations=2, **more)
        expected = codecs[name].compress(ramp_image, 4, Settings.of(iterations=2, **more))
        assert (tmp_path / "a.bpgan").read_bytes() == expected
        with Image.open(tmp_path / "a.bpgan") as image:
            assert np.array_equal(np.asarray(image), codecs[name].decompress(expected))


@pytest.mark.parametrize("size", [(1, 1), (4, 3), (80, 48)])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_every_mode_is_opened_by_path(image_codec, tmp_path, mode, size):
    """Small pictures have fewer bytes than their files, which Pillow could take for the pixels."""
    pixels = np.random.default_rng(0).integers(1, 255, (size[1], size[0], len(mode)), np.uint8)
    Image.fromarray(pixels[..., 0] if mode == "L" else pixels).save(tmp_path / "a.bpgan", iterations=0)
    with Image.open(tmp_path / "a.bpgan") as image:
        assert (image.mode, image.size) == (mode, size)
        assert np.array_equal(np.asarray(image), image_codec.decompress(tmp_path / "a.bpgan"))


def test_other_modes_streams_and_settings_left_out(image_codec, ramp_image, tmp_path):
    gray = Image.fromarray(ramp_image[:32, :32, 0])
    with open(tmp_path / "a", "w+b") as stream:
        gray.save(stream, format="BPGAN")
        stream.seek(0)
        with Image.open(stream) as image:
            assert image.getpixel((0, 0)) is not None and image.size == (32, 32)
    assert (tmp_path / "a").read_bytes() == image_codec.compress(gray, 3, Settings.of())
    gray.save(tmp_path / "a.bpgan", iterations=0, exact=True)
    assert (tmp_path / "a.bpgan").read_bytes() == image_codec.compress(gray, 3, Settings.of(iterations=0, exact=True))


def test_nothing_is_left_of_a_save_that_fails(image_codec, ramp_image, tmp_path):
    with pytest.raises(ValueError, match="quality 9 is outside 1 to 8"):
        Image.fromarray(ramp_image).save(tmp_path / "a.bpgan", quality=9)
    assert not list(tmp_path.iterdir())


def test_what_is_no_image_of_the_checkpoint_ends_as_in_pillow(image_codec, codecs, ramp_image, voiced_clip, tmp_path):
    path = tmp_path / "a.bpgan"
    path.write_bytes(codecs["speech"].compress(voiced_clip[:8000], 3, "none"))
    with pytest.raises(OSError, match=r"^a .bpgan file of speech, not of an image$"):
        Image.open(path)
    data = codecs["image_other"].compress(ramp_image, 3, "none")
    path.write_bytes(data)
    with Image.open(path) as image, pytest.raises(OSError, match=r"^file made with checkpoint .{8}, loaded is .{8};"):
        image.load()
    path.write_bytes(data[:-3])
    with pytest.raises(OSError, match="damaged file: checksum"):
        Image.open(path)
    path.write_bytes(b"no image at all")
    with pytest.raises(UnidentifiedImageError):
        Image.open(path)


def test_the_import_loads_no_network():
    program = "import sys; sys.modules['torch'] = None; from utils.codec import pillow_plugin"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_metadata_is_kept_where_it_is_asked_for(image_codec, ramp_image, tmp_path):
    """As --keep_metadata does: EXIF data true of the upright pixels, and a profile that leaves them as they are."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[ExifTags.Base.Artist], exif[ExifTags.Base.Orientation] = "someone", 6
    Image.fromarray(ramp_image).save(tmp_path / "a.jpg", exif=exif, icc_profile=profile)
    with Image.open(tmp_path / "a.jpg") as photo:
        photo.save(tmp_path / "kept.bpgan", iterations=0, keep_metadata=True)
        photo.save(tmp_path / "plain.bpgan", iterations=0)
    with Image.open(tmp_path / "kept.bpgan") as image:
        assert image.size == (48, 80) and image.info["icc_profile"] == profile
        assert image.getexif()[ExifTags.Base.Artist] == "someone"
        assert image.getexif().get(ExifTags.Base.Orientation, 1) == 1
        kept = np.asarray(image)
    with Image.open(tmp_path / "plain.bpgan") as image:
        assert not {"exif", "icc_profile"} & image.info.keys() and np.array_equal(np.asarray(image), kept)
