"""What is told of a broker that cannot be reached: where it was looked for, and why; never the credentials."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl

import pytest
from aiormq.exceptions import AMQPConnectionError
from pydantic import SecretStr

from shared.broker.amqp.link import AmqpLink
from shared.broker.amqp.topology import Topology
from shared.broker.open import open_broker
from shared.errors import TransientError
from shared.settings.model import BrokerSettings, Settings
from shared.unreachable import why
from tests.servers.ports import free_port
from tests.waiting import until


@pytest.mark.parametrize("scheme", ["amqp", "nats"])
async def test_a_broker_that_is_away_is_named_without_its_password(scheme: str) -> None:
    where = f"127.0.0.1:{free_port()}"
    url = SecretStr(f"{scheme}://robot:s3cret@{where}")
    with pytest.raises(TransientError) as raised:
        async with open_broker(Settings(broker=BrokerSettings(url=url, publish_timeout=0.2))) as broker:
            await broker.check_health()
    assert where in raised.value.message
    assert "s3cret" not in raised.value.message


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
        (socket.gaierror(-2, "Name or service not known"), "the name does not resolve"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), "TLS failed"),
        (TimeoutError(), "no answer in time"),
    ],
)
def test_why_a_connection_failed_is_told_in_words(error: Exception, told: str) -> None:
    assert told in why(error)
    wrapped = AMQPConnectionError(*error.args)
    wrapped.__cause__ = error
    link = AmqpLink("amqp://robot:s3cret@mq/", Topology("ics", delivery_limit=1, events_max_age=60), timeout=1)
    assert told in link.reason(wrapped)


async def test_the_password_goes_to_no_nats_server_that_does_not_speak_tls() -> None:
    """``tls://`` is a promise: a server's plain greeting that does not ask for TLS does not change it."""
    received = bytearray()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.10.0","auth_required":true,"max_payload":1048576}\r\n')
        while piece := await reader.read(4096):
            received.extend(piece)
            writer.write(b"-ERR 'Unknown Protocol Operation'\r\n")
            break
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = SecretStr(f"tls://robot:s3cret@127.0.0.1:{port}")
    async with server:
        with pytest.raises(TransientError, match="TLS failed"):
            async with open_broker(Settings(broker=BrokerSettings(url=url, publish_timeout=3))) as broker:
                await broker.check_health()
    assert received[0] == 0x16, "a TLS handshake"
    assert b"CONNECT" not in received
    assert b"s3cret" not in received


async def test_a_nats_server_that_is_away_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(broker=BrokerSettings(url=SecretStr(f"nats://127.0.0.1:{free_port()}"), publish_timeout=1))
    with caplog.at_level(logging.INFO, "shared.broker"):
        async with open_broker(settings):
            await until(lambda: bool(caplog.records))
            await asyncio.sleep(1)  # in which it tries again
    (record,) = caplog.records
    assert "Connection refused" in record.message
