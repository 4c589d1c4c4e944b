"""The blob stream's parts: vectors of real files, round trips, every damage named."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.nydus.blob.assembler import BlobAssembler, PackedBatch
from drivers.nydus.blob.chunk_info import (
    ChunkInfo,
    MetaHeader,
    decode_chunk_infos,
    decode_meta_header,
    encode_chunk_infos,
)
from drivers.nydus.blob.tar_header import decode_tar_header, encode_tar_header
from drivers.nydus.blob.toc import TocEntry, decode_toc, encode_toc, toc_size
from drivers.nydus.compression import compress, compress_each, decompress, digest
from drivers.nydus.errors import InvalidNydusError
from drivers.nydus.parameters import Parameters
from drivers.nydus.rafs_v6.layout import BLOCK, NATIVE_FEATURES, Compressor, Digester, align
from drivers.nydus.tree import Inode, directory

VECTORS = [
    (ChunkInfo(0, 4828, 0, 16931), "00000000002022040000000000b02d01"),
    (ChunkInfo(4828, 2974, 20480, 13400), "0050000000704503dc12000000d0b900"),
]


@pytest.mark.parametrize(("info", "expected"), VECTORS)
def test_chunk_information_of_a_real_file(info: ChunkInfo, expected: str) -> None:
    assert encode_chunk_infos([info]).hex() == expected


def test_a_real_array_decodes() -> None:
    array = b"".join(bytes.fromhex(text) for _, text in VECTORS)
    assert decode_chunk_infos(array) == [info for info, _ in VECTORS]


@given(st.lists(st.tuples(st.integers(1, 1 << 24), st.integers(1, 1 << 24)), max_size=50))
def test_chunk_information_survives(sizes: list[tuple[int, int]]) -> None:
    infos = []
    compressed = uncompressed = 0
    for csize, usize in sizes:
        infos.append(ChunkInfo(compressed, csize, uncompressed, usize))
        compressed += csize
        uncompressed = align(uncompressed + usize, BLOCK)
    assert decode_chunk_infos(encode_chunk_infos(infos)) == infos


@pytest.mark.parametrize(
    ("info", "field"),
    [
        (ChunkInfo(1, 10, 0, 10), "blob.meta[0].compressed_offset"),
        (ChunkInfo(0, 10, 4096, 10), "blob.meta[0].uncompressed_offset"),
    ],
)
def test_chunks_that_do_not_follow_each_other_are_refused(info: ChunkInfo, field: str) -> None:
    with pytest.raises(InvalidNydusError) as caught:
        decode_chunk_infos(encode_chunk_infos([info]))
    assert caught.value.field == field


def test_a_cut_array_is_refused() -> None:
    with pytest.raises(InvalidNydusError):
        decode_chunk_infos(bytes(15))


HEADER = MetaHeader(NATIVE_FEATURES, Compressor.ZSTD, 3, 3341, 40, 48)


def test_the_header_of_the_chunk_information_survives() -> None:
    assert decode_meta_header(HEADER.encode()) == HEADER
    assert len(HEADER.encode()) == 4096


@pytest.mark.parametrize(
    ("offset", "field"),
    [(0, "magic"), (4095, "magic"), (5, "features"), (8, "ci_compressor"), (38, "ci_uncompressed_size")],
)
def test_damage_to_the_header_names_its_field(offset: int, field: str) -> None:
    data = bytearray(HEADER.encode())
    data[offset] ^= 0xFF
    with pytest.raises(InvalidNydusError) as caught:
        decode_meta_header(bytes(data))
    assert caught.value.field == f"blob.meta.header.{field}"


def test_the_tar_header_of_a_real_file() -> None:
    header = encode_tar_header("image.blob", 2829)
    assert header[124:136] == b"00000005415\0"
    assert header[136:148] == b"00000000000\0"
    assert header[148:156] == b"0005636\0"
    assert header[100:124] == bytes(24)
    assert header[257:265] == b"ustar  \0"


@given(st.sampled_from(["image.blob", "blob.meta", "rafs.blob.toc"]), st.integers(0, (1 << 60) - 1))
def test_tar_headers_survive(name: str, size: int) -> None:
    assert decode_tar_header(encode_tar_header(name, size)) == (name, size)


@pytest.mark.parametrize(
    ("offset", "value", "field"),
    [(257, b"x", "magic"), (156, b"5", "typeflag"), (0, b"x", "checksum"), (148, b"zz", "checksum")],
)
def test_damage_to_a_tar_header_names_its_field(offset: int, value: bytes, field: str) -> None:
    header = bytearray(encode_tar_header("image.blob", 7))
    header[offset : offset + len(value)] = value
    with pytest.raises(InvalidNydusError) as caught:
        decode_tar_header(bytes(header))
    assert caught.value.field == f"tar_header.{field}"


COMPRESSORS = [Compressor.NONE, Compressor.LZ4_BLOCK, Compressor.ZSTD]
ENTRIES = [
    TocEntry("image.blob", b"\1" * 32, 0, 100, 4096),
    TocEntry("image.boot", b"\2" * 32, 612, 50, 8192, Compressor.ZSTD),
]


def test_a_table_of_contents_survives() -> None:
    stream = encode_toc(ENTRIES)
    size = toc_size(stream)
    assert size == 256
    assert list(decode_toc(stream[:size], 4096).values()) == ENTRIES


@pytest.mark.parametrize(
    ("table", "size", "field"),
    [
        (encode_toc(ENTRIES)[:256], 600, "toc[image.boot].offset"),
        (encode_toc([ENTRIES[0], ENTRIES[0]])[:256], 4096, "toc.name"),
        (b"\x08" + encode_toc(ENTRIES)[1:256], 4096, "toc.flags"),
        (encode_toc(ENTRIES)[:200], 4096, "toc.size"),
    ],
)
def test_damage_to_a_table_of_contents_names_its_field(table: bytes, size: int, field: str) -> None:
    with pytest.raises(InvalidNydusError) as caught:
        decode_toc(table, size)
    assert caught.value.field == field


@pytest.mark.parametrize("name", ["image.blob", "rafs.blob.toc"])
def test_a_stream_without_a_table_of_contents_is_refused(name: str) -> None:
    with pytest.raises(InvalidNydusError):
        toc_size(encode_tar_header(name, 0))


@given(st.lists(st.binary(min_size=1, max_size=3000), max_size=20), st.sampled_from(COMPRESSORS))
def test_a_batch_compresses_as_its_pieces_do(pieces: list[bytes], compressor: Compressor) -> None:
    each = compress_each(pieces, compressor)
    assert each == [compress(piece, compressor) for piece in pieces]
    for piece, packed in zip(pieces, each, strict=True):
        used = compressor if len(packed) != len(piece) else Compressor.NONE
        assert len(packed) <= len(piece)
        assert decompress(packed, used, len(piece), "chunk") == piece


@pytest.mark.parametrize("compressor", [Compressor.ZSTD, Compressor.LZ4_BLOCK, Compressor.NONE])
def test_data_that_does_not_decompress_names_its_field(compressor: Compressor) -> None:
    with pytest.raises(InvalidNydusError) as caught:
        decompress(b"damaged", compressor, 100, "chunk[3]")
    assert caught.value.field == "chunk[3]"


def test_digests_are_those_of_the_algorithms() -> None:
    assert digest(b"", Digester.SHA256) == hashlib.sha256(b"").digest()
    assert digest(b"", Digester.BLAKE3).hex() == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"


def test_equal_chunks_are_stored_once_and_incompressible_ones_as_they_are() -> None:
    assembler = BlobAssembler(Parameters())
    noise = hashlib.sha512(b"noise").digest()
    files = [Inode(0o100644, size=64) for _ in range(3)]
    name = hashlib.sha256(noise).digest()
    assert assembler.add(files[:2], PackedBatch([name, name], [64, 64], {name: noise})) == noise
    assert assembler.add(files[2:], PackedBatch([name], [64], {})) == b""
    root = directory()
    root.children = dict(zip((b"a", b"b", b"c"), files, strict=True))
    ending = assembler.finish(root)
    assert ending.bootstrap.blobs[0].chunk_count == 1
    assert files[0].chunks == files[2].chunks
    assert files[0].chunks[0].flags == 0


def test_a_layer_without_data_has_a_bootstrap_and_a_table_only() -> None:
    ending = BlobAssembler(Parameters()).finish(directory())
    size = toc_size(ending.tail)
    assert list(decode_toc(ending.tail[-512 - size : -512], len(ending.tail))) == ["image.boot"]
    assert ending.meta == b""
    assert ending.bootstrap.blobs == []
