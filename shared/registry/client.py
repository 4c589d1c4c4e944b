"""The registry client: an :class:`shared.registry.api.ImageStore` over the OCI distribution protocol 1.1."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from types import TracebackType
from typing import Literal, Self

from yarl import URL

from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest
from shared.oci.manifest import ImageManifest, Index
from shared.oci.reference import Reference
from shared.registry import blobs, listing, manifests
from shared.registry.access import AccessList
from shared.registry.auth import Authenticator
from shared.registry.docker_config import DockerConfig
from shared.registry.mounts import mount
from shared.registry.observer import Observer, Silent
from shared.registry.retry import RetryPolicy
from shared.registry.sessions import Unrecorded, UploadSessions
from shared.registry.transport import Transport
from shared.registry.uploads import DEFAULT_CHUNK_SIZE, BlobUpload, cancel_session, open_upload
from shared.registry.verification import check_credentials
from shared.settings.model import Settings


class RegistryClient:
    """All registries that the settings allow. Use as ``async with RegistryClient.from_settings(settings) as registry``."""

    def __init__(self, transport: Transport, sessions: UploadSessions, *, chunk_size: int = DEFAULT_CHUNK_SIZE) -> None:
        self._transport = transport
        self._sessions = sessions
        self._chunk_size = chunk_size

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        *,
        observer: Observer | None = None,
        retry: RetryPolicy | None = None,
        chunk_size: int | None = None,
        sessions: UploadSessions | None = None,
    ) -> Self:
        """Read credentials and certificates; nothing is contacted yet.

        Args:
            settings: ``auths``, ``endpoints``, ``timeouts`` and ``limits.memory`` matter here; where ``auths`` has an entry
                without a credential, Docker's configuration is asked.
            observer: is told of every request, retry and transfer.
            retry: how a single request is repeated.
            chunk_size: bytes of an upload's chunk, of which an upload holds two; an eighth of ``limits.memory``, at most
                16 MiB, by default.
            sessions: is told of every upload session that is open.

        Raises:
            PermanentError: ``invalid_credential``, ``invalid_certificate``, ``invalid_host``.
        """
        transport = Transport(
            AccessList.from_settings(settings),
            Authenticator(DockerConfig.of_environment()),
            observer or Silent(),
            retry or RetryPolicy(),
            connect_timeout=settings.timeouts.connect,
            read_timeout=settings.timeouts.read,
        )
        chunk_size = chunk_size or min(DEFAULT_CHUNK_SIZE, settings.limits.memory // 8)
        return cls(transport, sessions or Unrecorded(), chunk_size=chunk_size)

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

    async def has_blob(self, repository: Reference, digest: Digest, size: int | None = None) -> bool:
        scopes = (f"repository:{repository.repository}:pull",)
        return await blobs.has_blob(self._transport, repository, digest, scopes, size=size)

    async def mount_blob(self, repository: Reference, digest: Digest, source: Reference) -> bool:
        if source.registry != repository.registry:
            return False
        return await mount(self._transport, repository, digest, source)

    def upload(self, repository: Reference) -> contextlib.AbstractAsyncContextManager[BlobUpload]:
        return open_upload(self._transport, repository, self._sessions, chunk_size=self._chunk_size)

    async def cancel_upload(self, repository: Reference, location: str) -> None:
        """End a session that another process left; ``location`` is a path with its query, at the repository's registry."""
        base = self._transport.access.of(repository.registry).base
        await cancel_session(self._transport, repository, URL(f"{base}{location}", encoded=True))

    def tags(self, repository: Reference) -> AsyncGenerator[str, None]:
        """Every tag of the repository; none if there is no such repository."""
        return listing.tags(self._transport, repository)

    def repositories(self, registry: str) -> AsyncGenerator[str, None]:
        """Every repository that the registry's catalogue shows us."""
        return listing.repositories(self._transport, registry)

    async def referrers(self, subject: Reference, artifact_type: str | None = None) -> tuple[Descriptor, ...]:
        """Manifests whose ``subject`` is ``subject.digest``; by the API, else by the tag schema."""
        return await listing.referrers(self._transport, subject, artifact_type)

    async def check_credentials(self, registry: str) -> Literal["accepted", "anonymous"]:
        """Prove the credentials by a call that needs them; ``anonymous`` if there are none or none are asked for.

        Raises:
            PermanentError: ``unauthorized``, ``host_not_allowed``, ``tls_error`` ...
            TransientError: the registry cannot be reached.
        """
        return await check_credentials(self._transport, registry)
