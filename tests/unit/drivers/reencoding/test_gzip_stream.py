"""Inflating with the matches kept: the same bytes and the same verdict as zlib's, and matches that tell the bytes."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.reencoding.gzip_stream import GzipMatches
from shared.errors import CorruptLayerError
from tests.unit.drivers.reencoding.streams import contents, fed, members, replayed

LARGE = b"".join(b"line %d of many, %d\n" % (number, number * number % 977) for number in range(200_000))


@given(st.lists(members(), min_size=1, max_size=4), st.integers(1, 2000), st.integers(0, 20))
def test_any_members_come_out_whole_however_they_are_fed(
    parts: list[tuple[bytes, bytes]], feed: int, padding: int
) -> None:
    packed = b"".join(member for member, _ in parts) + bytes(padding)
    assert b"".join(fed(GzipMatches(), packed, feed)) == b"".join(data for _, data in parts)


@given(members(), st.integers(1, 2000))
def test_matches_tell_the_data(member: tuple[bytes, bytes], feed: int) -> None:
    stream = GzipMatches()
    packed, data = member
    assert b"".join(fed(stream, packed, feed)) == data
    matches = stream.matches(0, len(data))
    assert replayed(matches.records, data) == data


@given(members(), st.data())
def test_damage_is_judged_as_zlib_judges_it(member: tuple[bytes, bytes], data: st.DataObject) -> None:
    packed = bytearray(member[0])
    for _ in range(data.draw(st.integers(1, 3))):
        # Behind the head: zlib lets reserved flags pass there, which RFC 1952 wants refused.
        at = data.draw(st.integers(10, len(packed) - 1))
        packed[at] ^= data.draw(st.integers(1, 255))
    judge = zlib.decompressobj(31)
    try:
        expected = judge.decompress(packed)
        sound = judge.eof and not judge.unused_data.strip(b"\0")
    except zlib.error:
        sound = False
    if sound:
        assert b"".join(fed(GzipMatches(), bytes(packed), 97)) == expected
    else:
        with pytest.raises(CorruptLayerError):
            list(fed(GzipMatches(), bytes(packed), 97))


@given(members(contents.filter(bool)), st.data())
def test_a_stream_that_ends_early_is_corrupt(member: tuple[bytes, bytes], data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, len(member[0]) - 1))
    with pytest.raises(CorruptLayerError) as refused:
        list(fed(GzipMatches(), member[0][:cut], 50))
    offset = refused.value.details["offset"]
    assert isinstance(offset, int)
    assert 0 <= offset <= cut


def test_large_data_comes_in_pieces_of_a_mebibyte_at_most() -> None:
    pieces = list(fed(GzipMatches(), gzip.compress(LARGE), 1 << 20))
    assert b"".join(pieces) == LARGE
    assert max(map(len, pieces)) <= 1 << 20


@pytest.mark.parametrize("flags", range(32))
def test_every_part_of_a_head_is_passed_over(flags: int) -> None:
    head = b"\x1f\x8b\x08%c\0\0\0\0\0\xff" % flags
    extra = b"\x03\0abc" if flags & 4 else b""
    name = b"a name\0" if flags & 8 else b""
    comment = b"a comment\0" if flags & 16 else b""
    before = head + extra + name + comment
    checksum = zlib.crc32(before).to_bytes(4, "little")[:2] if flags & 2 else b""
    packed = before + checksum + gzip.compress(b"content", mtime=0)[10:]
    for feed in (1, 7, 1000):
        assert b"".join(fed(GzipMatches(), packed, feed)) == b"content"


def test_matches_are_kept_until_nobody_wants_them() -> None:
    stream = GzipMatches()
    list(fed(stream, gzip.compress(LARGE), 100_000))
    whole = stream.matches(0, len(LARGE))
    assert whole.skip == 0
    middle = len(LARGE) // 2
    stream.forget(middle)
    rest = stream.matches(middle, len(LARGE))
    assert 0 <= rest.skip < middle
    assert whole.records.endswith(rest.records)
    stream.forget(len(LARGE))
    assert stream.matches(0, len(LARGE)).records == b""


@pytest.mark.parametrize("size", [100_000, 200_000])
def test_whether_a_name_is_too_long_does_not_depend_on_the_cut(size: int) -> None:
    packed = b"\x1f\x8b\x08\x08\0\0\0\0\0\xff" + b"n" * size + b"\0" + gzip.compress(b"content")[10:]
    for feed in (5_000, 65_536, len(packed)):
        if size < 128 << 10:
            assert b"".join(fed(GzipMatches(), packed, feed)) == b"content"
        else:
            with pytest.raises(CorruptLayerError, match="endless name"):
                list(fed(GzipMatches(), packed, feed))


@pytest.mark.parametrize("level", [0, 9])
def test_nothing_is_made_up_where_a_stream_ends_early(level: int) -> None:
    packed = gzip.compress(LARGE[:10_000], level)
    for cut in range(len(packed) - 40, len(packed) - 9):
        pieces: list[bytes] = []
        with pytest.raises(CorruptLayerError, match="in the middle"):
            pieces.extend(fed(GzipMatches(), packed[:cut], 5000))
        assert LARGE.startswith(b"".join(pieces))


def test_tiny_members_take_little_memory() -> None:
    packed = gzip.compress(b"a") * 5_000
    stream = GzipMatches()
    tracemalloc.start()
    try:
        assert sum(map(len, fed(stream, packed, 1 << 16))) == 5_000
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 100_000
