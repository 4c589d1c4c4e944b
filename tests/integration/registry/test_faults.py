"""What goes wrong between a client and a registry: cut, slow, silent, lying, overloaded. Faults are really injected."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from shared.errors import CorruptLayerError, IcsError, LimitExceededError, PermanentError, TransientError
from shared.oci import media_types
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest
from shared.oci.manifest import MAXIMUM_MANIFEST_SIZE, encode_manifest, parse_manifest
from shared.oci.reference import Reference, parse_reference
from shared.registry.client import RegistryClient
from shared.registry.retry import RetryPolicy
from shared.settings.model import Timeouts
from tests.integration.registry.conftest import CHUNK, OpenClient
from tests.integration.registry.images import pull, push, push_image
from tests.servers.devregistry import Fault, FaultyRegistry, serve_registry
from tests.servers.ports import free_port
from tests.servers.registry import RegistryServer
from tests.servers.scripted import Handler, raw_server, scripted_server

Development = tuple[FaultyRegistry, str]
IMPATIENT = Timeouts(connect=0.3, read=0.3)


class Recorder:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, int]] = []
        self.retries: list[tuple[str, str]] = []
        self.received = 0
        self.sent = 0

    def request(self, operation: str, registry: str, status: int, seconds: float) -> None:
        assert seconds >= 0
        self.requests.append((operation, status))

    def retry(self, operation: str, registry: str, code: str, delay: float) -> None:
        assert delay >= 0
        self.retries.append((operation, code))

    def transferred(self, operation: str, registry: str, received: int, sent: int) -> None:
        self.received += received
        self.sent += sent


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
async def client(development: Development, open_client: OpenClient, recorder: Recorder) -> RegistryClient:
    opened: RegistryClient = await open_client(development[1], observer=recorder)
    return opened


@pytest.fixture
def repository(development: Development) -> Reference:
    return parse_reference(f"{development[1]}/project/app:latest")


@pytest.mark.parametrize("kind", ["truncate", "reset"])
@pytest.mark.parametrize("times", [1, 3])
async def test_a_cut_download_goes_on_where_it_stopped(
    development: Development, client: RegistryClient, repository: Reference, recorder: Recorder, kind: Any, times: int
) -> None:
    data = os.urandom(2_000_000)
    blob = await push(client, repository, data)
    development[0].faults.add(Fault(kind, "GET", "/blobs/sha256", times=times, after=400_000))
    assert await pull(client, repository, blob) == data
    assert recorder.received == len(data)
    assert len([operation for operation, _ in recorder.retries if operation == "get_blob"]) == times


async def test_a_download_that_never_moves_is_given_up(
    development: Development, client: RegistryClient, repository: Reference, recorder: Recorder
) -> None:
    blob = await push(client, repository, os.urandom(100_000))
    development[0].faults.add(Fault("reset", "GET", "/blobs/sha256", times=0))
    with pytest.raises(TransientError) as caught:
        await pull(client, repository, blob)
    assert caught.value.code == "registry_unavailable"
    assert recorder.retries == [("get_blob", "registry_unavailable")] * 3


async def test_other_bytes_than_promised_are_a_corrupt_layer(
    development: Development, client: RegistryClient, repository: Reference
) -> None:
    blob = await push(client, repository, os.urandom(100_000))
    development[0].faults.add(Fault("corrupt", "GET", "/blobs/sha256"))
    with pytest.raises(CorruptLayerError) as caught:
        await pull(client, repository, blob)
    assert caught.value.details["reason"] == "digest"


@pytest.mark.parametrize("difference", [-1, 1])
async def test_a_manifest_that_lies_about_sizes_is_found_out(
    client: RegistryClient, repository: Reference, difference: int
) -> None:
    blob = await push(client, repository, os.urandom(100_000))
    with pytest.raises(CorruptLayerError) as caught:
        await pull(client, repository, replace(blob, size=blob.size + difference))
    assert caught.value.details["reason"] == "size"


@pytest.mark.parametrize("length", [999, 1001])
async def test_an_unframed_answer_of_another_size_is_found_out(open_client: OpenClient, length: int) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(b"x" * length)
        await response.write_eof()
        return response

    async with scripted_server(answer) as host:
        client = await open_client(host)
        with pytest.raises(IcsError) as caught:
            await pull(client, parse_reference(f"{host}/a"), Descriptor("application/x", Digest.of(b"x" * 1000), 1000))
    assert caught.value.code == ("corrupt_layer" if length > 1000 else "registry_unavailable")


async def test_a_registry_without_ranges_is_read_from_the_start_again(open_client: OpenClient) -> None:
    data = os.urandom(600_000)
    asked: list[str | None] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.headers.get("Range"))
        response = web.StreamResponse(headers={"Content-Length": str(len(data))})
        await response.prepare(request)
        await response.write(data[: 250_000 if len(asked) < 3 else None])
        if len(asked) < 3 and request.transport is not None:
            request.transport.close()
        return response

    async with scripted_server(answer) as host:
        client = await open_client(host)
        blob = Descriptor("application/x", Digest.of(data), len(data))
        assert await pull(client, parse_reference(f"{host}/a"), blob) == data
        assert await client.read_range(parse_reference(f"{host}/a"), blob.digest, 300_000, 10) == data[300_000:300_010]
    assert asked[0] is None
    assert asked[1] == "bytes=250000-"


@pytest.mark.parametrize("path", ["/manifests/", "/blobs/sha256", "/blobs/uploads/"])
async def test_a_short_storm_of_503_is_weathered(
    development: Development, client: RegistryClient, repository: Reference, recorder: Recorder, path: str
) -> None:
    manifest = await push_image(client, repository, os.urandom(2 * CHUNK + 5))
    development[0].faults.add(Fault("status", "*", path, times=2, status=503))
    await push_image(client, repository.with_tag("again"), os.urandom(2 * CHUNK + 6))
    assert (await client.manifest(repository)).raw == manifest.raw
    assert {code for _, code in recorder.retries} == {"registry_unavailable"}


async def test_a_long_storm_is_the_brokers_business(
    development: Development, client: RegistryClient, repository: Reference
) -> None:
    development[0].faults.add(Fault("status", times=0, status=500))
    with pytest.raises(TransientError) as caught:
        await client.manifest(repository)
    assert caught.value.code == "registry_unavailable"
    assert caught.value.details["status"] == 500
    assert development[0].faults.injected == 4


async def test_a_short_retry_after_is_waited_for(
    development: Development, open_client: OpenClient, recorder: Recorder, repository: Reference
) -> None:
    client = await open_client(
        development[1], observer=recorder, retry=RetryPolicy(attempts=2, initial=0.01, maximum=2)
    )
    pushed = await push_image(client, repository)
    development[0].faults.add(Fault("status", "GET", "/manifests/", status=429, headers={"Retry-After": "0"}))
    assert (await client.manifest(repository)).raw == pushed.raw
    assert ("get_manifest", "rate_limited") in recorder.retries


async def test_a_long_retry_after_is_handed_on(
    development: Development, client: RegistryClient, repository: Reference
) -> None:
    development[0].faults.add(Fault("status", times=0, status=429, headers={"Retry-After": "3600"}))
    with pytest.raises(TransientError) as caught:
        await client.resolve(repository)
    assert (caught.value.code, caught.value.retry_after) == ("rate_limited", 3600)
    assert development[0].faults.injected == 1


@pytest.mark.parametrize(
    ("status", "registry_code", "code", "kind"),
    [
        (403, "DENIED", "denied", PermanentError),
        (412, "PRECONDITION", "immutable_tag", PermanentError),
        (412, "PROJECTPOLICYVIOLATION", "policy_violation", TransientError),
        (413, "SIZE_INVALID", "manifest_too_large", PermanentError),
        (400, "MANIFEST_INVALID", "manifest_refused", PermanentError),
        (400, "MANIFEST_BLOB_UNKNOWN", "manifest_blob_unknown", TransientError),
        (404, "BLOB_UNKNOWN", "blob_unknown", TransientError),
        (404, "NAME_UNKNOWN", "name_unknown", PermanentError),
        (418, "", "unexpected_answer", PermanentError),
    ],
)
async def test_a_refused_push_says_why(
    development: Development,
    client: RegistryClient,
    repository: Reference,
    status: int,
    registry_code: str,
    code: str,
    kind: type[IcsError],
) -> None:
    manifest = await push_image(client, repository)
    body = json.dumps({"errors": [{"code": registry_code, "message": "because"}]}).encode()
    development[0].faults.add(Fault("status", "PUT", "/manifests/", times=0, status=status, body=body))
    with pytest.raises(kind) as caught:
        await client.put_manifest(repository, manifest)
    assert caught.value.code == code
    assert caught.value.details["status"] == status
    assert caught.value.details.get("registry_code") == (registry_code or None)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_a_registry_that_hangs_is_a_timeout(
    development: Development, open_client: OpenClient, repository: Reference, method: str
) -> None:
    client = await open_client(
        development[1], timeouts=IMPATIENT, retry=RetryPolicy(attempts=2, initial=0.01, maximum=0.01)
    )
    development[0].faults.add(Fault("hang", method, times=0))
    with pytest.raises(TransientError) as caught:  # noqa: PT012  one of three calls
        if method == "GET":
            await client.manifest(repository)
        elif method == "HEAD":
            await client.resolve(repository)
        else:
            await push(client, repository, os.urandom(2 * CHUNK))
    assert caught.value.code == "registry_timeout"


async def test_a_blob_that_stops_in_the_middle_is_a_timeout(open_client: OpenClient) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 10)
        await asyncio.sleep(60)

    async with raw_server(answer) as host:
        client = await open_client(host, timeouts=IMPATIENT, retry=RetryPolicy(attempts=1))
        with pytest.raises(TransientError) as caught:
            await pull(client, parse_reference(f"{host}/a"), Descriptor("application/x", Digest.of(b""), 1000))
    assert caught.value.code == "registry_timeout"


async def test_an_upload_that_nobody_reads_is_a_timeout(open_client: OpenClient) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"POST"):
            writer.write(b"HTTP/1.1 202 Accepted\r\nLocation: /v2/a/blobs/uploads/1\r\nContent-Length: 0\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(60)

    async with raw_server(answer) as host:
        client = await open_client(host, timeouts=IMPATIENT, retry=RetryPolicy(attempts=1), chunk_size=16 << 20)
        with pytest.raises(TransientError) as caught:
            await push(client, parse_reference(f"{host}/a"), bytes(40 << 20))
    assert caught.value.code == "registry_timeout"


async def test_what_is_not_http_is_unavailable(open_client: OpenClient) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"220 smtp.example.com ESMTP\r\n")
        await writer.drain()

    async with raw_server(answer) as host:
        client = await open_client(host)
        with pytest.raises(TransientError) as caught:
            await client.manifest(parse_reference(f"{host}/a"))
    assert caught.value.code == "registry_unavailable"


async def test_nobody_listening_is_unavailable(open_client: OpenClient) -> None:
    host = f"127.0.0.1:{free_port()}"
    client = await open_client(host)
    with pytest.raises(TransientError) as caught:
        await client.manifest(parse_reference(f"{host}/a"))
    assert caught.value.code == "registry_unavailable"
    assert "no connection (Connection refused)" in caught.value.message


@pytest.mark.parametrize("first", [1, 2, 3])
@pytest.mark.parametrize("after", [0, 300_000])
async def test_a_cut_upload_goes_on_where_the_registry_stands(
    development: Development,
    client: RegistryClient,
    repository: Reference,
    recorder: Recorder,
    first: int,
    after: int,
) -> None:
    data = os.urandom(3 * CHUNK + 1000)
    development[0].faults.add(Fault("drop_request", "PATCH", first=first, after=after))
    blob = await push(client, repository, data)
    assert blob.digest == Digest.of(data)
    assert await pull(client, repository, blob) == data
    assert development[0].faults.injected == 1
    assert ("get_upload", 204) in recorder.requests
    assert development[0].storage.uploads() == []


@pytest.mark.parametrize("body", [b"", b'{"errors":[{"code":"BLOB_UPLOAD_INVALID"}]}'])
async def test_a_session_that_the_registry_dropped(
    development: Development, client: RegistryClient, repository: Reference, body: bytes
) -> None:
    """As CNCF distribution does when a request is cut: the first chunk starts over, a later one is the caller's to repeat."""
    registry = development[0]
    registry.faults.add(Fault("drop_request", "PATCH", after=1000))
    registry.faults.add(Fault("status", "GET", "/uploads/", status=404, body=body))
    data = os.urandom(3 * CHUNK)
    assert (await push(client, repository, data)).digest == Digest.of(data)
    registry.faults.clear()
    registry.faults.add(Fault("drop_request", "PATCH", first=2, after=1000))
    registry.faults.add(Fault("status", "GET", "/uploads/", status=404, body=body))
    with pytest.raises(TransientError) as caught:
        await push(client, repository, os.urandom(3 * CHUNK))
    assert caught.value.code == "upload_interrupted"


@pytest.mark.parametrize("size", [100_000, 2 * CHUNK + 3])
@pytest.mark.parametrize("kind", ["reset", "status"])
async def test_an_unanswered_commit_is_asked_about(
    development: Development, client: RegistryClient, repository: Reference, size: int, kind: Any
) -> None:
    data = os.urandom(size)
    development[0].faults.add(Fault(kind, "PUT", "/uploads/", status=502))
    blob = await push(client, repository, data)
    assert await pull(client, repository, blob) == data
    assert development[0].faults.injected == 1
    assert development[0].storage.uploads() == []


async def test_a_commit_whose_session_is_gone_is_transient(
    development: Development, client: RegistryClient, repository: Reference
) -> None:
    body = b'{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}'
    development[0].faults.add(Fault("status", "PUT", "/uploads/", status=404, body=body, times=0))
    with pytest.raises(TransientError) as caught:
        await push(client, repository, os.urandom(2 * CHUNK + 3))
    assert caught.value.code == "upload_interrupted"


async def test_bytes_that_arrived_wrong_are_sent_anew(
    development: Development, client: RegistryClient, repository: Reference
) -> None:
    body = b'{"errors":[{"code":"DIGEST_INVALID"}]}'
    development[0].faults.add(Fault("status", "PUT", "/uploads/", status=400, body=body))
    blob = await push(client, repository, b"small")
    assert await pull(client, repository, blob) == b"small"
    development[0].faults.add(Fault("status", "PUT", "/uploads/", status=400, body=body))
    with pytest.raises(TransientError) as caught:
        await push(client, repository, os.urandom(2 * CHUNK))
    assert caught.value.code == "upload_interrupted"


async def test_what_is_there_is_not_sent_again(
    development: Development, client: RegistryClient, repository: Reference, recorder: Recorder
) -> None:
    await push(client, repository, b"content")
    sent = recorder.sent
    await push(client, repository, b"content")
    assert recorder.sent == sent
    assert [operation for operation, _ in recorder.requests].count("start_upload") == 1


@pytest.mark.parametrize("size", [1000, CHUNK + 3])
async def test_a_blob_whose_record_is_broken_is_sent_again(
    shared_docker_registry: RegistryServer, open_client: OpenClient, size: int
) -> None:
    """A registry that was killed while it wrote the record answers every look at the blob with 500, for ever."""
    client = await open_client(shared_docker_registry.host)
    name = f"project/{os.urandom(6).hex()}"
    repository = parse_reference(f"{shared_docker_registry.host}/{name}:latest")
    data = os.urandom(size)
    blob = await push(client, repository, data)
    shared_docker_registry.link_file(name, blob.digest).write_bytes(b"")
    assert not await client.has_blob(repository, blob.digest)
    assert await push(client, repository, data) == blob
    assert await client.has_blob(repository, blob.digest)
    assert await pull(client, repository, blob) == data


async def test_a_registry_that_is_down_is_so_for_an_upload_too(
    development: Development, client: RegistryClient, repository: Reference
) -> None:
    development[0].faults.add(Fault("status", "HEAD", "/blobs/", status=503, times=0))
    development[0].faults.add(Fault("status", "POST", "/uploads/", status=503, times=0))
    with pytest.raises(TransientError) as caught:
        await push(client, repository, b"content")
    assert caught.value.code == "registry_unavailable"


async def test_the_registrys_smallest_chunk_is_honoured(tmp_path: Any, open_client: OpenClient) -> None:
    registry = FaultyRegistry(tmp_path / "picky", chunk_min_length=3 * CHUNK)
    data = os.urandom(7 * CHUNK)
    async with serve_registry(registry) as host:
        client = await open_client(host)
        blob = await push(client, parse_reference(f"{host}/a/b"), data)
    assert blob.digest == Digest.of(data)
    assert [method for method, _ in registry.requests].count("PATCH") == 3


async def test_a_manifest_with_another_digest_is_refused(
    development: Development, client: RegistryClient, repository: Reference
) -> None:
    pushed = await push_image(client, repository)
    for reference in (repository, replace(repository, tag=None, digest=pushed.digest)):
        development[0].faults.add(Fault("corrupt", "GET", "/manifests/", times=0))
        with pytest.raises(PermanentError) as caught:
            await client.manifest(reference)
        assert caught.value.code == "digest_mismatch"
        development[0].faults.clear()


async def test_a_manifest_that_was_damaged_on_its_way_is_asked_for_again(
    development: Development, client: RegistryClient, repository: Reference
) -> None:
    pushed = await push_image(client, repository)
    development[0].faults.add(Fault("corrupt", "GET", "/manifests/", times=1))
    assert (await client.manifest(repository)).digest == pushed.digest


async def test_a_manifest_of_any_size_is_not_read(open_client: OpenClient) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": media_types.OCI_MANIFEST})
        response.enable_chunked_encoding()
        await response.prepare(request)
        for _ in range(64):
            await response.write(b" " * (1 << 20))
        return response

    async with scripted_server(answer) as host:
        client = await open_client(host)
        with pytest.raises(LimitExceededError) as caught:
            await client.manifest(parse_reference(f"{host}/a"))
    assert caught.value.details["limit"] == "manifest_size"


async def test_a_manifest_too_large_to_push_is_not_sent(
    development: Development, client: RegistryClient, repository: Reference
) -> None:
    manifest = encode_manifest(
        {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_INDEX,
            "manifests": [],
            "annotations": {"a": "x" * MAXIMUM_MANIFEST_SIZE},
        }
    )
    with pytest.raises(PermanentError) as caught:
        await client.put_manifest(repository, manifest)
    assert caught.value.code == "manifest_too_large"
    assert not development[0].requests


async def test_a_registry_that_stores_something_else_is_found_out(open_client: OpenClient) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        await request.read()
        return web.Response(status=201, headers={"Docker-Content-Digest": Digest.of(b"something else")})

    async with scripted_server(answer) as host:
        client = await open_client(host)
        with pytest.raises(PermanentError) as caught:
            await client.put_manifest(parse_reference(f"{host}/a"), parse_manifest(b'{"manifests":[]}'))
    assert caught.value.code == "digest_mismatch"


async def test_a_head_without_a_digest_is_followed_by_a_get(open_client: OpenClient) -> None:
    raw = b'{"manifests":[]}'
    missing = False

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.method == "GET" and missing:
            raise web.HTTPNotFound
        return web.Response(body=raw, headers={"Content-Type": media_types.OCI_INDEX, "Docker-Content-Digest": "odd"})

    async with scripted_server(answer) as host:
        client = await open_client(host)
        found = await client.resolve(parse_reference(f"{host}/a"))
        assert found == parse_manifest(raw, media_types.OCI_INDEX).descriptor
        missing = True
        assert await client.resolve(parse_reference(f"{host}/a")) is None


async def test_pages_are_followed_and_circles_are_not(open_client: OpenClient, development: Development) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        link = {"Link": f'<{request.path}?page=1>; rel="next"'}
        return web.json_response({"tags": ["ok", "not ok", 1]}, headers=link)

    async with scripted_server(answer) as host:
        client = await open_client(host)
        with pytest.raises(PermanentError, match="circle"):
            _ = [tag async for tag in client.tags(parse_reference(f"{host}/a"))]
    registry, host = development
    client = await open_client(host)
    repository = parse_reference(f"{host}/many/tags")
    manifest = await push_image(client, repository)
    expected = sorted(["latest", *(f"t{number:04}" for number in range(1100))])
    for tag in expected:
        registry.storage.put_manifest("many/tags", manifest.raw, manifest.media_type, manifest.digest, tag)
    assert [tag async for tag in client.tags(repository)] == expected


@pytest.mark.parametrize("body", [b"[]", b'{"tags": 1}', b'{"tags": [1, "not a tag"]}'])
async def test_a_list_of_nothing_usable_is_empty(open_client: OpenClient, body: bytes) -> None:
    async with scripted_server(_answering(body)) as host:
        client = await open_client(host)
        assert [tag async for tag in client.tags(parse_reference(f"{host}/a"))] == []


async def test_a_list_that_is_no_json_is_an_error(open_client: OpenClient) -> None:
    async with scripted_server(_answering(b"<html>")) as host:
        client = await open_client(host)
        with pytest.raises(PermanentError) as caught:
            _ = [tag async for tag in client.tags(parse_reference(f"{host}/a"))]
    assert caught.value.code == "unexpected_answer"


def _answering(body: bytes) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=body)

    return answer


async def test_a_client_is_used_inside_its_block(open_client: OpenClient, development: Development) -> None:
    client = await open_client(development[1])
    await client.__aexit__(None, None, None)
    with pytest.raises(RuntimeError, match="outside"):
        await client.resolve(parse_reference(f"{development[1]}/a"))


async def test_an_upload_ends_once(client: RegistryClient, repository: Reference) -> None:
    async with client.upload(repository) as upload:
        await upload.commit("application/x")
        with pytest.raises(RuntimeError, match="twice"):
            await upload.commit("application/x")
        with pytest.raises(RuntimeError, match="after commit"):
            await upload.write(b"x")
