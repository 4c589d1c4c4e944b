"""An operator deletes streams and consumers of a NATS in use, or its server loses them: they are declared again, once, and nothing
is published into nothing.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from pathlib import Path

import nats
import pytest
from nats.js.client import JetStreamContext

from shared.broker.api import Broker
from shared.broker.embedded import EmbeddedServer
from shared.broker.jetstream import claims as jetstream_claims
from shared.broker.jetstream import link
from shared.broker.jetstream.topology import Names, Retention
from shared.broker.jetstream.transport import open_jetstream
from shared.broker.open import open_broker
from shared.broker.queue import QueueBroker
from shared.events import ConversionEvent, conversion_event
from tests.dead_letters import dead
from tests.integration.broker.conftest import DELIVERY_LIMIT, Server, settings_for
from tests.integration.broker.test_conformance import NO, attempt, one, request, stopped, taking
from tests.servers.nats import NatsServer
from tests.servers.nats import nats as nats_server
from tests.waiting import PATIENCE, until

PREFIX = "deleted"
NAMES = Names(PREFIX)
SEVERAL = 100

Connect = Callable[[], AbstractAsyncContextManager[Broker]]


@pytest.fixture
def url(servers: Callable[[str], Server]) -> str:
    return servers("nats").url


@pytest.fixture
async def js(url: str) -> AsyncIterator[JetStreamContext]:
    """The operator's."""
    client = await nats.connect(url)
    operator = client.jetstream(timeout=PATIENCE)
    try:
        for info in await operator.streams_info():
            if (name := info.config.name or "").startswith(PREFIX):
                await operator.delete_stream(name)
        yield operator
    finally:
        await client.close()


@pytest.fixture
def connect(url: str, js: JetStreamContext, tmp_path: Path) -> Connect:
    """Opens one connection, as one process would. The streams of the test before are gone."""
    del js
    return lambda: open_broker(settings_for(url, PREFIX, tmp_path))


@pytest.fixture
async def broker(connect: Connect) -> AsyncIterator[Broker]:
    async with asyncio.timeout(3 * PATIENCE), connect() as broker:
        yield broker


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings of losses."""
    messages = [record.getMessage() for record in caplog.records if record.name == link.__name__]
    return [message for message in messages if "declared again" in message]


def events_of(count: int, first: int = 0) -> list[ConversionEvent]:
    return [conversion_event("requested", request(number)) for number in range(first, first + count)]


@pytest.mark.parametrize("lane", ["live", "backfill"])
async def test_a_consumer_goes_on_with_a_work_stream_that_was_deleted(
    broker: Broker, js: JetStreamContext, lane: str
) -> None:
    async with taking(broker) as deliveries:
        await broker.publish(request(1, priority=lane))
        first = await anext(deliveries)
        waiting = asyncio.ensure_future(anext(deliveries))
        await js.delete_stream(NAMES.work)
        await broker.publish(request(2, priority=lane))
        second = await waiting
        assert (first.request.id, second.request.id) == (request(1).id, request(2).id)
        await first.ack()  # of what is nowhere any more
        await second.ack()


@pytest.mark.parametrize("lane", ["live", "backfill"])
async def test_a_consumer_goes_on_with_its_consumer_of_a_lane_that_was_deleted(
    broker: Broker, js: JetStreamContext, lane: str
) -> None:
    async with taking(broker) as deliveries:
        for number in (1, 2):
            await broker.publish(request(number, priority=lane))
            delivery = await anext(deliveries)
            assert delivery.request.id == request(number).id
            await delivery.ack()
            await js.delete_consumer(NAMES.work, lane)


@pytest.mark.parametrize("lane", ["live", "backfill"])
async def test_a_consumer_that_nothing_is_published_for_declares_again_what_it_takes_from(
    broker: Broker, js: JetStreamContext, lane: str
) -> None:
    async def there() -> bool:
        return any(info.name == lane for info in await js.consumers_info(NAMES.work))

    async with taking(broker) as deliveries:
        waiting = asyncio.ensure_future(anext(deliveries))
        await until(there)
        await js.delete_consumer(NAMES.work, lane)
        await until(there)
        await broker.publish(request(3, priority=lane))
        await (await waiting).ack()


async def test_a_retry_comes_back_where_its_consumer_was_deleted(broker: Broker, js: JetStreamContext) -> None:
    await broker.publish(request(1))
    delivery = await one(broker)
    await js.delete_consumer(NAMES.work, "retry")
    await delivery.retry(0.5, attempt())
    again = await one(broker)
    assert len(again.attempts) == 1
    await again.ack()


async def test_a_retry_outlives_that_the_stream_was_deleted(broker: Broker, js: JetStreamContext) -> None:
    await broker.publish(request(1))
    delivery = await one(broker)
    await js.delete_stream(NAMES.work)
    await delivery.retry(0.5, attempt())
    again = await one(broker)
    assert len(again.attempts) == 1
    await again.ack()


@pytest.mark.parametrize("delay", [0, 1])
async def test_a_message_to_a_stream_that_was_deleted_is_kept(
    broker: Broker, js: JetStreamContext, delay: float
) -> None:
    await broker.check_health()
    await js.delete_stream(NAMES.work)
    await broker.publish(request(3), delay=delay)
    delivery = await one(broker)
    assert delivery.request.id == request(3).id
    await delivery.ack()


async def test_an_acknowledgement_of_what_was_deleted_hits_no_other_message(
    connect: Connect, broker: Broker, js: JetStreamContext
) -> None:
    async with connect() as other:
        await broker.publish(request(1))
        lost = await one(broker)
        await js.delete_stream(NAMES.work)
        await broker.publish(request(2))
        held = await one(other)
        await lost.ack()
        assert (await js.stream_info(NAMES.work)).state.messages == 1
        await held.ack()
        assert (await js.stream_info(NAMES.work)).state.messages == 0


@pytest.mark.parametrize("stream", [NAMES.work, NAMES.dead])
async def test_health_and_figures_declare_again_what_was_deleted(
    broker: Broker, js: JetStreamContext, stream: str
) -> None:
    await broker.publish(request(1))
    await js.delete_stream(stream)
    await broker.check_health()
    stats = await broker.stats()
    assert (stats.ready, stats.dead) == (0 if stream == NAMES.work else 1, 0)


async def test_dead_letters_outlive_that_their_stream_was_deleted(broker: Broker, js: JetStreamContext) -> None:
    await broker.publish(request(4))
    delivery = await one(broker)
    await js.delete_stream(NAMES.dead)
    assert not await dead(broker)
    await js.delete_stream(NAMES.dead)
    letter = await delivery.dead_letter(NO, attempt())
    assert await dead(broker) == 1
    await js.delete_stream(NAMES.work)
    assert await broker.dead_letters.replay(letter.id) is not None
    await (await one(broker)).ack()
    await js.delete_stream(NAMES.dead)
    assert await broker.dead_letters.replay(letter.id) is None
    await js.delete_stream(NAMES.dead)
    assert not await broker.dead_letters.discard(letter.id)
    assert not await dead(broker)


@pytest.mark.parametrize("name", ["events", "cancellations"])
@pytest.mark.parametrize("numbered", [True, False])
async def test_readers_and_writers_go_on_with_a_stream_that_was_deleted_again_and_again(
    broker: Broker, js: JetStreamContext, name: str, numbered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``numbered``: before nats-server 2.10 a stream begins at 1, whatever is asked for."""
    if not numbered:
        monkeypatch.setattr(time, "time_ns", lambda: 0)
    stream = broker.events if name == "events" else broker.cancellations
    events = events_of(9)
    async with aclosing(stream.read()) as reading:
        for count in (4, 3, 2):
            waiting = asyncio.ensure_future(anext(reading))
            batch, events = events[:count], events[count:]
            for event in batch:
                await stream.publish(event)
            read = [await waiting, *[await anext(reading) for _ in batch[1:]]]
            assert [event.subject for event in read] == [event.subject for event in batch]
            await js.delete_stream(f"{PREFIX}-{name}")
    assert [event async for event in stream.read(follow=False)] == []


async def test_a_reader_goes_on_where_its_consumer_was_deleted(broker: Broker, js: JetStreamContext) -> None:
    before, after = events_of(2)
    async with aclosing(broker.events.read()) as reading:
        await broker.events.publish(before)
        assert (await anext(reading)).subject == before.subject
        waiting = asyncio.ensure_future(anext(reading))
        for info in await js.consumers_info(NAMES.events):
            await js.delete_consumer(NAMES.events, info.name)
        await broker.events.publish(after)
        assert (await waiting).subject == after.subject


async def test_a_stream_takes_higher_numbers_than_the_one_before_it(broker: Broker, js: JetStreamContext) -> None:
    for name in (NAMES.work, NAMES.dead, NAMES.events, NAMES.cancellations):
        before = (await js.stream_info(name)).state.last_seq
        await js.delete_stream(name)
        await broker.dead_letters.replay("0" * 32)
        await broker.publish(request(1))
        await broker.events.publish(*events_of(1))
        await broker.cancellations.publish(*events_of(1))
        assert (await js.stream_info(name)).state.first_seq > before + 1


async def test_a_claim_outlives_that_its_stream_was_deleted(
    connect: Connect, broker: Broker, js: JetStreamContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jetstream_claims, "CLAIM_AGE", 2.0)  # as often it is put anew

    async def put_anew() -> bool:
        try:
            return (await js.stream_info(NAMES.claims)).state.messages == 1
        except nats.js.errors.NotFoundError:
            return False

    async with connect() as other:
        async with broker.claim("one", 0) as ours:
            assert ours
            await js.delete_stream(NAMES.claims)
            await until(put_anew)
            async with other.claim("one", 0) as theirs:
                assert not theirs
            await js.delete_stream(NAMES.claims)
            async with other.claim("another", 0) as theirs:
                assert theirs
        async with other.claim("one", PATIENCE) as theirs:
            assert theirs


async def test_a_loss_is_told_once_however_many_find_it(
    broker: Broker, js: JetStreamContext, caplog: pytest.LogCaptureFixture
) -> None:
    await broker.check_health()
    assert not told(caplog)
    await js.delete_stream(NAMES.work)
    await asyncio.gather(*(broker.publish(request(number)) for number in range(SEVERAL)))
    assert (await js.stream_info(NAMES.work)).state.messages == SEVERAL
    (message,) = told(caplog)
    assert message.endswith(f"stream {NAMES.work}, consumer live, consumer backfill, consumer retry")


async def test_what_is_lost_and_cannot_be_declared_again_is_told_and_made_good_later(
    broker: Broker, js: JetStreamContext, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody made another stream under its name."""
    await js.delete_stream(NAMES.work)
    await js.add_stream(name=NAMES.work, subjects=["others"], storage="memory")
    publishing = asyncio.ensure_future(broker.publish(request(5)))
    await until(lambda: f"cannot make stream {NAMES.work}" in caplog.text)
    await js.delete_stream(NAMES.work)
    await publishing
    await (await one(broker)).ack()


async def everything_goes_on(broker: Broker, lose: Callable[[], object]) -> None:
    """Publishes, deliveries, retries, dead letters, events, cancellations and claims, over the loss of the whole store."""
    async with (
        aclosing(broker.events.read()) as reading,
        aclosing(broker.cancellations.read()) as cancelling,
        taking(broker) as deliveries,
        broker.claim("held", 0),
    ):
        before, after = events_of(2)
        await broker.events.publish(before)
        await broker.cancellations.publish(before)
        assert (await anext(reading)).subject == (await anext(cancelling)).subject == before.subject
        for number in (1, 2):
            await broker.publish(request(number))
        retried, buried = await anext(deliveries), await anext(deliveries)
        waiting = [asyncio.ensure_future(anext(each)) for each in (reading, cancelling)]
        await asyncio.to_thread(lose)
        await until(lambda: healthy(broker))
        await broker.events.publish(after)
        await broker.cancellations.publish(after)
        assert [(await each).subject for each in waiting] == [after.subject] * 2
        await buried.dead_letter(NO, attempt())
        assert await dead(broker) == 1
        await retried.retry(0.5, attempt())
        again = await anext(deliveries)
        assert again.request.id == retried.request.id
        await again.ack()
        for number, lane in ((3, "live"), (4, "backfill")):
            await broker.publish(request(number, priority=lane))
            delivery = await anext(deliveries)
            assert delivery.request.id == request(number).id
            await delivery.ack()
        async with broker.claim("another", 0) as ours:
            assert ours


async def healthy(broker: Broker) -> bool:
    try:
        await broker.check_health()
    except Exception:  # noqa: BLE001  whatever is wrong while it is away
        return False
    return True


async def test_everything_goes_on_where_a_server_comes_back_without_its_store(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with nats_server(tmp_path / "server") as server:

        def lose() -> None:
            server.kill()
            shutil.rmtree(server.root / "data")
            server.start()

        async with asyncio.timeout(3 * PATIENCE), open_broker(settings_for(server.url, PREFIX, tmp_path)) as broker:
            await everything_goes_on(broker, lose)
    (message,) = told(caplog)
    for name in (NAMES.work, NAMES.dead, NAMES.events, NAMES.cancellations):
        assert f"stream {name}" in message


async def test_everything_goes_on_where_an_embedded_server_loses_its_store(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)

    def lose() -> None:
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)  # so that it is gone when the store is, and not before
        while not stopped(None, server.pid):
            time.sleep(0.02)
        shutil.rmtree(tmp_path / "jetstream")
        os.kill(server.pid, signal.SIGKILL)

    @asynccontextmanager
    async def opened() -> AsyncIterator[Broker]:
        retention = Retention(3600, 1)
        async with (
            server.running(),
            open_jetstream(server.address.url, prefix=PREFIX, publish_timeout=10, retention=retention) as transport,
        ):
            yield QueueBroker(transport, delivery_limit=DELIVERY_LIMIT)

    async with asyncio.timeout(3 * PATIENCE), opened() as broker:
        await everything_goes_on(broker, lose)


async def test_a_reader_goes_on_where_a_server_comes_back_with_an_older_store(tmp_path: Path) -> None:
    """What was told between is lost with it; the numbers of that are given out again."""

    def restore(server: NatsServer) -> None:
        server.kill()
        shutil.rmtree(server.root / "data")
        shutil.copytree(tmp_path / "backup", server.root / "data")
        server.start()

    def back_up(server: NatsServer) -> None:
        server.kill(signal.SIGTERM)
        shutil.copytree(server.root / "data", tmp_path / "backup")
        server.start()

    with nats_server(tmp_path / "server") as server:
        async with asyncio.timeout(3 * PATIENCE), open_broker(settings_for(server.url, PREFIX, tmp_path)) as broker:
            first, *lost, last = events_of(6)
            async with aclosing(broker.events.read()) as reading:
                await broker.events.publish(first)
                await asyncio.to_thread(back_up, server)
                for event in lost:
                    await broker.events.publish(event)
                assert [(await anext(reading)).subject for _ in range(5)] == [each.subject for each in (first, *lost)]
                waiting = asyncio.ensure_future(anext(reading))
                await asyncio.to_thread(restore, server)
                await broker.events.publish(last)
                assert (await waiting).subject == last.subject
