"""What a connection's other side gets in one piece, and that gathering neither holds back nor piles up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import uvicorn
from uvicorn.server import ServerState

from ingress.gathered_writes import AT_MOST, GatheringProtocol

REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
HEAD = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}


class Wire(asyncio.Transport):
    """Remembers what is written, and when it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        assert not self.closed
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


async def _answered(app: Callable[..., Any], request: bytes = REQUEST) -> Wire:
    """What ``app``, whose scope's state has the ``wire`` too, made of a request."""
    wire = Wire()
    config = uvicorn.Config(cast("Any", app), lifespan="off", log_config=None)
    protocol = GatheringProtocol(config, ServerState(), {"wire": wire}, asyncio.get_running_loop())
    protocol.connection_made(wire)
    protocol.data_received(request)
    await asyncio.gather(*protocol.tasks)
    await asyncio.sleep(0)
    return wire


async def test_head_and_body_are_one_write() -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({**HEAD, "headers": [(b"content-length", b"5")]})
        await send({"type": "http.response.body", "body": b"whole"})

    wire = await _answered(app)
    assert len(wire.writes) == 1
    assert wire.writes[0].endswith(b"\r\n\r\nwhole")


async def test_what_comes_later_is_not_waited_for() -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send(HEAD)
        for piece in (b"one", b"two"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b""})

    wire = await _answered(app)
    assert [b"one" in piece for piece in wire.writes] == [True, False, False]
    assert b"two" in wire.writes[1]


async def test_much_in_one_turn_is_written_at_once() -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send(HEAD)
        for _ in range(4):
            await send({"type": "http.response.body", "body": b"x" * AT_MOST, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    assert len((await _answered(app)).writes) == 5


async def test_a_refusal_is_written_before_its_connection_closes() -> None:
    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        raise AssertionError("not asked")

    wire = await _answered(app, b"this is no HTTP\r\n\r\n")
    assert wire.closed
    assert wire.writes[0].startswith(b"HTTP/1.1 400")


async def test_who_has_gone_gets_nothing() -> None:
    async def app(scope: Any, _receive: Any, send: Any) -> None:
        await send({**HEAD, "headers": [(b"content-length", b"5")]})
        scope["state"]["wire"].closed = True
        await send({"type": "http.response.body", "body": b"whole"})

    assert (await _answered(app)).writes == []
