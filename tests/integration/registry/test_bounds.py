"""Answers without end, without sense, or in the wrong pieces: every one is bounded, and none is misjudged for its shape."""

from __future__ import annotations

import asyncio
import base64
import json
import os

import pytest
from aiohttp import web

from shared.errors import IcsError, LimitExceededError, PermanentError, TransientError
from shared.oci import media_types
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest
from shared.oci.reference import parse_reference
from shared.registry import listing
from tests.integration.registry.conftest import OpenClient
from tests.integration.registry.images import pull
from tests.servers.scripted import Handler, raw_server, scripted_server
from tests.waiting import PATIENCE

BASIC = base64.b64encode(b"user:password").decode()
POLICY = json.dumps({"errors": [{"code": "PROJECTPOLICYVIOLATION", "message": "not scanned"}]}).encode()


async def test_an_error_is_judged_whole_in_however_many_pieces_it_comes(open_client: OpenClient) -> None:
    """412 is final for an immutable tag and passes for an unscanned image; only the body tells them apart."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=412, headers={"Content-Length": str(len(POLICY))})
        await response.prepare(request)
        for piece in (POLICY[:10], POLICY[10:30], POLICY[30:]):
            await response.write(piece)
            await asyncio.sleep(0.02)
        return response

    async with scripted_server(answer) as host:
        client = await open_client(host)
        with pytest.raises(TransientError) as caught:
            await client.manifest(parse_reference(f"{host}/a"))
    assert caught.value.code == "policy_violation"


def endless(status: int) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path != "/token" and status == 0:
            return _challenge(request)
        response = web.StreamResponse(status=status or 200)
        await response.prepare(request)
        while True:
            await response.write(b"x" * 65536)

    return answer


def _challenge(request: web.Request) -> web.StreamResponse:
    challenge = f'Bearer realm="http://{request.host}/token",service="s"'
    return web.Response(status=401, headers={"WWW-Authenticate": challenge})


@pytest.mark.parametrize(
    ("status", "code"),
    [(500, "registry_unavailable"), (404, "manifest_unknown"), (200, "limit_exceeded"), (0, "limit_exceeded")],
)
async def test_an_answer_without_end_is_read_to_its_limit(open_client: OpenClient, status: int, code: str) -> None:
    """Of an error, of a manifest, and (0) of a token realm."""
    async with scripted_server(endless(status)) as host, asyncio.timeout(PATIENCE):
        client = await open_client(host, auth=BASIC)
        with pytest.raises(IcsError) as caught:
            await client.manifest(parse_reference(f"{host}/a"))
    assert caught.value.code == code


async def test_a_realm_that_is_down_is_down_however_long_its_error_page_is(open_client: OpenClient) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=503, body=b"x" * 200_000) if request.path == "/token" else _challenge(request)

    async with scripted_server(answer) as host:
        client = await open_client(host, auth=BASIC)
        with pytest.raises(TransientError) as caught:
            await client.manifest(parse_reference(f"{host}/a"))
    assert caught.value.code == "registry_unavailable"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("link", ["<" * 15_000, "<a>;" * 3_900, "<a>; rel=" * 1_700])
async def test_a_hostile_link_header_costs_no_more_than_another(open_client: OpenClient, link: str) -> None:
    """An expression that backtracks over one takes seconds, in which nothing else runs: a hundred would take minutes."""

    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.json_response({"tags": ["v1"]}, headers={"Link": link})

    async with scripted_server(answer) as host:
        client = await open_client(host)
        for _ in range(100):
            assert [tag async for tag in client.tags(parse_reference(f"{host}/a"))] == ["v1"]


@pytest.mark.parametrize(
    "headers",
    [
        [("Link", '</v2/a/tags/list?page=1>; rel="next"')],
        [("Link", "</first>; rel=prev, </v2/a/tags/list?page=1>; title=x; REL=next")],
        [("Link", "</first>; rel=prev"), ("Link", "</v2/a/tags/list?page=1>; rel=next; title=x")],
    ],
)
async def test_the_next_page_is_found_among_other_links(
    open_client: OpenClient, headers: list[tuple[str, str]]
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if "page" in request.query:
            return web.json_response({"tags": ["second"]})
        response = web.json_response({"tags": ["first"]})
        for name, value in headers:
            response.headers.add(name, value)
        return response

    async with scripted_server(answer) as host:
        client = await open_client(host)
        assert [tag async for tag in client.tags(parse_reference(f"{host}/a"))] == ["first", "second"]


@pytest.mark.parametrize(
    "link", ["http://169.254.169.254/latest/meta-data/", "//elsewhere.example.com/v2/", "file:///etc/passwd"]
)
async def test_a_next_page_elsewhere_is_not_asked_for(open_client: OpenClient, link: str) -> None:
    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.json_response({"repositories": ["a/b"]}, headers={"Link": f'<{link}>; rel="next"'})

    async with scripted_server(answer) as host:
        client = await open_client(host, auth=BASIC)
        with pytest.raises(PermanentError) as caught:
            _ = [name async for name in client.repositories(host)]
    assert caught.value.code == "host_not_allowed"


async def test_referrers_without_end_are_refused(open_client: OpenClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_MAXIMUM_REFERRERS", 50)
    one = Descriptor(media_types.OCI_MANIFEST, Digest.of(b"x"), 1).to_json()
    pages = iter(range(1_000_000))

    async def answer(request: web.Request) -> web.StreamResponse:
        body = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": [one] * 20}
        return web.json_response(body, headers={"Link": f"<{request.path}?page={next(pages)}>; rel=next"})

    async with scripted_server(answer) as host:
        client = await open_client(host)
        with pytest.raises(LimitExceededError, match="referrers"):
            await client.referrers(parse_reference(f"{host}/a@{Digest.of(b'y')}"))


@pytest.mark.parametrize("shift", [0, -1000])
async def test_a_rest_that_begins_earlier_than_asked_for_is_fitted_in(open_client: OpenClient, shift: int) -> None:
    data = os.urandom(500_000)

    async def answer(request: web.Request) -> web.StreamResponse:
        wanted = request.headers.get("Range")
        if wanted is None:
            return await _cut(request, data, 100_000)
        start = max(0, int(wanted.removeprefix("bytes=").partition("-")[0]) + shift)
        headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        return web.Response(status=206, body=data[start:], headers=headers)

    async with scripted_server(answer) as host:
        client = await open_client(host)
        repository, blob = parse_reference(f"{host}/a"), Descriptor("application/x", Digest.of(data), len(data))
        assert await pull(client, repository, blob) == data
        assert await client.read_range(repository, blob.digest, 2000, 10) == data[2000:2010]


async def test_a_rest_that_begins_later_than_asked_for_is_not_taken(open_client: OpenClient) -> None:
    """Without the check a range read, which no digest covers, would be other bytes of the blob."""
    data = os.urandom(5_000)

    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=206, body=data[1000:], headers={"Content-Range": f"bytes 1000-4999/{len(data)}"})

    async with scripted_server(answer) as host:
        client = await open_client(host)
        with pytest.raises(TransientError) as caught:
            await client.read_range(parse_reference(f"{host}/a"), Digest.of(data), 500, 10)
    assert caught.value.code == "registry_unavailable"


async def _cut(request: web.Request, data: bytes, after: int) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": str(len(data))})
    await response.prepare(request)
    await response.write(data[:after])
    assert request.transport is not None
    request.transport.close()
    return response


async def test_a_transfer_whose_last_byte_came_is_complete_however_it_ends(open_client: OpenClient) -> None:
    """The end of a chunked answer is lost: all of the blob is here, and asking for the rest gives 416 for ever."""
    data = os.urandom(3_000)
    asked = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        head = await reader.readuntil(b"\r\n\r\n")
        asked += 1
        if b"Range:" in head:
            writer.write(b"HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\n\r\n")
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(data), data))
        await writer.drain()

    async with raw_server(answer) as host:
        client = await open_client(host)
        repository, blob = parse_reference(f"{host}/a"), Descriptor("application/x", Digest.of(data), len(data))
        assert await pull(client, repository, blob) == data
    assert asked == 1
