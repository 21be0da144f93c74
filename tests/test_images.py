"""Reading as a viewer shows it, and exact ways to the picture and back."""

import logging
import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, features

from data import images
from data.images import ImageKind
from tests.helpers.signals import on_page

SIGNAL = ImageKind()


def save(tmp_path, image, name, **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def one_line(error) -> str:
    text = str(error.value)
    assert text and "\n" not in text
    return text


def seen(path) -> np.ndarray:
    return on_page(SIGNAL.read(path))


# Reading


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "a.bmp", "a.tif", "a.ppm", "a.tga"])
def test_lossless_formats_keep_every_pixel(tmp_path, ramp_image, name):
    path = save(tmp_path, Image.fromarray(ramp_image), name)
    assert path.suffix.lower() in SIGNAL.suffixes
    read = SIGNAL.read(path)
    assert read.dtype == np.uint8 and read.flags.c_contiguous
    np.testing.assert_array_equal(read, ramp_image)


@pytest.mark.parametrize(
    "name, options", [("a.jpg", {"quality": 95}), ("a.webp", {"quality": 95}), ("a.avif", {"quality": 95})]
)
def test_lossy_formats_are_close(tmp_path, ramp_image, name, options):
    if name.endswith("avif") and not features.check("avif"):
        pytest.skip("this Pillow is built without AVIF")
    read = seen(save(tmp_path, Image.fromarray(ramp_image), name, **options))
    assert read.shape == ramp_image.shape
    assert np.abs(read.astype(int) - ramp_image).mean() < 6


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(tmp_path, ramp_image, orientation, suffix):
    # What the camera stored so that this orientation shows the ramp upright again.
    stored = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }[orientation](ramp_image)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if suffix == ".jpg" else {}
    path = save(tmp_path, Image.fromarray(np.ascontiguousarray(stored)), f"turned{suffix}", exif=exif, **options)
    read = seen(path)
    assert read.shape == ramp_image.shape
    assert np.abs(read.astype(int) - ramp_image).max() <= (12 if suffix == ".jpg" else 0)


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_grey_and_palette(tmp_path, ramp_image, mode):
    image = Image.fromarray(ramp_image).convert(mode)
    read = seen(save(tmp_path, image, "a.png"))
    np.testing.assert_array_equal(read, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_white_page_shows_alpha(tmp_path, ramp_image, mode):
    image = Image.fromarray(ramp_image).convert(mode)
    alpha = np.tile(np.linspace(0, 255, 80).astype(np.uint8), (48, 1))
    image.putalpha(Image.fromarray(alpha))
    read = seen(save(tmp_path, image, "a.png"))
    solid = np.asarray(image.convert("RGB"), float)
    weight = alpha[..., None] / 255
    np.testing.assert_allclose(read, weight * solid + (1 - weight) * 255, atol=1)
    np.testing.assert_array_equal(read[:, 0], 255)
    np.testing.assert_array_equal(read[:, -1], solid[:, -1])


def test_opaque_alpha_changes_nothing(tmp_path, ramp_image):
    path = save(tmp_path, Image.fromarray(ramp_image).convert("RGBA"), "a.png")
    np.testing.assert_array_equal(seen(path), ramp_image)


@pytest.mark.parametrize("name", ["a.png", "a.gif"])
def test_transparent_palette_entry(tmp_path, name):
    image = Image.new("P", (4, 2), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    image.putpixel((0, 0), 0)
    read = seen(save(tmp_path, image, name, transparency=0))
    assert read[0, 0].tolist() == [255, 255, 255]
    assert read[1, 3].tolist() == [10, 200, 30]


@pytest.mark.parametrize("mode, key", [("L", 7), ("RGB", (7, 7, 7)), ("I;16", 7)])
def test_transparent_color_key(tmp_path, mode, key):
    image = Image.new(mode, (4, 2), key)
    image.putpixel((3, 1), 0 if mode != "RGB" else (0, 0, 0))
    read = seen(save(tmp_path, image, "a.png", transparency=key))
    assert read[0, 0].tolist() == [255, 255, 255]
    assert read[1, 3].tolist() == [0, 0, 0]


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk(tmp_path, suffix):
    inks = {
        (0, 0, 0, 0): (255, 255, 255),
        (0, 0, 0, 255): (0, 0, 0),
        (255, 0, 0, 0): (0, 255, 255),
        (0, 255, 255, 0): (255, 0, 0),
    }
    for ink, color in inks.items():
        options = {"quality": 100} if suffix == ".jpg" else {}
        path = save(tmp_path, Image.new("CMYK", (16, 16), ink), f"a{suffix}", **options)
        read = seen(path)
        np.testing.assert_allclose(read, np.broadcast_to(color, read.shape), atol=3)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bit_grey_is_scaled(tmp_path, suffix):
    deep = np.array([[0, 128, 129, 257 * 100], [257 * 100 + 128, 257 * 100 + 129, 65000, 65535]], np.uint16)
    read = seen(save(tmp_path, Image.fromarray(deep), f"a{suffix}"))
    np.testing.assert_array_equal(read, np.stack([np.rint(deep / 257)] * 3, axis=-1))


def test_big_endian_sixteen_bit_tiff(tmp_path):
    deep = np.arange(0, 65536, 1024, dtype=">u2").reshape(8, 8)
    path = save(tmp_path, Image.frombytes("I;16B", (8, 8), deep.tobytes()), "a.tif")
    np.testing.assert_array_equal(seen(path)[..., 0], np.rint(deep / 257))


def test_pgm_with_its_own_maximum(tmp_path):
    path = tmp_path / "a.pgm"
    path.write_bytes(b"P5 3 1 1023\n" + struct.pack(">3H", 0, 512, 1023))
    assert seen(path)[0, :, 0].tolist() == [0, 128, 255]


def test_sixteen_bit_rgb_png(tmp_path, ramp_image):
    """Pillow writes none, so the file is put together here: 8-bit values times 257."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, _ = ramp_image.shape
    rows = (ramp_image.astype(">u2") * 257).astype(">u2").reshape(height, -1)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    path = tmp_path / "a.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">2I5B", width, height, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", body)
        + chunk(b"IEND", b"")
    )
    np.testing.assert_array_equal(seen(path), ramp_image)


@pytest.mark.parametrize(
    "values, expected",
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([-10.0, 0.0, 10.0], [0, 128, 255]),
        ([np.nan, 0.0, 1.0], [0, 0, 255]),
    ],
)
def test_float_images(tmp_path, values, expected):
    path = save(tmp_path, Image.fromarray(np.array([values], np.float32)), "a.tif")
    assert seen(path)[0, :, 0].tolist() == expected


def test_integers_beyond_sixteen_bits_are_stretched(tmp_path, caplog):
    path = save(tmp_path, Image.fromarray(np.array([[0, 10**6, 2 * 10**6]], np.int32)), "a.tif")
    assert seen(path)[0, :, 0].tolist() == [0, 128, 255]
    assert "stretched" in caplog.text


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tif"])
def test_animation_gives_its_first_frame(tmp_path, caplog, suffix):
    frames = [Image.new("RGB", (8, 6), color) for color in ("red", "blue")]
    options = {"lossless": True} if suffix == ".webp" else {}
    path = save(tmp_path, frames[0], f"a{suffix}", save_all=True, append_images=frames[1:], **options)
    read = seen(path)
    np.testing.assert_array_equal(read, np.broadcast_to([255, 0, 0], (6, 8, 3)))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "only the first is taken" in caplog.text


def test_color_profile_is_applied_unless_srgb(tmp_path, ramp_image):
    image = Image.fromarray(ramp_image)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    np.testing.assert_array_equal(seen(save(tmp_path, image, "srgb.png", icc_profile=srgb.tobytes())), ramp_image)
    # The same profile with red and blue primaries exchanged, and another description.
    data = srgb.tobytes()
    for encoding in ("utf-16-be", "ascii"):
        data = data.replace("sRGB".encode(encoding), "test".encode(encoding))
    data = bytearray(data)
    tags = {
        bytes(data[start : start + 4]): start  # each a name, an offset, a length
        for start in range(132, 132 + 12 * struct.unpack(">I", data[128:132])[0], 12)
    }
    red, blue = (slice(tags[name] + 4, tags[name] + 12) for name in (b"rXYZ", b"bXYZ"))
    data[red], data[blue] = data[blue], data[red]
    read = seen(save(tmp_path, image, "swapped.png", icc_profile=bytes(data)))
    np.testing.assert_allclose(read, ramp_image[..., ::-1], atol=3)


def test_damaged_color_profile_is_ignored(tmp_path, ramp_image):
    path = save(tmp_path, Image.fromarray(ramp_image), "a.png", icc_profile=b"no profile")
    np.testing.assert_array_equal(seen(path), ramp_image)


def test_one_pixel(tmp_path):
    path = save(tmp_path, Image.new("RGB", (1, 1), (1, 2, 3)), "a.png")
    assert seen(path).tolist() == [[[1, 2, 3]]]


# Refusing


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.gif", "a.tif"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_truncated_files(tmp_path, texture_image, name, kept):
    path = save(tmp_path, Image.fromarray(texture_image), name)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError) as error:
        SIGNAL.read(path)
    assert name in one_line(error)


@given(st.data())
def test_damaged_bytes_give_pixels_or_one_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged.png"
    Image.fromarray(np.arange(12 * 9 * 3, dtype=np.uint8).reshape(12, 9, 3)).save(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        assert SIGNAL.read(path).dtype == np.uint8
    except ValueError as error:
        assert "damaged.png" in str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
    "content, says", [(b"", "empty"), (b"these are just words", "not an image"), (b"\x89PNG\r\n\x1a\n", "image")]
)
def test_not_an_image(tmp_path, content, says):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        SIGNAL.read(path)
    assert says in one_line(error) and "a.png" in str(error.value)


def test_folder_and_missing_file(tmp_path):
    with pytest.raises(ValueError, match="folder"):
        SIGNAL.read(tmp_path)
    with pytest.raises(ValueError, match="no such file"):
        SIGNAL.read(tmp_path / "missing.png")


def test_postscript_is_not_run(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    with pytest.raises(ValueError, match="not an image"):
        SIGNAL.read(path)


@pytest.mark.parametrize("side", [150, 1000])
def test_size_limit(tmp_path, monkeypatch, side):
    """Just above the limit, and far above it."""
    monkeypatch.setattr(images.ImageKind, "max_extent", 20_000)
    with pytest.raises(ValueError) as error:
        SIGNAL.read(save(tmp_path, Image.new("RGB", (side, side)), "large.png"))
    assert "--max_pixels" in one_line(error)


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_larger_than_pillows_own_limit(tmp_path):
    path = save(tmp_path, Image.new("1", (10_000, 9_000), 1), "large.png")
    read = SIGNAL.read(path)
    assert read.shape == (9_000, 10_000) and read[-1, -1] == 255


# Pictures


def test_picture_round_trip_is_exact_for_every_value():
    image = np.arange(256 * 3, dtype=np.uint8).reshape(16, 16, 3)
    picture, level = SIGNAL.to_picture(image)
    assert picture.shape == (3, 16, 16) and picture.dtype == np.float32 and level == 0
    assert picture.min() == -1 and picture.max() == 1
    assert picture[1, 2, 3] == pytest.approx(image[2, 3, 1] / 127.5 - 1, abs=1e-6)
    np.testing.assert_array_equal(SIGNAL.from_picture(picture, SIGNAL.size(image), level), image)


def test_from_picture_clamps_rounds_and_crops():
    picture = np.zeros((3, 4, 5), np.float32)
    picture[:, 0, 0] = [-7, np.inf, 100 / 127.5 - 1 + 0.003]
    image = SIGNAL.from_picture(picture, (2, 3), 0)
    assert image.shape == (2, 3, 3)
    assert image[0, 0].tolist() == [0, 255, 100]
    assert picture[0, 0, 0] == -7  # the argument is left alone


@pytest.mark.parametrize(
    "picture, size",
    [
        (np.zeros((3, 4, 4), np.float32), (5, 4)),
        (np.zeros((2, 4, 4), np.float32), (4, 4)),
        (np.full((3, 4, 4), np.nan, np.float32), (4, 4)),
    ],
)
def test_from_picture_refuses(picture, size):
    with pytest.raises(ValueError):
        SIGNAL.from_picture(picture, size, 0)


def test_write_read_back_and_leave_nothing_else(tmp_path, texture_image):
    path = tmp_path / "out.png"
    SIGNAL.write(path, texture_image)
    np.testing.assert_array_equal(SIGNAL.read(path), texture_image)
    assert list(tmp_path.iterdir()) == [path]


def test_files_are_about_as_small_as_png_can_be(tmp_path, texture_image):
    flat = np.zeros((1000, 1500, 3), np.uint8)
    flat[400:, 300:] = (200, 30, 90)
    for name, image, most in (("flat", flat, 20_000), ("texture", texture_image, None)):
        ImageKind().write(tmp_path / "a.png", image)
        if most is None:
            stream = BytesIO()
            Image.fromarray(image).save(stream, format="PNG")
            most = 1.05 * len(stream.getvalue())
        assert (tmp_path / "a.png").stat().st_size < most, name


def test_write_refuses_other_arrays_and_keeps_the_old_file(tmp_path, ramp_image):
    path = tmp_path / "out.png"
    SIGNAL.write(path, ramp_image)
    for wrong in (ramp_image.astype(np.float32), ramp_image[..., :1], ramp_image[:0], ramp_image[0, 0]):
        with pytest.raises(ValueError, match="uint8"):
            SIGNAL.write(path, wrong)
    np.testing.assert_array_equal(SIGNAL.read(path), ramp_image)


def test_size_rate_score_settings(ramp_image):
    assert SIGNAL.size(ramp_image) == SIGNAL.picture_shape((48, 80)) == (48, 80)
    assert SIGNAL.rate(480, (48, 80)) == 1.0
    score = SIGNAL.score(ramp_image, ramp_image)
    assert tuple(score) == SIGNAL.metric_names
    assert score["psnr_db"] == np.inf and score["ms_ssim"] == pytest.approx(1)
    assert ImageKind(**SIGNAL.settings).settings == {}


def test_samples_are_two_photographs():
    paths = SIGNAL.samples()
    assert [path.name for path in paths] == ["china.jpg", "flower.jpg"]
    assert all(SIGNAL.read(path).shape == (427, 640, 3) for path in paths)
