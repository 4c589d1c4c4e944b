"""Servers that an operator configured, when they do not answer."""

from __future__ import annotations

import pytest
from aiohttp import web
from yarl import URL

from shared.errors import TransientError
from shared.outgoing.http import call, create_session
from tests.servers.forward_proxy import ForwardProxy, forward_proxy
from tests.servers.ports import free_port
from tests.servers.scripted import scripted_server


async def test_a_server_that_is_away_is_told_with_its_port_and_why_and_without_its_path() -> None:
    port = free_port()
    async with create_session() as session:
        with pytest.raises(TransientError) as raised:
            await call(session, "GET", URL(f"http://user:s3cret@127.0.0.1:{port}/t0ken"))
    assert raised.value.code == "peer_unavailable"
    assert raised.value.message == f"GET http://127.0.0.1:{port}: Connection refused"


async def test_a_server_behind_a_proxy_is_reached_through_it() -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.json_response({"here": True})

    async with (
        create_session() as session,
        scripted_server(answer) as host,
        forward_proxy(ForwardProxy({"chat.test": host}, "ics:pr0xy-s3cret")) as proxy,
    ):
        assert await call(session, "GET", URL("http://chat.test/hook"), proxy=proxy.url) == (200, {"here": True})


async def test_a_proxy_that_refuses_or_is_away_is_told_without_its_password() -> None:
    async with create_session() as session:
        async with forward_proxy(ForwardProxy({})) as proxy:
            with pytest.raises(TransientError) as refused:
                await call(session, "GET", URL("https://chat.test/t0ken"), proxy=proxy.url)
        with pytest.raises(TransientError) as away:
            await call(
                session, "GET", URL("https://chat.test/t0ken"), proxy=f"http://ics:s3cret@127.0.0.1:{free_port()}"
            )
    assert refused.value.message == "GET https://chat.test: its proxy answered 403"
    assert away.value.message == "GET https://chat.test through its proxy: Connection refused"
