"""Colors that a file declares: right values computed here from the standards' formulas."""

import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from data import color
from data.color import ColorError, HighDynamicRange, Profile

DISPLAY_P3_TO_SRGB = np.array(  # linear light, both of white D65, to 4 digits (CSS Color 4)
    [[1.2249, -0.2247, 0.0], [-0.0420, 1.0419, 0.0], [-0.0197, -0.0786, 1.0979]]
)
BT2020_TO_SRGB = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])


def icc(curve: bytes, primaries=color.SRGB_PRIMARIES, name: str = "sRGB", space: bytes = b"RGB ", extra=()) -> bytes:
    """A version 2 display profile of one curve and these primaries, whose description is `name`."""
    xyz = color.xyz_of(primaries)
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(name) + 1) + name.encode() + bytes(1 + 78),
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": b"XYZ " + bytes(4) + struct.pack(">3i", *(round(v * 65536) for v in (0.9642, 1.0, 0.8249))),
    }
    if space == b"GRAY":
        tags[b"kTRC"] = curve
    else:
        for i, letter in enumerate((b"r", b"g", b"b")):
            tags[letter + b"TRC"] = curve
            tags[letter + b"XYZ"] = b"XYZ " + bytes(4) + struct.pack(">3i", *np.rint(xyz[:, i] * 65536).astype(int))
    tags.update(extra)
    table, body, offset = b"", b"", 128 + 4 + 12 * len(tags)
    for tag, content in tags.items():
        content += bytes(-len(content) % 4)
        table += struct.pack(">4sII", tag, offset + len(body), len(content))
        body += content
    header = struct.pack(">I4sI4s4s4s12s4s", 0, bytes(4), 0x02400000, b"mntr", space, b"XYZ ", bytes(12), b"acsp")
    header += bytes(28) + struct.pack(">3i", 63190, 65536, 54061) + bytes(48)  # intent, then D50
    whole = header + struct.pack(">I", len(tags)) + table + body
    return struct.pack(">I", len(whole)) + whole[4:]


def gamma_curve(exponent: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(exponent * 256))


LINEAR = b"curv" + bytes(4) + struct.pack(">I", 0)
SRGB_PARAMETRIC = (
    b"para"
    + bytes(4)
    + struct.pack(">HH5i", 3, 0, *(round(v * 65536) for v in (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)))
)


def expected(samples: np.ndarray, to_light, matrix=None) -> np.ndarray:
    """samples in [0, 1], their curve, a matrix of linear light -> 8-bit sRGB."""
    light = to_light(samples)
    if matrix is not None:
        light = light @ matrix.T
    return np.rint(255 * color.linear_to_srgb(np.clip(light, 0, 1)))


@pytest.fixture
def colors() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


def test_srgb_curve_has_the_values_of_the_standard():
    light = color.srgb_to_linear(np.array([0, 0.04045, 0.5, 1]))
    np.testing.assert_allclose(light, [0, 0.0031308, 0.214041, 1], atol=1e-6)
    np.testing.assert_allclose(color.linear_to_srgb(light), [0, 0.04045, 0.5, 1], atol=1e-6)


@pytest.mark.parametrize("code, matrix", [(12, DISPLAY_P3_TO_SRGB), (9, BT2020_TO_SRGB)])
@pytest.mark.parametrize("transfer", [13, 1, 14, 2])
def test_code_points_of_wide_primaries(colors, code, matrix, transfer):
    read = color.from_cicp(code, transfer).to_srgb(colors)
    np.testing.assert_allclose(read, expected(colors / 255, color.srgb_to_linear, matrix), atol=1)


@pytest.mark.parametrize("primaries", [1, 2])
@pytest.mark.parametrize("transfer", [1, 2, 6, 13, 14, 15])
def test_code_points_that_are_srgb(primaries, transfer):
    assert color.from_cicp(primaries, transfer) is None


@pytest.mark.parametrize("transfer, exponent", [(4, 2.2), (5, 2.8), (8, 1.0)])
def test_code_points_of_other_curves(colors, transfer, exponent):
    read = color.from_cicp(1, transfer).to_srgb(colors)
    np.testing.assert_allclose(read, expected(colors / 255, lambda v: v**exponent), atol=1)


@pytest.mark.parametrize("primaries", sorted(set(color._CICP_PRIMARIES)))
def test_white_stays_white_and_gray_gray(primaries):
    """Every primaries' white is adapted to sRGB's, so that the neutral axis is kept."""
    grays = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    space = color.from_cicp(primaries, 13)
    np.testing.assert_allclose(grays if space is None else space.to_srgb(grays), grays, atol=1)


@pytest.mark.parametrize("transfer, name", [(16, "PQ"), (18, "HLG")])
def test_high_dynamic_range_is_refused_by_name(transfer, name):
    with pytest.raises(HighDynamicRange, match=f"{name}.*standard dynamic range"):
        color.from_cicp(9, transfer)
    tag = b"cicp" + bytes(4) + bytes([9, transfer, 0, 1])
    with pytest.raises(HighDynamicRange, match=name):
        Profile(icc(LINEAR, extra={b"cicp": tag}.items()))


@pytest.mark.parametrize("primaries, transfer", [(1, 9), (1, 3), (3, 13), (200, 13)])
def test_unknown_code_points(primaries, transfer):
    with pytest.raises(ColorError, match="not known"):
        color.from_cicp(primaries, transfer)


def test_gamma_and_chromaticities(colors):
    assert color.from_gamma(0.45455, None) is None
    assert color.from_gamma(0.45455, color.SRGB_PRIMARIES) is None
    assert color.from_gamma(None, None) is None
    linear = color.from_gamma(1.0, None).to_srgb(colors)
    np.testing.assert_array_equal(linear, expected(colors / 255, lambda v: v))
    mac = color.from_gamma(1 / 1.8, None).to_srgb(colors)
    np.testing.assert_allclose(mac, expected(colors / 255, lambda v: v**1.8), atol=1)
    p3 = color.from_gamma(None, color._CICP_PRIMARIES[12]).to_srgb(colors)
    np.testing.assert_allclose(p3, expected(colors / 255, color.srgb_to_linear, DISPLAY_P3_TO_SRGB), atol=1)


@pytest.mark.parametrize(
    "primaries", [(0.0,) * 8, (0.3, 0.3, *(0.5, 0.4) * 3), (0.3, 0.0, 0.6, 0.3, 0.3, 0.6, 0.1, 0.1)]
)
def test_impossible_chromaticities(primaries):
    with pytest.raises(ColorError, match="span no colors"):
        color.from_gamma(None, primaries)
    with pytest.raises(ColorError, match="exponent"):
        color.from_gamma(0.0, None)


@pytest.mark.parametrize("curve", [SRGB_PARAMETRIC, None], ids=["parametric", "table"])
@pytest.mark.parametrize("name", ["sRGB", "Camera"])
def test_profile_that_is_srgb_leaves_pixels_alone(colors, curve, name):
    if curve is None:
        table = np.rint(65535 * color.srgb_to_linear(np.linspace(0, 1, 1024))).astype(">u2")
        curve = b"curv" + bytes(4) + struct.pack(">I", 1024) + table.tobytes()
    read = Profile(icc(curve, name=name)).to_srgb(Image.fromarray(colors))
    np.testing.assert_array_equal(np.asarray(read), colors)


@pytest.mark.parametrize("name", ["sRGB IEC61966-2.1", "Camera"])
@pytest.mark.parametrize(
    "exponent, primaries, matrix", [(1.0, None, None), (2.2, None, None), (2.2, 12, DISPLAY_P3_TO_SRGB)]
)
def test_profile_is_judged_by_what_it_does(colors, name, exponent, primaries, matrix):
    points = color._CICP_PRIMARIES[primaries or 1]
    profile = Profile(icc(gamma_curve(exponent), points, name))
    exponent = round(exponent * 256) / 256
    right = expected(colors / 255, lambda v: v**exponent, matrix)
    np.testing.assert_allclose(np.asarray(profile.to_srgb(Image.fromarray(colors))), right, atol=3)
    np.testing.assert_allclose(profile.curves_and_matrix().to_srgb(colors), right, atol=1)


@pytest.mark.parametrize("kind", range(5))
def test_parametric_curves(kind):
    """The five functions of ICC.1, table 68."""
    g, a, b, c, d, e, f = 2.0, 0.8, 0.1, 0.25, 0.3, 0.05, 0.01
    count = (1, 3, 4, 5, 7)[kind]
    tag = (
        b"para"
        + bytes(4)
        + struct.pack(f">HH{count}i", kind, 0, *(round(v * 65536) for v in (g, a, b, c, d, e, f)[:count]))
    )
    right = {
        0: lambda x: x**g,
        1: lambda x: (a * x + b) ** g,
        2: lambda x: (a * x + b) ** g + c,
        3: lambda x: (a * x + b) ** g if x >= d else c * x,
        4: lambda x: (a * x + b) ** g + e if x >= d else c * x + f,
    }[kind]
    curve = color._icc_curve(tag)
    for x in (0.0, 0.2, 0.7):
        assert curve[round(x * 65535)] == pytest.approx(min(right(x), 1), abs=1e-4)


def test_gray_profile(colors):
    gray = np.ascontiguousarray(colors[..., 0])
    profile = Profile(icc(LINEAR, space=b"GRAY"))
    assert profile.space == "GRAY"
    right = expected(gray / 255, lambda v: v)
    deep = np.repeat((gray.astype(np.uint16) * 257)[..., None], 3, axis=2)
    np.testing.assert_allclose(profile.curves_and_matrix().to_srgb(deep)[..., 1], right, atol=1)


def test_inks_go_through_their_profile():
    """A press whose black ink alone is seen: the simple formula would show black for the other three."""
    corners = [(round(255 * (1 - k)), 128, 128) for _ in range(8) for k in (0, 1)]  # Lab of each; K runs fastest
    ramp = bytes(range(256))
    tables = ramp * 4 + b"".join(map(bytes, corners)) + ramp * 3
    unit = struct.pack(">9i", *(65536 * int(i % 4 == 0) for i in range(9)))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + unit + tables
    data = icc(LINEAR, space=b"CMYK", extra={b"A2B0": lut}.items())
    data = data[:12] + b"prtr" + data[16:20] + b"Lab " + data[24:]
    profile = Profile(data)
    assert profile.space == "CMYK" and profile.curves_and_matrix() is None
    inks = Image.fromarray(
        np.array([[[255, 255, 255, 0], [0, 0, 0, 0], [0, 0, 0, 255], [0, 0, 0, 128]]], np.uint8), "CMYK"
    )
    shown = np.asarray(profile.to_srgb(inks))
    np.testing.assert_allclose(shown[0], [[255] * 3, [255] * 3, [0] * 3, [119] * 3], atol=3)


def test_profile_of_tables_has_no_curves():
    table = {b"A2B0": b"mft2" + bytes(60)}
    assert Profile(icc(LINEAR, extra=table.items())).curves_and_matrix() is None
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    assert Profile(lab.tobytes()).curves_and_matrix() is None


@pytest.mark.parametrize("data", [b"no profile", b"", bytes(200), icc(LINEAR)[:150]])
def test_unreadable_profile(data):
    with pytest.raises(ColorError):
        Profile(data)


def test_dark_16_bit_samples_keep_their_steps():
    """Linear light of 16 bits holds shadows that 8 bits cannot tell apart."""
    samples = np.repeat(np.arange(0, 512, 4, dtype=np.uint16)[None, :, None], 3, axis=2)
    read = color.from_cicp(1, 8).to_srgb(samples)
    np.testing.assert_array_equal(read, expected(samples / 65535, lambda v: v))
    assert len(np.unique(read)) > 15
