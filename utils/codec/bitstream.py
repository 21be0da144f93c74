"""The .bpgan container: a short header, optional sections, the coded symbols, a checksum.

    offset  field        type       range         meaning
    0       magic        2 bytes    B6 47         this is a .bpgan file
    2       version      bits 7..4  1             of this layout
    2       kind         bits 3..0  0..7          kind of signal
    3       exact        bit  7     0..1          1: the sender judged the pixels of the exact generator
    3       sectioned    bit  6     0..1          1: sections come before the payload
    3       gray         bit  5     0..1          1: a gray picture, which the receiver shows in one channel
    3       repeats      bit  4     0..1          1: the payload begins with a map of repeats
    3       coder        bits 3..0  0..4          entropy coder (0 huffman, 1 context)
    4       quality_step u8         0..224        above quality 1, in steps of 1/32
    5       fingerprint  4 bytes    any           of the checkpoint (weights and tables)
    9       level        u8         0..255        level of the kind's own scale, such as loudness
    10      size_a       varint     0..2^31 - 1   image: height in pixels; speech: samples
    ..      size_b       varint     0..2^31 - 1   image: width in pixels; speech: sample rate in Hz
    ..      sections     see below                only where sectioned is 1
    ..      payload      the rest                 entropy-coded symbols
    end-4   crc          4 bytes    big endian    CRC-32 of everything before it

Varints are LEB128 (7 bits per byte, lowest first, high bit set on all but the last) without
redundant bytes. size_b is stored plus one; the byte 00 stands for the usual value of the kind,
which writer and reader pass in as `default_sizes`, kind to size_b (speech: 16000). Header and
checksum take 16 to 24 bytes, 18 for a few seconds of speech or a photograph. The payload's length
is not stored: the end of the file defines it, and the checksum catches a file that is longer or
shorter than it was. A file that ends inside its header is reported as truncated, any other damage
as a failed checksum.

A section is what a file holds beside the symbols, such as the plane of transparency:

    tag      u8       bit 7: another section follows; bits 6..0: its number
    length   varint   1 up to the bound of its number, in bytes
    content  bytes

Numbers rise from section to section, so each occurs once at most. `SECTIONS` lists them. A reader
refuses an unknown number below 64, without which the signal would be shown wrongly, and skips one
from 64 on. A reader from before there were sections, gray pictures or the exact generator refuses
files with these: it knows 0 and 1 as the values of bits 7..4, or of bits 7..6, of byte 3.
"""

from __future__ import annotations

import dataclasses
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

if TYPE_CHECKING:
    from data import Kind

MAGIC = b"\xb6\x47"  # the first byte is no start of any text encoding
VERSION = 1
MAX_OVERHEAD = 24  # header and checksum together, in bytes
MAX_SIZE = 2**31 - 1
MAX_FILE_BYTES = 2**31

_CRC_BYTES = 4
_READ_BYTES = 1 << 20


class BitstreamError(ValueError):
    """The bytes are not a usable .bpgan file; the message is one line that says why."""


@dataclass(frozen=True)
class Field:
    """One header field. `layout`: 'bits', 'u8', 'bytes', 'varint', 'default'.

    Fields of 'bits' share a byte, the highest bits first: `bits` is how many they are, and `shift` how many come
    after them. 'default' is a varint of the value plus one, or 00 for the caller's default. What the fields mean
    is in the module docstring.
    """

    name: str
    layout: str
    low: int
    high: int
    bits: int = 8
    shift: int = 0


FIELDS = (
    Field("version", "bits", VERSION, VERSION, bits=4, shift=4),
    Field("kind", "bits", 0, 7, bits=4),
    Field("exact", "bits", 0, 1, bits=1, shift=7),
    Field("sectioned", "bits", 0, 1, bits=1, shift=6),
    Field("gray", "bits", 0, 1, bits=1, shift=5),
    Field("repeats", "bits", 0, 1, bits=1, shift=4),
    Field("coder", "bits", 0, 4, bits=4),
    Field("quality_step", "u8", 0, 224),
    Field("fingerprint", "bytes", 4, 4),
    Field("level", "u8", 0, 255),
    Field("size_a", "varint", 0, MAX_SIZE),
    Field("size_b", "default", 0, MAX_SIZE),
)


FLAGS = ("exact", "gray", "repeats")  # fields that say yes or no


class SectionType(NamedTuple):
    """What the number of a section stands for. Numbers below 64 are needed to show the signal."""

    number: int
    max_bytes: int


SECTIONS = {
    "alpha": SectionType(1, 2**30),  # the plane of transparency, a lossless WebP or PNG (`data.sections`)
    "exif": SectionType(64, 2**20),  # the camera's EXIF data, deflated
    "icc": SectionType(65, 2**20),  # the profile that the pixels have, deflated
}
_SKIPPABLE = 64  # the first number that a reader need not know
_MORE = 0x80


@dataclass(frozen=True)
class FileHeader:
    """What a .bpgan file says besides its payload; ranges in `FIELDS` and the module docstring.

    `sections`: name -> content, of the known ones alone.
    """

    kind: int
    coder: int
    quality_step: int
    fingerprint: bytes
    size_a: int
    size_b: int
    level: int = 0
    repeats: int = 0
    version: int = VERSION
    gray: int = 0
    exact: int = 0
    sections: Mapping[str, bytes] = dataclasses.field(default_factory=dict)

    @property
    def sectioned(self) -> int:
        """The header's bit: 1 where there are sections."""
        return int(bool(self.sections))


def _check_field(field: Field, value: object) -> None:
    if field.layout == "bytes":
        if not isinstance(value, bytes) or len(value) != field.low:
            raise BitstreamError(f"{field.name} {value!r} is not {field.low} bytes")
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise BitstreamError(f"{field.name} {value!r} is not an integer")
    if field.name == "version" and value != VERSION:
        raise BitstreamError(f"file of version {value}, this program reads version {VERSION}")
    if not field.low <= value <= field.high:
        raise BitstreamError(f"{field.name} {value} is unknown, allowed {field.low}..{field.high}")


def _write_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, position: int, name: str) -> tuple[int, int]:
    value = 0
    for count in range(5):
        if position >= len(data):
            raise BitstreamError(f"truncated file: it ends inside {name}")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            if byte == 0 and count:
                raise BitstreamError(f"damaged header: {name} has redundant bytes")
            return value, position
    raise BitstreamError(f"damaged header: {name} has more than 5 bytes")


def _write_sections(sections: Mapping[str, bytes]) -> bytes:
    """Raises BitstreamError for an unknown name, or a content that is empty or too long."""
    out = bytearray()
    for name in sections:
        if name not in SECTIONS:
            raise BitstreamError(f"section {name!r} is unknown, allowed {', '.join(SECTIONS)}")
    members = [(SECTIONS[name].number, name) for name in sections]
    for number, name in sorted(members):
        content, most = sections[name], SECTIONS[name].max_bytes
        if not 1 <= len(content) <= most:
            raise BitstreamError(f"section {name} of {len(content)} bytes, allowed 1..{most}")
        out.append(number | (_MORE if (number, name) != max(members) else 0))
        out += _write_varint(len(content)) + content
    return bytes(out)


def _read_sections(data: bytes, position: int) -> tuple[dict[str, bytes], int]:
    """-> the known sections from this offset, and the offset behind them. Nothing of a declared length is allocated."""
    names = {known.number: name for name, known in SECTIONS.items()}
    sections: dict[str, bytes] = {}
    last, more = -1, True
    while more:
        if position >= len(data):
            raise BitstreamError("truncated file: it ends inside its sections")
        number, more = data[position] & ~_MORE, bool(data[position] & _MORE)
        if number <= last:
            raise BitstreamError(f"damaged header: section {number} after section {last}")
        name = names.get(number)
        if name is None and number < _SKIPPABLE:
            raise BitstreamError(
                f"section {number} is unknown to this version, and the signal cannot be shown without it: "
                "decode the file with a newer version"
            )
        length, position = _read_varint(data, position + 1, f"section {name or number}")
        most = SECTIONS[name].max_bytes if name else MAX_FILE_BYTES
        if not 1 <= length <= most:
            raise BitstreamError(f"damaged header: section {name or number} of {length} bytes, allowed 1..{most}")
        if length > len(data) - position:
            raise BitstreamError(f"truncated file: it ends inside section {name or number}")
        if name:
            sections[name] = data[position : position + length]
        last, position = number, position + length
    return sections, position


def pack(header: FileHeader, payload: bytes, default_sizes: Mapping[int, int] | None = None) -> bytes:
    """The whole file.

    A kind's entry in `default_sizes` is the size_b that is stored in one byte; `unpack` needs the
    same mapping. Raises BitstreamError if a field is out of range.
    """
    out = bytearray(MAGIC)
    default = (default_sizes or {}).get(header.kind)
    for field in FIELDS:
        value = getattr(header, field.name)
        _check_field(field, value)
        if field.layout == "bits":
            if field.bits + field.shift == 8:
                out.append(0)
            out[-1] |= value << field.shift
        elif field.layout == "u8":
            out.append(value)
        elif field.layout == "bytes":
            out += value
        elif field.layout == "varint":
            out += _write_varint(value)
        else:
            out += _write_varint(0 if value == default else value + 1)
    out += _write_sections(header.sections)
    out += payload
    return bytes(out) + zlib.crc32(out).to_bytes(_CRC_BYTES, "big")


def _parse(data: bytes, default_sizes: Mapping[int, int] | None) -> tuple[FileHeader, int]:
    """Header and the payload's offset, the checksum not yet looked at."""
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        raise BitstreamError(
            f"not a .bpgan file: it starts with {data[: len(MAGIC)].hex(' ')}, expected {MAGIC.hex(' ')}"
        )
    end = len(data) - _CRC_BYTES
    body = data[: max(end, 0)]
    position = len(MAGIC)
    values: dict[str, int | bytes] = {}
    for field in FIELDS:
        if field.layout in ("varint", "default"):
            value, position = _read_varint(body, position, field.name)
            if field.layout == "default":
                value = _resolve_default(value, values["kind"], default_sizes, field)
        else:
            size = field.low if field.layout == "bytes" else 1
            piece = body[position : position + size]
            if len(piece) < size:
                raise BitstreamError(f"truncated file: it ends before {field.name}")
            value = piece
            if field.layout != "bytes":
                value = piece[0] >> field.shift & (1 << field.bits) - 1
            if not field.shift:  # else its byte also holds the next field
                position += size
        _check_field(field, value)
        values[field.name] = value
    if values.pop("sectioned"):
        values["sections"], position = _read_sections(body, position)
    return FileHeader(**values), position


def _resolve_default(stored: int, kind: int, default_sizes: Mapping[int, int] | None, field: Field) -> int:
    default = (default_sizes or {}).get(kind)
    if stored == 0:
        if default is None:
            raise BitstreamError(f"{field.name} is left to the default, kind {kind} has none here")
        return default
    if stored - 1 == default:
        raise BitstreamError(f"damaged header: {field.name} spells out the default")
    return stored - 1


def unpack(data: bytes, default_sizes: Mapping[int, int] | None = None) -> tuple[FileHeader, bytes]:
    """Header and payload of a whole file.

    Nothing of the declared size is allocated. Raises BitstreamError for another magic or version,
    a value out of range, truncated, damaged or appended bytes.
    """
    data = bytes(data)
    header, position = _parse(data, default_sizes)
    found = zlib.crc32(data[:-_CRC_BYTES])
    stored = int.from_bytes(data[-_CRC_BYTES:], "big")
    if found != stored:
        raise BitstreamError(
            f"damaged file: checksum {found:08x}, expected {stored:08x}; bytes were changed, cut off or appended"
        )
    return header, data[position:-_CRC_BYTES]


def kind_of_file(data: bytes) -> int:
    """The kind of signal of a file, before anything else of it is looked at.

    Raises BitstreamError where the file does not begin like one.
    """
    head = data[: len(MAGIC) + 1]
    if head[: len(MAGIC)] != MAGIC[: len(head)]:
        raise BitstreamError("not a .bpgan file: it starts with other bytes")
    if len(head) <= len(MAGIC):
        raise BitstreamError("truncated file: it ends before kind")
    for field, value in zip(FIELDS, (head[-1] >> 4, head[-1] & 15)):
        _check_field(field, value)
    return head[-1] & 15


def check_fingerprint(header: FileHeader, fingerprint: bytes) -> None:
    """Raise BitstreamError unless the file was made with the checkpoint of this fingerprint."""
    if header.fingerprint != fingerprint:
        raise BitstreamError(
            f"file made with checkpoint {header.fingerprint.hex()}, loaded is {fingerprint.hex()}; "
            "pass the checkpoint it was made with (--checkpoint); checkpoints/FORMER.md lists those of before"
        )


def check_kind(header: FileHeader, kind: Kind) -> None:
    """Raise BitstreamError for a size, a flag or a section that no signal of the kind has."""
    try:
        rows, columns = kind.picture_shape((header.size_a, header.size_b))
    except ValueError as error:
        raise BitstreamError(f"damaged header: {error}") from None
    if rows < 1 or columns < 1:
        raise BitstreamError(f"damaged header: a picture of {rows}x{columns}")
    if header.gray and not kind.has_gray:
        raise BitstreamError(f"damaged header: {kind.name} that is gray")
    if header.exact and not kind.has_exact:
        raise BitstreamError(f"damaged header: {kind.name} that is exact")
    for name in header.sections:
        if name not in kind.section_names:
            raise BitstreamError(f"damaged header: {kind.name} with a section {name}")


def read_stream(stream: BinaryIO, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """All bytes of a binary stream, which may return as few as one per read.

    Raises BitstreamError if there are more than `max_bytes`.
    """
    out = bytearray()
    while chunk := stream.read(_READ_BYTES):
        out += chunk
        if len(out) > max_bytes:
            raise BitstreamError(f"file of more than {max_bytes} bytes")
    return bytes(out)


def read_file(path: str | os.PathLike) -> bytes:
    """All bytes of a file; OSError if it cannot be read, BitstreamError if it is too long."""
    with open(path, "rb") as stream:
        return read_stream(stream)


def bytes_of(file: bytes | str | os.PathLike) -> bytes:
    """A file's content, given itself or by the file's path; errors as those of `read_file`, TypeError for all else."""
    if isinstance(file, (bytes, bytearray, memoryview)):
        return bytes(file)
    if isinstance(file, (str, os.PathLike)):
        return read_file(file)
    raise TypeError(f"a .bpgan file is its bytes or its path, found {type(file).__name__}")
