"""What follows a blob's data: chunk information, chunk digests, the layer's bootstrap, table of contents."""

from __future__ import annotations

import hashlib

from drivers.nydus.blob import toc
from drivers.nydus.blob.chunk_info import MetaHeader
from drivers.nydus.blob.tar_header import encode_tar_header
from drivers.nydus.blob.toc import TocEntry, encode_toc
from drivers.nydus.compression import compress
from drivers.nydus.rafs_v6.layout import Compressor


class BlobTail:
    """Part after part; ``position`` is where the next one begins, in bytes from the blob's start."""

    def __init__(self) -> None:
        self.position = 0
        self._parts: list[bytes] = []
        self._entries: list[TocEntry] = []

    def add_data(self, size: int, uncompressed_size: int, digest: bytes, header: bytes) -> None:
        """The tar header behind data that is written already; ``digest`` is sha256 of both."""
        self._entries.append(TocEntry(toc.BLOB_DATA, digest, 0, size, uncompressed_size))
        self._parts.append(header)
        self.position += size + len(header)

    def add_meta(self, array: bytes, packed: bytes, header: MetaHeader) -> bytes:
        """The encoded header."""
        raw = header.encode()
        compressor = Compressor(header.compressor)
        self._add(toc.BLOB_META, array, packed, compressor)
        self._add(toc.BLOB_META_HEADER, raw, raw, Compressor.NONE)
        self._end(toc.BLOB_META, len(packed) + len(raw))
        return raw

    def add_digests(self, digests: bytes) -> None:
        self._add(toc.CHUNK_DIGESTS, digests, digests, Compressor.NONE)
        self._end(toc.CHUNK_DIGESTS, len(digests))

    def add_bootstrap(self, plain: bytes) -> None:
        packed = compress(plain, Compressor.ZSTD)
        used = Compressor.ZSTD if len(packed) < len(plain) else Compressor.NONE
        self._add(toc.BOOTSTRAP, plain, packed, used)
        self._end(toc.BOOTSTRAP, len(packed))

    def _add(self, name: str, plain: bytes, packed: bytes, compressor: Compressor) -> None:
        digest = hashlib.sha256(plain).digest()
        self._entries.append(TocEntry(name, digest, self.position, len(packed), len(plain), compressor))
        self._parts.append(packed)
        self.position += len(packed)

    def _end(self, name: str, size: int) -> None:
        header = encode_tar_header(name, size)
        self._parts.append(header)
        self.position += len(header)

    def finish(self) -> bytes:
        """Everything behind the data."""
        return b"".join((*self._parts, encode_toc(self._entries)))
