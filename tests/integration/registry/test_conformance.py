"""What a registry client does all day, against both registries."""

from __future__ import annotations

import asyncio
import os
import tracemalloc
from dataclasses import replace

import pytest

from shared.errors import PermanentError, TransientError
from shared.oci import media_types
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest
from shared.oci.manifest import Index, encode_manifest
from shared.oci.reference import Reference, parse_reference
from shared.registry.api import ImageStore
from shared.registry.client import RegistryClient
from tests.integration.registry.conftest import OpenClient
from tests.integration.registry.images import pull, push, push_image
from tests.servers.registry import RegistryServer


@pytest.mark.parametrize("size", [0, 1, 1000, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 * (1 << 20) + 17])
async def test_a_blob_comes_back_as_it_was_pushed(client: RegistryClient, repository: Reference, size: int) -> None:
    data = os.urandom(size)
    blob = await push(client, repository, data)
    assert blob == Descriptor("application/octet-stream", Digest.of(data), size)
    assert await client.has_blob(repository, blob.digest)
    assert await pull(client, repository, blob) == data


async def test_pieces_of_any_kind_and_size_make_one_blob(client: RegistryClient, repository: Reference) -> None:
    pieces: list[bytes | memoryview] = [b"", b"a", memoryview(b"bcd")[1:], os.urandom(2_500_000), b"end"]
    async with client.upload(repository) as upload:
        for piece in pieces:
            await upload.write(piece)
        blob = await upload.commit("application/x", {"key": "value"})
    data = b"".join(pieces)
    assert blob == Descriptor("application/x", Digest.of(data), len(data), {"key": "value"})
    assert await pull(client, repository, blob) == data


async def test_a_buffer_may_be_reused_after_write(client: RegistryClient, repository: Reference) -> None:
    buffer = bytearray(300_000)
    expected = bytearray()
    async with client.upload(repository) as upload:
        for number in range(12):
            buffer[:] = bytes([number]) * len(buffer)
            expected += buffer
            await upload.write(memoryview(buffer))
        blob = await upload.commit("application/octet-stream")
    assert blob.digest == Digest.of(bytes(expected))


async def test_many_uploads_at_once_do_not_mix(client: RegistryClient, repository: Reference) -> None:
    contents = [os.urandom(1_500_000) for _ in range(6)]
    blobs = await asyncio.gather(*(push(client, repository, data) for data in contents))
    assert [blob.digest for blob in blobs] == [Digest.of(data) for data in contents]
    assert await asyncio.gather(*(pull(client, repository, blob) for blob in blobs)) == contents


async def test_a_manifest_is_resolved_read_and_kept_byte_by_byte(client: RegistryClient, repository: Reference) -> None:
    assert await client.resolve(repository) is None
    pushed = await push_image(client, repository)
    assert await client.resolve(repository) == pushed.descriptor
    by_tag = await client.manifest(repository)
    by_digest = await client.manifest(replace(repository, tag=None, digest=pushed.digest))
    assert by_tag.raw == by_digest.raw == pushed.raw
    assert by_tag.media_type == media_types.OCI_MANIFEST


async def test_a_large_manifest_is_pushed(client: RegistryClient, repository: Reference) -> None:
    pushed = await push_image(client, repository, annotations={"large": "x" * 3_000_000})
    assert (await client.manifest(repository)).raw == pushed.raw


async def test_docker_manifests_and_lists_are_served_as_such(client: RegistryClient, repository: Reference) -> None:
    config = await push(client, repository, b"{}", media_types.DOCKER_CONFIG)
    layer = await push(client, repository, b"layer", media_types.DOCKER_LAYER_GZIP)
    image = encode_manifest(
        {
            "schemaVersion": 2,
            "mediaType": media_types.DOCKER_MANIFEST,
            "config": config.to_json(),
            "layers": [layer.to_json()],
        }
    )
    await client.put_manifest(replace(repository, tag=None, digest=image.digest), image)
    platform = {"platform": {"architecture": "amd64", "os": "linux"}}
    index = encode_manifest(
        {
            "schemaVersion": 2,
            "mediaType": media_types.DOCKER_MANIFEST_LIST,
            "manifests": [image.descriptor.to_json() | platform],
        }
    )
    await client.put_manifest(repository, index)
    found = await client.manifest(repository)
    assert isinstance(found, Index)
    assert found.media_type == media_types.DOCKER_MANIFEST_LIST
    assert found.manifests[0].digest == image.digest


async def test_a_range_of_a_blob_is_read(client: RegistryClient, repository: Reference) -> None:
    data = os.urandom(300_000)
    blob = await push(client, repository, data)
    assert await client.read_range(repository, blob.digest, 1000, 5) == data[1000:1005]
    assert await client.read_range(repository, blob.digest, 0, len(data)) == data
    assert await client.read_range(repository, blob.digest, len(data) - 1, 1) == data[-1:]
    assert await client.read_range(repository, blob.digest, 7, 0) == b""
    with pytest.raises(PermanentError) as caught:
        await client.read_range(repository, blob.digest, len(data) - 5, 10)
    assert caught.value.code == "range_refused"


async def test_a_blob_is_mounted_from_another_repository(client: RegistryClient, repository: Reference) -> None:
    blob = await push(client, repository, b"content")
    other = replace(repository, repository=repository.repository + "/other")
    assert await client.mount_blob(other, blob.digest, repository)
    assert await pull(client, other, blob) == b"content"
    assert not await client.mount_blob(other, Digest.of(b"nowhere"), repository)
    elsewhere = replace(repository, registry="other.example.com")
    assert not await client.mount_blob(other, blob.digest, elsewhere)


@pytest.mark.parametrize("tag", ["missing", None])
async def test_what_is_missing_is_named(client: RegistryClient, repository: Reference, tag: str | None) -> None:
    await push_image(client, repository)
    digest = Digest.of(b"missing")
    with pytest.raises(PermanentError) as caught:
        await client.manifest(replace(repository, tag=tag, digest=None if tag else digest))
    assert caught.value.code == "manifest_unknown"
    assert caught.value.details["repository"] == repository.repository
    assert caught.value.details["registry"] == repository.registry
    assert caught.value.details["status"] == 404
    assert caught.value.details["registry_code"] == "MANIFEST_UNKNOWN"
    with pytest.raises(PermanentError) as caught:
        await pull(client, repository, Descriptor("application/x", digest, 3))
    assert caught.value.code == "blob_unknown"
    assert not await client.has_blob(repository, digest)


async def test_a_manifest_over_nothing_is_refused(client: RegistryClient, repository: Reference) -> None:
    await push_image(client, repository)
    nothing = Descriptor(media_types.OCI_LAYER_GZIP, Digest.of(b"never pushed"), 5)
    config = await push(client, repository, b"{}", media_types.OCI_CONFIG)
    manifest = encode_manifest(
        {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_MANIFEST,
            "config": config.to_json(),
            "layers": [nothing.to_json()],
        }
    )
    with pytest.raises(TransientError) as caught:
        await client.put_manifest(repository, manifest)
    assert caught.value.code in {"manifest_blob_unknown", "blob_unknown"}


async def test_leaving_without_commit_leaves_no_session(
    client: RegistryClient, repository: Reference, host: str, request: pytest.FixtureRequest
) -> None:
    async with client.upload(repository) as upload:
        await upload.write(os.urandom(3_500_000))
    assert _sessions(request, repository) == 0


async def test_a_cancelled_upload_leaves_no_session(
    client: RegistryClient, repository: Reference, request: pytest.FixtureRequest
) -> None:
    started = asyncio.Event()

    async def endless() -> None:
        async with client.upload(repository) as upload:
            while True:
                await upload.write(os.urandom(1 << 20))
                started.set()

    task = asyncio.create_task(endless())
    await started.wait()
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert _sessions(request, repository) == 0


def _sessions(request: pytest.FixtureRequest, repository: Reference) -> int:
    """Uploads that the registry still knows."""
    if "docker-registry" in request.node.name:
        server = request.getfixturevalue("shared_docker_registry")
        return sum(repository.repository in str(path) for path in server.upload_sessions())
    (root,) = request.getfixturevalue("tmp_path").glob("registry/uploads")
    return len(list(root.iterdir()))


async def test_a_stream_that_is_left_early_harms_nothing(client: RegistryClient, repository: Reference) -> None:
    data = os.urandom(8 << 20)
    blob = await push(client, repository, data)
    for _ in range(3):
        async with client.open_blob(repository, blob) as stream:
            async for piece in stream:
                assert data.startswith(piece)
                break
    assert await pull(client, repository, blob) == data


async def test_a_transfer_costs_no_more_memory_than_its_chunks(
    open_client: OpenClient, shared_docker_registry: RegistryServer
) -> None:
    size, chunk = 96 << 20, 4 << 20
    client = await open_client(shared_docker_registry.host, chunk_size=chunk)
    repository = parse_reference(f"{shared_docker_registry.host}/project/large")
    block = os.urandom(1 << 20)
    tracemalloc.start()
    try:
        async with client.upload(repository) as upload:
            for _ in range(size // len(block)):
                await upload.write(block)
            blob = await upload.commit("application/octet-stream")
        pushed = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        received = 0
        async with client.open_blob(repository, blob) as stream:
            async for piece in stream:
                received += len(piece)
        pulled = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert received == size
    assert pushed < 3 * chunk
    assert pulled < 3 * chunk


def as_store(client: RegistryClient) -> ImageStore:
    return client  # the type checker is the test


async def test_the_client_is_a_store(client: RegistryClient, repository: Reference) -> None:
    assert await as_store(client).resolve(repository) is None


async def test_tags_are_listed(client: RegistryClient, repository: Reference) -> None:
    assert [tag async for tag in client.tags(repository)] == []
    manifest = await push_image(client, repository)
    for tag in ("b", "a"):
        await client.put_manifest(repository.with_tag(tag), manifest)
    assert sorted([tag async for tag in client.tags(repository)]) == ["a", "b", "latest"]
    assert repository.repository in [name async for name in client.repositories(repository.registry)]


async def test_referrers_are_found_by_the_api_or_by_the_tag(client: RegistryClient, repository: Reference) -> None:
    subject = await push_image(client, repository)
    wanted = replace(repository, tag=None, digest=subject.digest)
    assert await client.referrers(wanted) == ()
    referrer = await push_image(
        client,
        repository.with_tag("referrer"),
        b"about it",
        subject=subject.descriptor.to_json(),
        artifactType="application/x-note",
    )
    descriptor = replace(referrer.descriptor, artifact_type="application/x-note")
    index = encode_manifest(
        {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": [descriptor.to_json()]}
    )
    await client.put_manifest(repository.with_tag(str(subject.digest).replace(":", "-")), index)
    assert [found.digest for found in await client.referrers(wanted)] == [referrer.digest]
    assert [found.digest for found in await client.referrers(wanted, "application/x-note")] == [referrer.digest]
    assert await client.referrers(wanted, "application/other") == ()


async def test_an_open_registry_needs_no_credentials(client: RegistryClient, host: str) -> None:
    assert await client.check_credentials(host) == "anonymous"
