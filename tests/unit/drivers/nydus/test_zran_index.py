"""Where inflating may begin: for any deflate encoder, any members, any cut of the stream."""

from __future__ import annotations

import ctypes
import gzip
import random
import zlib
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isal import igzip

from drivers.nydus.errors import InvalidNydusError
from drivers.nydus.zran import deflate_stream
from drivers.nydus.zran.blocks import Boundary, GzipBlocks
from drivers.nydus.zran.deflate_stream import inflate_range
from drivers.nydus.zran.index import Context, ZranChunk, ZranIndex, decode_index, encode_index
from drivers.nydus.zran.indexer import Indexer
from shared.errors import CorruptLayerError, UnsupportedError

CHUNK = 1 << 20


def words(size: int) -> bytes:
    """Compresses to about a third, in many blocks."""
    source = random.Random(size)
    vocabulary = [source.randbytes(source.randint(2, 9)) for _ in range(4000)]
    return b" ".join(source.choices(vocabulary, k=size // 6))[:size].ljust(size, b".")


DATA = words(3 << 20) + bytes(3 << 20) + random.Random(1).randbytes(2 << 20) + words(1 << 20) + bytes(1024)
SPANS = [(512, 700), (2000, 1), *((at, CHUNK) for at in range(10_000, 8 << 20, CHUNK + 777)), ((9 << 20) - 5, 5)]


def deflated(data: bytes, *, level: int = 6, strategy: int = zlib.Z_DEFAULT_STRATEGY) -> bytes:
    packer = zlib.compressobj(level, wbits=31, strategy=strategy)
    return packer.compress(data) + packer.flush()


def with_flushes(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=31)
    pieces = (data[at : at + 30_000] for at in range(0, len(data), 30_000))
    return b"".join(packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH) for piece in pieces) + packer.flush()


def in_members(size: int) -> Callable[[bytes], bytes]:
    return lambda data: b"".join(gzip.compress(data[at : at + size], 6) for at in range(0, len(data), size))


def indexed(packed: bytes, spans: list[tuple[int, int]], piece: int = 1 << 20) -> tuple[ZranIndex, bytes]:
    indexer = Indexer(CHUNK)
    blocks = GzipBlocks(indexer.boundary)
    tar = bytearray()
    waiting = spans[::-1]

    def take(pieces: Iterator[bytes]) -> None:
        for plain in pieces:
            tar.extend(plain)
            while waiting and sum(waiting[-1]) <= len(tar):
                indexer.chunk(*waiting.pop())
            indexer.passed(len(tar))

    for at in range(0, len(packed), piece):
        take(blocks.feed(packed[at : at + piece]))
    take(blocks.finish())
    return indexer.finish(), bytes(tar)


def inflated(packed: bytes, context: Context) -> bytes:
    return inflate_range(
        packed[context.in_offset : context.in_offset + context.in_size],
        bits=context.bits,
        byte=context.byte,
        window=context.dictionary,
        size=context.out_size,
        field="zran",
    )


@pytest.mark.parametrize(
    "pack",
    [
        lambda data: deflated(data, level=0),
        lambda data: deflated(data, level=1),
        lambda data: deflated(data, level=9),
        lambda data: deflated(data, strategy=zlib.Z_FIXED),
        lambda data: deflated(data, strategy=zlib.Z_HUFFMAN_ONLY),
        igzip.compress,
        with_flushes,
        in_members(65_280),
        in_members(1 << 20),
        lambda data: gzip.compress(data) + bytes(700),
    ],
    ids=["stored", "fast", "best", "fixed", "huffman", "igzip", "flushes", "bgzip", "members", "padding"],
)
def test_every_chunk_is_inflated_from_its_context_alone(pack: Callable[[bytes], bytes]) -> None:
    packed = pack(DATA)
    index, tar = indexed(packed, SPANS)
    assert tar == DATA
    assert len(index.chunks) == len(SPANS)
    assert len(index.contexts) >= 4
    found = [inflated(packed, context) for context in index.contexts]
    for (at, size), chunk in zip(SPANS, index.chunks, strict=True):
        assert found[chunk.context][chunk.offset : chunk.offset + size] == DATA[at : at + size]
    assert indexed(packed, SPANS, 9_973)[0] == index
    array = encode_index(index)
    assert decode_index(array, len(index.chunks), len(index.contexts), len(packed)) == index


@pytest.mark.parametrize("piece", [1, 601, 1 << 20])
def test_inflating_can_begin_at_every_boundary(piece: int) -> None:
    data = DATA[:150_000]
    packed = with_flushes(data) + gzip.compress(data[:70_000]) + deflated(data[::-1], level=1)
    tar = data + data[:70_000] + data[::-1]
    starts = (0, len(data), len(data) + 70_000)
    found: list[Boundary] = []
    blocks = GzipBlocks(found.append)
    plain = b"".join(
        out for at in range(0, len(packed), piece) for out in blocks.feed(packed[at : at + piece])
    ) + b"".join(blocks.finish())
    assert plain == tar
    assert len(found) >= 12
    assert [each.uncompressed for each in found if each.first] == list(starts)
    for each in found:
        assert each.byte == (packed[each.compressed - 1] if each.bits else 0)
        assert each.window == tar[max(starts[each.member], each.uncompressed - (32 << 10)) : each.uncompressed]
        if not each.last:
            rest, at = packed[each.compressed :], each.uncompressed
            following = inflate_range(rest, bits=each.bits, byte=each.byte, window=each.window, size=100, field="")
            assert following == tar[at : at + 100]


def test_a_chunk_may_end_where_a_member_ends() -> None:
    """``nydusd`` follows the member's end into the next one and needs some of its data."""
    packed = in_members(1 << 20)(DATA)
    spans = [(at, 1 << 20) for at in range(0, 9 << 20, 1 << 20)]
    index, _ = indexed(packed, spans)
    assert b"".join(inflated(packed, context) for context in index.contexts) == DATA[: 9 << 20]


def test_a_tar_that_ends_with_a_file_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="two zero blocks"):
        indexed(gzip.compress(DATA), [(len(DATA) - 512, 512)])


def test_a_stream_of_empty_members_is_refused() -> None:
    empty = gzip.compress(b"", mtime=0)
    with pytest.raises(UnsupportedError, match="too many pieces"):
        indexed(empty * 70_000, [])


LETTER = gzip.compress(b"a", mtime=0)
STREAM = gzip.compress(DATA[:200_000], mtime=0)


@pytest.mark.parametrize(
    ("packed", "message"),
    [
        (STREAM[:-20], "middle of a block"),
        (LETTER[:5], "middle of a member"),
        (LETTER + b"garbage", "not gzip follow"),
        (LETTER + b"\0" * 9 + b"x", "not gzip follow"),
        (STREAM[:-8] + bytes(8), "wrong checksum"),
        (STREAM[:5000] + b"\xff" * 90_000, "damaged near"),
    ],
    ids=["cut", "cut header", "garbage", "garbage behind padding", "checksum", "damaged"],
)
def test_damaged_streams_are_refused(packed: bytes, message: str) -> None:
    with pytest.raises(CorruptLayerError, match=message):
        indexed(packed, [])


small = st.integers(0, (1 << 32) - 1)
contexts = st.builds(
    Context,
    in_offset=st.integers(0, 1 << 40),
    out_offset=st.integers(0, 1 << 50),
    in_size=st.integers(1, 1 << 31),
    out_size=st.just((1 << 32) - 1),
    byte=st.integers(0, 255),
    bits=st.integers(0, 7),
    dictionary=st.binary(max_size=200),
)


@st.composite
def indexes(draw: st.DrawFn) -> ZranIndex:
    places = draw(st.lists(contexts, min_size=1, max_size=5))
    sizes = draw(st.lists(st.integers(1, 1 << 24), min_size=len(places), max_size=12))
    chunks = []
    position = 0
    for size in sizes:
        offset, length = draw(st.integers(0, (1 << 39) - 1)), draw(st.integers(0, (1 << 24) - 1))
        context = draw(st.integers(0, len(places) - 1))
        chunks.append(ZranChunk(offset, length, position, size, context, draw(st.integers(0, 1 << 31))))
        position += size + -size % 4096
    return ZranIndex(chunks, places)


@settings(max_examples=60)
@given(indexes())
def test_decoding_gives_back_what_was_encoded(index: ZranIndex) -> None:
    assert decode_index(encode_index(index), len(index.chunks), len(index.contexts), 1 << 41) == index


@settings(max_examples=150)
@given(st.binary(max_size=400), st.integers(0, 5), st.integers(0, 5))
def test_any_bytes_are_an_index_or_an_error(array: bytes, chunks: int, places: int) -> None:
    try:
        found = decode_index(array, chunks, places, 1 << 20)
    except InvalidNydusError:
        return
    assert (len(found.chunks), len(found.contexts)) == (chunks, places)


@settings(max_examples=100)
@given(st.binary(max_size=300), st.integers(0, 7), st.binary(max_size=64), st.integers(1, 5000))
def test_any_bytes_inflate_or_are_an_error(data: bytes, bits: int, window: bytes, size: int) -> None:
    try:
        found = inflate_range(data, bits=bits, byte=255, window=window, size=size, field="zran")
    except InvalidNydusError:
        return
    assert len(found) == size


def test_without_the_systems_zlib_only_reading_references_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> ctypes.CDLL:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(deflate_stream, "_libz", deflate_stream._libz.__wrapped__)
    monkeypatch.setattr(ctypes, "CDLL", absent)

    with pytest.raises(UnsupportedError, match=r"libz\.so\.1"):
        inflate_range(b"", bits=0, byte=0, window=b"", size=1, field="zran")
