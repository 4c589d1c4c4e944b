"""The store seam: what a conversion needs of the place where images live.

``shared.registry.client.RegistryClient`` speaks the OCI distribution protocol; OCI layouts and docker archives on disk are
stores too. ``Reference`` arguments name the repository; tag and digest matter where a manifest is meant.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest
from shared.oci.manifest import ImageManifest, Index
from shared.oci.reference import Reference


class Upload(Protocol):
    """A blob upload under way; satisfies ``drivers.api.BlobWriter``."""

    async def write(self, data: bytes | memoryview) -> None:
        """Back-pressure: returns when the next piece may come."""
        ...

    async def commit(self, media_type: str, annotations: Mapping[str, str] | None = None) -> Descriptor:
        """Finish; digest and size are of what was written (hashed off the loop)."""
        ...


class ImageStore(Protocol):
    """Raises classified errors only (``shared.errors``)."""

    async def resolve(self, reference: Reference) -> Descriptor | None:
        """The manifest's descriptor (HEAD); None if there is no such manifest."""
        ...

    async def manifest(self, reference: Reference) -> ImageManifest | Index:
        """By digest if the reference has one (then verified), else by tag. ``manifest_unknown`` when missing."""
        ...

    async def put_manifest(self, reference: Reference, manifest: ImageManifest | Index) -> Descriptor:
        """Under the tag, or by digest if the reference has no tag."""
        ...

    def open_blob(self, repository: Reference, blob: Descriptor) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Stream, size and digest verified: raises at the end of a stream that differs. Resumes by range on a cut."""
        ...

    async def read_range(self, repository: Reference, digest: Digest, start: int, length: int) -> bytes:
        """``length`` bytes from ``start`` (a Range request)."""
        ...

    async def has_blob(self, repository: Reference, digest: Digest, size: int | None = None) -> bool:
        """Whether the blob is there; with ``size``, of just so many bytes."""
        ...

    async def mount_blob(self, repository: Reference, digest: Digest, source: Reference) -> bool:
        """Cross-repository mount; False when the store declines (nothing is left open then)."""
        ...

    def upload(self, repository: Reference) -> AbstractAsyncContextManager[Upload]:
        """Leaving without ``commit`` cancels the session at the registry."""
        ...
