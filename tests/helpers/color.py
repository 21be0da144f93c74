"""Color profiles and the values that they mean, computed from the standards' formulas."""

import struct

import numpy as np

from data import color

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
