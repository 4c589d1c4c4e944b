"""Deliveries are settled exactly once by what the conversion came to; stopping drains and loses nothing."""

from __future__ import annotations

import asyncio

import pytest

from consumer.conversion import Converted
from drivers.api import Progress
from shared.broker.memory import MemoryServer, MemoryTransport, _MemoryTaken
from shared.broker.transport import unavailable
from shared.broker.wire import WireMessage
from shared.errors import PermanentError, SkippedError, TransientError
from shared.messages import ConversionRequest
from shared.oci.reference import Reference
from tests.dead_letters import dead
from tests.unit.consumer.at_work import Scripted, at_work, events_of, idle, in_flight_at_events, settings_for
from tests.unit.consumer.support import converter, pushed, request
from tests.waiting import PATIENCE, until
from tests.watched_store import WatchedStore


async def test_a_conversion_that_succeeds_is_acknowledged_and_told(caplog: pytest.LogCaptureFixture) -> None:
    store = WatchedStore()
    image = await pushed(store)
    caplog.set_level("INFO", "consumer.attempt")
    async with at_work(converter(store), settings_for()) as (broker, _, _):
        await broker.publish(request(image))
        (event,) = await events_of(broker, 1, "succeeded")
        assert event.data.target_digest
        assert {"resolve", "pull", "convert", "push", "manifest", "tag"} <= {stage.name for stage in event.data.stages}
        assert event.data.trace_id
        await idle(broker)
        assert await dead(broker) == 0
    (line,) = (record for record in caplog.records if record.name == "consumer.attempt")
    assert vars(line)["conversion"] == request(image).id


async def test_the_last_event_is_published_before_the_acknowledgement(monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer that dies in between leaves a conversion that is done again, never one that seems to run for ever."""
    store = WatchedStore()
    image = await pushed(store)
    async with at_work(converter(store), settings_for()) as (broker, _, _):
        in_flight = in_flight_at_events(broker, monkeypatch)
        for _ in range(2):
            await broker.publish(request(image))
            await idle(broker)
        await events_of(broker, 1, "succeeded")
        await events_of(broker, 1, "skipped")
        assert (in_flight["succeeded"], in_flight["skipped"]) == (1, 1)


async def test_a_failure_is_told_once_its_letter_is_kept_and_before_its_settlement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def deny(_request: ConversionRequest) -> None:
        raise PermanentError("not for you", code="denied")

    bury, calls = MemoryServer.bury, []

    def twice(server: MemoryServer, letter: str, message: WireMessage) -> None:
        calls.append(letter)
        if len(calls) == 1:
            raise unavailable("it is away")  # nothing is told of a letter that is not there
        bury(server, letter, message)

    monkeypatch.setattr(MemoryServer, "bury", twice)
    async with at_work(Scripted(deny), settings_for()) as (broker, _, _):
        in_flight = in_flight_at_events(broker, monkeypatch)
        await broker.publish(request())
        (event,) = await events_of(broker, 1, "failed")
        assert (calls, in_flight["failed"]) == ([event.data.dead_letter_id] * 2, 1)
        await idle(broker)
        told = [each.kind async for each in broker.events.read(follow=False)]
        assert told == ["started", "started", "failed"]


async def test_nothing_to_do_is_told_with_its_reason() -> None:
    async def skip(_request: ConversionRequest) -> None:
        raise SkippedError("up to date")

    async with at_work(Scripted(skip), settings_for()) as (broker, _, _):
        await broker.publish(request())
        (event,) = await events_of(broker, 1, "skipped")
        assert event.data.reason == "up to date"
        assert await dead(broker) == 0


async def test_a_permanent_failure_is_a_dead_letter_at_once_with_all_that_is_known() -> None:
    async def deny(_request: ConversionRequest) -> None:
        raise PermanentError("not for you", code="denied", registry="harbor.example.com", status=403)

    async with at_work(Scripted(deny), settings_for()) as (broker, _, _):
        await broker.publish(request())
        (event,) = await events_of(broker, 1, "failed")
        letter = await broker.dead_letters.get(event.data.dead_letter_id)
        assert letter is not None
        assert letter.failure.code == "denied"
        assert letter.failure.details["status"] == 403
        assert letter.request == request(requested_at=letter.request.requested_at) if letter.request else False
        (attempt,) = letter.attempts
        assert attempt.trace_id == event.data.trace_id
        assert attempt.consumer


async def test_transient_failures_are_retried_and_a_late_success_is_a_success() -> None:
    store = WatchedStore()
    image = await pushed(store)
    real = converter(store)
    tries = iter(range(10))

    class Flaky(Scripted):
        async def convert(self, request: ConversionRequest, progress: Progress, *, again: bool = False) -> Converted:
            if next(tries) < 2:
                raise TransientError("not now", code="rate_limited")
            return await real.convert(request, progress, again=again)

    async with at_work(Flaky(lambda _: asyncio.sleep(0)), settings_for()) as (broker, _, _):
        await broker.publish(request(image))
        seen = await events_of(broker, 3, "retrying", "succeeded", "failed")
        assert [event.kind for event in seen] == ["retrying", "retrying", "succeeded"]
        assert [event.data.attempt for event in seen] == [1, 2, 3]
        assert await dead(broker) == 0


async def test_exhausted_retries_die_with_every_attempt() -> None:
    async def fail(_request: ConversionRequest) -> None:
        raise TransientError("never", code="rate_limited")

    async with at_work(Scripted(fail), settings_for()) as (broker, _, _):
        await broker.publish(request())
        (event,) = await events_of(broker, 1, "failed")
        letter = await broker.dead_letters.get(event.data.dead_letter_id)
        assert letter is not None
        assert [attempt.number for attempt in letter.attempts] == [1, 2, 3]


async def test_a_conversion_that_hangs_is_cancelled_and_counted_as_a_time_out() -> None:
    async def hang(_request: ConversionRequest) -> None:
        await asyncio.sleep(3600)

    settings = settings_for(ICS_TIMEOUTS='{"conversion": 0.05, "drain": 0.2}', ICS_RETRY='{"maximum_attempts": 1}')
    scripted = Scripted(hang)
    async with at_work(scripted, settings) as (broker, _, _):
        await broker.publish(request())
        (event,) = await events_of(broker, 1, "failed")
        assert event.data.failure.code == "conversion_timeout"
        assert scripted.running == 0


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("no"), RecursionError(), PermissionError(13, "Permission denied"), AssertionError()]
)
async def test_a_driver_that_breaks_in_an_unforeseen_way_takes_nobody_else_along(error: Exception) -> None:
    async def some(request: ConversionRequest) -> None:
        if request.id == "0" * 32:
            raise error
        raise SkippedError("up to date")

    async with at_work(Scripted(some), settings_for()) as (broker, _, running):
        await asyncio.gather(*(broker.publish(request(id=str(number) * 32)) for number in range(6)))
        (failed,) = await events_of(broker, 1, "failed")
        assert failed.data.failure.code == "unclassified"
        assert len(await events_of(broker, 5, "skipped")) == 5
        assert not running.done()
        letters = [letter async for letter in broker.dead_letters.list()]
        assert [len(letter.attempts) for letter in letters] == [3]


@pytest.mark.parametrize("limit", [1, 3])
async def test_no_more_than_maximum_concurrency_run_at_once(limit: int) -> None:
    async def briefly(_request: ConversionRequest) -> None:
        await until(lambda: scripted.most >= limit)
        await asyncio.sleep(0.02)  # one too many could come meanwhile
        raise SkippedError("done")

    scripted = Scripted(briefly)
    async with at_work(scripted, settings_for(ICS_MAXIMUM_CONCURRENCY=str(limit))) as (broker, _, _):
        for number in range(8):
            await broker.publish(request(id=f"{number:032x}"))
        await events_of(broker, 8, "skipped")
    assert scripted.most == limit


async def test_draining_lets_what_runs_finish() -> None:
    started = asyncio.Event()

    async def slow(_request: ConversionRequest) -> None:
        started.set()
        await asyncio.sleep(0.1)
        raise SkippedError("finished")

    patiently = settings_for(ICS_TIMEOUTS='{"conversion": 60, "drain": 60}')
    async with at_work(Scripted(slow), patiently) as (broker, stop, task):
        await broker.publish(request())
        await started.wait()
        stop.set()
        await task
        stats = await broker.stats()
        assert (stats.ready, stats.in_flight) == (0, 0)


async def test_what_does_not_finish_goes_back_to_the_queue() -> None:
    started = asyncio.Event()

    async def endless(_request: ConversionRequest) -> None:
        started.set()
        await asyncio.sleep(3600)

    scripted = Scripted(endless)
    async with at_work(scripted, settings_for()) as (broker, stop, task):
        await broker.publish(request())
        await started.wait()
        stop.set()
        await task
        assert scripted.running == 0
        stats = await broker.stats()
        assert (stats.ready, stats.in_flight, stats.dead) == (1, 0, 0)


async def test_an_outage_costs_no_attempt() -> None:
    """One attempt is all that each has; the registry is down for far longer than that."""
    up = asyncio.Event()
    down = TransientError("down", code="registry_unavailable", registry="harbor.example.com")
    asked = 0

    async def ask(_reference: Reference) -> None:
        nonlocal asked
        asked += 1
        if not up.is_set():
            raise down

    async def convert(_request: ConversionRequest) -> None:
        if not up.is_set():
            raise down
        raise SkippedError("answered")

    scripted = Scripted(convert)
    async with at_work(scripted, settings_for(ICS_RETRY='{"maximum_attempts": 1}'), ask) as (broker, _, _):
        for number in range(10):
            await broker.publish(request(id=f"{number:032x}"))
        await until(lambda: asked >= 8)
        assert len(scripted.seen) <= 5, "an open circuit lets questions through, and no conversions"
        up.set()
        await events_of(broker, 10, "skipped")
        assert await dead(broker) == 0


async def test_a_registry_that_never_comes_back_ends_in_the_dead_letters() -> None:
    async def fail(*_: object) -> None:
        raise TransientError("down", code="registry_unavailable", registry="harbor.example.com")

    settings = settings_for(
        ICS_RETRY='{"maximum_attempts": 2, "initial_delay": 0.02, "maximum_delay": 0.1, "maximum_outage": 0.3}'
    )
    async with at_work(Scripted(fail), settings, fail) as (broker, _, _):
        await broker.publish(request())
        (event,) = await events_of(broker, 1, "failed")
        letter = await broker.dead_letters.get(event.data.dead_letter_id)
        assert letter is not None
        assert [attempt.failure.code for attempt in letter.attempts] == ["registry_unavailable"] * 2


async def test_an_image_that_alone_fails_uses_its_attempts_up() -> None:
    """Its registry answers: the failure is the image's."""

    async def cut(_request: ConversionRequest) -> None:
        raise TransientError("cut", code="registry_unavailable", registry="harbor.example.com")

    async with at_work(Scripted(cut), settings_for()) as (broker, _, _):
        await broker.publish(request())
        (event,) = await events_of(broker, 1, "failed")
        assert event.data.attempt == 3


async def test_the_broker_hears_of_a_delivery_while_its_registry_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The question may take longer than a broker's lease: the delivery would be handed out again meanwhile."""
    down = TransientError("down", code="registry_unavailable", registry="harbor.example.com")
    extended, asking, asked = asyncio.Event(), asyncio.Event(), 0

    async def ask(_reference: Reference) -> None:
        nonlocal asked
        asked += 1
        if asked == 2:  # the first one opens the circuit
            asking.set()
            await extended.wait()
        raise down

    async def extend(_taken: object) -> None:
        if asking.is_set():
            extended.set()

    async def fail(_request: ConversionRequest) -> None:
        raise down

    monkeypatch.setattr(MemoryTransport, "extend_interval", 0.01)
    monkeypatch.setattr(_MemoryTaken, "extend", extend)
    async with at_work(Scripted(fail), settings_for(), ask) as (broker, _, _):
        await broker.publish(request())
        async with asyncio.timeout(PATIENCE):
            await extended.wait()
