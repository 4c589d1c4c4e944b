"""Gzip streams of every kind that zlib makes, and what their matches say."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from hypothesis import strategies as st

from drivers.reencoding.gzip_stream import GzipMatches

STRATEGIES = [zlib.Z_DEFAULT_STRATEGY, zlib.Z_FILTERED, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE, zlib.Z_FIXED]
WORDS = [b"the ", b"layer", b"\0\0\0", b"of an image ", b"0123456789abcdef" * 20, bytes(300), bytes(range(256))]
contents = st.lists(st.sampled_from(WORDS) | st.binary(max_size=40), max_size=60).map(b"".join)


@st.composite
def members(draw: st.DrawFn, content: st.SearchStrategy[bytes] = contents) -> tuple[bytes, bytes]:
    """A gzip member and what is in it."""
    data = draw(content)
    compressor = zlib.compressobj(
        draw(st.integers(0, 9)), zlib.DEFLATED, draw(st.integers(25, 31)), draw(st.integers(1, 9)),
        draw(st.sampled_from(STRATEGIES)),
    )  # fmt: skip
    cut = draw(st.integers(0, len(data)))
    flush = draw(st.sampled_from([zlib.Z_NO_FLUSH, zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH]))
    start = compressor.compress(data[:cut]) + compressor.flush(flush)
    return start + compressor.compress(data[cut:]) + compressor.flush(), data


def fed(stream: GzipMatches, data: bytes, feed: int) -> Iterator[bytes]:
    for at in range(0, len(data), feed):
        yield from stream.feed(data[at : at + feed])
    yield from stream.finish()


def replayed(records: bytes, data: bytes) -> bytes:
    """What a decoder makes of the matches, given the literals."""
    out = bytearray()
    for literals, length, distance in struct.iter_unpack("=IHH", records):
        out += data[len(out) : len(out) + literals]
        for _ in range(length):
            out.append(out[-distance])
    return bytes(out)
