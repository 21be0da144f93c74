"""Container: known bytes, every field, every kind of damage."""

import io
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.codec import bitstream
from utils.codec.bitstream import BitstreamError, FileHeader, pack, unpack
from utils.files import replacing

IMAGE = FileHeader(kind=0, coder=0, quality_step=4, fingerprint=b"\x01\x02\x03\x04", size_a=512, size_b=768, level=0)
SPEECH = FileHeader(
    kind=1, coder=1, quality_step=2, fingerprint=b"\xaa\xbb\xcc\xdd", size_a=48000, size_b=16000,
    level=201,
)  # fmt: skip
DEFAULTS = {1: 16000}
SPEECH_BYTES = "b6 47 11 01 02 aa bb cc dd c9 80 f7 02 00 10 20 30 67 9b ae 61"
IMAGE_BYTES = "b6 47 10 00 04 01 02 03 04 00 80 04 81 06 1a 5d 1a 3f"


def test_known_bytes():
    data = pack(SPEECH, b"\x10\x20\x30", DEFAULTS)
    # magic, version and kind, coder, quality, fingerprint, level, sizes, payload, CRC-32
    assert data.hex(" ") == SPEECH_BYTES
    assert pack(IMAGE, b"").hex(" ") == IMAGE_BYTES
    assert unpack(data, DEFAULTS) == (SPEECH, b"\x10\x20\x30")


def test_overhead_is_small_and_bounded():
    assert len(pack(SPEECH, b"", DEFAULTS)) == 18
    assert len(pack(IMAGE, b"")) == 18
    largest = FileHeader(7, 4, 224, b"\xff" * 4, bitstream.MAX_SIZE, bitstream.MAX_SIZE, 255)
    data = pack(largest, b"")
    assert len(data) == bitstream.MAX_OVERHEAD == 24
    assert unpack(data) == (largest, b"")


@given(
    st.builds(
        FileHeader,
        kind=st.integers(0, 7), coder=st.integers(0, 4), quality_step=st.integers(0, 224),
        fingerprint=st.binary(min_size=4, max_size=4),
        size_a=st.integers(0, bitstream.MAX_SIZE),
        size_b=st.sampled_from([0, 15999, 16000, 16001, bitstream.MAX_SIZE])
        | st.integers(0, bitstream.MAX_SIZE),
        level=st.integers(0, 255),
    ),
    st.binary(max_size=40),
)  # fmt: skip
def test_round_trip(header, payload):
    for defaults in (None, DEFAULTS):
        assert unpack(pack(header, payload, defaults), defaults) == (header, payload)


@pytest.mark.parametrize(
    "name, values",
    [
        ("kind", range(8)), ("coder", range(5)), ("quality_step", (0, 1, 64, 224)), ("level", (0, 1, 255)),
        ("exact", (0, 1)), ("gray", (0, 1)), ("repeats", (0, 1)),
        ("size_a", (0, 1, 127, 128, 16383, 16384, 2**31 - 1)),
        ("size_b", (0, 1, 126, 127, 128, 16000, 2**31 - 1)),
        ("fingerprint", (b"\0" * 4, b"\xff" * 4)),
    ],
)  # fmt: skip
def test_every_field_round_trips_alone(name, values):
    for value in values:
        header = FileHeader(**{**vars(IMAGE), name: value})
        assert getattr(unpack(pack(header, b"x"))[0], name) == value


@pytest.mark.parametrize(
    "name, value",
    [
        ("kind", 8), ("kind", -1), ("coder", 5), ("quality_step", -1), ("quality_step", 225), ("level", 256),
        ("size_a", -1), ("size_a", 2**31), ("size_b", 2**31), ("size_a", 1.0), ("level", True),
        ("fingerprint", b"abc"), ("fingerprint", "abcd"), ("version", 2),
    ],
)  # fmt: skip
def test_writer_refuses_values_out_of_range(name, value):
    with pytest.raises(BitstreamError, match=name):
        pack(FileHeader(**{**vars(IMAGE), name: value}), b"")


@pytest.mark.parametrize("header, defaults", [(IMAGE, None), (SPEECH, DEFAULTS)])
def test_truncation_at_every_length(header, defaults):
    data = pack(header, bytes(range(20)), defaults)
    for length in range(len(data)):
        with pytest.raises(BitstreamError):
            unpack(data[:length], defaults)
    for length in range(18):
        with pytest.raises(BitstreamError, match="truncated"):
            unpack(data[:length], defaults)


@pytest.mark.parametrize("header, defaults", [(IMAGE, None), (SPEECH, DEFAULTS)])
def test_every_flipped_bit(header, defaults):
    data = pack(header, b"some payload", defaults)
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BitstreamError):
            unpack(bytes(damaged), defaults)


def test_appended_and_concatenated_bytes():
    data = pack(IMAGE, b"payload")
    for tail in (b"\0", b"\n", data, b"\0" * 4):
        with pytest.raises(BitstreamError, match="damaged file"):
            unpack(data + tail)


def with_checksum(body: bytes) -> bytes:
    return body + bitstream.zlib.crc32(body).to_bytes(4, "big")


def patched(offset: int, replacement: bytes, cut: int | None = None) -> bytes:
    body = pack(IMAGE, b"payload")[:-4]
    cut = len(replacement) if cut is None else cut
    return with_checksum(body[:offset] + replacement + body[offset + cut :])


@pytest.mark.parametrize(
    "data, message",
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(30), "not a .bpgan file.*89 50.*b6 47"),
        (patched(2, b"\x20"), "version 2.*version 1"),
        (patched(2, b"\x18"), "kind 8.*0..7"),
        (patched(3, b"\x05"), "coder 5.*0..4"),
        (patched(4, b"\xe1"), "quality_step 225.*0..224"),
        (patched(10, b"\xff\xff\xff\xff\x0f", 2), "size_a 4294967295"),
        (patched(10, b"\xff\xff\xff\xff\xff\x01", 2), "size_a has more than 5 bytes"),
        (patched(10, b"\x80\x80\x00", 2), "size_a has redundant"),
        (patched(12, b"\x00", 2), "size_b is left to the default"),
        (b"", "truncated"),
    ],
)
def test_errors_name_what_was_found(data, message):
    with pytest.raises(BitstreamError, match=message) as caught:
        unpack(data)
    assert "\n" not in str(caught.value)


def test_a_spelled_out_default_is_refused():
    with pytest.raises(BitstreamError, match="spells out the default"):
        unpack(pack(SPEECH, b""), DEFAULTS)


def test_fingerprint():
    bitstream.check_fingerprint(IMAGE, b"\x01\x02\x03\x04")
    with pytest.raises(BitstreamError, match="01020304.*05060708.*--checkpoint"):
        bitstream.check_fingerprint(IMAGE, b"\x05\x06\x07\x08")


class Dribble(io.BytesIO):
    """Returns at most one byte per read, however many are asked for."""

    def read(self, size=-1):
        return super().read(min(size, 1) if size >= 0 else 1)


def test_dribbling_stream():
    data = pack(IMAGE, bytes(1000))
    assert bitstream.read_stream(Dribble(data)) == data
    assert bitstream.read_stream(io.BytesIO(data)) == data
    with pytest.raises(BitstreamError, match="more than 999 bytes"):
        bitstream.read_stream(Dribble(data), max_bytes=999)


def test_files_are_written_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.bpgan"
    with replacing(path) as temporary:
        temporary.write_bytes(b"first")
    assert bitstream.read_file(path) == b"first"
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert path.stat().st_mode == plain.stat().st_mode
    plain.unlink()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"), replacing(path) as temporary:
        temporary.write_bytes(b"second")
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["a.bpgan"]


# -- gray pictures and sections ------------------------------------------------------------------------

SECTIONS = {"icc": b"profile", "alpha": b"plane"}
SECTIONED = FileHeader(**{**vars(IMAGE), "gray": 1, "sections": SECTIONS})
SECTIONED_BYTES = "b6 47 10 60 04 01 02 03 04 00 80 04 81 06 81 05" + b"plane".hex() + "41 07" + b"profile".hex()


def test_known_bytes_of_sections():
    data = pack(SECTIONED, b"payload")
    assert data[:-4].hex() == SECTIONED_BYTES.replace(" ", "") + b"payload".hex()
    assert unpack(data) == (SECTIONED, b"payload")


def test_a_reader_from_before_refuses_gray_and_sections():
    """It took the high nibble of byte 3 for the number of repeats, 0 or 1."""
    for changes in ({"gray": 1}, {"sections": SECTIONS}):
        assert pack(FileHeader(**{**vars(IMAGE), **changes}), b"")[3] >> 4 > 1


def test_truncation_and_flips_in_sections():
    data = pack(SECTIONED, b"payload")
    for length in range(len(data)):
        with pytest.raises(BitstreamError):
            unpack(data[:length])
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BitstreamError):
            unpack(bytes(damaged))


def sectioned(content: bytes) -> bytes:
    """The header of a file with sections, these bytes as sections and payload, a right checksum."""
    body = bytearray(pack(IMAGE, b"")[:-4])
    body[3] |= 0x40
    return with_checksum(bytes(body) + content)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "ends inside its sections"),
        (b"\x02\x01x", "section 2 is unknown.*newer version"),
        (b"\x01\x00", "section alpha of 0 bytes"),
        (b"\x01\x05abc", "ends inside section alpha"),
        (b"\x01\xff\xff\xff\xff\x07", "section alpha of 2147483647 bytes, allowed 1..1073741824"),
        (b"\x40\x81\x80\x40", "section exif of 1048577 bytes"),
        (b"\x01\x81\x00", "section alpha has redundant bytes"),
        (b"\x81\x01x\x01\x01y", "section 1 after section 1"),
        (b"\xc1\x01x\x01\x01y", "section 1 after section 65"),
        (b"\x81\x01x", "ends inside its sections"),
    ],
)
def test_sections_that_lie(content, message):
    with pytest.raises(BitstreamError, match=message) as caught:
        unpack(sectioned(content))
    assert "\n" not in str(caught.value)


def test_unknown_sections_that_may_be_skipped_are():
    header, payload = unpack(sectioned(b"\x81\x01x" + b"\xc1\x01y" + b"\x7f\x03new" + b"payload"))
    assert (header.sections, payload) == ({"alpha": b"x", "icc": b"y"}, b"payload")


@pytest.mark.parametrize("sections", [{"alpha": b""}, {"other": b"x"}, {"exif": bytes(2**20 + 1)}])
def test_sections_that_are_not_written(sections):
    with pytest.raises(BitstreamError, match=next(iter(sections))):
        pack(FileHeader(**{**vars(IMAGE), "sections": sections}), b"")
