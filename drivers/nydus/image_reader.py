"""A Nydus image read back from a store, every structure checked against the format's rules."""

from __future__ import annotations

import asyncio
import hashlib
import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from drivers.image import MAXIMUM_CONFIG_SIZE, parse_config
from drivers.limits import LayerLimits
from drivers.nydus import media
from drivers.nydus.blob import toc
from drivers.nydus.blob.chunk_info import ChunkInfo
from drivers.nydus.blob.parts import read_parts
from drivers.nydus.blob.tar_header import SIZE
from drivers.nydus.compression import decompress, digest
from drivers.nydus.consistency import check_blobs, check_manifest
from drivers.nydus.errors import InvalidNydusError, require
from drivers.nydus.feed import feeding, in_own_thread
from drivers.nydus.layer_source import MAXIMUM_BOOTSTRAP, Layer, read_layer
from drivers.nydus.rafs_v6.bootstrap import Bootstrap
from drivers.nydus.rafs_v6.decode import validate_bootstrap
from drivers.nydus.rafs_v6.layout import Compressor, Digester
from drivers.nydus.tar_walk import inflate
from drivers.nydus.tree import Blob, file_chunks
from drivers.nydus.zran.random_access import check_reference
from shared.errors import PermanentError
from shared.oci import media_types
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest
from shared.oci.manifest import ImageManifest
from shared.oci.reference import Reference
from shared.registry.api import ImageStore


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class ImageContent:
    """The merged bootstrap, and each blob layer's own tables in the manifest's order."""

    bootstrap: Bootstrap
    layers: list[Layer]


class ImageReader:
    """Of one platform's image in one repository."""

    def __init__(self, store: ImageStore, repository: Reference, limits: LayerLimits) -> None:
        self._store = store
        self._repository = repository
        self._limits = limits

    async def read(self, manifest: ImageManifest) -> ImageContent:
        """Manifest, config, merged bootstrap and every layer's tables.

        Raises:
            InvalidNydusError: ``field`` names the structure that breaks a rule.
            PermanentError, TransientError: of the store.
        """
        check_manifest(manifest)
        raw_config = await self._small(manifest.config)
        try:
            diff_ids = parse_config(raw_config, len(manifest.layers)).diff_ids
        except PermanentError as error:
            raise InvalidNydusError("config", error.message) from error
        for layer, diff_id in zip(manifest.layers[:-1], diff_ids, strict=False):
            require(diff_id == layer.digest, "config.rootfs.diff_ids", f"{diff_id} for the blob {layer.digest}")
        tar = await self._bootstrap_tar(manifest.layers[-1])
        require(Digest.of(tar) == diff_ids[-1], "config.rootfs.diff_ids", "the bootstrap layer's does not match")
        files = await asyncio.to_thread(_tar_files, tar)
        raw = files.get(media.BOOTSTRAP_FILE)
        if raw is None:
            raise InvalidNydusError("bootstrap_layer", f"has no {media.BOOTSTRAP_FILE}")
        bootstrap = await asyncio.to_thread(validate_bootstrap, raw)
        layers = [await read_layer(layer, self._read_range) for layer in manifest.layers[:-1]]
        check_blobs(bootstrap.blobs, file_chunks(bootstrap.root), layers)
        for content in layers:
            name = f"image/{content.blob_id}.blob.meta"
            require(
                not content.meta or files.get(name, content.meta) == content.meta, name, "differs from the blob's own"
            )
        return ImageContent(bootstrap, layers)

    async def check_data(self, layer: Descriptor, content: Layer) -> int:
        """Read a whole blob and check every chunk against its digest; the number of chunks.

        Raises:
            InvalidNydusError: fields ``chunk[i]``, ``image.blob``, ``tar_header`` and ``toc``.
        """
        own = content.own
        if own is None:
            return 0
        infos = content.chunk_infos(own)
        chunks = file_chunks(content.bootstrap.root)
        digests = {chunk.index: chunk.digest for chunk in chunks if chunk.blob is own}
        if content.reference is not None:
            original = Descriptor(media_types.OCI_LAYER_GZIP, content.reference, own.compressed_size)
            await check_reference(original, content.index(own), digests, self._read_range)
            infos = []
        async with self._store.open_blob(self._repository, layer) as pieces, feeding(pieces) as feed:
            await in_own_thread(_check_data, feed.read(), own, infos, digests)
        return own.chunk_count

    async def _bootstrap_tar(self, layer: Descriptor) -> bytes:
        limits = replace(self._limits, layer_size=MAXIMUM_BOOTSTRAP)
        async with self._store.open_blob(self._repository, layer) as pieces, feeding(pieces) as feed:
            return await in_own_thread(lambda: b"".join(inflate(feed.read(), limits)))

    async def _small(self, descriptor: Descriptor) -> bytes:
        require(descriptor.size <= MAXIMUM_CONFIG_SIZE, "config.size", f"{descriptor.size} bytes")
        async with self._store.open_blob(self._repository, descriptor) as pieces:
            return b"".join([piece async for piece in pieces])

    async def _read_range(self, blob: Descriptor, start: int, length: int) -> bytes:
        return await self._store.read_range(self._repository, blob.digest, start, length)


def _tar_files(tar: bytes) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(tar), mode="r:") as archive:
            for member in archive:
                file = archive.extractfile(member)
                if file is not None:
                    files.setdefault(member.name, file.read())
    except tarfile.TarError as error:
        raise InvalidNydusError("bootstrap_layer", f"is no tar: {error}") from error
    return files


def _check_data(pieces: Iterator[bytes], blob: Blob, infos: Sequence[ChunkInfo], digests: Mapping[int, bytes]) -> None:
    """A whole blob: every chunk, then the parts behind them back to back, each with its header."""
    held = bytearray()
    hashed = hashlib.sha256()
    for index, info in enumerate(infos):
        while len(held) < info.compressed_size:
            piece = next(pieces, None)
            if piece is None:
                raise InvalidNydusError("image.blob", f"ends before chunk {index}")
            held += piece
        packed = bytes(held[: info.compressed_size])
        del held[: info.compressed_size]
        hashed.update(packed)
        used = Compressor(blob.compressor) if info.compressed_size != info.uncompressed_size else Compressor.NONE
        plain = decompress(packed, used, info.uncompressed_size, f"chunk[{index}]")
        expected = digests.get(index)
        require(
            expected is None or digest(plain, Digester(blob.digester)) == expected,
            f"chunk[{index}].digest",
            "does not match the data",
        )
    for piece in pieces:  # to the blob's own verified end
        held += piece
    _check_parts(bytes(held), max(0, blob.ci_offset - SIZE), hashed)


def _check_parts(tail: bytes, data_size: int, hashed: _Hash) -> None:
    """What follows the chunks, walked as readers walk it: from the end, each header naming the part in front of it."""
    entries = read_parts(tail, data_size)
    hashed.update(tail[:SIZE])
    data = entries.get(toc.BLOB_DATA)
    require(data is None or data.digest == hashed.digest(), f"toc[{toc.BLOB_DATA}].digest", "does not match the data")
