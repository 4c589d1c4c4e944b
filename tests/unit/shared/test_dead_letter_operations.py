"""Replaying and discarding, whatever the broker does meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shared.broker import dead_letters
from shared.broker.api import DeadLetterFilter
from shared.broker.memory import MemoryServer, open_memory
from shared.broker.queue import QueueBroker
from shared.dead_letter_operations import DeadLetterOperations, Result
from shared.errors import TransientError
from shared.events import ConversionEvent
from shared.messages import ConversionRequest, DeadLetter, DriverChoice, Failure
from shared.oci.reference import parse_reference
from shared.settings.model import Settings
from shared.telemetry.metrics import Metrics
from shared.telemetry.tracing import Tracing
from tests.dead_letters import dead

OLD = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


def letter(number: int, *, request: bool = True, tag: str = "") -> DeadLetter:
    source = parse_reference(f"harbor.example.com/library/app:{tag or f'v{number}'}@sha256:{number:064x}")
    return DeadLetter(
        id=f"letter-{number}",
        request=ConversionRequest(
            id=f"{number:032x}",
            source=source,
            target=source.with_tag(f"v{number}_esgz"),
            driver=DriverChoice(type="estargz"),
        )
        if request
        else None,
        raw="" if request else "{",
        failure=Failure(code="denied", kind="permanent", message="no"),
        died_at=datetime.now(UTC),
        traceparent=OLD,
    )


class Desk:
    """Operations over a broker in memory, with the spans that they make."""

    def __init__(self, broker: QueueBroker) -> None:
        self.broker = broker
        self.spans = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.spans))
        self.operations = DeadLetterOperations(
            Settings(), broker, tracing=Tracing(provider), metrics=Metrics(process_metrics=False)
        )

    async def events(self) -> list[ConversionEvent]:
        return [event async for event in self.broker.events.read(follow=False)]


@asynccontextmanager
async def desk(*letters: DeadLetter) -> AsyncIterator[Desk]:
    async with open_memory(MemoryServer()) as transport:
        broker = QueueBroker(transport, delivery_limit=3)
        for each in letters:
            await broker.dead_letters.add(each)
        yield Desk(broker)


async def test_a_replay_has_a_new_trace_that_links_to_the_old_one_and_is_told() -> None:
    async with desk(letter(1)) as work:
        found = await work.operations.find(DeadLetterFilter())
        seen: list[int] = []
        result = await work.operations.carry_out(
            "replay", found, actor="ann", on_progress=lambda progress: seen.append(progress.done)
        )
        assert (result.done, result.gone, result.failed) == (1, 0, 0)
        assert seen == [1]
        (span,) = work.spans.get_finished_spans()
        assert [f"{link.context.trace_id:032x}" for link in span.links] == ["a" * 32]
        assert f"{span.context.trace_id:032x}" != "a" * 32
        assert span.name == "publish ics.conversions"
        assert span.attributes is not None
        assert span.attributes["messaging.operation.type"] == "send"
        assert span.attributes["ics.replay_of"] == found[0].id
        (event,) = await work.events()
        assert (event.kind, event.data.actor, event.data.dead_letter_id) == ("replayed", "ann", "letter-1")
        assert (await work.broker.stats()).ready == 1


async def test_what_somebody_else_took_meanwhile_is_counted_as_gone() -> None:
    async with desk(letter(1), letter(2)) as work:
        found = await work.operations.find(DeadLetterFilter())
        await work.broker.dead_letters.discard("letter-1")
        assert (await work.operations.carry_out("discard", found, actor="ann")).gone == 1
        assert (await work.operations.carry_out("replay", found, actor="ann")).gone == 2


async def test_a_limit_takes_the_oldest_and_a_rate_paces() -> None:
    async with desk(*(letter(number) for number in range(4))) as work:
        found = await work.operations.find(DeadLetterFilter(), limit=3)
        assert [each.id for each in found] == ["letter-0", "letter-1", "letter-2"]
        result = await work.operations.carry_out("replay", found, actor="ann", rate=1000)
        assert result.done == 3


async def test_a_letter_that_never_was_a_request_stays_and_says_why() -> None:
    async with desk(letter(1, request=False), letter(2)) as work:
        found = await work.operations.find(DeadLetterFilter())
        result = await work.operations.carry_out("replay", found, actor="ann")
        assert (result.done, result.failed) == (1, 1)
        assert result.errors[0].startswith("not_replayable: ")
        assert [each.id for each in await work.operations.find(DeadLetterFilter())] == ["letter-1"]
        assert (await work.operations.carry_out("discard", found[:1], actor="ann")).done == 1
        assert [event.kind for event in await work.events()] == ["replayed"]  # nobody follows what was no conversion


async def test_a_broker_that_goes_away_ends_it_with_the_rest_still_there(monkeypatch: pytest.MonkeyPatch) -> None:
    async with desk(letter(1), letter(2), letter(3)) as work:
        found = await work.operations.find(DeadLetterFilter())
        calls = 0

        async def away(*_: object) -> None:
            nonlocal calls
            calls += 1
            raise TransientError("the broker is away", code="broker_unavailable")

        monkeypatch.setattr(work.broker.dead_letters, "replay", away)
        result = await work.operations.carry_out("replay", found, actor="ann")
        assert (result.done, result.failed, calls) == (0, 3, 1)
        assert result.errors == ["broker_unavailable: the broker is away"]


async def test_the_same_reason_is_told_once() -> None:
    result = Result()
    for _ in range(2):
        result.note(TransientError("the broker is away", code="broker_unavailable"))
    assert len(result.errors) == 1


async def test_history_that_cannot_be_written_does_not_undo_a_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    async with desk(letter(1)) as work:

        async def full(*_: object) -> None:
            raise TransientError("no room", code="broker_unavailable")

        monkeypatch.setattr(work.broker.events, "publish", full)
        found = await work.operations.find(DeadLetterFilter())
        assert (await work.operations.carry_out("replay", found, actor="ann")).done == 1


async def test_imported_letters_are_there_once() -> None:
    async with desk(letter(1)) as work:
        await work.operations.import_letters([letter(1), letter(2)])
        assert len(await work.operations.find(DeadLetterFilter())) == 2


@pytest.mark.parametrize(
    ("where", "found"),
    [
        (DeadLetterFilter(repository="library/*"), 2),
        (DeadLetterFilter(repository="harbor.example.com/library/app"), 2),
        (DeadLetterFilter(repository="other/*"), 0),
        (DeadLetterFilter(tag="v1"), 1),
        (DeadLetterFilter(code="den*"), 2),
        (DeadLetterFilter(code="corrupt_layer"), 0),
        (DeadLetterFilter(until=1e9), 0),
        (DeadLetterFilter(since=1e9), 2),
        (DeadLetterFilter(since=1e11), 0),
        (DeadLetterFilter(ids=frozenset({"letter-2"})), 1),
        (DeadLetterFilter(driver="nydus"), 0),
        (DeadLetterFilter(priority="backfill"), 0),
        (DeadLetterFilter(text="LIBRARY/APP:V1"), 1),
        (DeadLetterFilter(text="Letter-2"), 1),
        (DeadLetterFilter(text="nowhere"), 0),
    ],
)
async def test_filters(where: DeadLetterFilter, found: int) -> None:
    async with desk(letter(1), letter(2)) as work:
        assert len(await work.operations.find(where)) == found
        assert (await work.broker.dead_letters.get("letter-9")) is None


@pytest.mark.parametrize(("text", "found"), [("letter-1", 1), ("library/app", 0)])
async def test_what_was_no_request_is_found_by_what_it_has(text: str, found: int) -> None:
    async with desk(letter(1, request=False)) as work:
        assert len(await work.operations.find(DeadLetterFilter(text=text))) == found


async def test_one_is_got_and_all_are_counted() -> None:
    async with desk(letter(1), letter(2)) as work:
        assert (await work.broker.dead_letters.get("letter-2")) == (await work.operations.find(DeadLetterFilter()))[1]
        assert await dead(work.broker) == 2


async def test_a_list_of_many_gives_way_to_other_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "_TURN", 2)
    async with desk(*(letter(number) for number in range(5))) as work:
        seen: list[str] = []

        async def other() -> None:
            seen.append("other work")

        async for each in work.broker.dead_letters.list():
            if not seen:
                waiting = asyncio.create_task(other())
            seen.append(each.id)
        await waiting
        assert seen == ["letter-0", "letter-1", "other work", "letter-2", "letter-3", "letter-4"]
