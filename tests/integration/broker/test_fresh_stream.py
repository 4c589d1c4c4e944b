"""Several processes that start together on a fresh RabbitMQ tell their first events to a stream that is not whole yet."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import cast

import pytest

from drivers.api import DriverOptions
from shared.broker.open import open_broker
from shared.events import conversion_event
from shared.settings.load import load_settings
from tests.integration.broker.conftest import Server
from tests.integration.broker.test_conformance import request
from tests.servers.rabbitmq import RabbitServer

PUBLISHERS = 8
# The supervisor under which RabbitMQ starts a stream's writer.
STOP, GO_ON = "sys:suspend(osiris_server_sup).", "sys:resume(osiris_server_sup)."


async def test_publishers_of_a_stream_that_is_being_declared_lose_nothing(
    servers: Callable[[str], Server], caplog: pytest.LogCaptureFixture
) -> None:
    """One declares it; to the others RabbitMQ says that it exists, and closes their connections when they publish."""
    server = cast("RabbitServer", servers("rabbitmq"))
    environ = {
        "ICS_BROKER__URL": server.url,
        "ICS_BROKER__PREFIX": "fresh",
        "ICS_BROKER__PUBLISH_TIMEOUT": "60",
        "ICS_DRIVER": '{"type": "none"}',
    }
    settings = load_settings(None, environ=environ, option_models={"none": DriverOptions})
    await asyncio.to_thread(server.control, "eval", STOP)
    caplog.set_level(logging.INFO)
    try:
        async with AsyncExitStack() as stack, asyncio.timeout(120):
            brokers = [await stack.enter_async_context(open_broker(settings)) for _ in range(PUBLISHERS)]
            events = [conversion_event("requested", request(number)) for number in range(PUBLISHERS)]
            told = zip(brokers, events, strict=True)
            publishing = asyncio.gather(*(broker.events.publish(event) for broker, event in told))
            while caplog.text.count("an event is published again") < 3 * PUBLISHERS and not publishing.done():
                await asyncio.sleep(0.05)
            await asyncio.to_thread(server.control, "eval", GO_ON)
            await publishing
            kept = {event.subject async for event in brokers[0].events.read(follow=False)}
    finally:
        await asyncio.to_thread(server.control, "eval", GO_ON)
    assert kept == {event.subject for event in events}
