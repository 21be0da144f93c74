"""Gray, transparency and metadata of pictures: what is read, packed, restored, and refused."""

import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.ExifTags import IFD

from data.images import ImageKind, on_white
from data.sections import MAX_METADATA, pack_alpha, pack_metadata, unpack_alpha, unpack_metadata

KIND = ImageKind()
ALPHA = np.tile(np.linspace(0, 255, 40).astype(np.uint8), (30, 1))
GRAY = np.repeat(np.arange(30, dtype=np.uint8)[:, None] * 8, 40, axis=1)
RGB = np.dstack([GRAY, 255 - GRAY, GRAY // 2])


def saved(tmp_path, pixels, name="a.png", mode=None, **options):
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize(
    "name, mode", [("a.png", None), ("a.png", "RGB"), ("a.tif", "RGB"), ("a.bmp", "P"), ("a.jpg", None)]
)
def test_equal_channels_are_one(tmp_path, name, mode):
    read = KIND.read(saved(tmp_path, GRAY, name, mode))
    assert read.shape == GRAY.shape and np.abs(read.astype(int) - GRAY).max() <= (3 if name == "a.jpg" else 0)


def test_one_pixel_of_color_is_enough(tmp_path):
    pixels = np.dstack([GRAY] * 3)
    pixels[29, 39, 2] ^= 1
    assert KIND.read(saved(tmp_path, pixels)).shape == (30, 40, 3)


@pytest.mark.parametrize(
    "name, options",
    [("a.png", {}), ("a.webp", {"lossless": True, "exact": True}), ("a.tif", {}), ("a.tga", {})],
)
@pytest.mark.parametrize("color", [GRAY, RGB], ids=["gray", "color"])
def test_alpha_is_kept_and_unseen_colors_are_white(tmp_path, color, name, options):
    mode = "RGBA" if color.ndim == 2 and name != "a.png" else None
    read = KIND.read(saved(tmp_path, np.dstack([color, ALPHA]), name, mode, **options))
    right = np.dstack([color, ALPHA])
    right[ALPHA == 0, :-1] = 255
    np.testing.assert_array_equal(read, right)


def test_alpha_of_palettes_and_avif(tmp_path):
    image = Image.fromarray(GRAY // 100).convert("P")
    image.putpalette([0, 0, 0, 200, 10, 10, 9, 9, 200])
    for name in ("a.png", "a.gif"):
        image.save(tmp_path / name, transparency=1)
        read = KIND.read(tmp_path / name)
        assert read.shape == (30, 40, 4) and set(np.unique(read[..., 3])) == {0, 255}
    with Image.fromarray(np.dstack([RGB, ALPHA])) as avif:
        avif.save(tmp_path / "a.avif", quality=100)
    assert np.abs(KIND.read(tmp_path / "a.avif")[..., 3].astype(int) - ALPHA).max() <= 4


def test_opaque_alpha_is_dropped(tmp_path):
    assert KIND.read(saved(tmp_path, np.dstack([RGB, ALPHA | 255]))).shape == (30, 40, 3)
    assert KIND.read(saved(tmp_path, np.dstack([GRAY, ALPHA | 255]))).shape == (30, 40)


def test_a_picture_is_gray_by_what_is_seen_of_it(tmp_path):
    pixels = np.dstack([GRAY] * 3 + [ALPHA])
    pixels[ALPHA == 0] = (200, 10, 10, 0)
    assert KIND.read(saved(tmp_path, pixels)).shape == (30, 40, 2)


@pytest.mark.parametrize("shape", [(1, 1), (30, 40), (2, 17000)])
def test_alpha_planes_come_back(shape):
    plane = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.testing.assert_array_equal(unpack_alpha(pack_alpha(plane), shape), plane)


@pytest.mark.parametrize("width", [40, 17000])
def test_damaged_alpha_is_one_line(width):
    plane = np.random.default_rng(0).integers(0, 256, (2, width), dtype=np.uint8)
    content = pack_alpha(plane)
    with pytest.raises(ValueError, match="3x"):
        unpack_alpha(content, (3, width))
    cuts = [content[:n] for n in range(0, min(len(content), 60), 3)]
    flips = [content[:i] + bytes([content[i] ^ 0xFF]) + content[i + 1 :] for i in range(0, min(len(content), 90), 3)]
    refused = 0
    for damaged in cuts + flips:
        try:
            assert unpack_alpha(damaged, plane.shape).shape == plane.shape
        except ValueError as error:
            assert "alpha" in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > len(cuts)


@pytest.mark.parametrize("color", [GRAY, RGB], ids=["gray", "color"])
def test_what_is_joined_shows_the_decoded_picture_on_white(color):
    decoded = np.clip(on_white(np.dstack([color, ALPHA])).astype(int) + 3, 0, 255).astype(np.uint8)
    decoded = np.maximum(decoded, 255 - ALPHA[..., None])  # what some color on white can be
    joined = KIND.join(decoded if color.ndim == 3 else decoded[..., 0], {"alpha": pack_alpha(ALPHA)})
    np.testing.assert_array_equal(joined[..., -1], ALPHA)
    np.testing.assert_allclose(on_white(joined), decoded, atol=1)
    assert (joined[ALPHA == 0, :-1] == 255).all()


def camera_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    exif.get_ifd(IFD.Exif).update({0xA001: 65535, 0xA002: 40, 0xA003: 30})
    exif.get_ifd(IFD.GPSInfo)[1] = "N"
    return exif


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif", "a.avif"])
def test_exif_is_true_of_upright_pixels(tmp_path, name):
    pixels, metadata = KIND.read_with_metadata(saved(tmp_path, RGB, name, exif=camera_exif()))
    assert pixels.shape == (40, 30, 3)
    KIND.write(tmp_path / "out.png", pixels, **unpack_metadata(pack_metadata(metadata)))
    with Image.open(tmp_path / "out.png") as image:
        image.load()
        exif = image.getexif()
        assert (exif.get(0x0112, 1), exif[0x010F]) == (1, "Maker")
        assert 0x0111 not in exif  # a TIFF's strips
        if name == "a.tif":  # into which Pillow writes no other directories
            return
        assert exif.get_ifd(IFD.GPSInfo)[1] == "N"
        block = exif.get_ifd(IFD.Exif)
        assert (block[0xA001], block[0xA002], block[0xA003]) == (1, 30, 40)
    np.testing.assert_array_equal(KIND.read(tmp_path / "out.png"), pixels)  # not turned again


def test_a_profile_is_kept_where_pixels_still_have_it(tmp_path):
    from tests.helpers.color import LINEAR, icc

    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for pixels, profile, kept in ((RGB, srgb, True), (RGB, icc(LINEAR), False), (np.dstack([GRAY] * 3), srgb, False)):
        _, metadata = KIND.read_with_metadata(saved(tmp_path, pixels, icc_profile=profile))
        assert metadata == ({"icc": srgb} if kept else {})


def test_a_plain_file_has_no_metadata(tmp_path):
    assert KIND.read_with_metadata(saved(tmp_path, RGB))[1] == {}


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("exif", b"not deflated", "cannot be inflated"),
        ("exif", zlib.compress(b"no exif at all"), "EXIF data"),
        ("exif", zlib.compress(b"MM\0*\0\0\0\x08\xff\xff" + b"\1" * 100), "EXIF data"),
        ("exif", zlib.compress(bytes(MAX_METADATA + 1)), "does not inflate"),
        ("icc", zlib.compress(b""), "does not inflate"),
        ("icc", zlib.compress(b"no profile"), "color profile"),
        ("icc", zlib.compress(b"x") + b"more", "does not inflate"),
    ],
)
def test_damaged_metadata_is_one_line(name, content, words):
    with pytest.raises(ValueError, match=words) as caught:
        unpack_metadata({name: content})
    assert "\n" not in str(caught.value)
