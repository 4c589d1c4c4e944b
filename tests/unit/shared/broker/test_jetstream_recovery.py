"""A JetStream cluster that lost a node answers "temporarily unavailable" for a while."""

from __future__ import annotations

from collections.abc import Iterator

import nats.js.errors
import pytest
from nats.aio.client import Client, ServerVersion
from nats.js.api import StreamConfig, StreamInfo, StreamState
from nats.js.client import JetStreamContext

from shared.broker.jetstream.link import NatsLink
from shared.broker.jetstream.topology import Names, Retention

ELECTING = nats.js.errors.ServiceUnavailableError(
    code=503, err_code=10008, description="JetStream system temporarily unavailable"
)

EXISTS = nats.js.errors.BadRequestError(code=400, err_code=10058, description="stream name already in use")


async def test_streams_that_cannot_be_declared_yet_are_declared_later(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: Iterator[Exception] = iter((ELECTING, TimeoutError(), EXISTS, ELECTING))

    async def answered(_self: JetStreamContext, _config: StreamConfig) -> None:
        if (error := next(answers, None)) is not None:
            raise error

    async def kept(_self: JetStreamContext, name: str) -> StreamInfo:
        state = StreamState(messages=0, bytes=0, first_seq=1, last_seq=0, consumer_count=0)
        return StreamInfo(StreamConfig(name=name), state)

    async def add_consumer(_self: JetStreamContext, _stream: str, _config: object) -> None:
        pass

    monkeypatch.setattr(Client, "is_connected", True)
    monkeypatch.setattr(JetStreamContext, "add_stream", answered)
    monkeypatch.setattr(JetStreamContext, "update_stream", answered)
    monkeypatch.setattr(JetStreamContext, "stream_info", kept)
    monkeypatch.setattr(JetStreamContext, "consumer_info", add_consumer)
    monkeypatch.setattr(JetStreamContext, "add_consumer", add_consumer)
    link = NatsLink("nats://127.0.0.1:1", Names("ics"), Retention(events_max_age=60, replicas=3), timeout=2)
    await link._on_reconnect()
    await link.check()


@pytest.mark.parametrize(("version", "warned"), [("2.9.25", True), ("2.10.0", False), ("2.15.1", False)])
def test_a_server_that_numbers_every_stream_from_1_is_warned_of(
    version: str, warned: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Client, "connected_server_version", ServerVersion(version))
    NatsLink("nats://127.0.0.1:1", Names("ics"), Retention(events_max_age=60, replicas=3), timeout=2)._connected_to()
    assert (f"nats-server {version} is older than 2.10" in caplog.text) is warned
