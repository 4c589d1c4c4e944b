"""What whoever reaches the port may make an ingress keep before anybody looks at it."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
import uvicorn
from uvicorn.server import ServerState

from ingress import request_framing
from ingress.gathered_writes import GatheringProtocol
from ingress.request_framing import FRAMING
from tests.unit.ingress.test_gathered_writes import Wire

CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


async def _app(_scope: Any, receive: Any, send: Any) -> None:
    size = 0
    while (message := await receive())["type"] == "http.request":
        size += len(message["body"])
        if not message["more_body"]:
            break
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-size", str(size).encode())]})
    await send({"type": "http.response.body", "body": b""})


def _connected() -> tuple[GatheringProtocol, Wire]:
    config = uvicorn.Config(cast("Any", _app), lifespan="off", log_config=None)
    protocol, wire = GatheringProtocol(config, ServerState(), {}, asyncio.get_running_loop()), Wire()
    protocol.connection_made(wire)
    return protocol, wire


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"GET / HTTP/1.1\r\nX: ", b"a" * 4000),
        (b"GET / HTTP/1.1\r\n", b"a: b\r\n" * 600),
        (b"GET /", b"a" * 4000),
        (CHUNKED + b"1;", b"x" * 4000),
        (CHUNKED + b"0\r\n", b"a: b\r\n" * 600),
    ],
    ids=["one header", "many headers", "path", "chunk extension", "trailers"],
)
async def test_what_is_endless_ends_the_connection(begin: bytes, more: bytes) -> None:
    protocol, wire = _connected()
    protocol.data_received(begin)
    sent = 0
    while not wire.closed:
        assert sent <= FRAMING
        protocol.data_received(more)
        sent += len(more)
    protocol.connection_lost(None)
    assert not wire.writes or wire.writes[0].startswith(b"HTTP/1.1 431")


async def test_long_bodies_in_small_chunks_and_many_requests_are_none_of_it() -> None:
    protocol, wire = _connected()
    for _ in range(3):
        protocol.data_received(CHUNKED)
        for _ in range(FRAMING // 4):
            protocol.data_received(b"2\r\nab\r\n")
        protocol.data_received(b"0\r\nTrailer: x\r\n\r\n")
        protocol.data_received(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (2 * FRAMING))
        protocol.data_received(b"x" * FRAMING)
        protocol.data_received(b"x" * FRAMING)
        await asyncio.gather(*protocol.tasks)
        await asyncio.sleep(0)
    assert not wire.closed
    answers = b"".join(wire.writes)
    assert answers.count(b"HTTP/1.1 200") == 6
    assert answers.count(b"x-size: %d" % (2 * FRAMING)) == 3
    protocol.connection_lost(None)


async def test_a_connection_on_which_nothing_comes_is_closed_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_framing, "HEAD_TIMEOUT", 0.01)
    protocol, wire = _connected()
    async with asyncio.timeout(10):
        while not wire.closed:
            await asyncio.sleep(0.01)
    assert wire.writes == []
    protocol.connection_lost(None)


@pytest.mark.parametrize("begun", [b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /"], ids=["first", "next"])
async def test_a_head_that_does_not_end_ends_the_connection(begun: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_framing, "HEAD_TIMEOUT", 0.05)
    protocol, wire = _connected()
    protocol.data_received(begun)
    async with asyncio.timeout(10):
        while not wire.closed:
            await asyncio.sleep(0.01)
    assert wire.writes[-1].startswith(b"HTTP/1.1 408")
    protocol.connection_lost(None)


async def test_a_head_that_came_in_time_leaves_all_the_time_to_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_framing, "HEAD_TIMEOUT", 0.01)
    protocol, wire = _connected()
    protocol.data_received(CHUNKED)
    await asyncio.sleep(0.1)
    assert not wire.closed
    protocol.connection_lost(None)
    await asyncio.gather(*protocol.tasks)
