"""The promises of ``shared.broker.api``, held against every implementation."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from shared.broker.amqp import work as amqp_work
from shared.broker.api import Broker, DeadLetterFilter, Delivery
from shared.broker.jetstream import work as jetstream_work
from shared.broker.queue import QueueBroker
from shared.broker.transport import unavailable
from shared.errors import TransientError
from shared.events import cancelling_event, conversion_event
from shared.messages import Attempt, ConversionRequest, DriverChoice, Failure
from shared.oci.reference import parse_reference
from tests.dead_letters import dead
from tests.integration.broker.conftest import DELIVERY_LIMIT, Kind
from tests.waiting import PATIENCE, until

TRACE = {"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"}
NO = Failure(code="denied", kind="permanent", message="not for you")


def request(number: int = 1, **changes: Any) -> ConversionRequest:
    source = parse_reference(f"harbor.example.com/library/app:v{number}@sha256:{number:064x}")
    values: dict[str, Any] = {
        "id": f"{number:032x}",
        "source": source,
        "target": source.with_tag(f"v{number}_esgz"),
        "driver": DriverChoice(type="estargz", config={"estargz_chunk_size": 0}),
        **changes,
    }
    return ConversionRequest(**values)


def attempt(number: int = 1) -> Attempt:
    failure = Failure(code="registry_timeout", kind="transient", message="slow")
    return Attempt(number=number, started_at=datetime.now(UTC), duration_seconds=2, consumer="host/1", failure=failure)


@asynccontextmanager
async def taking(broker: Broker, prefetch: int = 5) -> AsyncIterator[AsyncIterator[Delivery]]:
    async with asyncio.timeout(PATIENCE), broker.deliveries(prefetch) as deliveries:
        yield deliveries


async def one(broker: Broker) -> Delivery:
    async with taking(broker, 1) as deliveries:
        async for delivery in deliveries:
            return delivery
    raise AssertionError


async def settled(broker: Broker, **wanted: int) -> None:
    """Wait until the broker's counts are as wanted."""

    async def so() -> bool:
        stats = await broker.stats()
        return all(getattr(stats, name) in {count, None} for name, count in wanted.items())

    await until(so)


async def test_what_is_published_arrives_whole_with_its_headers(kind: Kind) -> None:
    async with kind.connect() as broker:
        began = datetime.now(UTC)
        await broker.publish(request(), TRACE)
        delivery = await one(broker)
        assert delivery.request == request(requested_at=delivery.request.requested_at)
        assert delivery.headers["traceparent"] == TRACE["traceparent"]
        assert list(delivery.attempts) == []
        assert not delivery.redelivered
        assert (
            began - timedelta(seconds=1) <= delivery.published_at <= datetime.now(UTC)
        )  # RabbitMQ tells whole seconds
        await delivery.ack()
        await settled(broker, ready=0, in_flight=0)


async def test_no_more_than_the_prefetch_are_handed_out(kind: Kind) -> None:
    async with kind.connect() as broker:
        for number in range(5):
            await broker.publish(request(number))
        async with taking(broker, 2) as deliveries:
            held = [await anext(deliveries), await anext(deliveries)]
            third = asyncio.ensure_future(anext(deliveries))
            await asyncio.sleep(0.5)
            assert not third.done()
            await held[0].ack()
            async with asyncio.timeout(PATIENCE):
                held.append(await third)
            for delivery in held[1:]:
                await delivery.ack()


async def test_a_delivery_is_settled_once(kind: Kind) -> None:
    async with kind.connect() as broker:
        await broker.publish(request())
        delivery = await one(broker)
        await delivery.ack()
        for again in (delivery.ack(), delivery.retry(1, attempt()), delivery.dead_letter(NO), delivery.release()):
            with pytest.raises(RuntimeError):
                await again


async def test_a_retry_comes_back_later_with_its_attempts(kind: Kind) -> None:
    async with kind.connect() as broker:
        await broker.publish(request(), TRACE)
        delivery = await one(broker)
        began = asyncio.get_running_loop().time()
        await delivery.retry(1.0, attempt(1))
        again = await one(broker)
        assert asyncio.get_running_loop().time() - began > 0.5
        assert [each.failure.code for each in again.attempts] == ["registry_timeout"]
        assert again.headers["traceparent"] == TRACE["traceparent"]
        assert not again.redelivered
        await again.ack()
        await settled(broker, ready=0, retrying=0)


async def test_what_is_released_comes_back_without_an_attempt(kind: Kind) -> None:
    async with kind.connect() as broker:
        await broker.publish(request())
        delivery = await one(broker)
        await delivery.release()
        again = await one(broker)
        assert list(again.attempts) == []
        assert not again.redelivered
        assert again.postponed is None
        await again.release(code="registry_unavailable")
        await (await one(broker)).release()
        postponed = await one(broker)
        assert postponed.postponed is not None
        assert postponed.postponed[1] == "registry_unavailable"
        assert postponed.published_at <= postponed.postponed[0] <= datetime.now(UTC)
        await postponed.retry(0.1, attempt(1))
        tried = await one(broker)
        assert tried.postponed is None
        await tried.ack()


async def test_what_a_lost_connection_held_is_delivered_again(kind: Kind) -> None:
    async with kind.connect() as survivor:
        async with kind.connect() as dying:
            await dying.publish(request())
            await one(dying)
        again = await one(survivor)
        assert again.redelivered
        await again.ack()


async def has_died(broker: Broker) -> bool:
    return await dead(broker) > 0


async def test_a_message_that_kills_its_consumers_becomes_a_dead_letter(kind: Kind) -> None:
    async with kind.connect() as broker:
        await broker.publish(request(), TRACE)
        for _ in range(DELIVERY_LIMIT + 1):
            async with kind.connect() as dying:
                await one(dying)
        await broker.publish(request(2))
        async with taking(broker, 2) as deliveries:
            delivery = await anext(deliveries)
            assert delivery.request.id == request(2).id
            await delivery.ack()
            more = asyncio.ensure_future(anext(deliveries))
            await until(lambda: has_died(broker))
            more.cancel()
            await asyncio.gather(more, return_exceptions=True)
        (letter,) = [each async for each in broker.dead_letters.list()]
        assert letter.failure.code == "delivery_limit"
        assert letter.request is not None
        assert letter.traceparent == TRACE["traceparent"]


async def test_a_dead_letter_knows_everything(kind: Kind) -> None:
    async with kind.connect() as broker:
        await broker.publish(request(), TRACE)
        delivery = await one(broker)
        made = await delivery.dead_letter(NO, attempt(1))
        letter = await broker.dead_letters.get(made.id)
        assert letter is not None
        assert letter.failure == NO
        assert letter.request == request(requested_at=letter.request.requested_at) if letter.request else False
        assert [each.consumer for each in letter.attempts] == ["host/1"]
        assert letter.trace_id == "a" * 32
        await settled(broker, ready=0, in_flight=0, dead=1)


async def bury(broker: Broker, count: int) -> list[str]:
    ids = []
    for number in range(count):
        await broker.publish(request(number))
    async with taking(broker, 5) as deliveries:
        for _ in range(count):
            delivery = await anext(deliveries)
            ids.append((await delivery.dead_letter(NO)).id)
    return ids


async def test_listing_neither_takes_nor_reorders(kind: Kind) -> None:
    async with kind.connect() as broker:
        ids = await bury(broker, 8)
        for _ in range(4):
            assert [letter.id async for letter in broker.dead_letters.list()] == ids
        async with kind.connect() as other:
            both = await asyncio.gather(listed(broker), listed(other))
            assert list(both) == [ids, ids]
        found = [letter.id async for letter in broker.dead_letters.list(DeadLetterFilter(tag="v3"))]
        assert found == [ids[3]]
        assert await dead(broker) == 8


async def listed(broker: Broker) -> list[str]:
    return [letter.id async for letter in broker.dead_letters.list()]


async def test_a_replay_is_a_fresh_message_and_a_second_one_is_nothing(kind: Kind) -> None:
    async with kind.connect() as broker:
        ids = await bury(broker, 3)
        replayed = await broker.dead_letters.replay(ids[1], {"traceparent": "00-" + "c" * 32 + "-" + "d" * 16 + "-01"})
        assert replayed is not None
        assert await broker.dead_letters.replay(ids[1]) is None
        delivery = await one(broker)
        assert delivery.request.replay_of == ids[1]
        assert delivery.headers["traceparent"].startswith("00-cccc")
        assert list(delivery.attempts) == []
        await delivery.ack()
        assert await listed(broker) == [ids[0], ids[2]]
        await settled(broker, ready=0)


async def test_two_processes_that_replay_the_same_letter_publish_it_once_or_converge(kind: Kind) -> None:
    async with kind.connect() as broker, kind.connect() as other:
        (letter,) = await bury(broker, 1)
        results = await asyncio.gather(broker.dead_letters.replay(letter), other.dead_letters.replay(letter))
        assert any(results)
        assert await dead(broker) == 0
        for _ in results:
            if (await broker.stats()).ready:
                await (await one(broker)).ack()
        await settled(broker, ready=0)


async def test_discard_and_import(kind: Kind) -> None:
    async with kind.connect() as broker:
        ids = await bury(broker, 2)
        letter = await broker.dead_letters.get(ids[0])
        assert letter is not None
        assert await broker.dead_letters.discard(ids[0])
        assert not await broker.dead_letters.discard(ids[0])
        for _ in range(2):
            await broker.dead_letters.add(letter)
        assert sorted(await listed(broker)) == sorted(ids)
        assert await dead(broker) == 2


async def test_live_pushes_go_before_a_backfill(kind: Kind) -> None:
    async with kind.connect() as broker:
        for number in range(6):
            await broker.publish(request(number, priority="backfill"))
        for number in range(10, 13):
            await broker.publish(request(number))
        order = []
        async with taking(broker, 1) as deliveries:
            for _ in range(9):
                delivery = await anext(deliveries)
                order.append(delivery.request.priority)
                await delivery.ack()
        assert order[:3] == ["live"] * 3
        assert order[3:] == ["backfill"] * 6


async def test_a_backfill_that_ends_is_followed_by_the_next(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if it takes no time, as what is cancelled or up to date: no look at the live lane is waited for in between."""
    monkeypatch.setattr(amqp_work, "IDLE", 3.0)
    monkeypatch.setattr(jetstream_work, "_LONG_POLL", 3.0)
    async with kind.connect() as broker:
        for number in range(30):
            await broker.publish(request(number, priority="backfill"))
        async with taking(broker, 2) as deliveries:
            held = await anext(deliveries)
            for _ in range(29):
                following = asyncio.ensure_future(anext(deliveries))
                await asyncio.sleep(0.02)  # until it looks for a push, since no more backfill fits
                await held.ack()
                held = await following
            await held.ack()
        await settled(broker, ready=0, in_flight=0)


async def test_a_push_does_not_wait_for_a_backfill_that_fills_every_slot_it_may(kind: Kind) -> None:
    """No backfill is finished before the pushes are there, and each finished push lets the next one in."""
    async with kind.connect() as broker:
        for number in range(10):
            await broker.publish(request(number, priority="backfill"))
        async with taking(broker, 4) as deliveries:
            held = [await anext(deliveries) for _ in range(2)]
            assert [delivery.request.priority for delivery in held] == ["backfill"] * 2
            for number in range(20, 26):
                await broker.publish(request(number))
            pushes = []
            for _ in range(6):
                delivery = await anext(deliveries)
                pushes.append(delivery.request.id)
                assert delivery.request.priority == "live"
                await delivery.ack()
            assert pushes == [request(number).id for number in range(20, 26)]
            for delivery in held:
                await delivery.ack()
        await settled(broker, ready=8, in_flight=0)


async def test_a_push_recalls_the_backfill_that_holds_the_last_slot(kind: Kind) -> None:
    async with kind.connect() as broker:
        await broker.publish(request(1, priority="backfill"))
        async with taking(broker, 1) as deliveries:
            backfill = await anext(deliveries)
            assert not backfill.recalled.is_set()
            push = asyncio.ensure_future(anext(deliveries))
            await broker.publish(request(2))
            await backfill.recalled.wait()
            assert not push.done()
            await backfill.release(begun=True)
            live = await push
            assert live.request.priority == "live"
            assert not live.recalled.is_set()
            await live.ack()
            again = await anext(deliveries)
            assert again.request.id == backfill.request.id
            assert again.redelivered
            assert list(again.attempts) == []
            await again.ack()
        await settled(broker, ready=0, in_flight=0)


async def test_a_backfill_may_be_recalled_more_often_than_the_delivery_limit(kind: Kind) -> None:
    async with kind.connect() as broker:
        await broker.publish(request(1, priority="backfill"))
        async with taking(broker, 1) as deliveries:
            for number in range(10, 12 + DELIVERY_LIMIT):
                backfill = await anext(deliveries)
                push = asyncio.ensure_future(anext(deliveries))
                await broker.publish(request(number))
                await backfill.recalled.wait()
                await backfill.release(begun=True)
                await (await push).ack()
            await (await anext(deliveries)).ack()
        await settled(broker, ready=0, in_flight=0, dead=0)


async def test_a_push_that_waits_for_a_slot_when_its_consumer_leaves_is_handed_back(kind: Kind) -> None:
    async with kind.connect() as broker:
        await broker.publish(request(1, priority="backfill"))
        async with taking(broker, 1) as deliveries:
            backfill = await anext(deliveries)
            push = asyncio.ensure_future(anext(deliveries))
            await broker.publish(request(2))
            await backfill.recalled.wait()
            push.cancel()
            await asyncio.gather(push, return_exceptions=True)
        live = await one(broker)
        assert live.request.id == request(2).id
        await live.ack()
        await backfill.ack()
        await settled(broker, ready=0, in_flight=0)


async def test_many_at_once_are_all_confirmed_and_all_arrive(kind: Kind) -> None:
    async with kind.connect() as broker:
        await asyncio.gather(*(broker.publish(request(number)) for number in range(300)))
        seen = set()
        async with taking(broker, 50) as deliveries:
            async for delivery in deliveries:
                seen.add(delivery.request.id)
                await delivery.ack()
                if len(seen) == 300:
                    break


async def test_events_are_history_and_then_news(kind: Kind) -> None:
    async with kind.connect() as broker, kind.connect() as reader:
        await broker.events.publish(conversion_event("requested", request(1)))
        await broker.events.publish(conversion_event("started", request(1)))
        past = [event.kind async for event in reader.events.read(follow=False)]
        assert past == ["requested", "started"]
        seen = []

        async def follow() -> None:
            async for event in reader.events.read():
                seen.append(event.kind)
                if len(seen) == 3:
                    return

        task = asyncio.create_task(follow())
        await asyncio.sleep(0.2)
        await broker.events.publish(conversion_event("succeeded", request(1)))
        await asyncio.wait_for(task, PATIENCE)
        assert seen == ["requested", "started", "succeeded"]


async def test_cancellations_are_a_stream_of_their_own(kind: Kind) -> None:
    async with kind.connect() as broker, kind.connect() as reader:
        asked = cancelling_event("a" * 32, datetime.now(UTC), "boss")
        await broker.cancellations.publish(asked)
        await broker.events.publish(conversion_event("requested", request(1)))
        assert [event async for event in reader.cancellations.read(follow=False)] == [asked]
        assert [event.kind async for event in reader.events.read(follow=False)] == ["requested"]
        async with asyncio.timeout(PATIENCE), aclosing(reader.cancellations.read()) as followed:
            assert await anext(followed) == asked
            news = cancelling_event("b" * 32, datetime.now(UTC), "boss")
            await broker.cancellations.publish(news)
            assert await anext(followed) == news


async def test_events_that_are_told_together_arrive_in_order(kind: Kind) -> None:
    async with kind.connect() as broker:
        await broker.events.publish(conversion_event("requested", request(0)))
        await broker.events.publish(*(conversion_event("started", request(number)) for number in range(1, 1000)))
        told = [event.subject async for event in broker.events.read(follow=False)]
        assert told == [request(number).id for number in range(1000)]


async def test_a_history_longer_than_any_window_is_read_whole(kind: Kind) -> None:
    async with kind.connect() as broker:
        await broker.events.publish(conversion_event("requested", request(0)))
        for number in range(1, 1301, 50):
            told = (conversion_event("started", request(each)) for each in range(number, number + 50))
            await asyncio.gather(*(broker.events.publish(each) for each in told))
        seen = [event.subject async for event in broker.events.read(follow=False)]
        assert sorted(seen) == sorted(request(number).id for number in range(1301))


CHILD = """
import asyncio, os, signal, sys
from drivers.api import DriverOptions
from shared.broker.open import open_broker
from shared.settings.load import load_settings

async def main():
    settings = load_settings(None, environ=dict(os.environ), option_models={"none": DriverOptions})
    async with open_broker(settings) as broker:
        if sys.argv[1] == "hold":
            async with broker.deliveries(3) as deliveries:
                held = [await anext(deliveries) for _ in range(3)]
                os.kill(os.getpid(), signal.SIGKILL)
        async for letter in broker.dead_letters.list():
            os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def killed_while(kind: Kind, doing: str) -> None:
    """Run a process of its own that kills itself in the middle."""
    environment = {
        **os.environ,
        "ICS_BROKER__URL": kind.url,
        "ICS_BROKER__PREFIX": kind.prefix,
        "ICS_BROKER__DELIVERY_LIMIT": str(DELIVERY_LIMIT),
        "ICS_DRIVER": '{"type": "none"}',
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", CHILD, doing, env=environment)
    assert await asyncio.wait_for(process.wait(), PATIENCE) == -signal.SIGKILL


REAL = pytest.mark.parametrize("kind", ["nats", "rabbitmq"], indirect=True)


@REAL
async def test_what_a_killed_process_held_is_delivered_again(kind: Kind) -> None:
    async with kind.connect() as broker:
        for number in range(3):
            await broker.publish(request(number))
        await killed_while(kind, "hold")
        seen = set()
        async with taking(broker, 3) as deliveries:
            async for delivery in deliveries:
                assert delivery.redelivered
                seen.add(delivery.request.id)
                await delivery.ack()
                if len(seen) == 3:
                    break


@REAL
async def test_a_process_that_is_killed_while_it_lists_takes_no_letter_along(kind: Kind) -> None:
    async with kind.connect() as broker:
        ids = await bury(broker, 6)
        for _ in range(2):
            await killed_while(kind, "list")
        assert await listed(broker) == ids


@REAL
async def test_everything_survives_a_broker_that_is_killed(kind: Kind) -> None:
    assert kind.server is not None
    async with kind.connect() as broker:
        ids = await bury(broker, 2)
        await broker.publish(request(10))
        await broker.publish(request(11))
        waiting = await one(broker)
        await waiting.retry(2, attempt())
        async with broker.deliveries(5) as deliveries:
            kind.server.kill()
            with pytest.raises(TransientError) as error:
                await broker.publish(request(12))
            assert error.value.code == "broker_unavailable"
            with pytest.raises(TransientError):
                await broker.check_health()
            kind.server.start()
            # The acknowledgement of the original may be lost with the server; the confirmed copy may not.
            wanted = {(request(10).id, 1), (request(11).id, 0)}
            seen: set[tuple[str, int]] = set()
            async with asyncio.timeout(PATIENCE):
                while not wanted <= seen:
                    delivery = await anext(deliveries)
                    seen.add((delivery.request.id, len(delivery.attempts)))
                    await delivery.ack()
            assert seen <= wanted | {(request(10).id, 0)}
        await broker.check_health()
        assert await listed(broker) == ids


def stopped(group: int | None, pid: int) -> bool:
    """Whether every thread is: of the process, or of all in its group."""
    found = [int(each.name) for each in Path("/proc").iterdir() if group and each.name.isdigit()] or [pid]
    for each in found:
        with contextlib.suppress(OSError):  # gone meanwhile
            if group and os.getpgid(each) != group:
                continue
            for stat in Path(f"/proc/{each}/task").glob("*/stat"):
                if stat.read_text().rpartition(")")[2].split()[0] not in {"T", "Z"}:
                    return False
    return True


@REAL
async def test_a_broker_that_hangs_does_not_hold_the_publisher(kind: Kind) -> None:
    assert kind.server is not None
    process: Any = kind.server.process  # type: ignore[attr-defined]
    async with kind.connect() as broker:
        await broker.publish(request())
        group = os.getpgid(process.pid) if kind.name == "rabbitmq" else None
        pause, go_on = signal.SIGSTOP, signal.SIGCONT
        os.killpg(group, pause) if group else os.kill(process.pid, pause)
        try:
            await until(lambda: stopped(group, process.pid))  # a signal takes its time to stop every thread
            with pytest.raises(TransientError) as error:
                async with asyncio.timeout(PATIENCE):
                    await broker.publish(request(2))
            assert error.value.code == "broker_unavailable"
        finally:
            os.killpg(group, go_on) if group else os.kill(process.pid, go_on)
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    await broker.publish(request(3))
                except TransientError:
                    await asyncio.sleep(0.2)
                else:
                    break


async def test_a_malformed_message_is_kept_as_a_dead_letter_with_its_bytes(kind: Kind) -> None:
    from shared.broker.queue import QueueBroker
    from shared.broker.wire import WireMessage

    async with kind.connect() as broker:
        assert isinstance(broker, QueueBroker)
        await broker._transport.publish(WireMessage(b'{"not": "a request"}\xff', dict(TRACE)), "live")
        await broker.publish(request(2))
        delivery = await one(broker)
        assert delivery.request.id == request(2).id
        await delivery.ack()
        (letter,) = [each async for each in broker.dead_letters.list()]
        assert letter.failure.code == "malformed_message"
        assert letter.request is None
        assert '{"not": "a request"}' in letter.raw


@pytest.mark.parametrize("settle", ["retry", "release", "dead_letter"])
async def test_what_cannot_be_settled_comes_again_over_the_same_connection(
    kind: Kind, settle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that the broker does not confirm (its disk is slow, a queue is full) while the connection holds."""

    async def refused(*_: object, **__: object) -> None:
        raise unavailable("injected")

    async with kind.connect() as broker:
        assert isinstance(broker, QueueBroker)
        await broker.publish(request())
        async with taking(broker, 1) as deliveries:
            first = await anext(deliveries)
            with monkeypatch.context() as broken:
                broken.setattr(broker._transport, "publish", refused)
                broken.setattr(broker._transport.dead, "put", refused)
                settlements: dict[str, Callable[[], Awaitable[object]]] = {
                    "retry": lambda: first.retry(1, attempt()),
                    "release": lambda: first.release(1),
                    "dead_letter": lambda: first.dead_letter(NO),
                }
                with pytest.raises(TransientError):
                    await settlements[settle]()
            second = await anext(deliveries)  # one slot: the first no longer takes it, here and at the broker
            assert second.request.id == first.request.id
            await second.ack()
        await settled(broker, ready=0, in_flight=0, retrying=0, dead=0)
