"""From compressed chunks, in tar order, to the bytes of a blob layer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from drivers.nydus.blob import toc
from drivers.nydus.blob.chunk_info import ENTRY_SIZE, MAXIMUM_ARRAY, MetaHeader, encode_chunk_infos
from drivers.nydus.blob.parts import check_tail
from drivers.nydus.blob.tail import BlobTail
from drivers.nydus.blob.tar_header import encode_tar_header
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
)
from drivers.nydus.tree import Blob, Chunk, Inode
from shared.errors import UnsupportedError

_MAXIMUM_DATA: Final = 1 << 40
_MAXIMUM_CHUNKS: Final = min(MAXIMUM_CHUNKS - 1, MAXIMUM_ARRAY // ENTRY_SIZE)
_COMPRESSED: Final = int(ChunkFlags.COMPRESSED)


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Chunks of consecutive files as a worker leaves them, in tar order."""

    digests: Sequence[bytes]
    sizes: Sequence[int]
    """Uncompressed, in bytes."""
    data: Mapping[bytes, bytes]
    """Compressed, by digest; without what the worker knew that the blob already has."""


@dataclass(frozen=True, slots=True)
class Ending:
    """What follows the chunks, and what :class:`~drivers.nydus.layer_source.Layer` holds of them."""

    tail: bytes
    bootstrap: Bootstrap
    meta: bytes
    chunk_digests: bytes


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
        self.known: dict[bytes, Chunk] = {}
        """Every chunk by its digest, in the blob's order; workers look in to skip the compression of what is here already."""
        self._data_hash = hashlib.sha256()
        self._size = 0
        self._uncompressed = 0
        self._large: Inode | None = None
        self._large_chunks: list[Chunk] = []

    def add(self, inodes: Sequence[Inode], batch: PackedBatch) -> bytes:
        """The next chunks, each with the file that it belongs to; returns the bytes to append to the blob.

        Raises:
            UnsupportedError: the layer has more chunks or data than a blob can hold.
        """
        known, blob = self.known, self._blob
        packed, chunk_size = batch.data, self._parameters.chunk_size
        position, uncompressed = self._size, self._uncompressed
        fresh = []
        for inode, digest, size in zip(inodes, batch.digests, batch.sizes, strict=True):
            small = inode.size <= chunk_size
            chunk = known.get(digest)
            if chunk is None:
                index = len(known)
                if index >= _MAXIMUM_CHUNKS or position >= _MAXIMUM_DATA:
                    raise UnsupportedError(f"more than {index} chunks or {position} bytes in one layer")
                data = packed[digest]
                fresh.append(data)
                csize = len(data)
                flags = _COMPRESSED if csize != size else 0
                file_offset = 0 if small else self._file_offset(inode)
                chunk = known[digest] = Chunk(
                    blob, index, digest, flags, csize, size, position, uncompressed, file_offset
                )
                position += csize
                uncompressed += (size + BLOCK - 1) & -BLOCK
            if small:
                inode.chunks = (chunk,)
            else:
                self._add_to_large(inode, chunk)
        self._size, self._uncompressed = position, uncompressed
        joined = b"".join(fresh)
        self._data_hash.update(joined)
        return joined

    def _file_offset(self, inode: Inode) -> int:
        return len(self._large_chunks) * self._parameters.chunk_size if inode is self._large else 0

    def _add_to_large(self, inode: Inode, chunk: Chunk) -> None:
        """Its chunks come one after the other, perhaps in several batches."""
        if inode is not self._large:
            self._large = inode
            self._large_chunks = []
        self._large_chunks.append(chunk)
        if len(self._large_chunks) * self._parameters.chunk_size >= inode.size:
            inode.chunks = tuple(self._large_chunks)

    def finish(self, root: Inode) -> Ending:
        """Everything behind the chunks: chunk information, digests, the layer's bootstrap, table of contents; checked.

        Raises:
            UnsupportedError: the tree is more than a bootstrap can hold.
            InvalidNydusError: a defect, ``field`` names where.
        """
        parameters = self._parameters
        tail = BlobTail()
        meta = digests = b""
        if self.known:
            digests = b"".join(self.known)
            meta = self._chunk_tables(tail, digests)
        blobs = [self._blob] if self.known else []
        self.known.clear()  # before the bootstrap takes its own memory
        self._blob.compressed_size = tail.position
        bootstrap = Bootstrap(
            root=root,
            blobs=blobs,
            chunk_size=parameters.chunk_size,
            compressor=parameters.compressor,
            digester=parameters.digester,
            prefetch=[root],
        )
        tail.add_bootstrap(encode_bootstrap(bootstrap))
        data = tail.finish()
        check_tail(data, blobs[0] if blobs else None)
        return Ending(data, bootstrap, meta, digests)

    def _chunk_tables(self, tail: BlobTail, digests: bytes) -> bytes:
        """Adds ``image.blob``'s header, ``blob.meta`` and ``blob.digest``; the meta file."""
        blob = self._blob
        data_header = encode_tar_header(toc.BLOB_DATA, self._size)
        self._data_hash.update(data_header)
        tail.add_data(self._size, self._uncompressed, self._data_hash.digest(), data_header)
        chunks = self.known.values()
        array = encode_chunk_infos(chunks)
        packed = compress(array, self._parameters.compressor, self._parameters.level)
        blob.chunk_count = len(chunks)
        blob.uncompressed_size = self._uncompressed
        blob.ci_compressor = self._parameters.compressor if len(packed) < len(array) else Compressor.NONE
        blob.ci_offset = tail.position
        blob.ci_compressed_size = len(packed)
        blob.ci_uncompressed_size = len(array)
        header = tail.add_meta(array, packed, MetaHeader.of(blob))
        tail.add_digests(digests)
        return array + bytes(-len(array) % BLOCK) + header
