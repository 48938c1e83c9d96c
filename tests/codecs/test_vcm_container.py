import random

import pytest

from vcm.codecs.headers import MAX_PIXELS
from vcm.codecs.learned.container import MAGIC, Header, read_stream, write_stream
from vcm.errors import BitstreamError

HEADER = Header("detection", b"\x01\x02\x03\x04", 128, (480, 640), (416, 416), 2.4375)
IMAGE = Header("reconstruction", b"abcd", 192, (1, 70000), (1, 70000))


@pytest.mark.parametrize("header", [HEADER, IMAGE])
@pytest.mark.parametrize("sections", [(b"",), (b"abcd", b"x" * 300), (b"a" * 70000,)])
def test_what_is_written_is_read(header, sections):
    data = write_stream(header, sections)
    stream = read_stream(data)
    assert stream.header == header
    assert stream.sections == sections
    assert len(data) == stream.overhead + sum(map(len, sections))


def test_the_header_is_small():
    assert read_stream(write_stream(IMAGE, [b"1234"])).overhead <= 24
    assert read_stream(write_stream(HEADER, [b"1234"] * 2)).overhead <= 28


def test_no_cut_is_read_and_each_is_told():
    data = write_stream(HEADER, [b"abcd" * 10])
    for length in range(1, len(data)):
        with pytest.raises(BitstreamError, match=r"cut short|damaged"):
            read_stream(data[:length])
    with pytest.raises(BitstreamError, match=r"empty \(0 bytes\)"):
        read_stream(b"")
    with pytest.raises(BitstreamError, match="3 too many"):
        read_stream(data + b"abc")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff\xd8\xff\xe0 JFIF", "a JPEG file"),
        (b"\x89PNG\r\n", "a PNG file"),
        (b"BPG\xfb...", "a BPG file"),
        (bytes(100), "not a vcm stream"),
        (MAGIC + b"\x01" + bytes(50), "format version 1; this release of vcm reads version 2"),
        (MAGIC + b"\x02\x7f" + bytes(50), "unknown purpose"),
    ],
)
def test_other_files_and_versions_are_told(data, message):
    with pytest.raises(BitstreamError, match=message):
        read_stream(data)


def test_sizes_that_cannot_be_are_told():
    data = write_stream(Header("detection", b"abcd", 1, (MAX_PIXELS, 2), (MAX_PIXELS, 2)), [b""])
    with pytest.raises(BitstreamError, match=f"at most {MAX_PIXELS}"):
        read_stream(data)
    data = write_stream(Header("detection", b"abcd", 1, (0, 2), (0, 2)), [b""])
    with pytest.raises(BitstreamError, match="height must be 1 to"):
        read_stream(data)


def test_ten_thousand_corruptions_are_told():
    rng = random.Random(0)
    data = write_stream(HEADER, [rng.randbytes(200), rng.randbytes(77)])
    for _ in range(10_000):
        damaged = bytearray(data)
        kind = rng.randrange(4)
        if kind == 0:
            for _ in range(rng.randint(1, 8)):
                damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del damaged[rng.randrange(len(damaged)) :]
        elif kind == 2:
            start = rng.randrange(len(damaged))
            damaged[start : start + rng.randint(1, 40)] = rng.randbytes(rng.randint(0, 40))
        else:
            damaged = bytearray(rng.randbytes(rng.randint(0, 400)))
        if bytes(damaged) != data:
            with pytest.raises(BitstreamError):
                read_stream(bytes(damaged))
