"""What layouts and archives share: content-addressed bytes somewhere in files, and names for manifests."""

from __future__ import annotations

import asyncio
import contextlib
import io
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from cli.stores.location import Location
from shared.errors import CorruptLayerError, LimitExceededError, PermanentError
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest
from shared.oci.manifest import MAXIMUM_MANIFEST_SIZE, ImageManifest, Index, parse_manifest
from shared.oci.reference import Reference
from shared.registry.api import Upload
from shared.registry.hashing import ThreadedHash

REF_NAME = "org.opencontainers.image.ref.name"
"""A manifest's name in an index.json (OCI image spec, annotations.md)."""
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Region:
    """A blob's bytes: ``size`` of them from ``offset`` in the file at ``path``."""

    path: Path
    offset: int
    size: int


class LocalImages(ABC):
    """A ``shared.registry.api.ImageStore`` over files. Subclasses say where blobs are and what the names point at."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self.path = location.path

    @abstractmethod
    def region(self, digest: Digest) -> Region | None:
        """Where a blob's bytes are; None if it is not here."""

    @abstractmethod
    def named(self) -> Sequence[Descriptor]:
        """The manifests of the index.json, or what stands for it; names in :data:`REF_NAME`."""

    async def resolve(self, reference: Reference) -> Descriptor | None:
        if reference.digest is not None and reference.tag is None:
            region = self.region(reference.digest)
            return None if region is None else (await self.manifest(reference)).descriptor
        found = self.find(reference)
        return found if found is None or reference.digest in {None, found.digest} else None

    async def manifest(self, reference: Reference) -> ImageManifest | Index:
        media_type = None
        if reference.digest is not None:
            digest = reference.digest
        else:
            descriptor = self.find(reference)
            if descriptor is None:
                raise self._no_such_name()
            digest, media_type = descriptor.digest, descriptor.media_type
        region = self.region(digest)
        if region is None:
            raise PermanentError(f"{self.location} has no manifest {digest}", code="manifest_unknown")
        if region.size > MAXIMUM_MANIFEST_SIZE:
            raise LimitExceededError(
                f"the manifest {digest} has {region.size} bytes; manifests have {MAXIMUM_MANIFEST_SIZE} at most",
                limit="manifest_size",
            )
        raw = await asyncio.to_thread(_read, region, 0, region.size)
        if Digest.of(raw, digest.algorithm) != digest:
            raise PermanentError(f"{self.location}: manifest {digest} is damaged", code="digest_mismatch")
        return parse_manifest(raw, media_type, digest)

    @contextlib.asynccontextmanager
    async def open_blob(self, repository: Reference, blob: Descriptor) -> AsyncIterator[AsyncIterator[bytes]]:
        del repository
        region = self.region(blob.digest)
        if region is None:
            raise PermanentError(f"{self.location} has no blob {blob.digest}", code="blob_unknown")
        with await asyncio.to_thread(region.path.open, "rb") as file:
            file.seek(region.offset)
            async with contextlib.aclosing(self._verified(file, region, blob)) as stream:
                yield stream

    async def _verified(self, file: io.BufferedReader, region: Region, blob: Descriptor) -> AsyncGenerator[bytes]:
        if region.size != blob.size:
            raise CorruptLayerError(f"{self.location}: {blob.digest} has {region.size} bytes, not {blob.size}")
        hashing, left = ThreadedHash(blob.digest.algorithm), region.size
        while left:
            piece = await asyncio.to_thread(file.read, min(_PIECE, left))
            if not piece:
                raise CorruptLayerError(f"{self.location}: {blob.digest} is cut {left} bytes before its end")
            left -= len(piece)
            await hashing.update(piece)
            yield piece
        if await hashing.digest() != blob.digest:
            raise CorruptLayerError(f"{self.location}: the bytes of {blob.digest} are others: the file is damaged")

    async def read_range(self, repository: Reference, digest: Digest, start: int, length: int) -> bytes:
        del repository
        region = self.region(digest)
        if region is None:
            raise PermanentError(f"{self.location} has no blob {digest}", code="blob_unknown")
        if start < 0 or length < 0 or start + length > region.size:
            raise PermanentError(f"{digest} has no bytes {start} to {start + length}", code="range_refused")
        return await asyncio.to_thread(_read, region, start, length)

    async def has_blob(self, repository: Reference, digest: Digest, size: int | None = None) -> bool:
        del repository
        region = self.region(digest)
        return region is not None and size in {None, region.size}

    async def mount_blob(self, repository: Reference, digest: Digest, source: Reference) -> bool:
        del source
        return await self.has_blob(repository, digest)

    async def put_manifest(self, reference: Reference, manifest: ImageManifest | Index) -> Descriptor:
        del reference, manifest
        raise self._read_only()

    def upload(self, repository: Reference) -> AbstractAsyncContextManager[Upload]:
        del repository
        raise self._read_only()

    def find(self, reference: Reference) -> Descriptor | None:
        """By name. A location without a name means the only image."""
        named = self.named()
        own = reference.tag == self.location.reference.tag
        if own and not self.location.name:
            if len(named) == 1:
                return named[0]
            wanted = {"latest"} if len(named) > 1 else set()
        else:
            wanted = {self.location.name} if own else {reference.tag or ""}
        exact = [each for each in named if each.annotations.get(REF_NAME) in wanted]
        if (
            not exact
        ):  # docker writes whole references (docker.io/library/app:1) where people and other tools write less
            exact = [
                each
                for each in named
                if any(each.annotations.get(REF_NAME, "").endswith((f"/{name}", f":{name}")) for name in wanted)
            ]
        return exact[-1] if exact else None

    def _no_such_name(self) -> PermanentError:
        names = sorted({each.annotations.get(REF_NAME, "") for each in self.named()} - {""})
        there = f"there are: {', '.join(names[:20])}" if names else "it holds no named image"
        return PermanentError(f"no such image: {self.location}; {there}", code="manifest_unknown")

    def _read_only(self) -> PermanentError:
        return PermanentError(f"{self.location} can only be read", code="read_only")


def _read(region: Region, start: int, length: int) -> bytes:
    with region.path.open("rb") as file:
        file.seek(region.offset + start)
        return file.read(length)
