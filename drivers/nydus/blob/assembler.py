"""From compressed chunks, in tar order, to the bytes of a blob layer."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

from drivers.nydus.blob import toc
from drivers.nydus.blob.chunk_info import ENTRY_SIZE, MAXIMUM_ARRAY, MetaHeader, encode_chunk_info
from drivers.nydus.blob.tar_header import encode_tar_header
from drivers.nydus.blob.toc import TocEntry, encode_toc
from drivers.nydus.compression import compress
from drivers.nydus.parameters import Parameters
from drivers.nydus.rafs_v6.bootstrap import Bootstrap
from drivers.nydus.rafs_v6.encode import encode_bootstrap
from drivers.nydus.rafs_v6.layout import (
    BLOCK,
    MAXIMUM_CHUNKS,
    NATIVE_FEATURES,
    OWN_BLOB_ID,
    ChunkFlags,
    Compressor,
    align,
)
from drivers.nydus.tree import Blob, Chunk, Inode
from shared.errors import UnsupportedError

_MAXIMUM_DATA = 1 << 40


class PackedChunk(NamedTuple):
    """A chunk as a worker leaves it. ``data`` is None if the worker knew that the blob already has it."""

    digest: bytes
    size: int
    """Uncompressed, in bytes."""
    data: bytes | None


@dataclass(frozen=True, slots=True)
class Ending:
    """What follows the chunks, and what the merge needs of the layer."""

    tail: bytes
    bootstrap: Bootstrap
    meta: bytes
    """``blob.meta`` in the form of nydusd's cache: the plain array padded to 4096, then its header; empty without chunks."""


class BlobAssembler:
    """Decides duplicates, numbers chunks and keeps the tables. Not thread-safe; call in tar order."""

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self._blob = Blob(
            id=OWN_BLOB_ID,
            chunk_size=parameters.chunk_size,
            chunk_count=0,
            compressor=parameters.compressor,
            digester=parameters.digester,
            features=NATIVE_FEATURES,
            compressed_size=0,
            uncompressed_size=0,
            ci_compressor=Compressor.NONE,
            ci_offset=0,
            ci_compressed_size=0,
            ci_uncompressed_size=0,
        )
        self.known: dict[tuple[bytes, int], Chunk] = {}
        """By digest and uncompressed size; workers may look in to skip the compression of what is here already."""
        self._infos: list[bytes] = []
        self._digests: list[bytes] = []
        self._data_hash = hashlib.sha256()
        self._size = 0
        self._uncompressed = 0
        self._inode: Inode | None = None
        self._chunks: list[Chunk] = []
        self._file_offset = 0

    def add(self, inode: Inode, packed: PackedChunk) -> bytes | None:
        """The next chunk of ``inode``; returns the bytes to append to the blob, if any.

        Raises:
            UnsupportedError: the layer has more chunks or data than a blob can hold.
        """
        if inode is not self._inode:
            self._finish_file()
            self._inode = inode
        key = (packed.digest, packed.size)
        chunk = self.known.get(key)
        data = None
        if chunk is None:
            data = packed.data
            if data is None:
                raise AssertionError("a worker left out a chunk that the blob does not have")
            chunk = self._append(packed.digest, packed.size, len(data))
            self.known[key] = chunk
            self._data_hash.update(data)
        self._chunks.append(chunk)
        self._file_offset += packed.size
        return data

    def _append(self, digest: bytes, size: int, compressed_size: int) -> Chunk:
        index = len(self._infos)
        if index >= MAXIMUM_CHUNKS - 1 or ENTRY_SIZE * index >= MAXIMUM_ARRAY or self._size >= _MAXIMUM_DATA:
            raise UnsupportedError(f"more than {index} chunks or {self._size} bytes in one layer")
        chunk = Chunk(
            self._blob,
            index,
            digest,
            ChunkFlags.COMPRESSED if compressed_size != size else 0,
            compressed_size,
            size,
            self._size,
            self._uncompressed,
            self._file_offset,
        )
        self._infos.append(encode_chunk_info(self._size, compressed_size, self._uncompressed, size))
        self._digests.append(digest)
        self._size += compressed_size
        self._uncompressed += align(size, BLOCK)
        return chunk

    def _finish_file(self) -> None:
        if self._inode is not None:
            self._inode.chunks = tuple(self._chunks)
        self._inode = None
        self._chunks = []
        self._file_offset = 0

    def finish(self, root: Inode) -> Ending:
        """Everything behind the chunks: chunk information, digests, the layer's bootstrap, table of contents."""
        self._finish_file()
        parameters = self._parameters
        parts: list[bytes] = []
        entries: list[TocEntry] = []
        position = self._size
        meta = b""
        if self._infos:
            position, meta = self._chunk_tables(parts, entries)
        blobs = [self._blob] if self._infos else []
        self._blob.compressed_size = position
        bootstrap = Bootstrap(
            root=root,
            blobs=blobs,
            chunk_size=parameters.chunk_size,
            compressor=parameters.compressor,
            digester=parameters.digester,
            prefetch=[root],
        )
        plain = encode_bootstrap(bootstrap)
        packed = compress(plain, Compressor.ZSTD)
        used = Compressor.ZSTD if len(packed) < len(plain) else Compressor.NONE
        entries.append(TocEntry(toc.BOOTSTRAP, _sha256(plain), position, len(packed), len(plain), used))
        parts += (packed, encode_tar_header(toc.BOOTSTRAP, len(packed)), encode_toc(entries))
        return Ending(b"".join(parts), bootstrap, meta)

    def _chunk_tables(self, parts: list[bytes], entries: list[TocEntry]) -> tuple[int, bytes]:
        """Appends ``image.blob``'s header, ``blob.meta`` and ``blob.digest``; the position behind them, and the meta file."""
        blob = self._blob
        data_header = encode_tar_header(toc.BLOB_DATA, self._size)
        self._data_hash.update(data_header)
        array = b"".join(self._infos)
        packed = compress(array, self._parameters.compressor, self._parameters.level)
        blob.chunk_count = len(self._infos)
        blob.uncompressed_size = self._uncompressed
        blob.ci_compressor = self._parameters.compressor if len(packed) < len(array) else Compressor.NONE
        blob.ci_offset = self._size + len(data_header)
        blob.ci_compressed_size = len(packed)
        blob.ci_uncompressed_size = len(array)
        header = MetaHeader(
            blob.features,
            Compressor(blob.ci_compressor),
            blob.chunk_count,
            blob.ci_offset,
            len(packed),
            len(array),
        ).encode()
        digests = b"".join(self._digests)
        meta_header = encode_tar_header(toc.BLOB_META, len(packed) + len(header))
        parts += (data_header, packed, header, meta_header, digests, encode_tar_header(toc.CHUNK_DIGESTS, len(digests)))
        header_at = blob.ci_offset + len(packed)
        digests_at = header_at + len(header) + len(meta_header)
        entries += (
            TocEntry(toc.BLOB_DATA, self._data_hash.digest(), 0, self._size, self._uncompressed),
            TocEntry(
                toc.BLOB_META, _sha256(array), blob.ci_offset, len(packed), len(array), Compressor(blob.ci_compressor)
            ),
            TocEntry(toc.BLOB_META_HEADER, _sha256(header), header_at, len(header), len(header)),
            TocEntry(toc.CHUNK_DIGESTS, _sha256(digests), digests_at, len(digests), len(digests)),
        )
        meta = array + bytes(-len(array) % BLOCK) + header
        return digests_at + len(digests) + 512, meta


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
