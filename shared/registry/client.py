"""The registry client: an :class:`shared.registry.api.ImageStore` over the OCI distribution protocol 1.1."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from shared.errors import IcsError
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest
from shared.oci.manifest import ImageManifest, Index
from shared.oci.reference import Reference
from shared.registry import blobs, manifests
from shared.registry.access import AccessList
from shared.registry.auth import Authenticator
from shared.registry.errors import Operation
from shared.registry.observer import Observer, Silent
from shared.registry.retry import RetryPolicy
from shared.registry.transport import Request, Transport, joined
from shared.registry.uploads import DEFAULT_CHUNK_SIZE, BlobUpload, open_upload
from shared.settings.model import Settings


class RegistryClient:
    """All registries that the settings allow. Use as ``async with RegistryClient.from_settings(settings) as registry``."""

    def __init__(self, transport: Transport, *, chunk_size: int = DEFAULT_CHUNK_SIZE) -> None:
        self._transport = transport
        self._chunk_size = chunk_size

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        *,
        observer: Observer | None = None,
        retry: RetryPolicy | None = None,
        chunk_size: int = DEFAULT_CHUNK_SIZE,
    ) -> Self:
        """Read credentials and certificates; nothing is contacted yet.

        Raises:
            PermanentError: ``invalid_credential``, ``invalid_certificate``, ``invalid_host``.
        """
        transport = Transport(
            AccessList.from_settings(settings),
            Authenticator(),
            observer or Silent(),
            retry or RetryPolicy(),
            connect_timeout=settings.timeouts.connect,
            read_timeout=settings.timeouts.read,
        )
        return cls(transport, chunk_size=chunk_size)

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.__aexit__(kind, error, trace)

    async def resolve(self, reference: Reference) -> Descriptor | None:
        return await manifests.resolve(self._transport, reference)

    async def manifest(self, reference: Reference) -> ImageManifest | Index:
        return await manifests.get(self._transport, reference)

    async def put_manifest(self, reference: Reference, manifest: ImageManifest | Index) -> Descriptor:
        return await manifests.put(self._transport, reference, manifest)

    @contextlib.asynccontextmanager
    async def open_blob(self, repository: Reference, blob: Descriptor) -> AsyncIterator[AsyncIterator[bytes]]:
        stream = blobs.stream_blob(self._transport, repository, blob)
        async with contextlib.aclosing(stream):
            yield stream

    async def read_range(self, repository: Reference, digest: Digest, start: int, length: int) -> bytes:
        return await blobs.read_range(self._transport, repository, digest, start, length)

    async def has_blob(self, repository: Reference, digest: Digest) -> bool:
        return await blobs.has_blob(self._transport, repository, digest, (f"repository:{repository.repository}:pull",))

    async def mount_blob(self, repository: Reference, digest: Digest, source: Reference) -> bool:
        if source.registry != repository.registry:
            return False
        operation = Operation("mount_blob", repository.registry, repository.repository, str(digest))
        scopes = (f"repository:{repository.repository}:pull,push", f"repository:{source.repository}:pull")
        answer = await self._transport.send(
            Request(
                operation,
                "POST",
                f"/v2/{repository.repository}/blobs/uploads/?mount={digest}&from={source.repository}",
                frozenset({201, 202}),
                scopes,
            )
        )
        if answer.status == 201:
            return True
        if location := answer.headers.get("Location"):  # the registry opened an upload instead: leave nothing behind
            session = joined(answer.url, location, operation)
            with contextlib.suppress(IcsError):
                await self._transport.send(
                    Request(operation, "DELETE", session, frozenset({200, 202, 204, 404}), scopes), repeat=False
                )
        return False

    def upload(self, repository: Reference) -> contextlib.AbstractAsyncContextManager[BlobUpload]:
        return open_upload(self._transport, repository, chunk_size=self._chunk_size)
