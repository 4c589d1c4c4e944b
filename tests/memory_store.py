"""An :class:`shared.registry.api.ImageStore` in memory: real bytes, checked digests, countable calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from shared.errors import PermanentError
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest
from shared.oci.manifest import ImageManifest, Index
from shared.oci.reference import Reference

Key = tuple[str, str]


@dataclass
class MemoryStore:
    """Repositories with blobs, manifests and tags. ``before`` is called with each operation's name and reference."""

    before: Callable[[str, Reference], None] = lambda _operation, _reference: None
    mounts: bool = True
    blobs: dict[str, dict[Digest, bytes]] = field(default_factory=dict)
    manifests: dict[str, dict[Digest, ImageManifest | Index]] = field(default_factory=dict)
    tags: dict[str, dict[str, Digest]] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    open_uploads: int = 0

    def _enter(self, operation: str, reference: Reference) -> str:
        self.calls[operation] += 1
        self.before(operation, reference)
        return f"{reference.registry}/{reference.repository}"

    async def resolve(self, reference: Reference) -> Descriptor | None:
        name = self._enter("resolve", reference)
        digest = reference.digest or self.tags.get(name, {}).get(reference.tag or "")
        found = self.manifests.get(name, {}).get(digest) if digest else None
        return found.descriptor if found else None

    async def manifest(self, reference: Reference) -> ImageManifest | Index:
        name = self._enter("manifest", reference)
        digest = reference.digest or self.tags.get(name, {}).get(reference.tag or "")
        found = self.manifests.get(name, {}).get(digest) if digest else None
        if found is None:
            raise PermanentError(f"there is no {reference}", code="manifest_unknown", registry=reference.registry)
        return found

    async def put_manifest(self, reference: Reference, manifest: ImageManifest | Index) -> Descriptor:
        name = self._enter("put_manifest", reference)
        if isinstance(manifest, ImageManifest):
            for blob in (manifest.config, *manifest.layers):
                assert blob.digest in self.blobs.get(name, {}), f"{blob.digest} of {reference} was not pushed"
        else:
            for child in manifest.manifests:
                assert child.digest in self.manifests.get(name, {}), f"{child.digest} of {reference} was not pushed"
        self.manifests.setdefault(name, {})[manifest.digest] = manifest
        if reference.tag:
            self.tags.setdefault(name, {})[reference.tag] = manifest.digest
        return manifest.descriptor

    @asynccontextmanager
    async def open_blob(self, repository: Reference, blob: Descriptor) -> AsyncIterator[AsyncIterator[bytes]]:
        name = self._enter("open_blob", repository)
        data = self.blobs.get(name, {}).get(blob.digest)
        if data is None:
            raise PermanentError(f"there is no {blob.digest}", code="blob_unknown")

        async def stream() -> AsyncIterator[bytes]:
            for start in range(0, len(data), 65536):
                yield data[start : start + 65536]

        yield stream()

    async def read_range(self, repository: Reference, digest: Digest, start: int, length: int) -> bytes:
        name = self._enter("read_range", repository)
        return self.blobs[name][digest][start : start + length]

    async def has_blob(self, repository: Reference, digest: Digest, size: int | None = None) -> bool:
        data = self.blobs.get(self._enter("has_blob", repository), {}).get(digest)
        return data is not None and size in {None, len(data)}

    async def mount_blob(self, repository: Reference, digest: Digest, source: Reference) -> bool:
        name = self._enter("mount_blob", repository)
        data = self.blobs.get(f"{source.registry}/{source.repository}", {}).get(digest)
        if not self.mounts or data is None:
            return False
        self.blobs.setdefault(name, {})[digest] = data
        return True

    @asynccontextmanager
    async def upload(self, repository: Reference) -> AsyncIterator[MemoryUpload]:
        name = self._enter("upload", repository)
        self.open_uploads += 1
        try:
            yield MemoryUpload(self.blobs.setdefault(name, {}))
        finally:
            self.open_uploads -= 1


class MemoryUpload:
    def __init__(self, blobs: dict[Digest, bytes]) -> None:
        self._blobs = blobs
        self._data = bytearray()

    async def write(self, data: bytes | memoryview) -> None:
        self._data += data

    async def commit(self, media_type: str, annotations: Mapping[str, str] | None = None) -> Descriptor:
        data = bytes(self._data)
        digest = Digest.of(data)
        self._blobs[digest] = data
        return Descriptor(media_type, digest, len(data), dict(annotations or {}))
