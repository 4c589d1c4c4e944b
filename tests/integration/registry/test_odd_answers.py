"""Answers that the specification does not foresee, or that few registries give."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from shared.errors import IcsError, PermanentError, TransientError
from shared.oci import media_types
from shared.oci.digest import Digest
from shared.oci.manifest import encode_manifest
from shared.oci.reference import Reference, parse_reference
from shared.registry.client import RegistryClient
from shared.settings.model import Timeouts
from tests.integration.registry.conftest import CHUNK, OpenClient
from tests.integration.registry.images import pull, push, push_image
from tests.servers.devregistry import Fault, FaultyRegistry
from tests.servers.scripted import scripted_server
from tests.waiting import PATIENCE, until

Development = tuple[FaultyRegistry, str]


@pytest.fixture
async def client(development: Development, open_client: OpenClient) -> RegistryClient:
    opened: RegistryClient = await open_client(development[1])
    return opened


@pytest.fixture
def repository(development: Development) -> Reference:
    return parse_reference(f"{development[1]}/project/app:latest")


@pytest.mark.parametrize("first", [1, 2])
async def test_a_chunk_that_is_refused_is_sent_again_from_where_the_registry_stands(
    development: Development, client: RegistryClient, repository: Reference, first: int
) -> None:
    data = os.urandom(3 * CHUNK)
    development[0].faults.add(Fault("status", "PATCH", first=first, status=416))
    assert await pull(client, repository, await push(client, repository, data)) == data


async def test_a_chunk_that_is_acknowledged_in_part_is_completed(
    development: Development, client: RegistryClient, repository: Reference
) -> None:
    data = os.urandom(3 * CHUNK)
    development[0].faults.add(Fault("status", "PATCH", first=2, status=202, headers={"Range": "0-99"}))
    assert await pull(client, repository, await push(client, repository, data)) == data


@pytest.mark.parametrize("headers", [{"Range": f"0-{50 * CHUNK}"}, {}])
async def test_a_registry_that_stands_nowhere_known_is_not_followed(
    development: Development, client: RegistryClient, repository: Reference, headers: dict[str, str]
) -> None:
    development[0].faults.add(Fault("drop_request", "PATCH", first=2, after=10))
    development[0].faults.add(Fault("status", "GET", "/uploads/", status=204, headers=headers))
    with pytest.raises(TransientError) as caught:
        await push(client, repository, os.urandom(3 * CHUNK))
    assert caught.value.code == "upload_interrupted"


@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT"])
async def test_an_upload_that_is_denied_says_so_and_leaves_nothing(
    development: Development, client: RegistryClient, repository: Reference, method: str
) -> None:
    development[0].faults.add(Fault("status", method, "/uploads/", status=403))
    with pytest.raises(PermanentError) as caught:
        await push(client, repository, os.urandom(3 * CHUNK))
    assert caught.value.code == "denied"
    assert development[0].storage.uploads() == []


async def test_an_upload_without_a_location_is_a_broken_answer(
    development: Development, client: RegistryClient, repository: Reference
) -> None:
    development[0].faults.add(Fault("status", "POST", times=0, status=202))
    with pytest.raises(TransientError) as caught:
        await push(client, repository, b"x")
    assert caught.value.code == "registry_unavailable"


async def test_an_upload_cancelled_twice_still_cancels_its_session(
    development: Development, client: RegistryClient, repository: Reference
) -> None:
    registry = development[0]
    registry.faults.add(Fault("delay", "DELETE", seconds=0.5, times=0))

    async def endless() -> None:
        async with client.upload(repository) as upload:
            while True:
                await upload.write(os.urandom(CHUNK))
                await asyncio.sleep(0)

    task = asyncio.create_task(endless())
    await until(lambda: bool(registry.storage.uploads()))
    task.cancel()
    await until(lambda: any(method == "DELETE" for method, _ in registry.requests))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert registry.storage.uploads() == []


@pytest.mark.parametrize("size", [10, 2 * CHUNK])
async def test_an_upload_cancelled_while_its_session_opens_leaves_none(
    development: Development, client: RegistryClient, repository: Reference, size: int
) -> None:
    """The registry has opened it, and its answer has not come yet."""
    registry = development[0]
    registry.faults.add(Fault("delay", "POST", seconds=0.5))
    task = asyncio.create_task(push(client, repository, os.urandom(size)))
    await until(lambda: any(method == "POST" for method, _ in registry.requests))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert registry.storage.uploads() == []
    assert any(method in {"DELETE", "PUT"} for method, _ in registry.requests)


async def test_a_hanging_registry_does_not_hold_whoever_leaves(
    development: Development, open_client: OpenClient, repository: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.registry.uploads._CANCEL_TIMEOUT", 0.2)
    development[0].faults.add(Fault("hang", "PATCH", times=0))
    client = await open_client(development[1], timeouts=Timeouts(read=600))
    async with asyncio.timeout(PATIENCE):
        async with client.upload(repository) as upload:
            await upload.write(os.urandom(CHUNK + 1))


async def test_a_range_read_is_repeated(
    development: Development, client: RegistryClient, repository: Reference
) -> None:
    data = os.urandom(200_000)
    blob = await push(client, repository, data)
    development[0].faults.add(Fault("truncate", "GET", "/blobs/", times=2, after=100))
    assert await client.read_range(repository, blob.digest, 10, 100_000) == data[10:100_010]


async def test_a_mount_that_fails_for_another_reason_is_an_error(
    development: Development, client: RegistryClient, repository: Reference
) -> None:
    source = replace(repository, repository="other/app")
    development[0].faults.add(Fault("status", "POST", "mount=", status=400))
    with pytest.raises(PermanentError) as caught:
        await client.mount_blob(repository, Digest.of(b""), source)
    assert caught.value.code == "invalid_request"
    development[0].faults.add(Fault("status", "POST", "mount=", first=2, status=202))
    assert not await client.mount_blob(repository, Digest.of(b""), source)
    assert not await client.mount_blob(repository, Digest.of(b""), source)
    assert development[0].storage.uploads() == []


async def test_referrers_need_a_digest_and_an_index(
    development: Development, client: RegistryClient, repository: Reference
) -> None:
    with pytest.raises(ValueError, match="digest"):
        await client.referrers(repository)
    image = await push_image(client, repository)
    subject = replace(repository, tag=None, digest=image.digest)
    development[0].faults.add(Fault("status", "GET", "/referrers/", times=0, status=404))
    await client.put_manifest(repository.with_tag(str(image.digest).replace(":", "-")), image)
    assert await client.referrers(subject) == ()
    development[0].faults.clear()
    development[0].faults.add(Fault("status", "GET", "/referrers/", status=403))
    with pytest.raises(PermanentError) as caught:
        await client.referrers(subject)
    assert caught.value.code == "denied"
    body = json.dumps({"schemaVersion": 2, "config": {}, "layers": []}).encode()
    development[0].faults.add(Fault("status", "GET", "/referrers/", status=200, body=body))
    with pytest.raises(PermanentError) as caught:
        await client.referrers(subject)
    assert caught.value.code == "invalid_manifest"
    development[0].faults.add(Fault("status", "GET", "/referrers/", times=0, status=404))
    development[0].faults.add(Fault("status", "GET", "/manifests/", times=0, status=403))
    with pytest.raises(PermanentError) as caught:
        await client.referrers(subject)
    assert caught.value.code == "denied"


async def test_a_list_that_is_denied_is_an_error(
    development: Development, client: RegistryClient, repository: Reference
) -> None:
    development[0].faults.add(Fault("status", "GET", "/tags/", status=403))
    with pytest.raises(PermanentError) as caught:
        _ = [tag async for tag in client.tags(repository)]
    assert caught.value.code == "denied"
    development[0].faults.add(Fault("status", "GET", "_catalog", status=200, body=b'{"repositories":["a/b","../x"]}'))
    assert [name async for name in client.repositories(repository.registry)] == ["a/b"]


async def test_a_head_that_says_little_and_a_get_that_is_denied(
    development: Development, client: RegistryClient, repository: Reference
) -> None:
    development[0].faults.add(Fault("status", "HEAD", status=200))
    development[0].faults.add(Fault("status", "GET", status=403))
    with pytest.raises(PermanentError) as caught:
        await client.resolve(repository)
    assert caught.value.code == "denied"


async def test_a_signed_schema_1_manifest_is_called_what_it_is(open_client: OpenClient) -> None:
    """Its digest is that of its payload, and what comes is not damaged."""
    payload = b'{"schemaVersion": 1, "fsLayers": []'
    headers = {"Content-Type": "application/vnd.docker.distribution.manifest.v1+prettyjws"}

    async def signed(_request: web.Request) -> web.Response:
        return web.Response(body=payload + b', "signatures": [{}]}', headers=headers)

    async with scripted_server(signed) as host:
        client = await open_client(host)
        with pytest.raises(PermanentError, match=r"schema 1.*push the image again") as caught:
            await client.manifest(parse_reference(f"{host}/old/app:1").with_digest(Digest.of(payload + b"}")))
    assert caught.value.code == "unsupported_media_type"


async def test_a_manifest_whose_digest_is_refused_is_put_again(
    development: Development, client: RegistryClient, repository: Reference
) -> None:
    manifest = await push_image(client, repository)
    refusal = json.dumps({"errors": [{"code": "DIGEST_INVALID", "message": "provided digest did not match"}]}).encode()
    development[0].faults.add(Fault("status", "PUT", "/manifests/again", times=2, status=400, body=refusal))
    await client.put_manifest(repository.with_tag("again"), manifest)
    found = await client.resolve(repository.with_tag("again"))
    assert found is not None
    assert found.digest == manifest.digest


async def test_a_post_is_not_followed_elsewhere_as_something_else(
    development: Development, client: RegistryClient, repository: Reference
) -> None:
    headers = {"Location": "/v2/elsewhere/"}
    development[0].faults.add(Fault("status", "POST", status=302, headers=headers))
    with pytest.raises(PermanentError) as caught:
        await push(client, repository, b"x")
    assert caught.value.code == "unexpected_answer"
    headers = {"Location": f"/v2/{repository.repository}/blobs/uploads/?redirected"}
    development[0].faults.add(Fault("status", "POST", status=307, headers=headers))
    assert (await push(client, repository, b"x")).size == 1


@pytest.mark.parametrize("location", ["http://h/a b", "http://h/\u00e9", "http://h:99999/"])
async def test_a_location_that_is_no_url(
    development: Development, client: RegistryClient, repository: Reference, location: str
) -> None:
    development[0].faults.add(Fault("status", "GET", times=0, status=307, headers={"Location": location}))
    with pytest.raises(IcsError) as caught:
        await client.manifest(repository)
    assert caught.value.code in {"registry_unavailable", "host_not_allowed"}


async def test_identity_tokens_prove_themselves_at_the_realm(
    open_client: OpenClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def respond(request: web.Request) -> web.StreamResponse:
        if request.path == "/token":
            right = (await request.post()).get("refresh_token") == "right"
            return web.json_response({"token": "opened"}) if right else web.Response(status=401)
        if request.headers.get("Authorization") == "Bearer opened":
            return web.Response()
        return web.Response(status=401, headers={"WWW-Authenticate": f'Bearer realm="http://{request.host}/token"'})

    async with scripted_server(respond) as host:
        for token in ("right", "wrong"):
            folder = tmp_path / token
            folder.mkdir()
            (folder / "config.json").write_text(json.dumps({"auths": {host: {"identitytoken": token}}}))
            monkeypatch.setenv("DOCKER_CONFIG", str(folder))
            client = await open_client(host)
            if token == "right":
                assert await client.check_credentials(host) == "accepted"
                continue
            with pytest.raises(PermanentError) as caught:
                await client.check_credentials(host)
            assert caught.value.code == "unauthorized"


async def test_credentials_that_nobody_asks_for_prove_nothing(
    development: Development, open_client: OpenClient
) -> None:
    client = await open_client(development[1], auth="dTpw")
    assert await client.check_credentials(development[1]) == "anonymous"


async def test_filtered_referrers_come_from_the_development_registry(
    client: RegistryClient, repository: Reference
) -> None:
    subject = await push_image(client, repository)
    more: dict[str, Any] = {"subject": subject.descriptor.to_json()}
    note = await push_image(client, repository.with_tag("note"), b"1", **more, artifactType="application/x-note")
    plain = await push_image(client, repository.with_tag("plain"), b"2", **more)
    index = encode_manifest({"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": [], **more})
    await client.put_manifest(repository.with_tag("index"), index)
    wanted = replace(repository, tag=None, digest=subject.digest)
    assert {found.digest for found in await client.referrers(wanted)} == {note.digest, plain.digest, index.digest}
    assert [found.digest for found in await client.referrers(wanted, "application/x-note")] == [note.digest]
    assert [found.digest for found in await client.referrers(wanted, media_types.OCI_CONFIG)] == [plain.digest]
