"""Reads picture files of every listed format into the 8-bit sRGB pixels that a viewer shows.

Pillow reads the formats, pillow-heif HEIC. TIFF layouts that Pillow does not know (big-endian 12 bits,
gray with alpha at 16 bits, floats with three channels and others) go to tifffile. What is read
becomes one of two things: a Pillow image of 8 bits per channel, or uint16 samples where the file holds
more. Colors are converted (`data.color`) from those, then the picture is turned as its EXIF orientation
says. What is gray becomes one channel, and transparency stays a channel of its own.

Nothing of Pillow's global state is changed, so that a program which uses this reader keeps its own.
"""

import logging
import struct
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageFile, TiffImagePlugin

from . import color
from .color import ColorError, Profile, RGBSpace
from .sections import pack_metadata

logger = logging.getLogger(__name__)

# The formats that the suffixes stand for, and no others: Pillow also knows some that would start
# an interpreter (EPS) or that only other programs can draw. TGA has no signature and comes last.
_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "GIF", "BMP", "DIB", "PPM", "JPEG2000", "QOI", "TGA")

# Brands of the container that AVIF and HEIC share (ISO/IEC 23008-12, annex B).
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}

_SEVERAL = "holds several pictures, only the first is taken"

SizeCheck = Callable[[tuple[int, int]], None]

_FULL = 65535  # white of uint16 samples
# Floats of which only so few are above the limit are of the range 0..1, with highlights or the overshoot of a resampling
# above it, and not of 0..255.
_UNIT_LIMIT, _HIGHLIGHTS = 2.0, 0.01

# The same 16-bit samples in the other byte order; N is the machine's own.
_SWAPPED = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}

# Layouts that Pillow's decoder can do but its table does not name, keyed as there. The bits of a 12-bit
# sample are packed alike in both byte orders. Pillow has them only while a header is read.
_MORE_TIFF_LAYOUTS = {
    **{
        (order, photometric, (1,), 1, (12,), ()): ("I;16", "I;12")
        for order in (TiffImagePlugin.II, TiffImagePlugin.MM)
        for photometric in (0, 1)
    },
    (TiffImagePlugin.MM, 0, (1,), 1, (16,), ()): ("I;16B", "I;16B"),
}

# libtiff hands out samples in the machine's byte order, whatever the file's; for these Pillow forgets it.
_NATIVE = {"I;16B": "I;16N", "I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF"}

_ORIENTATION = 0x0112  # of EXIF and TIFF
_SUBFILE_TYPE, _DNG_VERSION = 254, 50706  # of TIFF; bit 0 of the first one: a smaller version of another picture
_TURNED = {  # orientation -> what makes the stored rows upright (TIFF 6.0, Orientation)
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


class PictureError(ValueError):
    """Why a file is not read, without its name; `read_picture` puts that before it."""


@dataclass
class _Picture:
    """What a file holds, before its colors are brought to sRGB."""

    samples: Image.Image | np.ndarray  # mode L, RGB, CMYK or LAB; or uint16 (H, W, 3)
    alpha: np.ndarray | None = None  # uint8 or uint16 (H, W), 0 where the picture is transparent
    color: Profile | RGBSpace | None = None  # None: sRGB
    orientation: int = 1
    notes: list[str] = field(default_factory=list)  # what is left out or changed
    exif: Image.Exif | None = None
    icc: bytes | None = None  # what `color` was made of, where it is a profile


def read_picture(path: Path, check_size: SizeCheck) -> np.ndarray:
    """Read a picture as a viewer shows it -> uint8, contiguous: (H, W, 3) RGB, (H, W) where it is gray, and with
    transparency (H, W, 4) RGBA or (H, W, 2).

    The declared colors are converted to sRGB, the camera's orientation is applied and 16 bits are rounded to
    8. Alpha that is opaque everywhere is dropped, and what is fully transparent is white. A picture is gray
    where red, green and blue are equal in all pixels. Of an animation or a file of several pages the first is taken.
    Integers beyond 16 bits and floats outside 0..1 and 0..255 have no agreed range: they are stretched from
    minimum to maximum. What is left out or changed by this is told in one warning per file. A camera's raw file
    is refused: of it a preview alone could be read.

    Raises ValueError with one line for whatever is not a readable picture, whichever exception its
    decoder raised, and for high dynamic range (PQ, HLG). `check_size` gets (height, width) before memory
    is taken for the pixels, and refuses a size by a ValueError whose message becomes that of the file.
    """
    return _read(path, check_size, with_metadata=False)[0]


def read_with_metadata(path: Path, check_size: SizeCheck) -> tuple[np.ndarray, dict[str, bytes]]:
    """`read_picture`, and what of the file's metadata is true of the pixels that it gives.

    "exif": EXIF data with GPS and maker's notes, without the thumbnail and the tags that describe the file's layout.
    The orientation is 1, for the pixels are upright. "icc": an RGB profile, where it leaves sRGB colors as they are.
    Pixels of other profiles have been converted to sRGB. What cannot be kept is told in the file's warning.
    """
    return _read(path, check_size, with_metadata=True)


def _read(path: Path, check_size: SizeCheck, with_metadata: bool) -> tuple[np.ndarray, dict[str, bytes]]:
    path, metadata = Path(path), {}
    with _errors_in_one_line(path), _QUIET:
        if path.is_dir():
            raise PictureError("a folder, not an image")
        with open(path, "rb") as file:
            picture = _decoded(file, check_size)
            pixels = _upright(picture, _to_srgb(picture))
            if with_metadata:
                metadata = _metadata(picture, pixels)
    _warn(picture, path)
    return pixels, metadata


def convert_image(image: Image.Image, check_size: SizeCheck) -> np.ndarray:
    """A Pillow image of any mode, opened or made -> the pixels that `read_picture` would have read of its file.

    Its color profile, transparency and EXIF orientation count as they do there, unless Pillow itself has
    dropped them. Errors and warnings are those of `read_picture`.
    """
    return _convert(image, check_size, with_metadata=False)[0]


def convert_with_metadata(image: Image.Image, check_size: SizeCheck) -> tuple[np.ndarray, dict[str, bytes]]:
    """`convert_image`, and what of the image's metadata is true of these pixels: see `read_with_metadata`."""
    return _convert(image, check_size, with_metadata=True)


def _convert(image: Image.Image, check_size: SizeCheck, with_metadata: bool) -> tuple[np.ndarray, dict[str, bytes]]:
    metadata = {}
    name = getattr(image, "filename", "") or f"a Pillow image of mode {image.mode}"
    with _errors_in_one_line(name), _QUIET:
        if 0 in image.size:
            raise PictureError(f"no pixels ({image.width}x{image.height})")
        _checked(check_size, *image.size)
        picture = _of_pillow(image)
        picture.icc = image.info.get("icc_profile")
        picture.color = _profile(picture.icc, picture.notes)
        pixels = _upright(picture, _to_srgb(picture))
        if with_metadata:
            metadata = _metadata(picture, pixels)
    _warn(picture, name)
    return pixels, metadata


def _upright(picture: _Picture, pixels: np.ndarray) -> np.ndarray:
    turned = _TURNED.get(picture.orientation)
    return np.ascontiguousarray(turned(pixels) if turned else pixels)


def _warn(picture: _Picture, name: Path | str) -> None:
    """One line of what was left out or changed."""
    if picture.notes:
        logger.warning("%s: %s", name, "; ".join(dict.fromkeys(picture.notes)))


@contextmanager
def _errors_in_one_line(name: Path | str):
    """Whatever a reader raises becomes a ValueError of one line with the picture's name."""
    try:
        yield
    except (PictureError, ColorError) as error:
        raise ValueError(f"{name}: {error}") from None
    except FileNotFoundError:
        raise ValueError(f"{name}: no such file") from None
    except MemoryError:
        raise ValueError(f"{name}: not enough memory for this image") from None
    except OSError as error:
        if error.strerror:
            raise ValueError(f"{name}: cannot be read ({error.strerror})") from error
        raise ValueError(_damaged(name, error)) from error
    # The one place where decoders' exceptions end: they answer damage with a dozen kinds.
    except Exception as error:
        raise ValueError(_damaged(name, error)) from error


class _Together:
    """A context of the whole process in which several threads may be: the first enters it, and the last leaves it."""

    def __init__(self, make: Callable[[], AbstractContextManager]):
        self._make, self._lock, self._users = make, threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._users:
                self._inner = self._make()
                self._inner.__enter__()
            self._users += 1

    def __exit__(self, *_error) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._inner.__exit__(None, None, None)


@contextmanager
def _kept_back():
    """Keeps back what Pillow and tifffile say of every damaged tag: a file gets one line, with its name."""
    loggers = [logging.getLogger(name) for name in ("tifffile", "PIL.TiffImagePlugin")]
    before = [each.disabled for each in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for each in loggers:
            each.disabled = True
        try:
            yield
        finally:
            for each, disabled in zip(loggers, before):
                each.disabled = disabled


_QUIET = _Together(_kept_back)


def _damaged(path: Path | str, error: Exception) -> str:
    cause = str(error).strip().partition("\n")[0] or type(error).__name__
    return f"{path}: damaged or truncated image ({cause})"


def _checked(check_size: SizeCheck, width: int, height: int) -> None:
    try:
        check_size((height, width))
    except ValueError as error:
        raise PictureError(str(error)) from None


# Opening


def _decoded(file: BinaryIO, check_size: SizeCheck) -> _Picture:
    try:
        return _decode(file, check_size)
    except ValueError as error:
        if "MAX_TEXT" not in str(error):
            raise
    # Pillow refuses PNG files of which a text is long (XMP), which is none of a picture's pixels.
    return _decode(_without_texts(file), check_size)


def _decode(file: BinaryIO, check_size: SizeCheck) -> _Picture:
    file.seek(0)
    head = file.read(16)
    if not head:
        raise PictureError("an empty file, not an image")
    if head.startswith(b"PF") and head[2:3].isspace():
        return _color_pfm(file, check_size)
    if head.startswith(tuple(TiffImagePlugin.PREFIXES)):
        return _tiff(file, check_size)
    image = _opened(file)
    _checked(check_size, *image.size)
    if image.format == "PNG":
        return _png(file, image)
    picture = _of_pillow(image)
    if image.format in ("TGA", "BMP", "DIB") and picture.alpha is not None:
        file.seek(17)  # of a TGA: how many bits of a pixel are alpha, in the lower half
        unused = image.format == "TGA" and not file.read(1)[0] & 15
        if unused or not picture.alpha.any():  # a fourth byte that programs fill with zeros
            picture.alpha = None
    picture.color = _declared(file, image, picture.notes)
    picture.icc = image.info.get("icc_profile")
    return picture


def _of_pillow(image: Image.Image) -> _Picture:
    """What an image of 8 bits per channel, or of one channel, holds, without the colors that its container declares."""
    picture = _Picture(image, notes=_frames(image))
    image.load()
    _note_exif(picture, image)
    _split(picture)
    return picture


def _opened(file: BinaryIO) -> ImageFile.ImageFile:
    """The decoder for a file's first bytes, its header read.

    `Image.open` would do the same, but it knows one limit of pixels for the whole process, and it drops
    the reasons for which decoders refuse a file.
    """
    file.seek(0)
    head = file.read(64)
    if head[4:8] == b"ftyp":
        brands = {head[8:12], *(head[i : i + 4] for i in range(16, min(int.from_bytes(head[:4], "big"), 64), 4))}
        if not brands & _AVIF_BRANDS and brands & _HEIF_BRANDS:
            return _heif_image(file)
    if "TGA" not in Image.OPEN:
        Image.init()
    refusal = None
    for name in _FORMATS:
        factory, accept = Image.OPEN.get(name, (None, None))
        accepted = factory is not None and (accept is None or accept(head[:16]))
        if isinstance(accepted, str):  # built without this format
            raise PictureError(accepted)
        if not accepted:
            continue
        file.seek(0)
        try:
            return factory(file, getattr(file, "name", ""))
        except SyntaxError as error:  # what decoders raise for a header that is not theirs, or damaged
            if accept is not None:
                refusal = error
    if refusal is not None:
        raise refusal
    raise PictureError("not an image in a format that can be read")


def _heif_image(file: BinaryIO) -> ImageFile.ImageFile:
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise PictureError(
            f"HEIC is read by pillow-heif, which does not load ({error}): pip install pillow-heif"
        ) from None
    file.seek(0)
    return HeifImageFile(file)


def _frames(image: ImageFile.ImageFile) -> list[str]:
    try:
        # A program that went to another frame wants that one.
        several = getattr(image, "is_animated", False) and image.tell() == 0
    except Exception:  # a damaged second frame: the first is what counts
        several = False
    return [_SEVERAL] if several else []


def _note_exif(picture: _Picture, image: Image.Image) -> None:
    """Keep the EXIF data and their orientation, 1 to 8; damaged data leave the picture as it is."""
    try:
        picture.exif = image.getexif()
        picture.orientation = int(picture.exif.get(_ORIENTATION, 1))
    except Exception as error:
        picture.notes.append(f"orientation ignored, EXIF data damaged ({error})")
        picture.exif = None


# Colors that a file declares


def _profile(data: bytes | None, notes: list[str]) -> Profile | None:
    if not data:
        return None
    try:
        return Profile(data)
    except color.HighDynamicRange:
        raise
    except ColorError as error:
        notes.append(f"color profile ignored ({error})")
        return None


def _code_points(primaries: int, transfer: int, notes: list[str]) -> RGBSpace | None:
    try:
        return color.from_cicp(primaries, transfer)
    except color.HighDynamicRange:
        raise
    except ColorError as error:
        notes.append(f"color description ignored ({error})")
        return None


def _declared(file: BinaryIO, image: ImageFile.ImageFile, notes: list[str]) -> Profile | RGBSpace | None:
    """What all formats but PNG say: an ICC profile, or else the code points of their container."""
    if image.format == "JPEG2000":
        return _jpeg2000_color(file, notes)
    profile = _profile(image.info.get("icc_profile"), notes)
    if profile is not None:
        return profile
    nclx = image.info.get("nclx_profile") if image.format == "HEIF" else None
    if image.format == "AVIF":
        nclx = _avif_nclx(file, notes)
    if nclx:
        return _code_points(int(nclx["color_primaries"]), int(nclx["transfer_characteristics"]), notes)
    return None


def _avif_nclx(file: BinaryIO, notes: list[str]) -> dict | None:
    """Pillow does not tell an AVIF file's code points; libheif reads the same container."""
    try:
        from pillow_heif import HeifFile

        file.seek(0)
        opened = HeifFile(file)
        return opened[opened.primary_index].info.get("nclx_profile")
    except Exception as error:  # libheif is stricter than libavif, which has read the pixels
        notes.append(f"color description not read ({error})")
        return None


def _boxes(file: BinaryIO, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(type, start and end of the content) of the boxes from here to `end` (ISO/IEC 15444-1, annex I.4)."""
    position = file.tell()
    while position + 8 <= end:
        file.seek(position)
        size, kind = struct.unpack(">I4s", file.read(8))
        start = position + 8
        if size == 1:
            size, start = int.from_bytes(file.read(8), "big"), position + 16
        stop = end if size == 0 else position + size
        if not start <= stop <= end:
            return
        yield kind, start, stop
        position = stop


def _jpeg2000_color(file: BinaryIO, notes: list[str]) -> Profile | RGBSpace | None:
    """The first `colr` box that is understood (ISO/IEC 15444-1, annex I.5.3.3); Pillow passes none on."""
    end = file.seek(0, 2)
    file.seek(0)
    if file.read(4) == b"\xff\x4f\xff\x51":  # a bare codestream says nothing of colors
        return None
    file.seek(0)
    for kind, start, stop in _boxes(file, end):
        if kind != b"jp2h":
            continue
        file.seek(start)
        for inner, first, last in _boxes(file, stop):
            if inner != b"colr":
                continue
            file.seek(first)
            content = file.read(last - first)
            if content[:1] in (b"\2", b"\3"):  # restricted or any ICC profile
                profile = _profile(content[3:], notes)
                if profile is not None:
                    return profile
            elif content[:1] == b"\5" and len(content) >= 7:
                return _code_points(*struct.unpack(">HH", content[3:7]), notes)
            elif content[:1] == b"\1":  # sRGB, gray or YCC of sRGB, which OpenJPEG has converted
                return None
        return None
    return None


# Samples


def _split(picture: _Picture) -> None:
    """Bring a loaded Pillow image of any mode to the two forms of `_Picture.samples`."""
    image = picture.samples
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        _split_deep_gray(picture)
        return
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data or image.mode == "RGBa":
        gray = image.mode in ("1", "L", "LA")
        image = image.convert("RGBA")
        picture.alpha = np.asarray(image.getchannel("A"))
        image = image.convert("RGB")  # the colors as they are, without the alpha channel
        if gray:
            image = image.getchannel("R")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode not in ("L", "CMYK", "LAB"):
        image = image.convert("RGB")
    picture.samples = image


def _split_deep_gray(picture: _Picture) -> None:
    """Modes I;16, I and F: one channel of 16 bits, of 32-bit integers, of floats."""
    image = picture.samples
    values = np.asarray(image)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):  # PNG: one gray value is see-through
        picture.alpha = np.where(values == transparent, 0, _FULL).astype(np.uint16)
    picture.samples = _three(_sixteen_bits(values, picture.notes))


def _three(gray: np.ndarray) -> np.ndarray:
    return np.repeat(gray[:, :, None], 3, axis=2)


def _sixteen_bits(values: np.ndarray, notes: list[str], white: int | None = None, inverted: bool = False) -> np.ndarray:
    """Samples of any type -> uint16 of the same shape, 0 black, 65535 white.

    `white` is the file's own white where it declares one; the rules for other numbers are those of
    `read_picture`. With `inverted`, 0 is white.
    """
    if values.dtype.kind == "f":
        values = _finite(values, notes)
    low, high = float(values.min()), float(values.max())
    if white is not None and low >= 0:
        black, top = 0.0, float(white)
    elif values.dtype.kind == "f" and low >= 0 and high <= 1:
        black, top = 0.0, 1.0
    elif values.dtype.kind == "f" and low >= 0 and np.count_nonzero(values > _UNIT_LIMIT) <= _HIGHLIGHTS * values.size:
        black, top = 0.0, 1.0
        notes.append(f"values up to {high:g} taken for 0 to 1, what is above is white")
    elif values.dtype.kind == "f" and low >= 0 and high <= 255:
        black, top = 0.0, 255.0
    elif values.dtype.kind != "f" and low >= 0 and high <= _FULL:
        black, top = 0.0, float(_FULL)
    else:
        black, top = low, max(high, np.nextafter(low, np.inf))
        notes.append(f"values {low:g} to {high:g} stretched to black and white")
    if values.dtype == np.uint16 and top == _FULL and not inverted:
        return values
    samples = np.empty(values.shape, np.uint16)
    for row in range(len(values)):  # double precision for one row, not for the whole
        unit = np.clip((values[row].astype(np.float64) - black) / (top - black), 0, 1)
        samples[row] = np.rint((1 - unit if inverted else unit) * _FULL)
    return samples


def _finite(values: np.ndarray, notes: list[str]) -> np.ndarray:
    """Floats with a number everywhere: infinity becomes the largest one, or 1, what is no number the smallest one, or 0."""
    known = np.isfinite(values)
    if known.all():
        return values
    if not known.any():
        raise PictureError("no sample is a finite number")
    notes.append(
        f"{values.size - np.count_nonzero(known)} samples are no finite numbers: infinity is white, others black"
    )
    low = min(0.0, float(np.min(values, where=known, initial=np.inf)))
    high = max(1.0, float(np.max(values, where=known, initial=-np.inf)))
    return np.nan_to_num(values, nan=low, posinf=high, neginf=low)


def _deep_color(file: BinaryIO, image: ImageFile.ImageFile) -> np.ndarray | None:
    """The 16-bit samples (H, W, 3 or 4) of an image of which Pillow keeps the high byte; None if it has 8.

    Pillow has no mode for them. Told the other byte order it keeps the low byte, so the file is read
    twice.
    """
    raw_mode = _raw_mode(image)
    if raw_mode[:-1] not in ("RGB;16", "RGBA;16", "RGBX;16") or raw_mode[-1] not in _SWAPPED:
        return None
    _load(image)
    high = np.asarray(image)
    again = _opened(file)
    again.tile = [
        tile._replace(args=_replaced(tile.args, raw_mode[:-1] + _SWAPPED[raw_mode[-1]])) for tile in again.tile
    ]
    _load(again)
    return (high.astype(np.uint16) << 8) | np.asarray(again)


def _load(image: ImageFile.ImageFile) -> None:
    """Reads the pixels. For TIFF Pillow has a limit of its own here, after `_checked`: it counts where Pillow makes the
    memory, and so not where there is some."""
    if image.format == "TIFF":
        image.im = Image.core.new(image.mode, getattr(image, "_tile_size", image.size))
    image.load()


def _raw_mode(image: ImageFile.ImageFile) -> str:
    args = image.tile[0].args if image.tile else ""
    return (args[0] if isinstance(args, tuple) else args) or ""


def _replaced(args, raw_mode: str):
    return (raw_mode, *args[1:]) if isinstance(args, tuple) else raw_mode


# PNG


def _png(file: BinaryIO, image: ImageFile.ImageFile) -> _Picture:
    position = file.tell()
    chunks = _png_chunks(file)
    file.seek(position)
    picture = _Picture(image, notes=_frames(image))
    depth, key = chunks[b"IHDR"][8], chunks.get(b"tRNS", b"")
    deep = _deep_color(file, image)
    image.load()
    _note_exif(picture, image)
    picture.color, narrow = _png_color(chunks, image, picture.notes)
    picture.icc = image.info.get("icc_profile")
    if deep is not None:
        picture.samples = deep[..., :3]
        if deep.shape[2] == 4:
            picture.alpha = deep[..., 3]
        elif len(key) >= 6:
            picture.alpha = np.where((picture.samples == struct.unpack(">3H", key[:6])).all(axis=2), 0, _FULL)
            picture.alpha = picture.alpha.astype(np.uint16)
    else:
        if depth <= 8 and image.mode in ("L", "RGB") and key:
            # The key counts in the file's bits, of which a reader takes the low ones; Pillow's samples have 8.
            scale = 255 // (2**depth - 1)
            levels = [
                value % 2**depth * scale for value in struct.unpack(f">{len(key) // 2}H", key[: len(key) // 2 * 2])
            ]
            image.info["transparency"] = levels[0] if image.mode == "L" else tuple(levels[:3])
        _split(picture)
    if narrow:
        picture.samples = _full_range(picture.samples)
    return picture


def _png_chunks(file: BinaryIO) -> dict[bytes, bytes]:
    """The chunks before the pixels that say what the pixels mean; the first of each name counts."""
    chunks: dict[bytes, bytes] = {}
    file.seek(8)
    while len(header := file.read(8)) == 8:
        size, kind = struct.unpack(">I4s", header)
        if kind == b"IDAT":
            break
        if kind in (b"IHDR", b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"tRNS"):
            chunks.setdefault(kind, file.read(size))
            file.seek(4, 1)
        else:
            file.seek(size + 4, 1)
    return chunks


def _without_texts(file: BinaryIO) -> BinaryIO:
    """The same PNG file without its texts."""
    file.seek(0)
    kept = BytesIO(file.read(8))
    kept.seek(0, 2)
    while len(header := file.read(8)) == 8:
        size, kind = struct.unpack(">I4s", header)
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            file.seek(size + 4, 1)
        else:
            kept.write(header + file.read(size + 4))
    return kept


def _png_color(
    chunks: dict[bytes, bytes], image: Image.Image, notes: list[str]
) -> tuple[Profile | RGBSpace | None, bool]:
    """-> the color space, and whether the samples have the narrow range of video.

    The first of cICP, iCCP, sRGB, and cHRM with gAMA counts: the order of the PNG specification (section 4.3).
    """
    cicp = chunks.get(b"cICP", b"")
    if len(cicp) == 4:
        primaries, transfer, matrix, full = cicp
        try:
            if matrix != 0:
                raise ColorError(f"cICP with matrix {matrix}, where PNG holds RGB")
            return color.from_cicp(primaries, transfer), full == 0
        except color.HighDynamicRange:
            raise
        except ColorError as error:
            notes.append(f"color description ignored ({error})")
    if b"iCCP" in chunks:
        profile = _profile(image.info.get("icc_profile") or b"damaged", notes)
        if profile is not None:
            return profile, False
    if b"sRGB" in chunks:
        return None, False
    gamma, primaries = chunks.get(b"gAMA", b""), chunks.get(b"cHRM", b"")
    try:
        exponent = int.from_bytes(gamma[:4], "big") / 100_000 if len(gamma) >= 4 else None
        points = tuple(v / 100_000 for v in struct.unpack(">8I", primaries[:32])) if len(primaries) >= 32 else None
        return color.from_gamma(exponent, points), False
    except ColorError as error:
        notes.append(f"color description ignored ({error})")
        return None, False


def _full_range(samples: Image.Image | np.ndarray) -> np.ndarray:
    """Samples with black at 16/256 and white at 235/256 of their range -> uint16 (H, W, 3) of the full range."""
    values = np.asarray(samples.convert("RGB")) if isinstance(samples, Image.Image) else samples
    unit = 1 << (8 * values.dtype.itemsize - 8)
    stretched = (values.astype(np.float32) / unit - 16) / 219
    return np.rint(np.clip(stretched, 0, 1) * _FULL).astype(np.uint16)


# TIFF


def _tiff(file: BinaryIO, check_size: SizeCheck) -> _Picture:
    try:
        with _MORE_LAYOUTS:
            image = _opened(file)
        tags = image.tag_v2
    except SyntaxError:  # a layout for which Pillow has no mode
        return _rare_tiff(file, check_size)
    _check_whole(tags.get(_SUBFILE_TYPE, 0) & 1, _DNG_VERSION in tags or _is_cr2(file))
    _checked(check_size, *image.size)
    bits = max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
    if bits > 8 and tags.get(TiffImagePlugin.PLANAR_CONFIGURATION, 1) == 2:
        return _rare_tiff(file, check_size)  # whose planes Pillow takes for 8 bits
    picture = _Picture(image, notes=_frames(image))
    extra = tags.get(TiffImagePlugin.EXTRASAMPLES, ())
    _note_extra(sum(1 for kind in extra if kind not in (1, 2, 999)), picture.notes)
    inverted = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0) == 0
    integers = tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,))[0]
    deep = _deep_color(file, image)
    image.tile = [
        tile._replace(args=_replaced(tile.args, _NATIVE.get(tile.args[0], tile.args[0])))
        if tile.codec_name == "libtiff"
        else tile
        for tile in image.tile
    ]
    _load(image)
    _note_exif(picture, image)
    picture.icc = image.info.get("icc_profile")
    picture.color = _profile(picture.icc, picture.notes)
    if deep is not None:
        picture.samples = deep[..., :3]
        picture.alpha = deep[..., 3] if image.mode == "RGBA" else None
    elif image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if image.mode == "I" and integers == 1:
            values = values.view(np.uint32)
        picture.samples = _three(_sixteen_bits(values, picture.notes, _white(bits, integers), inverted))
    elif integers == 2 and bits == 8 and image.mode in ("L", "RGB") and not inverted:
        values = _sixteen_bits(np.asarray(image).view(np.int8), picture.notes, _white(bits, integers))
        picture.samples = _three(values) if values.ndim == 2 else values
    else:
        _split(picture)
    return picture


@contextmanager
def _more_tiff_layouts():
    """Adds `_MORE_TIFF_LAYOUTS` to Pillow's table, and takes out again what was not there before."""
    table = TiffImagePlugin.OPEN_INFO
    added = {key: modes for key, modes in _MORE_TIFF_LAYOUTS.items() if key not in table}
    table.update(added)
    try:
        yield
    finally:
        for key in added:
            table.pop(key, None)


_MORE_LAYOUTS = _Together(_more_tiff_layouts)


def _is_cr2(file: BinaryIO) -> bool:
    """Whether a TIFF is a raw file of Canon's, which has its mark behind the first eight bytes."""
    file.seek(8)
    return file.read(2) == b"CR"


def _check_whole(reduced: bool, raw: bool) -> None:
    """Raises PictureError where the first picture of a TIFF is not the picture that the file is for."""
    if raw:
        raise PictureError(
            "a camera's raw file, of which only a preview could be read; develop it first, to TIFF or PNG"
        )
    if reduced:
        raise PictureError("its first picture is a preview of another one; export that one as TIFF or PNG")


def _white(bits: int, sample_format: int) -> int | None:
    """The largest integer of a TIFF sample of up to 16 bits (format 1 unsigned, 2 signed); None beyond."""
    if bits > 16 or sample_format not in (1, 2):
        return None
    return 2**bits - 1 if sample_format == 1 else 2 ** (bits - 1) - 1


def _note_extra(count: int, notes: list[str]) -> None:
    if count > 0:
        notes.append(f"{count} extra channel{'s' if count > 1 else ''} left out")


def _rare_tiff(file: BinaryIO, check_size: SizeCheck) -> _Picture:
    """Gray and RGB of any number of bits, with or without alpha, that Pillow cannot read."""
    import tifffile  # here, because few files need it

    file.seek(0)
    with tifffile.TiffFile(file) as document:
        page = document.pages[0]
        _check_whole(int(page.subfiletype) & 1, _DNG_VERSION in page.tags)
        _checked(check_size, page.imagewidth, page.imagelength)
        photometric, colors = int(page.photometric), {0: 1, 1: 1, 2: 3}.get(int(page.photometric))
        layout = f"photometric {photometric}, {page.bitspersample} bits, {page.samplesperpixel} samples per pixel"
        if colors is None or page.samplesperpixel < colors or page.imagedepth > 1:
            raise PictureError(f"a TIFF layout that is not read ({layout}); save it as 8 or 16-bit RGB")
        try:
            values = page.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            raise PictureError(f"a TIFF compression that is not read here ({layout}); save it uncompressed") from None
        values = values.reshape(page.imagelength, page.imagewidth, -1) if page.planarconfig != 2 else values
        if values.ndim == 3 and page.planarconfig == 2 and page.samplesperpixel > 1:
            values = np.moveaxis(values, 0, -1)
        values = values.reshape(page.imagelength, page.imagewidth, page.samplesperpixel)
        picture = _Picture(values, notes=[_SEVERAL] * (len(document.pages) > 1))
        tags = {code: page.tags[code].value for code in (34675, _ORIENTATION) if code in page.tags}
        kinds = [int(kind) for kind in page.extrasamples]
        bits, sample_format = int(page.bitspersample), int(page.sampleformat)
    if values.dtype.kind not in "uif":
        raise PictureError(f"a TIFF layout that is not read ({layout}); save it as 8 or 16-bit RGB")
    white = _white(bits, sample_format)
    alphas = [i for i, kind in enumerate(kinds) if kind in (1, 2)]
    _note_extra(values.shape[2] - colors - len(alphas[:1]), picture.notes)
    samples = values[..., :colors]
    if alphas:
        alpha = values[..., colors + alphas[0]]
        full = white or (1 if values.dtype.kind == "f" else np.iinfo(values.dtype).max)
        picture.alpha = _sixteen_bits(alpha, picture.notes, full)
        if kinds[alphas[0]] == 1:  # associated: the colors are multiplied by it
            share = picture.alpha[..., None] / _FULL
            samples = np.divide(samples, share, out=np.zeros(samples.shape), where=share > 0)
            white = white or (full if samples.max(initial=0) <= full * 1.001 else None)
    samples = _sixteen_bits(samples, picture.notes, white, photometric == 0)
    picture.samples = np.repeat(samples, 3, axis=2) if colors == 1 else samples
    picture.icc = tags.get(34675)
    picture.color = _profile(picture.icc, picture.notes)
    picture.orientation = int(tags.get(_ORIENTATION, 1))
    return picture


# Portable float map


def _color_pfm(file: BinaryIO, check_size: SizeCheck) -> _Picture:
    """`PF`: three floats per pixel, the bottom row first. Pillow reads the gray `Pf` alone."""
    file.seek(0)
    header = file.read(64)  # three lines; comments are not part of the format
    fields = header.split(maxsplit=4)
    if len(fields) < 4:
        raise PictureError("damaged or truncated image (a PFM header of fewer than four words)")
    width, height, scale = int(fields[1]), int(fields[2]), float(fields[3])
    if width <= 0 or height <= 0 or not np.isfinite(scale) or scale == 0:
        raise PictureError(f"damaged or truncated image (a PFM of {width}x{height}, scale {scale:g})")
    _checked(check_size, width, height)
    start = 0
    for word in fields[:4]:
        start = header.index(word, start) + len(word)
    file.seek(start + 1)  # one white space after the scale
    content = file.read(12 * width * height)
    if len(content) < 12 * width * height:
        raise PictureError(f"damaged or truncated image ({len(content)} bytes of {12 * width * height})")
    values = np.frombuffer(content, "<f4" if scale < 0 else ">f4").reshape(height, width, 3)[::-1]
    picture = _Picture(values)
    picture.samples = _sixteen_bits(values, picture.notes)
    return picture


# Metadata


# Tags of a TIFF's first directory that describe how its pixels are stored, and copies of what is kept elsewhere: XMP,
# IPTC, Photoshop's resources, the profile.
_LAYOUT_TAGS = (
    *range(254, 260), 262, 263, 264, 265, 266, 273, *range(277, 282), 284, *range(288, 294), 297, 301, 317,
    *range(320, 335), *range(336, 348), *range(512, 533), 700, 33723, 34377, 34675, 37724,
)  # fmt: skip
_COLOR_SPACE, _WIDTH, _HEIGHT = 0xA001, 0xA002, 0xA003  # of the EXIF block
_SRGB = 1


def _metadata(picture: _Picture, pixels: np.ndarray) -> dict[str, bytes]:
    """What `read_with_metadata` says; `pixels` are upright."""
    found = {}
    if picture.exif:
        try:
            found["exif"] = _upright_exif(picture.exif, pixels.shape[:2])
        except Exception as error:  # tags that their own reader cannot write
            picture.notes.append(f"EXIF data not kept ({type(error).__name__}: {error})")
    if isinstance(picture.color, Profile) and picture.icc and pixels.shape[2:] in ((3,), (4,)):
        with suppress(ColorError):  # of a profile without a transform: it was ignored
            if picture.color.is_srgb:
                found["icc"] = bytes(picture.icc)
    metadata = {}
    for name, value in found.items():
        try:
            pack_metadata({name: value})
            metadata[name] = value
        except ValueError as error:
            picture.notes.append(f"{name} not kept ({error})")
    return metadata


def _upright_exif(exif: Image.Exif, size: tuple[int, int]) -> bytes:
    """EXIF data, as they are true of upright sRGB pixels of that (height, width)."""
    kept = Image.Exif()
    kept.load(exif.tobytes())
    for tag in _LAYOUT_TAGS:
        kept.pop(tag, None)
    block = kept.get_ifd(ExifTags.IFD.Exif)
    for tag, values, value in (
        (_ORIENTATION, kept, 1),
        (_COLOR_SPACE, block, _SRGB),
        (_WIDTH, block, size[1]),
        (_HEIGHT, block, size[0]),
    ):
        if tag in values:
            values[tag] = value
    return kept.tobytes().removeprefix(b"Exif\0\0") if len(kept) else b""


# To sRGB


def _to_srgb(picture: _Picture) -> np.ndarray:
    """-> uint8 (H, W, 3), sRGB, or one of its simpler or larger layouts, as `read_picture` says."""
    pixels, alpha = _converted(picture), picture.alpha
    if alpha is not None and alpha.dtype == np.uint16:
        alpha = _eight_bits(alpha)
    if alpha is not None and int(alpha.min()) == 255:
        alpha = None
    if alpha is not None and not alpha.any():
        picture.notes.append("transparent everywhere")
    if alpha is not None:  # what no one sees must not decide whether a picture is gray
        pixels = np.where(alpha[..., None] == 0, np.uint8(255), pixels)
    if all((pixels[..., 0] == pixels[..., i]).all() for i in (1, 2)):
        pixels = pixels[..., 0]
    return pixels if alpha is None else np.dstack([pixels, alpha])


def _converted(picture: _Picture) -> np.ndarray:
    samples, space = picture.samples, picture.color
    if isinstance(space, Profile):
        try:
            return _through_profile(samples, space)
        except ColorError as error:
            picture.notes.append(f"color profile ignored ({error})")
    rgb = samples if isinstance(samples, np.ndarray) else np.asarray(samples.convert("RGB"))
    if isinstance(space, RGBSpace):
        return space.to_srgb(rgb)
    return _eight_bits(rgb) if rgb.dtype == np.uint16 else rgb


def _through_profile(samples: Image.Image | np.ndarray, profile: Profile) -> np.ndarray:
    """LittleCMS takes 8 bits, and gray by a coarse table: more bits and gray go by the profile's curves.

    Raises ColorError if the profile does not fit the picture.
    """
    image = None if isinstance(samples, np.ndarray) else _fitting(samples, profile)
    if image is None and profile.space == "GRAY" and any((samples[..., 0] != samples[..., i]).any() for i in (1, 2)):
        raise ColorError("a profile for GRAY in a picture of RGB")
    curves = profile.curves_and_matrix() if image is None or profile.space == "GRAY" else None
    if curves is not None:
        return curves.to_srgb(samples if image is None else np.asarray(image.convert("RGB")))
    if image is None:
        image = _fitting(Image.fromarray(_eight_bits(samples)), profile)
    return np.asarray(profile.to_srgb(image))


def _fitting(image: Image.Image, profile: Profile) -> Image.Image:
    """The image in the mode that the profile is for. Raises ColorError if it is for other channels."""
    if profile.space == "RGB" and image.mode in ("RGB", "L"):
        return image.convert("RGB")
    if profile.space == "GRAY" and image.mode == "L":
        return image
    if profile.space == "CMYK" and image.mode == "CMYK":
        return image
    raise ColorError(f"a profile for {profile.space} in a picture of {image.mode}")


def _eight_bits(samples: np.ndarray) -> np.ndarray:
    """uint16 -> uint8, rounded."""
    pixels = np.empty(samples.shape, np.uint8)
    for row in range(len(samples)):
        pixels[row] = np.rint(samples[row] / np.float32(257))
    return pixels
