"""Members made of matches: always the data, whatever the matches say; small where they say much."""

from __future__ import annotations

import gzip
import random
import struct
import zlib
from array import array
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from drivers.reencoding.gzip_stream import GzipMatches, Matches
from drivers.reencoding.members import MemberEncoder
from tests.unit.drivers.reencoding.streams import contents, fed

NOISE = random.Random(1).randbytes(300_000)
TEXT = b"".join(b"%d lines of text, and a number: %d\n" % (line, line * line) for line in range(20_000))
ANY_RECORD = st.builds(
    struct.Struct("=IHH").pack,
    st.integers(0, 300) | st.integers(0, 2**32 - 1),
    st.integers(0, 260) | st.integers(0, 2**16 - 1),
    st.integers(0, 300) | st.integers(0, 2**16 - 1),
)


def made(data: bytes, starts: list[int], matches: Matches) -> list[bytes]:
    """The members, each looked at."""
    sizes, members = MemberEncoder().members(data, array("I", starts), matches)
    found = [members[start:end] for start, end in pairwise(accumulate(sizes, initial=0))]
    assert sum(sizes) == len(members)
    assert [gzip.decompress(member) for member in found] == [
        data[start:end] for start, end in pairwise((*starts, len(data)))
    ]
    return found


def matches_of(data: bytes, feed: int = 1 << 16, level: int = 9) -> Matches:
    stream = GzipMatches()
    list(fed(stream, gzip.compress(data, level), feed))
    return stream.matches(0, len(data))


@given(
    contents.filter(bool),
    st.lists(st.integers(1, 5000), max_size=8),
    st.lists(ANY_RECORD, max_size=50).map(b"".join),
    st.integers(-(1 << 40), 1 << 40) | st.integers(-100, 100),
)
@example(TEXT[:40_000], [33_000], struct.pack("=IHH", 0, 0xFFFF, 0xFFFF) * 3, 0)
@example(b"a" * 600, [], struct.pack("=IHH", 1, 300, 1) * 2, 0)
def test_wrong_matches_cost_no_content(data: bytes, cuts: list[int], records: bytes, skip: int) -> None:
    starts = sorted({0, *(cut % len(data) for cut in cuts)})
    made(data, starts, Matches(records, skip))


@given(contents.filter(bool), st.lists(st.integers(1, 5000), max_size=8), st.integers(1, 999))
def test_members_do_not_depend_on_how_the_stream_was_fed(data: bytes, cuts: list[int], feed: int) -> None:
    starts = sorted({0, *(cut % len(data) for cut in cuts)})
    assert made(data, starts, matches_of(data, feed)) == made(data, starts, matches_of(data))


def test_large_members_do_not_depend_on_how_the_stream_was_fed() -> None:
    data = TEXT + NOISE + TEXT[::2] + NOISE[:7] * 5000
    starts = [0, 1, 2, 5, 100_000, len(TEXT), len(data) - 3]
    assert made(data, starts, matches_of(data, 1000)) == made(data, starts, matches_of(data, 1 << 20))


def test_data_may_begin_before_the_stream_and_in_the_middle_of_it() -> None:
    whole = made(TEXT, [0], matches_of(TEXT))[0]
    ahead = made(b"head" + TEXT, [0, 4], matches_of(TEXT)._replace(skip=-4))
    assert ahead[1] == whole
    middle = made(TEXT[50_000:], [0], matches_of(TEXT)._replace(skip=50_000))[0]
    assert len(middle) < len(whole)


def test_members_are_as_small_as_their_source_made_them() -> None:
    for level in (6, 9):
        packed = len(gzip.compress(TEXT, level))
        assert len(made(TEXT, [0], matches_of(TEXT, level=level))[0]) < packed
    files = [TEXT[at : at + 2000] for at in range(0, 200_000, 2000)]
    alone = sum(len(gzip.compress(file)) for file in files)
    members = made(b"".join(files), list(range(0, 200_000, 2000)), matches_of(b"".join(files)))
    assert sum(map(len, members)) < alone


def test_short_matches_are_added_where_the_source_has_none() -> None:
    pool = [NOISE[at : at + 3] for at in range(0, 600, 3)]
    chance = random.Random(2)
    data = b"".join(chance.choice(pool) + NOISE[at : at + 2] for at in range(1000, 90_000, 2))
    filtered = zlib.compressobj(9, zlib.DEFLATED, 31, 9, zlib.Z_FILTERED)  # drops matches of up to five bytes
    packed = filtered.compress(data) + filtered.flush()
    stream = GzipMatches()
    list(fed(stream, packed, 1 << 16))
    assert len(made(data, [0], stream.matches(0, len(data)))[0]) < 0.97 * len(packed)


def test_noise_is_stored() -> None:
    (member,) = made(NOISE, [0], matches_of(NOISE))
    assert len(member) <= len(NOISE) + 5 * (len(NOISE) // 65_535 + 1) + 18


def test_one_encoder_serves_many_threads() -> None:
    encoder = MemberEncoder()
    matches = matches_of(TEXT)
    starts = array("I", range(0, len(TEXT), 7919))
    expected = encoder.members(TEXT, starts, matches)
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda _: encoder.members(TEXT, starts, matches), range(32)))
    assert results == [expected] * 32
