"""Servers that an operator configured, when they do not answer."""

from __future__ import annotations

import pytest
from yarl import URL

from shared.errors import TransientError
from shared.outgoing.http import call, create_session
from tests.servers.ports import free_port


async def test_a_server_that_is_away_is_told_with_its_port_and_why_and_without_its_path() -> None:
    port = free_port()
    async with create_session() as session:
        with pytest.raises(TransientError) as raised:
            await call(session, "GET", URL(f"http://user:s3cret@127.0.0.1:{port}/t0ken"))
    assert raised.value.code == "peer_unavailable"
    assert raised.value.message == f"GET http://127.0.0.1:{port}: Connection refused"
