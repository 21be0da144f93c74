"""Colors that a file declares: right values computed here from the standards' formulas."""

import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from data import color
from data.color import ColorError, HighDynamicRange, Profile
from tests.helpers.color import (
    BT2020_TO_SRGB,
    DISPLAY_P3_TO_SRGB,
    LINEAR,
    SRGB_PARAMETRIC,
    expected,
    gamma_curve,
    icc,
)


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
