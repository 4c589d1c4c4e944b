"""The read model tells the same story whatever happens to the stream: duplicates, other orders, crashes, replays, age."""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.status.conversion import Conversion
from ingress.status.history import History
from ingress.status.live import Live
from ingress.status.monitor import BrokerMonitor
from ingress.status.query import search
from ingress.status.stored_event import StoredEvent, decode_stored
from shared.broker.api import BrokerStats
from shared.broker.memory import MemoryServer, MemoryTransport
from shared.broker.passed_over import PassedOver
from shared.broker.queue import QueueBroker
from shared.broker.wire import encode_events
from shared.events import EventType, Stage, cancelling_event, conversion_event
from shared.messages import ConversionRequest, DriverChoice, Failure
from shared.oci.reference import parse_reference
from shared.request_filter import RequestFilter
from shared.telemetry.metrics import Metrics

NOW = datetime.now(UTC)
DENIED = Failure(code="denied", kind="permanent", message="403", details={"status": 403})
AWAY = Failure(code="registry_timeout", kind="transient", message="no answer")


def request(number: int = 1, name: str = "library/redis", tag: str = "7", age: float = 100) -> ConversionRequest:
    return ConversionRequest(
        id=f"{number:032x}",
        source=parse_reference(f"h.example.com/{name}:{tag}@sha256:{number:064x}"),
        target=parse_reference(f"h.example.com/{name}:{tag}_esgz"),
        driver=DriverChoice(type="estargz", config={"level": 6}),
        requested_at=NOW - timedelta(seconds=age),
        operator="ci",
    )


def event(kind: EventType, at: float = 0, r: ConversionRequest | None = None, **data: Any) -> StoredEvent:
    """As it comes from the broker. ``at``: seconds after the request."""
    r = r or request()
    told = conversion_event(kind, r, **data).model_copy(update={"time": r.requested_at + timedelta(seconds=at)})
    (body,) = encode_events([told])
    (stored,) = decode_stored(body, PassedOver("history"))
    return stored


def tell(c: Conversion, event: StoredEvent) -> bool:
    return c.apply(event, event["type"].rpartition(".")[2], event["time"].timestamp())


def told(*events: StoredEvent) -> Conversion:
    history = History()
    for each in events:
        history.apply(each)
    found = history.get(events[0]["subject"])
    assert found is not None
    return found


SUCCESS = (
    event("requested"),
    event("started", 1, consumer="a/1", queue_seconds=1.0, trace_id="a" * 32),
    event(
        "succeeded",
        9,
        consumer="a/1",
        duration_seconds=8.0,
        trace_id="a" * 32,
        target_digest="sha256:" + "b" * 64,
        source_size=100,
        target_size=95,
        layers_total=2,
        layers_reused=1,
        stages=(Stage(name="pull", subject="sha256:c", start_seconds=0.1, duration_seconds=2, bytes=50),),
    ),
)


def test_a_backfill_that_made_room_is_queued_again_and_ends_as_one_conversion() -> None:
    backfill = (
        event("requested"),
        event("started", 1, consumer="a"),
        event("preempted", 3, consumer="a", duration_seconds=2.0),
    )
    history = History()
    for each in (*backfill, backfill[-1]):
        history.apply(each)
    found = history.get(request().id)
    assert found is not None
    assert found.status == "queued"
    assert history.counts["queued"] == 1
    assert history.oldest_waiting(1) is not None
    assert history.converting() == 0
    ended = told(
        *backfill, event("started", 5, consumer="b"), event("succeeded", 9, consumer="b", duration_seconds=4.0)
    )
    assert ended.status == "succeeded"
    assert [(each.number, each.outcome, each.duration) for each in ended.attempts] == [
        (1, "preempted", 2.0),
        (1, "succeeded", 4.0),
    ]


def test_a_conversion_is_known_with_its_stages_after_it_has_been_packed() -> None:
    c = told(*SUCCESS)
    assert (c.status, c.source_size, c.target_size, c.layers_reused, c.trace_id) == ("succeeded", 100, 95, 1, "a" * 32)
    (attempt,) = c.attempts
    assert (attempt.outcome, attempt.duration, attempt.queue_seconds) == ("succeeded", 8.0, 1.0)
    assert attempt.stages == [["pull", "sha256:c", 0.1, 2.0, 50]]
    assert c.extra["options"] == {"level": 6}
    assert c.finished is not None
    assert c.finished - c.created == pytest.approx(9)


@given(st.lists(st.sampled_from(SUCCESS), max_size=12))
def test_duplicates_change_nothing(noise: list[StoredEvent]) -> None:
    history = History()
    for each in (*SUCCESS, *noise):
        history.apply(each)
    c = history.get(SUCCESS[0]["subject"])
    assert c is not None
    assert (c.status, len(c.attempts), c.attempt) == ("succeeded", 1, 1)
    assert {k: v for k, v in history.counts.items() if v} == {"succeeded": 1}


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_any_order_of_publishers_ends_in_the_same_state(order: tuple[int, ...]) -> None:
    c = told(*(SUCCESS[index] for index in order))
    assert c.status == "succeeded" or order[-1] == 1
    assert c.source_size == 100


def test_retries_are_attempts_and_wait_for_their_time() -> None:
    c = told(
        event("started", 1, consumer="a/1"),
        event("retrying", 3, consumer="a/1", failure=AWAY, retry_in_seconds=30.0, duration_seconds=2.0),
    )
    assert (c.status, c.code, c.finished) == ("retrying", "registry_timeout", None)
    assert c.retry_at == pytest.approx(c.created + 33)
    tell(c, event("started", 40, attempt=2, consumer="b/1"))
    assert (c.status, c.retry_at, c.consumer) == ("converting", None, "b/1")
    tell(c, event("succeeded", 45, attempt=2, consumer="b/1", duration_seconds=5.0))
    assert [(a.number, a.outcome) for a in c.attempts] == [(1, "retrying"), (2, "succeeded")]
    assert (c.status, c.code) == ("succeeded", "")


def test_a_consumer_that_vanished_leaves_an_interrupted_attempt() -> None:
    history = History()
    for each in (event("started", 1, consumer="a/1"), event("started", 60, consumer="b/1")):
        history.apply(each)
    c = history.get(request().id)
    assert c is not None
    assert [a.outcome for a in c.attempts] == ["interrupted", "running"]
    assert not history.consumers["a/1"].running
    assert history.consumers["b/1"].running == {c.id}


DEATH = (
    event("started", 1, consumer="a/1"),
    event("failed", 2, consumer="a/1", failure=DENIED, duration_seconds=1.0, dead_letter_id="letter"),
)


def test_history_survives_a_replay_and_counts_on() -> None:
    history = History()
    for each in (*DEATH, event("replayed", 10, actor="boss")):
        history.apply(each)
    c = history.get(request().id)
    assert c is not None
    assert (c.status, c.run, c.dead_letter_id, c.code) == ("queued", 2, "", "")
    for each in (event("started", 11, consumer="b/1"), event("succeeded", 12, consumer="b/1", duration_seconds=1.0)):
        history.apply(each)
    assert [(a.run, a.number, a.outcome) for a in c.attempts] == [(1, 1, "failed"), (2, 1, "succeeded")]
    assert [actor for _, actor in c.extra["replays"]] == ["boss"]
    assert +history.counts == {"succeeded": 1}


def test_a_replay_may_start_before_it_is_told() -> None:
    c = told(*DEATH, event("started", 11, consumer="b/1"), event("replayed", 10.9, actor="boss"))
    assert (c.status, c.run, len(c.extra["replays"])) == ("converting", 2, 1)
    assert not tell(c, event("replayed", 10.9, actor="boss"))


def asked(at: float) -> StoredEvent:
    """As an operator's event comes: about an id, without the request."""
    cancelling = cancelling_event(request().id, request().requested_at + timedelta(seconds=at), "boss")
    (stored,) = decode_stored(cancelling.model_dump_json().encode(), PassedOver("history"))
    return stored


CANCELLED = event("cancelled", 9, consumer="a/1", actor="boss", reason="cancelled by boss", duration_seconds=8.0)


def test_a_consumer_has_failed_attempts_and_an_hour_conversions_that_failed_for_good() -> None:
    history = History()
    for each in (
        event("started", 1, consumer="a/1"),
        event("retrying", 2, attempt=1, consumer="a/1", failure=AWAY, retry_in_seconds=1.0),
        event("started", 4, attempt=2, consumer="a/1"),
        event("failed", 5, attempt=2, consumer="a/1", failure=DENIED, dead_letter_id="letter-1"),
    ):
        history.apply(each)
    assert history.consumers["a/1"].failed_attempts == 2
    assert [dict(ended) for ended in history.hours.values()] == [{"failed": 1}]


def test_a_cancelled_conversion_ends_with_who_cancelled_it() -> None:
    history = History()
    for each in (event("requested"), event("started", 1, consumer="a/1"), asked(5), asked(5), CANCELLED, CANCELLED):
        history.apply(each)
    c = history.get(request().id)
    assert c is not None
    assert (c.status, c.reason, c.settled) == ("cancelled", "cancelled by boss", True)
    assert [(each.outcome, each.duration) for each in c.attempts] == [("cancelled", 8.0)]
    assert (c.extra["cancelled_by"], history.converting()) == ("boss", 0)
    assert +history.counts == {"cancelled": 1}
    assert (history.hours, history.registries, history.consumers["a/1"].running) == ({}, {}, set())


def test_one_that_waited_is_cancelled_without_an_attempt() -> None:
    c = told(event("requested"), asked(5), CANCELLED)
    assert (c.status, c.attempts, c.attempt) == ("cancelled", [], 0)


def test_one_whose_consumer_died_is_cancelled_by_the_next() -> None:
    history = History()
    for each in (event("requested"), event("started", 1, consumer="b/1"), CANCELLED):
        history.apply(each)
    c = history.get(request().id)
    assert c is not None
    assert (c.status, [each.outcome for each in c.attempts]) == ("cancelled", ["interrupted"])
    assert history.consumers["b/1"].running == set()


def test_what_ended_before_it_was_cancelled_stays_what_it_is() -> None:
    c = told(*SUCCESS, asked(10), event("cancelled", 11, consumer="b/1", actor="boss"))
    assert (c.status, c.target_digest != "") == ("succeeded", True)
    assert told(asked(0), event("requested")).status == "queued"


def test_what_is_asked_for_again_after_it_was_cancelled_is_queued_and_converts() -> None:
    before = (event("requested"), event("started", 1, consumer="a/1"), asked(5), CANCELLED)
    c = told(*before, before[0], event("requested", 20))
    assert (c.status, c.run, c.finished, "cancelling" in c.extra) == ("queued", 2, None, False)
    again = told(*before, event("requested", 20), event("started", 21, consumer="a/1"), event("succeeded", 22))
    assert (again.status, [(each.run, each.outcome) for each in again.attempts]) == (
        "succeeded",
        [(1, "cancelled"), (2, "succeeded")],
    )
    unannounced = told(*before, event("started", 21, consumer="a/1"))
    assert (unannounced.status, unannounced.run) == ("converting", 2)


def test_discarded_by_a_person_differs_from_failed() -> None:
    c = told(*DEATH, event("discarded", 20, actor="boss"))
    assert (c.status, c.dead_letter_id, c.extra["discarded_by"], c.settled) == ("discarded", "", "boss", True)


def test_a_failure_without_a_start_is_an_attempt_all_the_same() -> None:
    c = told(event("failed", 5, failure=DENIED, dead_letter_id="letter"))
    assert (c.status, [a.code for a in c.attempts]) == ("failed", ["denied"])


def test_the_same_push_told_twice_stays_a_success() -> None:
    c = told(*SUCCESS, event("started", 30, consumer="a/1"), event("skipped", 31, reason="up to date", consumer="a/1"))
    assert (c.status, c.target_size, len(c.attempts)) == ("succeeded", 95, 2)


def test_progress_is_summed_over_layers_and_forgotten_at_the_end() -> None:
    history = History()
    history.apply(event("started", 1, consumer="a/1"))
    for layer, done in (("x", 5), ("y", 1), ("x", 7)):
        assert history.apply(event("progress", 2, progress={"layer": layer, "done": done, "total": 10}))
    c = request().id
    assert history.progress(c) == (8, 20)
    assert history.apply(event("progress", 2, progress={"layer": "x", "done": "7", "total": 1})) is None
    history.apply(SUCCESS[-1])
    assert history.progress(c) == (0, 0)
    assert history.apply(event("progress", 3, progress={"layer": "x", "done": 8, "total": 10})) is None


def test_memory_is_bounded_by_number_and_by_age() -> None:
    history = History(capacity=200, max_age=3600)
    for number in range(500):
        history.apply(event("started", 1, request(number, age=1000 - number), consumer="a/1"))
    assert 190 <= len(history) <= 200
    assert history.get(f"{499:032x}") is not None
    assert history.get(f"{0:032x}") is None
    assert sum(history.counts.values()) == len(history)
    assert len(history.consumers["a/1"].running) == len(history)
    assert history.apply(event("started", 1, request(600, age=7200))) is None
    history.expire()
    assert len(history) <= 200


async def test_search_pages_through_everything_once_newest_first() -> None:
    history = History()
    for number in range(25):
        history.apply(event("requested", 0, request(number, tag=f"v{number % 5}", age=50 if number < 20 else number)))
    seen: list[str] = []
    cursor = ""
    while True:
        page = await search(history, RequestFilter(tag="v[0-3]"), limit=7, cursor=cursor)
        seen += [c.id for c in page.items]
        cursor = page.cursor
        if not cursor:
            break
    assert len(seen) == len(set(seen)) == 20
    created = [found.created for each in seen if (found := history.get(each))]
    assert created == sorted(created, reverse=True)
    with pytest.raises(ValueError, match=r".*"):
        await search(history, RequestFilter(), limit=1, cursor="nonsense")


@pytest.mark.parametrize(
    ("where", "found"),
    [
        (RequestFilter(), 2),
        (RequestFilter(statuses=frozenset({"failed"})), 1),
        (RequestFilter(repository="library/*"), 1),
        (RequestFilter(repository="h.example.com/team/*"), 1),
        (RequestFilter(repository="library/redis"), 1),
        (RequestFilter(code="denied"), 1),
        (RequestFilter(driver="nydus"), 0),
        (RequestFilter(priority="backfill"), 0),
        (RequestFilter(text="TEAM/api:2"), 1),
        (RequestFilter(text="letter-9"), 1),
        (RequestFilter(since=NOW.timestamp()), 0),
        (RequestFilter(until=NOW.timestamp()), 2),
    ],
)
async def test_filters(where: RequestFilter, found: int) -> None:
    history = History()
    history.apply(event("requested"))
    history.apply(event("failed", 5, request(2, "team/api", "2"), failure=DENIED, dead_letter_id="letter-9"))
    assert len((await search(history, where, limit=10)).items) == found


async def test_a_slow_client_gets_the_newest_state_of_each_once() -> None:
    live = Live()
    with live.subscribe() as client:
        for number in range(10):
            live.changed(f"e{number}", "a" if number % 2 else "b")
        batch = await anext(live.updates(client, 1))
    assert [(u.conversion, u.event_id) for u in batch] == [("b", "e8"), ("a", "e9")]


async def test_too_much_at_once_tells_a_client_to_load_again() -> None:
    live = Live()
    with live.subscribe() as client:
        for number in range(2001):
            live.changed(f"e{number}", f"c{number}")
        batch = await anext(live.updates(client, 1))
    assert [u.conversion for u in batch] == [None]


async def test_a_client_resumes_where_it_was_on_any_replica() -> None:
    live = Live()
    for number in range(3):
        live.changed(f"e{number}", f"c{number}")
    with live.subscribe("e0") as client:
        assert [u.conversion for u in await anext(live.updates(client, 1))] == ["c1", "c2"]
    with live.subscribe("long gone") as client:
        assert [u.conversion for u in await anext(live.updates(client, 1))] == [None]


async def test_silence_is_a_heartbeat_and_closing_ends_every_stream() -> None:
    live = Live(limit=1)
    with live.subscribe() as client:
        stream = live.updates(client, 0.01)
        assert await anext(stream) == []
        assert live.full
        waiting = asyncio.ensure_future(anext(live.updates(client, 60), None))
        await asyncio.sleep(0)
        live.close()
        assert await waiting is None
    assert not live.full


def test_the_oldest_that_waits_is_known_even_where_events_were_lost() -> None:
    history = History()
    requests = [request(number, age=1000 - 100 * number) for number in range(1, 6)]
    for each in requests:
        history.apply(event("requested", r=each))
    since = [each.requested_at.timestamp() for each in requests]
    assert history.oldest_waiting(5) == since[0]
    history.apply(event("started", 5, requests[0], consumer="a/1"))
    assert history.oldest_waiting(4) == since[1]
    assert history.oldest_waiting(2) == since[3]  # the start of the second and the third was never told
    assert history.oldest_waiting(0) is None
    assert History().oldest_waiting(7) is None


def test_a_replayed_conversion_waits_since_its_replay() -> None:
    history = History()
    r = request(age=5000)
    for kind, at in (("requested", 0), ("started", 1), ("failed", 2)):
        history.apply(event(kind, at, r, consumer="a/1"))  # type: ignore[arg-type]  # a literal of the tuple
    assert history.oldest_waiting(1) is None
    history.apply(event("replayed", 4000, r))
    assert history.oldest_waiting(1) == r.requested_at.timestamp() + 4000


def test_a_conversion_whose_end_nobody_told_is_under_way_no_more() -> None:
    history = History()
    for number, age in ((1, 5000.0), (2, 100.0)):
        history.apply(event("started", 1, request(number, age=age), consumer="a/1"))
    history.apply(event("progress", 2, request(1, age=5000), progress={"layer": "x", "done": 5, "total": 10}))
    assert history.converting() == 2
    (lost,) = history.lose_sight(NOW.timestamp() - 1600)
    assert (lost.id, lost.status, lost.settled) == (f"{1:032x}", "lost", False)
    assert [each.outcome for each in lost.attempts] == ["lost"]
    assert (+history.counts, history.converting()) == ({"lost": 1, "converting": 1}, 1)
    assert history.consumers["a/1"].running == {f"{2:032x}"}
    assert history.progress(lost.id) == (0, 0)
    assert history.lose_sight(NOW.timestamp() - 1600) == []
    history.apply(event("succeeded", 5, request(2), consumer="a/1"))
    assert history.converting() == 0


@pytest.mark.parametrize(
    ("later", "status", "outcomes"),
    [
        (event("succeeded", 9, consumer="a/1", duration_seconds=8.0), "succeeded", ["succeeded"]),
        (event("retrying", 9, consumer="a/1", failure=AWAY), "retrying", ["retrying"]),
        (event("preempted", 9, consumer="a/1"), "queued", ["preempted"]),
        (event("started", 9, consumer="b/1"), "converting", ["interrupted", "running"]),
    ],
)
def test_what_is_heard_of_a_lost_conversion_counts_however_late(
    later: StoredEvent, status: str, outcomes: list[str]
) -> None:
    history = History()
    history.apply(event("started", 1, consumer="a/1"))
    (lost,) = history.lose_sight(NOW.timestamp())
    history.apply(later)
    assert lost.status == status
    assert [each.outcome for each in lost.attempts] == outcomes
    assert +history.counts == {status: 1}


def test_a_conversion_that_was_forgotten_is_not_lost() -> None:
    history = History(max_age=1000)
    history.apply(event("started", 1, request(age=999.9), consumer="a/1"))
    history._max_age = 1
    history.expire()
    assert (len(history), history.lose_sight(NOW.timestamp()), history.converting()) == (0, [], 0)


class Reticent(MemoryTransport):
    """Tells as little as RabbitMQ: neither an age nor a number in work."""

    async def stats(self) -> BrokerStats:
        return BrokerStats(ready=1, in_flight=None, retrying=0, dead=0, consumers=1)


async def test_what_the_broker_cannot_tell_the_history_does() -> None:
    history, metrics = History(), Metrics(process_metrics=False)
    waiting = request(1, age=500)
    history.apply(event("requested", r=waiting))
    history.apply(event("started", 1, request(2), consumer="a/1"))
    monitor = BrokerMonitor(QueueBroker(Reticent(MemoryServer()), delivery_limit=3), history, metrics, history.bury)
    await monitor.look()
    stats = monitor.snapshot.stats
    assert stats.in_flight == 1
    assert stats.oldest_age_seconds is not None
    assert 500 <= stats.oldest_age_seconds <= (datetime.now(UTC) - waiting.requested_at).total_seconds()
    shown = {sample.name: sample.value for family in metrics.registry.collect() for sample in family.samples}
    assert shown["ics_queue_oldest_message_age_seconds"] == stats.oldest_age_seconds
