"""What a file stores of a picture beside its symbols: the plane of transparency, EXIF data, the color profile.

Each becomes the content of one section of a file (`utils.codec.bitstream`). A stranger may have written it, so
whatever is wrong with a content ends in a ValueError of one line, in memory bounded by the picture's size.
"""

import warnings
import zlib
from collections.abc import Mapping
from io import BytesIO

import numpy as np
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from .color import ColorError, Profile

MAX_METADATA = 2**20  # bytes of EXIF data or of a profile, before they are deflated
_WEBP_SIDE = 16383  # pixels, the largest of the format


def pack_alpha(alpha: np.ndarray) -> bytes:
    """uint8 (H, W) -> a lossless WebP of it; a PNG, which is larger, where a side has more pixels than WebP knows."""
    stream, image = BytesIO(), Image.fromarray(alpha)
    if max(image.size) <= _WEBP_SIDE:
        image.convert("RGB").save(stream, "WEBP", lossless=True)  # three equal channels cost what one does
    else:
        image.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def unpack_alpha(content: bytes, size: tuple[int, int]) -> np.ndarray:
    """Inverse of `pack_alpha` -> uint8 (H, W). Raises ValueError unless the content is such a plane of this size."""
    height, width = size
    if content[:4] == b"RIFF" and content[8:16] == b"WEBPVP8L" and len(content) >= 25:
        # Pillow's decoder takes memory for the size as soon as it opens the file.
        packed = int.from_bytes(content[21:25], "little")
        found, opened = ((packed >> 14 & 0x3FFF) + 1, (packed & 0x3FFF) + 1), WebPImageFile
    elif content[:8] == b"\x89PNG\r\n\x1a\n" and len(content) >= 24:
        found, opened = (int.from_bytes(content[20:24], "big"), int.from_bytes(content[16:20], "big")), PngImageFile
    else:
        raise ValueError("its alpha section is neither a lossless WebP nor a PNG")
    if found != (height, width):
        raise ValueError(f"its alpha section has {found[0]}x{found[1]} pixels, the picture {height}x{width}")
    try:
        image = opened(BytesIO(content))
        if image.mode not in ("L", "RGB"):
            raise ValueError(f"mode {image.mode}")
        plane = np.asarray(image.getchannel(0))
    # As in `data.picture_files`: decoders answer damage with a dozen kinds of exceptions.
    except Exception as error:
        cause = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"its alpha section cannot be decoded ({cause})") from error
    if plane.shape != (height, width):
        raise ValueError(f"its alpha section has {plane.shape[0]}x{plane.shape[1]} pixels, not {height}x{width}")
    return plane


def pack_metadata(metadata: Mapping[str, bytes]) -> dict[str, bytes]:
    """ "exif" and "icc" -> contents of their sections.

    Raises ValueError for another name, for more than `MAX_METADATA` bytes and for damaged data.
    """
    for name, value in metadata.items():
        if name not in _CHECKS:
            raise ValueError(f"metadata {name!r} is unknown, possible are {', '.join(_CHECKS)}")
        if not 1 <= len(value) <= MAX_METADATA:
            raise ValueError(f"{name} of {len(value)} bytes, allowed 1..{MAX_METADATA}")
        _CHECKS[name](value)
    return {name: zlib.compress(value, 9) for name, value in metadata.items()}


def unpack_metadata(contents: Mapping[str, bytes]) -> dict[str, bytes]:
    """Inverse of `pack_metadata`. Raises ValueError for contents that no writer makes."""
    metadata = {}
    for name, content in contents.items():
        stream = zlib.decompressobj()
        try:
            value = stream.decompress(content, MAX_METADATA)
        except zlib.error as error:
            raise ValueError(f"its {name} section cannot be inflated ({error})") from None
        if not value or not stream.eof or stream.unused_data:
            raise ValueError(f"its {name} section does not inflate to 1..{MAX_METADATA} bytes")
        _CHECKS[name](value)
        metadata[name] = value
    return metadata


def _check_exif(value: bytes) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # which is how Pillow tells of damage
            exif = Image.Exif()
            exif.load(value)
            for block in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
                exif.get_ifd(block)
    except Exception as error:
        raise ValueError(f"its EXIF data cannot be read ({type(error).__name__})") from error


def _check_icc(value: bytes) -> None:
    try:
        space = Profile(value).space
    except ColorError as error:
        raise ValueError(f"its color profile cannot be read ({error})") from None
    if space != "RGB":
        raise ValueError(f"its color profile is for {space}, not for RGB")


_CHECKS = {"exif": _check_exif, "icc": _check_icc}
