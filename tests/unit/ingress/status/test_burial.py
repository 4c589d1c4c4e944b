"""A dead letter ends its conversion where no event did, and no other."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ingress.backfill.record import Backfills
from ingress.status.follower import Follower
from ingress.status.history import History
from ingress.status.live import Live
from ingress.status.stored_event import StoredEvent, decode_stored
from shared.broker.memory import MemoryServer, open_memory
from shared.broker.passed_over import PassedOver
from shared.broker.queue import QueueBroker
from shared.dead_letter_operations import DeadLetterOperations
from shared.messages import ConversionRequest, DeadLetter, Failure
from shared.settings.model import Settings
from shared.telemetry.metrics import Metrics
from shared.telemetry.tracing import Tracing
from tests.unit.ingress.status.test_history import DENIED, event, request
from tests.waiting import until

LIMIT = Failure(code="delivery_limit", kind="permanent", message="it kills its consumers", details={"limit": 3})


def letter(at: float = 20, asked: ConversionRequest | None = None) -> DeadLetter:
    """``at``: seconds after the request."""
    asked = asked or request()
    died_at = asked.requested_at + timedelta(seconds=at)
    return DeadLetter(id="letter", request=asked, failure=LIMIT, died_at=died_at, trace_id="b" * 32)


def after(*events: StoredEvent) -> History:
    history = History()
    for each in events:
        history.apply(each)
    return history


STARTED = event("started", 10, consumer="a/1")
RETRYING = event("retrying", 11, consumer="a/1", failure=DENIED)


@pytest.mark.parametrize(
    ("told", "outcomes"),
    [
        ([event("requested")], ["failed"]),
        ([STARTED], ["failed"]),
        ([STARTED, event("preempted", 12, consumer="a/1")], ["preempted", "failed"]),
        ([STARTED, RETRYING], ["retrying", "failed"]),
        ([STARTED, RETRYING, event("started", 15, attempt=2, consumer="a/2")], ["retrying", "failed"]),
    ],
    ids=["never started", "under way", "made room", "retrying", "under way again"],
)
def test_what_has_not_ended_fails_as_its_letter_says(told: list[StoredEvent], outcomes: list[str]) -> None:
    history = after(event("requested"), *told)
    ended = history.bury(letter())
    assert ended is not None
    assert (ended.status, ended.code, ended.dead_letter_id) == ("failed", "delivery_limit", "letter")
    assert ended.finished == letter().died_at.timestamp()
    assert [each.outcome for each in ended.attempts] == outcomes
    assert (ended.attempts[-1].message, ended.attempts[-1].details) == (LIMIT.message, LIMIT.details)
    assert +history.counts == {"failed": 1}
    assert (history.converting(), history.oldest_waiting(1)) == (0, None)
    assert not any(consumer.running for consumer in history.consumers.values())
    assert history.registries["h.example.com"].last_code == "delivery_limit"
    assert history.bury(letter()) is None


def test_what_was_lost_sight_of_is_found() -> None:
    history = after(STARTED)
    history.lose_sight(datetime.now(UTC).timestamp())
    ended = history.bury(letter())
    assert ended is not None
    assert (ended.status, [each.outcome for each in ended.attempts]) == ("failed", ["failed"])


FAILED = event("failed", 20, consumer="a/1", failure=DENIED, dead_letter_id="letter")


@pytest.mark.parametrize(
    "told",
    [
        [],
        [STARTED, FAILED],
        [STARTED, event("succeeded", 12, consumer="a/1")],
        [STARTED, event("started", 21, consumer="a/2")],
        [STARTED, FAILED, event("replayed", 30, actor="boss")],
        [STARTED, FAILED, event("replayed", 30, actor="boss"), event("started", 31, consumer="a/1")],
        [STARTED, FAILED, event("discarded", 30, actor="boss")],
    ],
    ids=["unknown", "told", "succeeded", "begun again", "replayed", "replayed and begun", "discarded"],
)
def test_what_is_told_counts_more_than_the_letter(told: list[StoredEvent]) -> None:
    history = after(*told)
    before = +history.counts
    assert history.bury(letter()) is None
    assert +history.counts == before


def test_an_event_that_comes_after_all_changes_nothing() -> None:
    history = after(STARTED)
    history.bury(letter())
    assert history.apply(event("failed", 20, consumer="a/1", failure=LIMIT, dead_letter_id="letter")) is None
    assert +history.counts == {"failed": 1}


@pytest.mark.parametrize("told", [[STARTED], [STARTED, RETRYING]], ids=["under way", "retrying"])
async def test_a_letter_that_nobody_told_of_and_that_is_discarded_is_an_end(told: list[StoredEvent]) -> None:
    """For an ingress that starts after both, which finds no letter."""
    async with open_memory(MemoryServer()) as transport:
        broker = QueueBroker(transport, delivery_limit=3)
        await broker.dead_letters.add(letter())
        tracing, metrics = Tracing.from_environment("test", enabled=False), Metrics(process_metrics=False)
        operations = DeadLetterOperations(Settings(), broker, tracing=tracing, metrics=metrics)
        await operations.carry_out("discard", [letter()], actor="boss")
        (body,) = [body async for body in broker.events.bodies(follow=False)]
    (discarded,) = decode_stored(body, PassedOver("history"))
    history = after(event("requested"), *told)
    history.lose_sight(datetime.now(UTC).timestamp())
    ended = history.apply(discarded)
    assert ended is not None
    assert (ended.status, ended.finished, ended.extra["discarded_by"]) == (
        "discarded",
        letter().died_at.timestamp(),
        "boss",
    )
    assert (ended.attempts[-1].outcome, ended.attempts[-1].code) == ("failed", "delivery_limit")
    assert (history.converting(), +history.counts) == (0, {"discarded": 1})
    assert history.apply(discarded) is None


@pytest.mark.parametrize("status", ["converting", "succeeded"])
def test_a_letter_that_is_discarded_ends_nothing_that_began_after_it(status: str) -> None:
    told = [STARTED, event("succeeded", 12, consumer="a/1")] if status == "succeeded" else [event("started", 21)]
    gone = event("discarded", 40, actor="boss", failure=LIMIT, died_at=letter().died_at)
    history = after(event("requested"), *told)
    assert history.apply(gone) is None
    assert +history.counts == {status: 1}


async def test_a_letter_waits_for_its_event_and_for_the_whole_history() -> None:
    asked, history, live = request(age=100), History(), Live()
    history.apply(event("started", 1, asked, consumer="a/1"))
    async with open_memory(MemoryServer()) as transport:
        follower = Follower(transport.events, history, Backfills(), live, Metrics(process_metrics=False), longest=3600)
        follower.found(letter(at=2, asked=asked))
        assert +history.counts == {"converting": 1}  # what was told of its end may not have been read yet
        await until(lambda: not follower.rebuilding)
        just_now = (datetime.now(UTC) - asked.requested_at).total_seconds()
        follower.found(letter(at=just_now, asked=asked))
        assert +history.counts == {"converting": 1}  # what it tells may be on its way
        with live.subscribe() as client:
            follower.found(letter(at=2, asked=asked))
            (update,) = await anext(live.updates(client, 10))
        assert update.conversion == asked.id
        assert +history.counts == {"failed": 1}
