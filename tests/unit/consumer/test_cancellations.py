"""A cancelled conversion ends, running or waiting; one that was published again after it does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from consumer import cancellations as module
from consumer.cancellations import Cancellations
from consumer.conversion import Converted
from consumer.progress import ConversionProgress
from drivers.api import Progress
from shared.broker.api import Broker
from shared.broker.delivery import QueuedDelivery
from shared.broker.memory import MemoryServer, open_memory
from shared.broker.transport import unavailable
from shared.broker.wire import encode_events
from shared.errors import TransientError
from shared.events import ConversionEvent, EventData, cancelling_all_event, cancelling_event
from shared.messages import Attempt, ConversionRequest, Failure
from shared.oci.reference import Reference
from shared.request_filter import RequestFilter
from shared.telemetry.metrics import Metrics
from shared.telemetry.tracing import Tracing
from tests.dead_letters import dead
from tests.unit.consumer.at_work import Scripted, at_work, events_of, idle, in_flight_at_events, settings_for
from tests.unit.consumer.support import converter, pushed, request
from tests.waiting import PATIENCE
from tests.watched_store import WatchedStore


async def cancel(broker: Broker, conversion: str = request().id, *, after: float = 0) -> None:
    time = datetime.now(UTC) + timedelta(seconds=after)
    await broker.cancellations.publish(cancelling_event(conversion, time, "boss"))


async def test_what_runs_is_stopped_and_acknowledged_once_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    began, stopped = asyncio.Event(), asyncio.Event()

    async def work(_request: ConversionRequest) -> None:
        began.set()
        try:
            await asyncio.sleep(3600)
        finally:
            stopped.set()

    async with at_work(Scripted(work), settings_for()) as (broker, _, _):
        in_flight = in_flight_at_events(broker, monkeypatch)
        await broker.publish(request())
        await began.wait()
        await cancel(broker)
        (event,) = await events_of(broker, 1, "cancelled", "retrying", "failed")
        assert (event.kind, event.data.actor, event.data.reason) == ("cancelled", "boss", "cancelled by boss")
        assert stopped.is_set()
        assert in_flight["cancelled"] == 1
        await idle(broker)
        assert await dead(broker) == 0


async def test_what_waits_is_not_converted_and_another_image_is() -> None:
    gate = asyncio.Event()

    async def work(_request: ConversionRequest) -> None:
        await gate.wait()
        raise TransientError("no", code="rate_limited")

    made = Scripted(work)
    async with at_work(made, settings_for(ICS_MAXIMUM_CONCURRENCY="1")) as (broker, _, _):
        await broker.publish(request(id="a" * 32))
        await broker.publish(request(id="b" * 32))
        await cancel(broker, "b" * 32)
        gate.set()
        (event,) = await events_of(broker, 1, "cancelled")
        assert event.subject == "b" * 32
        assert "b" * 32 not in made.seen


async def test_what_waits_for_a_retry_does_not_come_again() -> None:
    failed = asyncio.Event()

    async def work(_request: ConversionRequest) -> None:
        failed.set()
        raise TransientError("no", code="rate_limited")

    made = Scripted(work)
    slowly = settings_for(ICS_RETRY='{"maximum_attempts": 3, "initial_delay": 0.5, "maximum_delay": 0.5}')
    async with at_work(made, slowly) as (broker, _, _):
        await broker.publish(request())
        await failed.wait()
        await cancel(broker)
        (event,) = await events_of(broker, 1, "cancelled", "failed")
        assert (event.kind, event.data.attempt, len(made.seen)) == ("cancelled", 2, 1)


async def test_a_registry_that_is_down_is_not_waited_for() -> None:
    async def down(_reference: Reference) -> None:
        raise TransientError("nobody", code="registry_unavailable")

    async def work(_request: ConversionRequest) -> None:
        raise TransientError("nobody", code="registry_unavailable")

    async with at_work(Scripted(work), settings_for(), down) as (broker, _, _):
        await broker.publish(request())
        await events_of(broker, 1, "retrying")
        await cancel(broker)
        (event,) = await events_of(broker, 1, "cancelled")
        # The circuit released it after it had begun.
        assert "may have put its target" in event.data.reason


async def test_what_is_published_after_a_cancellation_converts() -> None:
    store = WatchedStore()
    image = await pushed(store)
    async with at_work(converter(store), settings_for()) as (broker, _, _):
        await cancel(broker, request(image).id)
        await broker.publish(request(image))
        (event,) = await events_of(broker, 1, "cancelled", "succeeded")
        assert event.kind == "succeeded"


async def test_one_that_puts_its_tag_succeeds() -> None:
    store = WatchedStore()
    image = await pushed(store)
    putting, heard = asyncio.Event(), asyncio.Event()
    put = store.put_manifest

    async def slowly(reference: Reference, manifest: Any) -> Any:
        if reference.tag:
            putting.set()
            await heard.wait()
        return await put(reference, manifest)

    store.put_manifest = slowly  # type: ignore[method-assign]
    async with at_work(converter(store), settings_for()) as (broker, _, _):
        await broker.publish(request(image))
        await putting.wait()
        await cancel(broker, request(image).id)
        await asyncio.sleep(0.1)
        heard.set()
        (event,) = await events_of(broker, 1, "cancelled", "succeeded")
        assert event.kind == "succeeded"
        await idle(broker)


OUTDATED = (
    "cancelled by boss; its target is of a source that its tag has left: push or backfill it to have it made anew"
)
UNKNOWN = "cancelled by boss; an earlier attempt had begun and may have put its target"


@pytest.mark.parametrize(
    ("before", "ends", "reason"),
    [
        ("put", "skipped", "up to date"),
        ("nothing", "cancelled", "cancelled by boss"),
        ("put, and then its tag moved", "cancelled", OUTDATED),
        ("nobody knows", "cancelled", UNKNOWN),
    ],
)
async def test_what_an_attempt_left_that_nobody_saw_end_is_told(
    before: str, ends: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that comes again from a consumer which died with it; it is cancelled before it has got anywhere."""
    store = WatchedStore()
    image = await pushed(store)
    asked, made = request(image), converter(store)
    if before.startswith("put"):
        metrics = Metrics(10, process_metrics=False)
        await made.convert(asked, ConversionProgress(Tracing.from_environment("test"), metrics))
    if "moved" in before:
        await pushed(store, 2)

    async def getting_nowhere(*_: object, **__: object) -> Converted:
        await asyncio.sleep(3600)
        raise AssertionError

    async def refused(_reference: Reference) -> Any:
        raise TransientError("no", code="rate_limited")

    monkeypatch.setattr(made, "convert", getting_nowhere)
    monkeypatch.setattr(QueuedDelivery, "redelivered", True)
    if before == "nobody knows":
        monkeypatch.setattr(store, "manifest", refused)
    async with at_work(made, settings_for()) as (broker, _, _):
        await broker.publish(asked)
        await cancel(broker, asked.id)
        (event,) = await events_of(broker, 1, "cancelled", "skipped", "retrying", "failed")
        assert (event.kind, event.data.reason) == (ends, reason)
        await idle(broker)


async def test_a_consumer_that_drains_still_hears() -> None:
    began = asyncio.Event()

    async def work(_request: ConversionRequest) -> None:
        began.set()
        await asyncio.sleep(3600)

    patiently = settings_for(ICS_TIMEOUTS='{"conversion": 3600, "drain": 3600}')
    async with at_work(Scripted(work), patiently) as (broker, stop, task):
        await broker.publish(request())
        await began.wait()
        stop.set()
        await cancel(broker)
        async with asyncio.timeout(PATIENCE):
            await task
        await events_of(broker, 1, "cancelled")
        stats = await broker.stats()
        assert (stats.ready, stats.in_flight) == (0, 0)


async def test_a_backfill_is_cancelled_rather_than_queued_again() -> None:
    began = asyncio.Event()

    class Slow(Scripted):
        async def convert(self, request: ConversionRequest, progress: Progress, *, again: bool = False) -> Converted:
            del request, progress, again
            began.set()
            await asyncio.sleep(3600)
            raise AssertionError

    async with at_work(Slow(lambda _: asyncio.sleep(0)), settings_for()) as (broker, _, _):
        await broker.publish(request(priority="backfill"))
        await began.wait()
        await cancel(broker)
        (event,) = await events_of(broker, 1, "cancelled", "preempted")
        assert event.kind == "cancelled"
        await idle(broker)


class Stream:
    """A stream of cancellations that takes its time."""

    def __init__(self, *events: ConversionEvent, failing: bool = False, pause: float = 0) -> None:
        self.kept, self.failing, self.pause = events, failing, pause

    async def publish(self, *events: ConversionEvent) -> None:
        raise AssertionError

    async def read(self, *, follow: bool = True, **_: object) -> AsyncGenerator[ConversionEvent]:
        if self.failing:
            raise unavailable("it is away")
        await asyncio.sleep(self.pause)
        for event in self.kept:
            yield event
        if follow:
            await asyncio.sleep(3600)

    def bodies(self, **_: object) -> AsyncGenerator[bytes]:
        raise AssertionError


def delivered(
    conversion: str,
    published_at: datetime,
    *attempts: Attempt,
    redelivered: bool = False,
    postponed: tuple[datetime, str] | None = None,
) -> Any:
    return SimpleNamespace(
        request=request(id=conversion),
        published_at=published_at,
        attempts=attempts,
        redelivered=redelivered,
        postponed=postponed,
    )


async def test_a_delivery_waits_for_what_was_cancelled_before_the_start() -> None:
    now = datetime.now(UTC)
    stream = Stream(cancelling_event("a" * 32, now, "boss"), pause=0.05)
    async with Cancellations(stream, 3600, Metrics()).following() as cancellations:
        await cancellations.caught_up()
        assert cancellations.of(delivered("a" * 32, now), now) is not None
        assert cancellations.of(delivered("a" * 32, now + timedelta(seconds=1)), now) is None
        assert cancellations.of(delivered("b" * 32, now), now) is None


async def test_a_broker_that_cannot_tell_holds_up_the_first_deliveries_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    watched = Cancellations(Stream(failing=True), 3600, Metrics()).following()
    async with watched as cancellations, asyncio.timeout(PATIENCE):
        await cancellations.caught_up()
        monkeypatch.setattr(module, "PATIENCE", 3600.0)
        await cancellations.caught_up()


async def test_what_is_remembered_is_bounded_by_number_and_age(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CAPACITY", 2)
    now = datetime.now(UTC)
    events = [cancelling_event(letter * 32, now, "boss") for letter in "abc"]
    async with Cancellations(Stream(*events), 3600, Metrics()).following() as cancellations:
        await cancellations.caught_up()
        known = [cancellations.of(delivered(letter * 32, now), now) is not None for letter in "abc"]
        assert known == [False, True, True]
    old = cancelling_event("a" * 32, now - timedelta(hours=2), "boss")
    async with Cancellations(Stream(old, events[1]), 3600, Metrics()).following() as cancellations:
        await cancellations.caught_up()
        assert cancellations.of(delivered("a" * 32, now - timedelta(hours=3)), now) is None
        assert (
            cancellations.of(delivered("b" * 32, now), now) is not None
        )  # what had become too old did not end the reading


async def test_all_that_match_end_and_what_is_pushed_after_it_converts() -> None:
    gate, converted = asyncio.Event(), asyncio.Event()

    async def work(asked: ConversionRequest) -> None:
        await (converted if asked.id == "later" else gate).wait()
        raise TransientError("no", code="rate_limited")

    made = Scripted(work)
    async with at_work(made, settings_for(ICS_MAXIMUM_CONCURRENCY="1")) as (broker, _, _):
        await broker.publish(request(id="running"))
        await events_of(broker, 1, "started")
        for number in range(20):
            await broker.publish(request(id=f"waiting-{number}", priority="backfill"))
        await broker.publish(request(id="other", priority="live"))
        where = RequestFilter(repository="library/*", priority="backfill", statuses=frozenset({"queued"}))
        await broker.cancellations.publish(cancelling_all_event(where, datetime.now(UTC), "boss"))
        await broker.publish(request(id="later", priority="backfill"))
        gate.set()
        converted.set()
        cancelled = await events_of(broker, 20, "cancelled")
        assert {event.subject for event in cancelled} == {f"waiting-{number}" for number in range(20)}
        assert {event.data.reason for event in cancelled} == {"cancelled by boss"}
        await idle(broker)
        assert set(made.seen) == {"running", "other", "later"}


NOW = datetime.now(UTC)
FAILED = Attempt(
    number=1,
    started_at=NOW - timedelta(seconds=60),
    duration_seconds=20,
    consumer="a/1",
    failure=Failure(code="denied", kind="transient", message="no"),
)


@pytest.mark.parametrize(
    ("seconds_ago", "began_seconds_ago", "attempts", "redelivered", "had"),
    [
        (10, 0, (), False, "queued"),
        (10, 20, (), False, "converting"),
        (10, 0, (FAILED,), False, "retrying"),
        (50, 0, (FAILED,), False, "converting"),  # then it failed, and is cancelled with what it was
        (90, 0, (FAILED,), False, "queued"),
        (10, 0, (), True, "any"),
    ],
)
async def test_a_state_is_the_one_that_it_had_when_it_was_cancelled(
    seconds_ago: float, began_seconds_ago: float, attempts: Sequence[Attempt], redelivered: bool, had: str
) -> None:
    delivery = delivered("a" * 32, NOW - timedelta(seconds=100), *attempts, redelivered=redelivered)
    began = NOW - timedelta(seconds=began_seconds_ago)
    for status in ("queued", "converting", "retrying", "lost"):
        where = RequestFilter(statuses=frozenset({status}))
        event = cancelling_all_event(where, NOW - timedelta(seconds=seconds_ago), "boss")
        async with Cancellations(Stream(event), 3600, Metrics()).following() as cancellations:
            await cancellations.caught_up()
            assert (cancellations.of(delivery, began) is not None) == (had in {status, "any"})


@pytest.mark.parametrize(
    ("where", "seconds_ago", "cancelled"),
    [
        (RequestFilter(code="denied"), 10, True),
        (RequestFilter(code="den*"), 10, True),
        (RequestFilter(code="registry_timeout"), 10, False),
        (RequestFilter(code="denied"), 50, False),  # it had not failed yet
        (RequestFilter(text="LIBRARY/APP"), 10, True),
        (RequestFilter(text="aaaa"), 10, True),
        (RequestFilter(text="nowhere"), 10, False),
    ],
)
async def test_the_last_attempts_error_and_any_text_of_the_message_can_be_asked(
    where: RequestFilter, seconds_ago: float, *, cancelled: bool
) -> None:
    delivery = delivered("a" * 32, NOW - timedelta(seconds=100), FAILED)
    event = cancelling_all_event(where, NOW - timedelta(seconds=seconds_ago), "boss")
    async with Cancellations(Stream(event), 3600, Metrics()).following() as cancellations:
        await cancellations.caught_up()
        assert (cancellations.of(delivery, NOW) is not None) == cancelled


async def test_what_waits_for_its_registry_is_cancelled_by_its_error() -> None:
    down = TransientError("down", code="registry_unavailable", registry="harbor.example.com")

    async def fail(_: object) -> None:
        raise down

    async with at_work(Scripted(fail), settings_for(), fail) as (broker, _, _):
        await broker.publish(request(id="waiting"))
        await events_of(broker, 1, "retrying")
        where = RequestFilter(code="registry_unavailable")
        await broker.cancellations.publish(cancelling_all_event(where, datetime.now(UTC), "boss"))
        (event,) = await events_of(broker, 1, "cancelled")
        assert event.subject == "waiting"


@pytest.mark.parametrize(
    ("code", "seconds_ago", "cancelled"),
    [("registry_*", 10, True), ("denied", 10, False), ("denied", 30, True), ("registry_*", 30, False)],
)
async def test_a_registry_that_was_down_is_an_error_too_though_no_attempt(
    code: str, seconds_ago: float, *, cancelled: bool
) -> None:
    postponed = (NOW - timedelta(seconds=20), "registry_unavailable")
    delivery = delivered("a" * 32, NOW - timedelta(seconds=100), FAILED, redelivered=True, postponed=postponed)
    event = cancelling_all_event(RequestFilter(code=code), NOW - timedelta(seconds=seconds_ago), "boss")
    async with Cancellations(Stream(event), 3600, Metrics()).following() as cancellations:
        await cancellations.caught_up()
        assert (cancellations.of(delivery, NOW) is not None) == cancelled


def test_what_is_not_asked_is_not_written_so_that_an_older_consumer_can_read_it() -> None:
    event = cancelling_all_event(RequestFilter(tag="v*"), NOW, "boss")
    assert b'"where":{"tag":"v*"}' in next(encode_events([event]))


async def test_filters_are_bounded_by_number_and_age(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FILTERS", 2)
    now = datetime.now(UTC)
    events = [cancelling_all_event(RequestFilter(tag=tag), now, "boss") for tag in ("v1", "v2", "v3")]
    old = cancelling_all_event(RequestFilter(), now - timedelta(hours=2), "boss")
    for told, cancelled in ((events[:2], True), (events, False), ([old], False)):
        async with Cancellations(Stream(*told), 3600, Metrics()).following() as cancellations:
            await cancellations.caught_up()
            assert (cancellations.of(delivered("a" * 32, now - timedelta(hours=3)), now) is not None) == cancelled


def test_a_filter_of_a_newer_version_is_not_taken_for_a_wider_one() -> None:
    data = {"actor": "boss", "where": {"repository": "library/*", "colour": "blue"}}
    with pytest.raises(ValidationError):
        EventData.model_validate(data)


async def test_only_what_cannot_be_read_of_a_message_is_left_out_and_counted() -> None:
    now, server, metrics = datetime.now(UTC), MemoryServer(), Metrics(process_metrics=False)
    told = [cancelling_event(letter * 32, now, "boss") for letter in "abc"]
    (first, odd, last) = (next(encode_events([each])) for each in told)
    paused = odd.replace(b".cancelling", b".pausing")
    server.cancellations.append(b"[" + b",".join((first, odd.replace(b"Z", b""), paused, b"7", last)) + b"]")
    async with (
        open_memory(server) as transport,
        Cancellations(transport.cancellations, 3600, metrics).following() as cancellations,
    ):
        await cancellations.caught_up()
        known = [cancellations.of(delivered(letter * 32, now), now) is not None for letter in "abc"]
    assert known == [True, False, True]
    for reason, least in (("unreadable", 2), ("unknown_type", 1)):  # twice that, if it is followed already
        assert (metrics.registry.get_sample_value("ics_events_passed_over_total", {"reason": reason}) or 0) >= least
