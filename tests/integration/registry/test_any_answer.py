"""Whatever a registry answers, every operation ends: with a result, or with a classified error that names the registry."""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from shared.errors import IcsError
from shared.oci import media_types
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest
from shared.oci.reference import parse_reference
from shared.registry.client import RegistryClient
from shared.registry.retry import RetryPolicy
from tests.images.small import small_image
from tests.integration.registry.conftest import OpenClient
from tests.servers.scripted import Handler, scripted_server
from tests.waiting import PATIENCE

OPERATIONS = 400
CONTENT = b"hello"
BLOB = Descriptor("application/octet-stream", Digest.of(CONTENT), len(CONTENT))
IMAGE = small_image(1).manifest
STATUSES = (
    *[200] * 12, *[202] * 8, *[201] * 4, *[206] * 6, *[204] * 2, *[401] * 6, *[404] * 2, *[307] * 3, 400, 403, 405, 409, 412, 413,
    416, 418, 425, 429, 500, 501, 503, 301, 299, 300, 304,
)  # fmt: skip
SESSION = "/v2/a/blobs/uploads/x"


def headers_of(host: str) -> dict[str, tuple[str, ...]]:
    return {
        "Location": (
            *[SESSION] * 8, f"{SESSION}?state=1&y=%2f", f"http://{host}/x", "http://elsewhere.example.com/", "//", "", "é",
            "http://[::1", "?", "/" + "a" * 4000, f"http://{host}:99999/", f"http://u:p@{host}/x", "/%zz", "http:///v2",
        ),
        "Range": ("0-4", "bytes=0-4", "0-3", "0-0", "0-99999999999", "4-0", "abc", "", "0--1"),
        "Content-Range": ("bytes 0-4/5", "bytes 3-4/5", "bytes 9-1/5", "bytes */5", "junk"),
        "WWW-Authenticate": (
            *['Basic realm="x"', f'Bearer realm="http://{host}/token",service="s"'] * 4, "Bearer", "Negotiate abc", "=", '"',
            'Bearer realm="http://elsewhere.example.com/token"', 'Bearer realm=""', 'Bearer realm="http://["',
            f'Bearer realm="http://{host}:99999/"', 'Bearer realm="/token"', 'Bearer realm="mailto:x"',
        ),
        "Link": ("</v2/a/tags/list?n=2>; rel=next", "<>; rel=next", "<http://elsewhere.example.com/>; rel=next", "junk"),
        "Retry-After": ("0", "-1", "9" * 20, "Fri, 31 Dec 9999 23:59:59 -2359", "Mon, 01 Jan 0001 00:00:00 +2359", "soon"),
        "Docker-Content-Digest": (str(BLOB.digest), str(IMAGE.digest), "sha256:zz", "", "sha512:" + "a" * 128),
        "Content-Type": (media_types.OCI_MANIFEST, media_types.OCI_INDEX, "application/json", "text/html", "", 'x; y="'),
        "OCI-Chunk-Min-Length": ("1", "9" * 30, "-1", "³"),
        "Content-Encoding": ("gzip", "junk"),
    }  # fmt: skip


BODIES = (
    b"", CONTENT, CONTENT[:4], CONTENT + b"!", IMAGE.raw, b"{}", b"[]", b"null", b"\xff\xfe\x00", b"[" * 100_000,
    b'{"errors":[{"code":1,"message":2}]}', b'{"errors":{}}', b'{"errors":' + b"[" * 60_000,
    b'{"errors":[{"code":"DENIED","message":"\\ud800"}]}', b'{"errors":[{"code":"TOOMANYREQUESTS"}]}',
    b'{"token":"t"}', b'{"token":"t","expires_in":1e400}', b'{"token":"t","expires_in":-5}', b'{"token":"\\ud800"}',
    b'{"access_token":"t","expires_in":"x"}', b'{"tags":null}', b'{"tags":["a",1]}', b'{"manifests":[]}',
    b'{"schemaVersion":2,"manifests":[{}]}', b'{"schemaVersion":2,"config":{},"layers":[]}',
)  # fmt: skip


def answering(chance: random.Random) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        await request.read()
        status = chance.choice(STATUSES)
        headers = {
            name: chance.choice(values).encode().decode("latin-1")
            for name, values in headers_of(request.host).items()
            if chance.random() < 0.5
        }
        return web.Response(status=status, headers=headers, body=b"" if status in {204, 304} else chance.choice(BODIES))

    return answer


async def some(names: AsyncIterator[str]) -> list[str]:
    """The first twenty: pages may go on and on."""
    found: list[str] = []
    async for name in names:
        found.append(name)
        if len(found) == 20:
            break
    return found


def operations(client: RegistryClient, host: str) -> list[Callable[[], Awaitable[Any]]]:
    tagged, other = parse_reference(f"{host}/a:v1"), parse_reference(f"{host}/b")
    exact = tagged.with_digest(IMAGE.digest)

    async def upload() -> Descriptor:
        async with client.upload(tagged) as writer:
            await writer.write(CONTENT)
            return await writer.commit(BLOB.media_type)

    async def read() -> None:
        async with client.open_blob(tagged, BLOB) as stream:
            assert b"".join([piece async for piece in stream]) == CONTENT

    return [
        upload,
        read,
        lambda: client.manifest(tagged),
        lambda: client.manifest(exact),
        lambda: client.resolve(tagged),
        lambda: client.put_manifest(tagged, IMAGE),
        lambda: client.read_range(tagged, BLOB.digest, 1, 3),
        lambda: client.has_blob(tagged, BLOB.digest, BLOB.size),
        lambda: client.mount_blob(tagged, BLOB.digest, other),
        lambda: some(client.tags(tagged)),
        lambda: some(client.repositories(host)),
        lambda: client.referrers(exact),
        lambda: client.check_credentials(host),
    ]


@pytest.mark.parametrize("seed", range(4))
async def test_every_operation_ends_with_a_result_or_a_classified_error(open_client: OpenClient, seed: int) -> None:
    chance = random.Random(seed)
    async with scripted_server(answering(chance)) as host:
        client = await open_client(
            host,
            auth=base64.b64encode(b"user:canary-word").decode(),
            retry=RetryPolicy(attempts=3, initial=0.0001, maximum=0.001),
            chunk_size=4,
        )
        errors: list[IcsError] = []
        for operation in chance.choices(operations(client, host), k=OPERATIONS):
            try:
                async with asyncio.timeout(PATIENCE):
                    await operation()
            except IcsError as error:
                errors.append(error)
    assert 0 < len(errors) < OPERATIONS
    assert {error.details.get("registry") for error in errors} == {host}
    assert all(error.code for error in errors)
    assert max(len(error.message) for error in errors) < 1000
    assert not [error.message for error in errors if "canary" in error.message]
