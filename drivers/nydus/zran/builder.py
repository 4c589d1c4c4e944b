"""The builder of ``oci_ref``: reads a gzip layer once, and writes where its files' content lies."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Mapping, Sequence

from drivers.api import Content
from drivers.inflate import Inflater
from drivers.limits import LayerLimits
from drivers.nydus import media
from drivers.nydus.blob.chunk_info import MAXIMUM_ARRAY, MetaHeader
from drivers.nydus.blob.parts import check_tail
from drivers.nydus.blob.tail import BlobTail
from drivers.nydus.blob.tar_header import SIZE as TAR_HEADER_SIZE
from drivers.nydus.blob.toc import toc_size
from drivers.nydus.bootstrap_layer import BootstrapLayer
from drivers.nydus.compression import compress
from drivers.nydus.feed import feeding, in_own_thread
from drivers.nydus.image import merged_bootstrap, validated_layer
from drivers.nydus.layer_source import Layer, point_to
from drivers.nydus.parameters import Parameters
from drivers.nydus.rafs_v6.bootstrap import Bootstrap
from drivers.nydus.rafs_v6.encode import encode_bootstrap
from drivers.nydus.rafs_v6.layout import (
    BLOCK,
    MAXIMUM_CHUNKS,
    REFERENCE_FEATURES,
    ChunkFlags,
    Compressor,
    Digester,
    align,
)
from drivers.nydus.tar_walk import TarWalker
from drivers.nydus.tree import Blob, Chunk, Inode
from drivers.nydus.zran.blocks import GzipBlocks
from drivers.nydus.zran.index import CHUNK_SIZE, ZranIndex, encode_index
from drivers.nydus.zran.indexer import Indexer
from shared.errors import UnsupportedError
from shared.oci.descriptor import Descriptor


def reference_marks(layer: Descriptor) -> Mapping[str, str]:
    """Annotations of the blob that refers to ``layer``."""
    return {media.NYDUS_BLOB: "true", media.NYDUS_REF: str(layer.digest)}


class ReferringBuilder:
    """A :class:`~drivers.nydus.builder.Builder`. The gzip layer itself must be in the target repository."""

    def __init__(self, limits: LayerLimits) -> None:
        self._limits = limits

    async def version(self) -> str | None:
        return None

    async def convert_layer(
        self, layer: Descriptor, content: Content, parameters: Parameters
    ) -> tuple[Descriptor, Layer]:
        reader = _LayerReader(layer, self._limits, parameters.chunk_size)
        async with content.open(layer) as pieces, feeding(pieces) as feed:
            root, index = await in_own_thread(reader.run, feed.read())
        data, found, table = await asyncio.to_thread(reader.assemble, root, index)
        descriptor = await content.push(data, media.BLOB_LAYER, reference_marks(layer))
        for record in found.blobs:
            point_to(record, descriptor, table)
        return descriptor, Layer(descriptor.digest, found, reader.meta, reader.chunk_digests, layer.digest)

    async def merge(self, layers: Sequence[Layer], parameters: Parameters) -> BootstrapLayer:
        return await validated_layer(await asyncio.to_thread(merged_bootstrap, layers, parameters), layers)


class _LayerReader:
    """One layer; equal chunks are listed once."""

    def __init__(self, layer: Descriptor, limits: LayerLimits, chunk_size: int) -> None:
        self._layer = layer
        self._limits = limits
        self._chunk_size = chunk_size
        self._indexer = Indexer(chunk_size)
        self._known: dict[bytes, Chunk] = {}
        self._inode: Inode | None = None
        self._inode_chunks: list[Chunk] = []
        self._uncompressed = 0
        self.meta = b""
        self.chunk_digests = b""
        self._blob = Blob(
            id=layer.digest.hex,
            chunk_size=chunk_size,
            chunk_count=0,
            compressor=Compressor.GZIP,
            digester=Digester.SHA256,
            features=REFERENCE_FEATURES,
            compressed_size=layer.size,
            uncompressed_size=0,
            ci_compressor=Compressor.NONE,
            ci_offset=0,
            ci_compressed_size=0,
            ci_uncompressed_size=0,
        )

    def run(self, compressed: Iterator[bytes]) -> tuple[Inode, ZranIndex]:
        """Blocking; the layer's tree and the index of its stream.

        Raises:
            UnsupportedError: the layer is no gzip, or one that cannot be referred to.
            CorruptLayerError, LimitExceededError: of the layer.
        """
        self._walker = TarWalker(self._put, self._chunk_size, sparse=False)
        try:
            root = self._walker.walk(self._inflate(compressed), self._limits)
        finally:
            del self._walker  # it refers back to this object, which has all the windows
        return root, self._indexer.finish()

    def _inflate(self, compressed: Iterator[bytes]) -> Iterator[bytes]:
        inflater = Inflater(self._limits, gzip=GzipBlocks(self._indexer.boundary))
        for piece in compressed:
            for plain in inflater.feed(piece):
                self._require_gzip(inflater)
                yield plain
                self._indexer.passed(inflater.uncompressed)
        yield from inflater.finish()
        self._require_gzip(inflater)

    def _require_gzip(self, inflater: Inflater) -> None:
        if inflater.compression != "gzip":
            raise UnsupportedError(
                f"the layer {self._layer.digest} is {inflater.compression}, and oci_ref can refer to gzip layers only: "
                "push the image with gzip layers, or convert it without oci_ref"
            )

    def _put(self, inode: Inode, data: bytes) -> None:
        if inode is not self._inode:
            self._inode, self._inode_chunks = inode, []
        file_offset = len(self._inode_chunks) * self._chunk_size
        digest = hashlib.sha256(data).digest()
        chunk = self._known.get(digest)
        if chunk is None:
            index = len(self._known)
            if index >= MAXIMUM_CHUNKS - 1:
                raise UnsupportedError(f"more than {index} chunks in one layer")
            size = len(data)
            self._indexer.chunk(self._walker.content_at + file_offset, size)
            flags = int(ChunkFlags.COMPRESSED)
            chunk = Chunk(self._blob, index, digest, flags, 0, size, 0, self._uncompressed, file_offset)
            self._uncompressed = align(self._uncompressed + size, BLOCK)
            self._known[digest] = chunk
        self._inode_chunks.append(chunk)
        if file_offset + len(data) >= inode.size:
            inode.chunks = tuple(self._inode_chunks)

    def assemble(self, root: Inode, index: ZranIndex) -> tuple[bytes, Bootstrap, bytes]:
        """The blob, its bootstrap and its table of contents. Blocking."""
        tail = BlobTail()
        for chunk, place in zip(self._known.values(), index.chunks, strict=True):
            chunk.compressed_offset, chunk.compressed_size = place.compressed_offset, place.compressed_size
        if self._known:
            self._add_tables(tail, index)
        bootstrap = Bootstrap(
            root=root,
            blobs=[self._blob] if self._known else [],
            chunk_size=self._chunk_size,
            compressor=Compressor.GZIP,
            digester=Digester.SHA256,
            prefetch=[root],
        )
        tail.add_bootstrap(encode_bootstrap(bootstrap))
        data = tail.finish()
        check_tail(data, bootstrap.blobs[0] if bootstrap.blobs else None)
        return data, bootstrap, data[-TAR_HEADER_SIZE - toc_size(data) : -TAR_HEADER_SIZE]

    def _add_tables(self, tail: BlobTail, index: ZranIndex) -> None:
        blob = self._blob
        array = encode_index(index)
        if len(array) > MAXIMUM_ARRAY:
            raise UnsupportedError(f"the index of a layer would take {len(array)} bytes; {MAXIMUM_ARRAY} are allowed")
        packed = compress(array, Compressor.ZSTD)
        blob.chunk_count = len(index.chunks)
        blob.uncompressed_size = self._uncompressed
        blob.ci_compressor = Compressor.ZSTD if len(packed) < len(array) else Compressor.NONE
        blob.ci_compressed_size = len(packed)
        blob.ci_uncompressed_size = len(array)
        offset = CHUNK_SIZE * len(index.chunks)
        zran = {"zran_offset": offset, "zran_size": len(array) - offset, "zran_count": len(index.contexts)}
        header = tail.add_meta(array, packed, MetaHeader.of(blob, **zran))
        self.meta = array + bytes(-len(array) % BLOCK) + header
        self.chunk_digests = b"".join(self._known)
        tail.add_digests(self.chunk_digests)
