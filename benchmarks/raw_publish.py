"""The floor of the ingest: the broker's own client, publishing the same messages to the same queue, each confirmed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import aio_pika
import nats
import uvloop

from benchmarks import usage
from benchmarks.webhook_load import HOST, push_event
from shared.broker.wire import UID, Queued, WireMessage, encode
from shared.planning import Planner
from shared.settings.model import Auth, Rule, Settings

AMQP_QUEUE = "ics.conversions"
NATS_SUBJECT = "ics.conversions.live"
"""Declared by the ingress with its own settings."""
Publish = Callable[[WireMessage], Awaitable[Any]]


def raw(arguments: dict[str, Any]) -> dict[str, Any]:
    """Publish ``count`` messages, numbered from ``first``, to the broker at ``url`` with ``in_flight`` unconfirmed at most."""
    return uvloop.run(_raw(arguments))


async def _raw(arguments: dict[str, Any]) -> dict[str, Any]:
    planner = Planner(Settings(auths={HOST: Auth()}, rules=(Rule(name="default", target_suffix="esgz"),)))
    first = arguments["first"]
    plans = [planner.plan(push_event(number)) for number in range(first, first + arguments["count"])]
    messages = [encode(Queued(request=plan.requests[0])) for plan in plans]
    publish, close = await (_amqp if arguments["url"].startswith("amqp") else _nats)(arguments["url"])
    waiting = iter(messages)
    before, start = usage.cpu_seconds(), time.perf_counter()
    await asyncio.gather(*(_worker(waiting, publish) for _ in range(arguments["in_flight"])))
    wall = time.perf_counter() - start
    cpu = usage.cpu_seconds() - before
    await close()
    return {"wall": wall, "rate": len(messages) / wall, "cpu_each": cpu / len(messages), "bytes": len(messages[0].body)}


async def _worker(messages: Iterator[WireMessage], publish: Publish) -> None:
    for message in messages:
        await publish(message)


async def _amqp(url: str) -> tuple[Publish, Callable[[], Awaitable[Any]]]:
    connection = await aio_pika.connect(url)
    channel = await connection.channel(publisher_confirms=True, on_return_raises=True)

    async def publish(message: WireMessage) -> None:
        outgoing = aio_pika.Message(
            message.body,
            headers=dict(message.headers),
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            content_type="application/json",
            message_id=message.headers.get(UID),
        )
        await channel.default_exchange.publish(outgoing, AMQP_QUEUE, mandatory=True)

    return publish, connection.close


async def _nats(url: str) -> tuple[Publish, Callable[[], Awaitable[Any]]]:
    client = await nats.connect(url)
    stream = client.jetstream()

    async def publish(message: WireMessage) -> None:
        headers = {**message.headers, "Nats-Msg-Id": message.headers[UID]}
        await stream.publish(NATS_SUBJECT, message.body, headers=headers)

    return publish, client.close
