"""From the colors that a picture file declares to sRGB, which is what the codec sees.

A file says what its numbers mean in one of three ways: an ICC profile, the numbers of ITU-T H.273
("coding-independent code points": PNG cICP, nclx of AVIF and HEIC), or chromaticities and an exponent
(PNG cHRM and gAMA). Profiles of 8-bit pictures go through LittleCMS. The other two, and profiles of
16-bit pictures that consist of curves and a matrix, are an `RGBSpace`.

Whether a description is sRGB under another name is judged by what it does to colors, never by its name.
"""

import struct
from collections.abc import Callable
from functools import cached_property
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

# White, red, green, blue as CIE 1931 chromaticities x, y.
Chromaticities = tuple[float, float, float, float, float, float, float, float]

_D65 = (0.3127, 0.3290)
_D50_XYZ = np.array([0.9642, 1.0, 0.8249])  # white of the profile connection space (ICC.1, 7.2.16)
SRGB_PRIMARIES: Chromaticities = (*_D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)

# H.273, table 2. Code 2 is "unspecified", which is taken as sRGB.
_CICP_PRIMARIES: dict[int, Chromaticities] = {
    1: SRGB_PRIMARIES,
    2: SRGB_PRIMARIES,
    4: (0.310, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),  # BT.470 M
    5: (*_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),  # BT.470 BG, BT.601 with 625 lines
    6: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),  # BT.601 with 525 lines
    7: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),  # SMPTE 240
    8: (0.310, 0.316, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049),  # film, illuminant C
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),  # BT.2020
    10: (1 / 3, 1 / 3, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0),  # XYZ
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # P3 of cinemas
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # Display P3
    22: (*_D65, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077),  # EBU 3213
}

_HDR = {16: "PQ", 18: "HLG"}

_LEVELS = 65536  # entries of a curve: every 16-bit sample has its own
_STRIP = 256  # rows at once, where an array is converted: temporaries of a strip, not of the whole

# libpng's PNG_GAMMA_THRESHOLD: exponents closer than this count as equal.
_GAMMA_TOLERANCE = 0.05

_SAME = 2  # levels of 255, by which the many profiles of sRGB itself differ from it by their rounding


class ColorError(ValueError):
    """A color description that cannot be used; the message says why, without the file's name."""


class HighDynamicRange(ColorError):
    """Light coded by PQ or HLG, which is not taken as sRGB."""

    def __init__(self, transfer: str):
        super().__init__(
            f"a high dynamic range picture ({transfer}), which has no sRGB pixels of its own; "
            "save it for standard dynamic range (tone-mapped to sRGB) in a picture editor, and code that file"
        )


def srgb_to_linear(values: np.ndarray) -> np.ndarray:
    """sRGB's curve (IEC 61966-2-1): coded values in [0, 1] -> light in [0, 1]."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(light: np.ndarray) -> np.ndarray:
    """Inverse of `srgb_to_linear`, on [0, 1]."""
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


class RGBSpace:
    """An RGB color space: a curve per channel, then a matrix to the light of sRGB's primaries.

    `curves` are three arrays of 65536 values, the light in [0, 1] of each 16-bit sample; `to_xyz` (3, 3)
    turns light to XYZ relative to D50. Colors that sRGB does not reach are clipped per channel.
    """

    def __init__(self, curves: list[np.ndarray], to_xyz: np.ndarray):
        self._curves = [np.asarray(curve, np.float32) for curve in curves]
        self._matrix = np.linalg.solve(xyz_of(SRGB_PRIMARIES), to_xyz).astype(np.float32)

    @classmethod
    def of(cls, primaries: Chromaticities, curve: Callable[[np.ndarray], np.ndarray]) -> "RGBSpace":
        """One curve (values in [0, 1] -> light) for all channels. Raises ColorError for impossible primaries."""
        return cls([curve(np.linspace(0, 1, _LEVELS))] * 3, xyz_of(primaries))

    def to_srgb(self, samples: np.ndarray) -> np.ndarray:
        """uint8 or uint16 (H, W, 3) of this space -> uint8 (H, W, 3), sRGB."""
        pixels = np.empty(samples.shape, np.uint8)
        for top in range(0, len(samples), _STRIP):
            strip = samples[top : top + _STRIP]
            index = strip.astype(np.uint16) * np.uint16(257) if strip.dtype == np.uint8 else strip
            light = np.stack([curve[index[..., i]] for i, curve in enumerate(self._curves)], axis=-1)
            light = np.clip(light @ self._matrix.T, 0, 1)
            pixels[top : top + _STRIP] = np.rint(linear_to_srgb(light) * 255)
        return pixels


def xyz_of(primaries: Chromaticities) -> np.ndarray:
    """(3, 3): light of these primaries -> XYZ relative to D50, adapted by Bradford's method (ICC.1, annex E).

    Raises ColorError if the chromaticities span no colors.
    """
    x, y = np.array(primaries[0::2], np.float64), np.array(primaries[1::2], np.float64)
    try:
        columns = np.stack([x[1:], y[1:], 1 - x[1:] - y[1:]])
        white = np.array([x[0], y[0], 1 - x[0] - y[0]]) / y[0] if y[0] > 0 else None
        if white is None or abs(np.linalg.det(columns)) < 1e-4:
            raise np.linalg.LinAlgError
        to_xyz = columns * np.linalg.solve(columns, white)
    except np.linalg.LinAlgError:
        raise ColorError("chromaticities that span no colors") from None
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    scale = (bradford @ _D50_XYZ) / (bradford @ white)
    return np.linalg.solve(bradford, scale[:, None] * bradford) @ to_xyz


def from_cicp(primaries: int, transfer: int) -> RGBSpace | None:
    """The space of two code points of H.273; None if it is sRGB.

    The curves of BT.601, BT.709 and BT.2020 describe cameras. Screens and browsers show what was coded by them with
    about sRGB's curve, so they are taken as that.

    Raises HighDynamicRange for PQ and HLG, ColorError for code points that are reserved or not for screens.
    """
    if transfer in _HDR:
        raise HighDynamicRange(_HDR[transfer])
    curves = {
        **dict.fromkeys((1, 2, 6, 7, 11, 12, 13, 14, 15), srgb_to_linear),
        4: lambda values: values**2.2,
        5: lambda values: values**2.8,
        8: lambda values: values,
        17: lambda values: np.minimum(values**2.6 * 52.37 / 48, 1),
    }
    if primaries not in _CICP_PRIMARIES or transfer not in curves:
        raise ColorError(f"color code points {primaries}/{transfer} are not known")
    return _unless_srgb(RGBSpace.of(_CICP_PRIMARIES[primaries], curves[transfer]))


def from_gamma(gamma: float | None, primaries: Chromaticities | None) -> RGBSpace | None:
    """The space of PNG's gAMA (exponent of the encoder, 1/2.2 for most) and cHRM; None if it is sRGB.

    An exponent within 5 % of 1/2.2 stands for sRGB's own curve, as in libpng: the PNG specification has
    writers of sRGB pictures put just that. Raises ColorError for values that cannot be.
    """
    curve = srgb_to_linear
    if gamma is not None:
        if not 0.01 <= gamma <= 100:
            raise ColorError(f"an exponent of {gamma:g}")
        if abs(gamma * 2.2 - 1) > _GAMMA_TOLERANCE:

            def curve(values):
                return values ** (1 / gamma)

    return _unless_srgb(RGBSpace.of(primaries or SRGB_PRIMARIES, curve))


class Profile:
    """An ICC profile. Raises ColorError if it cannot be read, HighDynamicRange if it declares PQ or HLG."""

    def __init__(self, data: bytes):
        self._data = bytes(data)
        tags = self._tags()
        if len(tags.get(b"cicp", b"")) >= 10 and tags[b"cicp"][9] in _HDR:
            raise HighDynamicRange(_HDR[tags[b"cicp"][9]])
        try:
            self._profile = ImageCms.ImageCmsProfile(BytesIO(self._data))
            self.space = self._profile.profile.xcolor_space.strip()  # "RGB", "CMYK", "GRAY", "Lab"
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
            raise ColorError(str(error) or type(error).__name__) from error

    def to_srgb(self, image: Image.Image) -> Image.Image:
        """Mode RGB, CMYK, LAB or L as the profile's own space -> mode RGB; unchanged if that is sRGB.

        Raises ColorError if the profile has no way to sRGB.
        """
        return image if self.is_srgb else self._apply(image)

    @cached_property
    def is_srgb(self) -> bool:
        """Whether it leaves sRGB colors where they are."""
        return self.space == "RGB" and _is_identity(lambda samples: np.asarray(self._apply(Image.fromarray(samples))))

    def curves_and_matrix(self) -> RGBSpace | None:
        """The profile as an `RGBSpace`, which 16-bit samples need; None if it works by tables instead."""
        tags = self._tags()
        try:
            if self.space == "GRAY" and b"kTRC" in tags:
                return RGBSpace([_icc_curve(tags[b"kTRC"])] * 3, xyz_of(SRGB_PRIMARIES))
            if self.space != "RGB" or b"A2B0" in tags:
                return None
            curves = [_icc_curve(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC")]
            columns = [struct.unpack(">3i", tags[name][8:20]) for name in (b"rXYZ", b"gXYZ", b"bXYZ")]
        except (KeyError, struct.error, ValueError, IndexError):
            return None
        return RGBSpace(curves, np.array(columns).T / 65536)

    def _apply(self, image: Image.Image) -> Image.Image:
        try:
            return ImageCms.profileToProfile(image, self._profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError) as error:
            raise ColorError(str(error) or type(error).__name__) from error

    def _tags(self) -> dict[bytes, bytes]:
        """Signature -> content of each element (ICC.1, 7.3); what lies outside the data is cut."""
        count = min(int.from_bytes(self._data[128:132], "big"), 100)
        table = self._data[132 : 132 + 12 * count]
        return {
            name: self._data[start : start + size]
            for name, start, size in struct.iter_unpack(">4sII", table[: len(table) // 12 * 12])
        }


def _icc_curve(tag: bytes) -> np.ndarray:
    """curveType or parametricCurveType (ICC.1, 10.6 and 10.18) -> light of each 16-bit sample."""
    x = np.linspace(0, 1, _LEVELS)
    if tag[:4] == b"curv":
        count = int.from_bytes(tag[8:12], "big")
        if count == 0:
            return x
        table = np.frombuffer(tag, ">u2", count, offset=12)
        if count == 1:
            return x ** (table[0] / 256)
        return np.interp(x, np.linspace(0, 1, count), table / 65535)
    if tag[:4] != b"para":
        raise ValueError("not a curve")
    kind = int.from_bytes(tag[8:10], "big")
    count = {0: 1, 1: 3, 2: 4, 3: 5, 4: 7}[kind]
    g, a, b, c, d, e, f = (list(np.array(struct.unpack(f">{count}i", tag[12 : 12 + 4 * count])) / 65536) + [0.0] * 6)[
        :7
    ]
    if kind == 0:
        return x**g
    power = np.maximum(a * x + b, 0) ** g
    if kind <= 2:  # below -b/a the curve is flat: at 0, or at c
        return np.clip(np.where(x >= -b / a, power, 0) + (c if kind == 2 else 0), 0, 1)
    return np.clip(np.where(x >= d, power + e, c * x + f), 0, 1)


def _unless_srgb(space: RGBSpace) -> RGBSpace | None:
    return None if _is_identity(space.to_srgb) else space


def _is_identity(to_srgb: Callable[[np.ndarray], np.ndarray]) -> bool:
    """Whether a conversion leaves a grid of colors and all grays where they are."""
    steps = np.linspace(0, 255, 9).astype(np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
    grays = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    samples = np.concatenate([grid, grays])[None]
    return int(np.abs(to_srgb(samples).astype(int) - samples).max()) <= _SAME
