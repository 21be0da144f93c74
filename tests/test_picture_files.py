"""Files of every layout, put together here byte by byte: what they show is known by construction."""

import logging
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pillow_heif
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin

from data import color, picture_files
from data.images import ImageKind
from data.picture_files import read_picture
from tests.helpers.color import DISPLAY_P3_TO_SRGB, LINEAR, expected, icc
from tests.helpers.signals import on_page


def small(size):
    if size[0] * size[1] > 10**6:
        raise ValueError("too large")


ROWS = np.arange(48, dtype=np.uint8).reshape(4, 12) * 5


def read(tmp_path, content: bytes, name: str = "a.png") -> np.ndarray:
    """What a white page shows of the file: (H, W, 3)."""
    path = tmp_path / name
    path.write_bytes(content)
    return on_page(read_picture(path, small))


def saved(image: Image.Image, **options) -> bytes:
    stream = BytesIO()
    image.save(stream, **options)
    return stream.getvalue()


def refused(tmp_path, content: bytes, name: str = "a.png") -> str:
    with pytest.raises(ValueError) as error:
        read(tmp_path, content, name)
    text = str(error.value)
    assert name in text and "\n" not in text
    return text


def warning(caplog) -> str:
    """The one line of one file."""
    assert len(caplog.records) == 1 and caplog.records[0].levelno == logging.WARNING
    text = caplog.records[0].getMessage()
    assert "\n" not in text
    return text


@pytest.fixture
def colors() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (16, 20, 3), dtype=np.uint8)


def test_colors_are_converted_once(tmp_path, colors, monkeypatch):
    """The conversion is most of the time that reading a picture with a profile takes."""
    convert, converted = picture_files._converted, []
    monkeypatch.setattr(picture_files, "_converted", lambda picture: converted.append(1) or convert(picture))
    np.testing.assert_array_equal(read(tmp_path, saved(Image.fromarray(colors), format="PNG")), colors)
    assert converted == [1]


# PNG


def png(samples: np.ndarray, depth: int, color_type: int, **chunks: bytes) -> bytes:
    """Samples (H, W) or (H, W, C) of `depth` bits; chunks go before the pixels, in this order."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = samples.shape[:2]
    rows = samples.reshape(height, -1)
    if depth == 16:
        packed = [row.astype(">u2").tobytes() for row in rows]
    else:
        bits = (rows[..., None].astype(np.uint8) >> np.arange(depth)[::-1]) & 1
        packed = [row.tobytes() for row in np.packbits(bits.reshape(height, -1), axis=1)]
    body = zlib.compress(b"".join(b"\0" + row for row in packed))
    extra = b"".join(chunk(name.encode(), content) for name, content in chunks.items())
    header = struct.pack(">2I5B", width, height, depth, color_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def gama(gamma: float) -> bytes:
    return struct.pack(">I", round(gamma * 100_000))


def chrm(primaries) -> bytes:
    return struct.pack(">8I", *(round(v * 100_000) for v in primaries))


P3 = color._CICP_PRIMARIES[12]
ICCP = b"sRGB\0\0" + zlib.compress(icc(LINEAR, name="sRGB"))
CICP_P3, CICP_LINEAR = bytes([12, 13, 0, 1]), bytes([1, 8, 0, 1])


@pytest.mark.parametrize(
    "chunks, exponent, matrix",
    [
        ({}, None, None),
        ({"gAMA": gama(1)}, 1.0, None),
        ({"gAMA": gama(1 / 1.8)}, 1.8, None),
        ({"gAMA": gama(0.45455)}, None, None),
        ({"cHRM": chrm(P3)}, None, DISPLAY_P3_TO_SRGB),
        ({"gAMA": gama(1), "cHRM": chrm(P3)}, 1.0, DISPLAY_P3_TO_SRGB),
        ({"gAMA": gama(1), "cHRM": chrm(P3), "sRGB": b"\0"}, None, None),
        ({"iCCP": ICCP}, 1.0, None),
        ({"iCCP": ICCP, "sRGB": b"\0", "gAMA": gama(0.45455)}, 1.0, None),
        ({"iCCP": ICCP, "cICP": CICP_P3}, None, DISPLAY_P3_TO_SRGB),
        ({"cICP": CICP_P3, "sRGB": b"\0", "gAMA": gama(1)}, None, DISPLAY_P3_TO_SRGB),
        ({"cICP": CICP_LINEAR}, 1.0, None),
    ],
    ids=lambda value: "+".join(value) or "none" if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("depth", [8, 16])
def test_png_colors_in_the_order_of_the_specification(tmp_path, colors, caplog, chunks, exponent, matrix, depth):
    to_light = color.srgb_to_linear if exponent is None else lambda values: values**exponent
    samples = colors if depth == 8 else np.random.default_rng(2).integers(0, 65536, colors.shape)
    right = expected(samples / (2**depth - 1), to_light, matrix)
    shown = read(tmp_path, png(samples, depth, 2, **chunks))
    np.testing.assert_allclose(shown, right, atol=3 if "iCCP" in chunks and depth == 8 else 1)
    assert not caplog.records


@pytest.mark.parametrize("color_type", [0, 3])
def test_png_gamma_of_gray_and_palette(tmp_path, color_type):
    chunks = {"gAMA": gama(1)}
    if color_type == 3:
        chunks["PLTE"] = bytes(np.repeat(np.arange(256, dtype=np.uint8), 3))
    shown = read(tmp_path, png(ROWS, 8, color_type, **chunks))
    np.testing.assert_array_equal(shown[..., 1], expected(ROWS / 255, lambda v: v))


def test_png_gamma_of_16_bit_gray(tmp_path):
    samples = np.arange(0, 65536, 64).reshape(4, -1)
    shown = read(tmp_path, png(samples, 16, 0, gAMA=gama(1)))
    np.testing.assert_array_equal(shown[..., 0], expected(samples / 65535, lambda v: v))


@pytest.mark.parametrize("depth", [8, 16])
def test_png_narrow_range(tmp_path, depth):
    unit = 2 ** (depth - 8)
    samples = np.array([[[16] * 3, [235] * 3, [0] * 3, [255] * 3, [16 + 219 // 3] * 3]]) * unit
    shown = read(tmp_path, png(samples, depth, 2, cICP=bytes([1, 13, 0, 0])))
    assert shown[0, :, 0].tolist() == [0, 255, 0, 255, 85]


@pytest.mark.parametrize("transfer, name", [(16, "PQ"), (18, "HLG")])
def test_png_of_high_dynamic_range_is_refused(tmp_path, colors, transfer, name):
    assert name in refused(tmp_path, png(colors, 8, 2, cICP=bytes([9, transfer, 0, 1])))


@pytest.mark.parametrize(
    "chunks, word",
    [
        ({"cICP": bytes([77, 13, 0, 1])}, "description"),
        ({"cICP": bytes([1, 13, 1, 1])}, "matrix"),
        ({"iCCP": b"name\0\0" + zlib.compress(b"nothing")}, "profile"),
        ({"iCCP": b"name\0\0not deflated"}, "profile"),
        ({"cHRM": bytes(32)}, "description"),
        ({"gAMA": bytes(4)}, "description"),
    ],
)
def test_png_damaged_colors_are_left_out_and_told(tmp_path, colors, caplog, chunks, word):
    np.testing.assert_array_equal(read(tmp_path, png(colors, 8, 2, **chunks)), colors)
    assert "ignored" in warning(caplog) and word in warning(caplog)


def test_png_unreadable_profile_gives_way_to_gamma(tmp_path, colors):
    shown = read(tmp_path, png(colors, 8, 2, iCCP=b"name\0\0" + zlib.compress(b"nothing"), gAMA=gama(1)))
    np.testing.assert_array_equal(shown, expected(colors / 255, lambda v: v))


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_png_gray_key(tmp_path, caplog, depth):
    levels = np.arange(min(2**depth, 16)).reshape(1, -1) * (4369 if depth == 16 else 1)
    key = int(levels[0, 1])
    shown = read(tmp_path, png(levels, depth, 0, tRNS=struct.pack(">H", key)))
    right = np.rint(levels * 255 / (2**depth - 1))
    right[levels == key] = 255
    np.testing.assert_array_equal(shown[..., 0], right)
    assert not caplog.records


@pytest.mark.parametrize("depth", [8, 16])
def test_png_color_key_counts_in_all_bits(tmp_path, depth):
    key = (1, 2, 3) if depth == 8 else (0x0102, 0x0304, 0x0506)
    near = (1, 2, 4) if depth == 8 else (0x0102, 0x0304, 0x0507)  # the same high bytes
    shown = read(tmp_path, png(np.array([[key, near]]), depth, 2, tRNS=struct.pack(">3H", *key)))
    assert shown[0, 0].tolist() == [255] * 3
    assert shown[0, 1].tolist() == ([1, 2, 4] if depth == 8 else [1, 3, 5])


def test_png_key_above_the_depth_has_only_its_low_bits(tmp_path):
    shown = read(tmp_path, png(np.array([[0, 1, 2, 3]]), 2, 0, tRNS=struct.pack(">H", 0xFF02)))
    assert shown[0, :, 0].tolist() == [0, 85, 255, 255]


@pytest.mark.parametrize("color_type, channels", [(4, 2), (6, 4)])
@pytest.mark.parametrize("depth", [8, 16])
def test_png_alpha(tmp_path, color_type, channels, depth):
    full = 2**depth - 1
    samples = np.zeros((1, 3, channels), int)
    samples[0, :, -1] = [0, full // 5, full]
    assert read(tmp_path, png(samples, depth, color_type))[0, :, 0].tolist() == [255, 204, 0]


def test_png_16_bits_are_rounded(tmp_path):
    samples = np.array([[[128, 129, 0x00FF], [0xFF7F, 0xFEFF, 65535]]])
    np.testing.assert_array_equal(read(tmp_path, png(samples, 16, 2)), np.rint(samples / 257))


# TIFF


def tiff(samples: np.ndarray, order: str = "<", bits: int = 0, compressed: bool = False, **tags) -> bytes:
    """An uncompressed or deflated TIFF of one strip, of samples (H, W, C) or, as planes, (C, H, W)."""
    planes = tags.get("planar") == 2
    count = samples.shape[0] if planes else samples.shape[2]
    height, width = samples.shape[1:] if planes else samples.shape[:2]
    bits = bits or samples.itemsize * 8
    kind = {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
    if bits == 12:
        digits = (samples.reshape(height, -1, 1).astype(int) >> np.arange(12)[::-1]) & 1
        strips = [np.packbits(digits.astype(np.uint8).reshape(height, -1), axis=1).tobytes()]
    else:
        ordered = samples.astype(samples.dtype.newbyteorder(order))
        strips = [plane.tobytes() for plane in ordered] if planes else [ordered.tobytes()]
    if compressed:
        strips = [zlib.compress(strip) for strip in strips]
    entries = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [bits] * count),
        259: (3, [8 if compressed else 1]),
        262: (3, [tags.get("photometric", 1 if count < 3 else 2)]),
        273: (4, [0] * len(strips)),
        277: (3, [count]),
        278: (4, [height]),
        279: (4, [len(strip) for strip in strips]),
        284: (3, [tags.get("planar", 1)]),
        339: (3, [kind] * count),
    }
    if "extra" in tags:
        entries[338] = (3, tags["extra"])
    if "orientation" in tags:
        entries[274] = (3, [tags["orientation"]])
    if "icc" in tags:
        entries[34675] = (7, list(tags["icc"]))
    body, starts = bytearray(8), []
    for strip in strips:
        starts.append(len(body))
        body += strip + bytes(len(strip) % 2)
    entries[273] = (4, starts)
    table = b""
    for tag, (code, values) in sorted(entries.items()):
        content = struct.pack(order + {3: "H", 4: "I", 7: "B"}[code] * len(values), *values)
        if len(content) > 4:
            place = struct.pack(order + "I", len(body))
            body += content + bytes(len(content) % 2)
        else:
            place = content.ljust(4, b"\0")
        table += struct.pack(order + "HHI", tag, code, len(values)) + place
    directory = struct.pack(order + "H", len(entries)) + table + bytes(4)
    body[:8] = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, len(body))
    return bytes(body) + directory


LEVELS = {
    "12 bits": (np.array([[0, 1, 2048, 4095]], np.uint16)[..., None], 12, [0, 0, 128, 255]),
    "16 bits": (np.array([[0, 257, 30001, 65535]], np.uint16)[..., None], 16, [0, 1, 117, 255]),
    "signed 16 bits": (np.array([[0, 16384, 32767]], np.int16)[..., None], 16, [0, 128, 255]),
    "32 bits": (np.array([[0, 1 << 30, 3 << 30, (1 << 32) - 1]], np.uint32)[..., None], 32, [0, 64, 191, 255]),
    "float": (np.array([[0, 0.2, 1]], np.float32)[..., None], 32, [0, 51, 255]),
    "float to 255": (np.array([[0, 51, 255]], np.float32)[..., None], 32, [0, 51, 255]),
    "double": (np.array([[0, 0.2, 1]], np.float64)[..., None], 64, [0, 51, 255]),
    "half": (np.array([[0, 0.2, 1]], np.float16)[..., None], 16, [0, 51, 255]),
}


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "deflate"])
@pytest.mark.parametrize("order", ["<", ">"], ids=["II", "MM"])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("layout", LEVELS)
def test_tiff_gray_of_every_depth(tmp_path, layout, photometric, order, compressed):
    samples, bits, levels = LEVELS[layout]
    shown = read(tmp_path, tiff(samples, order, bits, compressed, photometric=photometric), "a.tif")
    right = np.array(levels) if photometric == 1 else 255 - np.array(levels)
    np.testing.assert_allclose(shown[0, :, 0], right, atol=1 if "32" in layout or "half" in layout else 0)
    assert (shown == shown[..., :1]).all()


@pytest.mark.parametrize("photometric", [0, 1])
def test_tiff_gray_of_8_bits(tmp_path, photometric):
    shown = read(tmp_path, tiff(ROWS[..., None], photometric=photometric), "a.tif")
    np.testing.assert_array_equal(shown[..., 0], ROWS if photometric else 255 - ROWS)


@pytest.mark.parametrize("order", ["<", ">"], ids=["II", "MM"])
@pytest.mark.parametrize("kind, alpha", [(1, "associated"), (2, "unassociated")])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 3])
def test_tiff_alpha(tmp_path, caplog, channels, dtype, kind, alpha, order):
    full = 1 if dtype == np.float32 else np.iinfo(dtype).max
    share = np.array([0, 0.2, 0.6, 1])
    gray = np.array([0.4, 0, 0.4, 0.8])
    stored = gray * share if alpha == "associated" else gray
    samples = np.stack([stored] * channels + [share], axis=-1)[None] * full
    samples = (samples if dtype == np.float32 else np.rint(samples)).astype(dtype)
    shown = read(tmp_path, tiff(samples, order, extra=[kind]), "a.tif")
    np.testing.assert_allclose(shown[0, :, 0], 255 * (gray * share + 1 - share), atol=1.01)
    assert not caplog.records


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize("order", ["<", ">"], ids=["II", "MM"])
@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "deflate"])
def test_tiff_rgb(tmp_path, colors, dtype, planar, order, compressed):
    samples = colors.astype(dtype) * {np.uint8: 1, np.uint16: 257, np.float32: np.float32(1 / 255)}[dtype]
    samples = samples.astype(dtype)
    content = tiff(np.moveaxis(samples, 2, 0) if planar == 2 else samples, order, compressed=compressed, planar=planar)
    np.testing.assert_array_equal(read(tmp_path, content, "a.tif"), colors)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_tiff_extra_channels_are_told(tmp_path, colors, caplog, dtype):
    samples = np.concatenate([colors, colors[..., :1]], axis=2).astype(np.float64) / 255
    full = 1 if dtype == np.float32 else np.iinfo(dtype).max
    shown = read(tmp_path, tiff((samples * full).round(9).astype(dtype), extra=[0]), "a.tif")
    np.testing.assert_allclose(shown, colors, atol=1)
    assert "1 extra channel left out" in warning(caplog)


def test_tiff_16_bits_with_a_profile_keep_their_shadows(tmp_path):
    samples = np.repeat(np.arange(0, 512, 4, dtype=np.uint16)[None, :, None], 3, axis=2)
    shown = read(tmp_path, tiff(samples, icc=icc(LINEAR)), "a.tif")
    np.testing.assert_allclose(shown, expected(samples / 65535, lambda v: v), atol=1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_gray_profile(tmp_path, dtype):
    samples = (ROWS.astype(dtype) * (np.iinfo(dtype).max // 255))[..., None]
    shown = read(tmp_path, tiff(samples, icc=icc(LINEAR, space=b"GRAY")), "a.tif")
    np.testing.assert_allclose(shown[..., 0], expected(ROWS / 255, lambda v: v), atol=1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_tiff_orientation_of_every_reader(tmp_path, colors, dtype):
    scale = {np.uint8: 1, np.uint16: 257, np.float32: 1 / 255}[dtype]
    stored = np.ascontiguousarray(np.rot90(colors)).astype(dtype) * dtype(scale)
    np.testing.assert_array_equal(read(tmp_path, tiff(stored, orientation=6), "a.tif"), colors)


def test_tiff_lab(tmp_path):
    """CIELab: L* of 50 is a gray of 119; a* and b* are signed."""
    samples = np.array([[[128, 0, 0], [255, 0, 0], [0, 0, 0], [138, 80, 70]]], np.uint8)
    content = bytearray(tiff(samples, photometric=8))
    shown = read(tmp_path, bytes(content), "a.tif")
    np.testing.assert_allclose(shown[0, :3, 0], [119, 255, 0], atol=2)
    assert shown[0, 3, 0] > 240 and shown[0, 3, 1] < 60 and shown[0, 3, 2] < 60  # red


def test_tiff_compression_without_a_decoder_says_so(tmp_path, monkeypatch):
    def without_imagecodecs(page):
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr("tifffile.TiffPage.asarray", without_imagecodecs)
    content = bytearray(tiff(np.zeros((4, 4, 3), np.float32)))
    entry = content.index(struct.pack("<HHI", 259, 3, 1)) + 8
    content[entry : entry + 2] = struct.pack("<H", 5)  # LZW
    assert "save it uncompressed" in refused(tmp_path, bytes(content), "a.tif")


def test_pillows_table_of_tiff_layouts_is_left_alone(tmp_path):
    before = dict(TiffImagePlugin.OPEN_INFO)
    read(tmp_path, tiff(*LEVELS["12 bits"][:1], ">", 12), "a.tif")
    assert before == TiffImagePlugin.OPEN_INFO


def test_tiff_of_a_layout_that_is_not_read_says_so(tmp_path):
    text = refused(tmp_path, tiff(np.zeros((4, 4, 1), np.uint16), photometric=32803), "a.tif")
    assert "32803" in text and "16 bits" in text


def test_tiff_size_is_checked_by_every_reader(tmp_path):
    for samples in (np.zeros((1, 8, 3), np.uint8), np.zeros((1, 8, 3), np.float32)):
        (tmp_path / "a.tif").write_bytes(tiff(samples))
        asked = []
        read_picture(tmp_path / "a.tif", asked.append)
        assert asked == [(1, 8)]


# JPEG 2000, AVIF, HEIC


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(body), kind) + body


@pytest.mark.parametrize(
    "colr, exponent, matrix",
    [
        (b"\2\0\0" + icc(LINEAR), 1.0, None),
        (b"\3\0\0" + icc(LINEAR, P3), 1.0, DISPLAY_P3_TO_SRGB),
        (b"\5\0\0" + struct.pack(">3HB", 12, 13, 0, 128), None, DISPLAY_P3_TO_SRGB),
        (b"\1\0\0" + struct.pack(">I", 16), None, None),
    ],
    ids=["restricted profile", "any profile", "code points", "enumerated"],
)
def test_jpeg2000_colors(tmp_path, colors, colr, exponent, matrix):
    content = saved(Image.fromarray(colors), format="JPEG2000")  # lossless
    start = content.index(b"colr") - 4
    old = content[start : start + int.from_bytes(content[start : start + 4], "big")]
    header = content.index(b"jp2h") - 4
    size = int.from_bytes(content[header : header + 4], "big") + len(box(b"colr", colr)) - len(old)
    content = content.replace(old, box(b"colr", colr))
    content = content[:header] + struct.pack(">I", size) + content[header + 4 :]
    to_light = color.srgb_to_linear if exponent is None else lambda values: values**exponent
    shown = read(tmp_path, content, "a.jp2")
    np.testing.assert_allclose(shown, expected(colors / 255, to_light, matrix), atol=3)


def test_jpeg2000_codestream(tmp_path, colors):
    content = saved(Image.fromarray(colors), format="JPEG2000", no_jp2=True)
    np.testing.assert_array_equal(read(tmp_path, content, "a.j2k"), colors)


def still(format: str, primaries: int, transfer: int) -> bytes:
    """Patches of a few colors, with these code points in the container."""
    patches = np.kron(
        np.array([[[200, 60, 40], [60, 190, 70]], [[50, 60, 200], [120, 120, 120]]], np.uint8),
        np.ones((32, 32, 1), np.uint8),
    )
    if format == "AVIF":
        content = saved(Image.fromarray(patches), format="AVIF", quality=100, subsampling="4:4:4")
    else:
        stream = BytesIO()
        pillow_heif.from_pillow(Image.fromarray(patches)).save(stream, quality=100, chroma=444)
        content = stream.getvalue()
    start = content.index(b"colrnclx") + 8
    return content[:start] + struct.pack(">2H", primaries, transfer) + content[start + 4 :]


@pytest.mark.parametrize("format, name", [("AVIF", "a.avif"), ("HEIF", "a.heic")])
def test_code_points_of_avif_and_heic(tmp_path, format, name):
    plain = read(tmp_path, still(format, 1, 13), name)
    assert abs(plain[8, 8].astype(int) - [200, 60, 40]).max() <= 4
    wide = read(tmp_path, still(format, 12, 13), name)
    np.testing.assert_allclose(wide, expected(plain / 255, color.srgb_to_linear, DISPLAY_P3_TO_SRGB), atol=1)
    assert "PQ" in refused(tmp_path, still(format, 9, 16), name)
    assert "HLG" in refused(tmp_path, still(format, 9, 18), name)


def test_heic_is_listed_and_known_by_its_content(tmp_path):
    assert {".heic", ".heif", ".hif", ".avif"} <= set(ImageKind.suffixes)
    assert read(tmp_path, still("HEIF", 1, 13), "a.jpg").shape == (64, 64, 3)


@pytest.mark.parametrize("format, name", [("AVIF", "a.avif"), ("HEIF", "a.heic")])
def test_damage_that_decoders_answer_with_other_exceptions(tmp_path, format, name):
    """libavif raises RuntimeError: each byte of the container may be wrong, and the file cut anywhere."""
    content = still(format, 1, 13)
    outcomes = set()
    for i in range(0, 300, 7):
        for damaged in (content[:i] + bytes([content[i] ^ 0xFF]) + content[i + 1 :], content[: i + 1]):
            (tmp_path / name).write_bytes(damaged)
            try:
                outcomes.add(read_picture(tmp_path / name, small).dtype == np.uint8)
            except ValueError as error:
                assert name in str(error) and "\n" not in str(error)
                outcomes.add("refused")
    assert "refused" in outcomes


# Others


@pytest.mark.parametrize("order, scale", [("<", b"-1.0"), (">", b"1.0")])
def test_color_pfm(tmp_path, colors, order, scale):
    values = (colors[::-1] / 255).astype(order + "f4").tobytes()
    content = b"PF\n20 16\n" + scale + b"\n" + values
    np.testing.assert_array_equal(read(tmp_path, content, "a.pfm"), colors)
    assert "truncated" in refused(tmp_path, content[:-1], "a.pfm")
    assert "truncated" in refused(tmp_path, content[:6], "a.pfm")
    assert "PFM" in refused(tmp_path, content.replace(scale, b"nan"), "a.pfm")
    assert "too large" in refused(tmp_path, content.replace(b"20 16", b"20000 16000"), "a.pfm")


def test_gray_pfm(tmp_path):
    values = (ROWS[::-1] / 255).astype("<f4").tobytes()
    shown = read(tmp_path, b"Pf\n12 4\n-1\n" + values, "a.pfm")
    np.testing.assert_array_equal(shown[..., 2], ROWS)


def test_profile_for_other_channels_is_told(tmp_path, colors, caplog):
    content = saved(Image.fromarray(colors), format="PNG", icc_profile=icc(LINEAR, space=b"GRAY"))
    np.testing.assert_array_equal(read(tmp_path, content), colors)
    assert "a profile for GRAY in a picture of RGB" in warning(caplog)


def test_all_that_is_left_out_is_told_in_one_line(tmp_path, caplog):
    frames = [Image.new("RGBA", (8, 6), color) for color in ((255, 0, 0, 0), (0, 0, 255, 255))]
    content = saved(frames[0], format="PNG", save_all=True, append_images=frames[1:], icc_profile=b"no profile")
    assert (read(tmp_path, content) == 255).all()
    text = warning(caplog)
    assert all(word in text for word in ("a.png", "only the first is taken", "profile ignored"))


def test_nothing_is_told_of_a_plain_picture(tmp_path, colors, caplog):
    read(tmp_path, saved(Image.fromarray(colors).convert("RGBA"), format="PNG"))
    assert not caplog.records


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError,
        SyntaxError,
        struct.error,
        EOFError,
        OverflowError,
        zlib.error,
        KeyError,
        MemoryError,
        RecursionError,
    ],
)
@pytest.mark.parametrize("where", ["opening", "loading"])
def test_no_exception_of_a_decoder_gets_out(tmp_path, colors, monkeypatch, error, where):
    def fails(*_):
        raise error("first line\nsecond line")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "_open" if where == "opening" else "load", fails)
    refused(tmp_path, saved(Image.fromarray(colors), format="PNG"))


def test_a_cut_tiff_gets_one_line_and_no_library_adds_to_it(tmp_path, caplog, recwarn):
    for samples in (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.float32)):
        refused(tmp_path, tiff(samples)[:40], "a.tif")
    assert not caplog.records and not recwarn.list
    assert not logging.getLogger("tifffile").disabled


def test_pillows_own_state_is_left_alone(tmp_path, colors):
    limit, filters = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    read(tmp_path, saved(Image.fromarray(colors), format="PNG"))
    assert (Image.MAX_IMAGE_PIXELS, list(warnings.filters)) == (limit, filters)
    assert limit == 1024 * 1024 * 1024 // 4 // 3  # what Pillow itself sets


@pytest.mark.parametrize("suffix", sorted({".jpeg", ".webp", ".gif", ".bmp", ".tga", ".qoi", ".ppm", ".dib", ".jfif"}))
def test_other_formats_by_content(tmp_path, colors, suffix):
    Image.fromarray(colors).save(tmp_path / f"a{suffix}")
    shown = read_picture(tmp_path / f"a{suffix}", small)
    assert shown.shape == colors.shape and shown.flags.c_contiguous


@pytest.mark.parametrize("mode", ["YCbCr", "RGB", "L"])
def test_jpeg_inside_tiff(tmp_path, colors, mode):
    smooth = np.kron(colors[:2, :2], np.ones((16, 16, 1), np.uint8))
    content = saved(Image.fromarray(smooth).convert(mode), format="TIFF", compression="jpeg", quality=100)
    right = np.asarray(Image.fromarray(smooth).convert(mode).convert("RGB"))
    assert np.abs(read(tmp_path, content, "a.tif").astype(int) - right)[4:12, 4:12].max() <= 6


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "group4"])
def test_tiff_of_one_bit(tmp_path, compression):
    bits = np.random.default_rng(0).integers(0, 2, (16, 24)).astype(bool)
    content = saved(Image.fromarray(bits), format="TIFF", compression=compression)
    np.testing.assert_array_equal(read(tmp_path, content, "a.tif")[..., 0], bits * 255)


def test_several_pictures_in_a_jpeg(tmp_path, caplog):
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    content = saved(frames[0], format="MPO", save_all=True, append_images=frames[1:])
    assert read(tmp_path, content, "a.jpg")[8, 8, 0] > 240
    assert "only the first is taken" in warning(caplog)


def test_every_palette_entry_has_its_alpha(tmp_path):
    palette, alpha = bytes([0, 0, 0] * 4), bytes([0, 51, 255])
    shown = read(tmp_path, png(np.array([[0, 1, 2, 3]]), 2, 3, PLTE=palette, tRNS=alpha))
    assert shown[0, :, 0].tolist() == [255, 204, 0, 0]


# Files that went wrong in silence


@pytest.mark.parametrize("peak", [1.01, 1.5, 40.0, 9000.0])
@pytest.mark.parametrize("form", ["tiff", "gray tiff", "pfm"])
def test_floats_with_highlights_above_one_are_not_darkened(tmp_path, caplog, form, peak):
    samples = np.linspace(0, 1, 200, dtype=np.float32).reshape(10, 20, 1).repeat(3, 2)
    samples[0, 0] = peak
    if form == "pfm":
        content = b"PF\n20 10\n-1.0\n" + samples[::-1].astype("<f4").tobytes()
    else:
        content = tiff(samples[..., :1] if form == "gray tiff" else samples)
    shown = read(tmp_path, content, "a.pfm" if form == "pfm" else "a.tif")
    right = np.rint(255 * np.minimum(samples, 1))
    np.testing.assert_allclose(shown, right, atol=1)
    assert f"values up to {peak:g} taken for 0 to 1" in warning(caplog)


def test_numbers_that_are_none(tmp_path, caplog):
    samples = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8, 1)
    samples[0, :3, 0] = np.nan, np.inf, -np.inf
    shown = read(tmp_path, tiff(samples), "a.tif")
    assert shown[0, :3, 0].tolist() == [0, 255, 0] and shown[7, 7, 0] == 255
    assert "3 samples are no finite numbers" in warning(caplog)
    assert "no sample is a finite number" in refused(tmp_path, tiff(np.full((8, 8, 1), np.nan, np.float32)), "a.tif")


def with_tag(content: bytes, tag: int, value: int) -> bytes:
    """A little-endian TIFF with one more LONG in its first directory."""
    start = struct.unpack("<I", content[4:8])[0]
    count = struct.unpack("<H", content[start : start + 2])[0]
    entries = [content[start + 2 + 12 * i : start + 14 + 12 * i] for i in range(count)]
    entries = sorted([*entries, struct.pack("<HHII", tag, 4, 1, value)], key=lambda e: struct.unpack("<H", e[:2]))
    return content[:start] + struct.pack("<H", count + 1) + b"".join(entries) + bytes(4)


@pytest.mark.parametrize("samples", [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_previews_and_raw_files_are_refused(tmp_path, samples):
    content = tiff(samples)
    assert read(tmp_path, with_tag(content, 254, 0), "a.tif").shape == (4, 4, 3)
    assert "preview" in refused(tmp_path, with_tag(content, 254, 1), "a.tif")
    assert "a camera's raw file" in refused(tmp_path, with_tag(content, 50706, 0x01040000), "a.tif")


def test_metadata_of_a_picture_with_a_profile_without_a_transform(tmp_path, caplog):
    """The profile is ignored, with a warning; the picture is read with metadata as without."""
    profile = icc(LINEAR)
    for name in (b"rTRC", b"gTRC", b"bTRC", b"rXYZ", b"gXYZ", b"bXYZ"):
        profile = profile.replace(name, b"none")
    Image.new("RGB", (4, 4), (9, 99, 199)).save(tmp_path / "a.png", icc_profile=profile)
    pixels, metadata = picture_files.read_with_metadata(tmp_path / "a.png", small)
    assert (pixels == (9, 99, 199)).all() and "icc" not in metadata
    assert "color profile ignored" in caplog.records[0].getMessage()


def test_threads_leave_warnings_and_loggers_as_they_were(tmp_path, colors):
    Image.fromarray(colors).save(tmp_path / "a.jpg")
    (tmp_path / "a.tif").write_bytes(tiff(np.zeros((4, 4, 1), np.uint16), bits=12))
    before = list(warnings.filters), set(TiffImagePlugin.OPEN_INFO)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            list(pool.map(lambda name: read_picture(tmp_path / name, small), ["a.jpg", "a.tif"] * 15))
    assert (list(warnings.filters), set(TiffImagePlugin.OPEN_INFO)) == before
    assert not any(logging.getLogger(name).disabled for name in ("tifffile", "PIL.TiffImagePlugin"))


def test_alpha_that_a_format_does_not_use(tmp_path, caplog, colors):
    """A fourth byte of zeros, where TGA and BMP say that it is none, or all of it is zero."""
    height, width = colors.shape[:2]
    body = np.dstack([colors[..., ::-1], np.zeros((height, width), np.uint8)]).tobytes()
    for attributes in (0x20, 0x28):
        head = struct.pack("<BBB5sHHHHBB", 0, 0, 2, bytes(5), 0, 0, width, height, 32, attributes)
        assert np.array_equal(read(tmp_path, head + body, "a.tga"), colors)
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    info = struct.pack("<IiiHHIIiiII", 108, width, -height, 1, 32, 3, len(body), 0, 0, 0, 0) + masks + bytes(52)
    header = b"BM" + struct.pack("<IHHI", 14 + len(info) + len(body), 0, 0, 14 + len(info))
    assert np.array_equal(read(tmp_path, header + info + body, "a.bmp"), colors)
    assert not caplog.records
    content = saved(Image.fromarray(np.dstack([colors, np.zeros((height, width), np.uint8)])), format="PNG")
    assert (read(tmp_path, content) == 255).all() and "transparent everywhere" in warning(caplog)


def test_the_limit_of_pixels_is_ours_for_tiff_too(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for samples in (ROWS[..., None], np.zeros((40, 50, 3), np.uint16), np.zeros((40, 50, 1), np.float32)):
        for compressed in (False, True):
            shown = read(tmp_path, tiff(np.repeat(samples, 9, 0), compressed=compressed), "a.tif")
            assert shown.shape[:2] == (9 * len(samples), samples.shape[1])
    assert "too large" in refused(tmp_path, tiff(np.zeros((1001, 1000, 1), np.uint8)), "a.tif")


@pytest.mark.parametrize("after", [False, True])
def test_long_texts_of_png_do_not_matter(tmp_path, colors, after):
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", "x" * (3 << 20), zip=True)
    if after:
        info.chunks = [(*chunk[:2], True) for chunk in info.chunks]
    assert np.array_equal(read(tmp_path, saved(Image.fromarray(colors), format="PNG", pnginfo=info)), colors)


def test_signed_bytes(tmp_path, caplog):
    shown = read(tmp_path, tiff(np.array([[0, 64, 127]], np.int8)[..., None]), "a.tif")
    assert shown[0, :, 0].tolist() == [0, 129, 255] and not caplog.records
    shown = read(tmp_path, tiff(np.array([[-128, -1, 127]], np.int8)[..., None]), "a.tif")
    assert shown[0, :, 0].tolist() == [0, 127, 255] and "stretched" in warning(caplog)
