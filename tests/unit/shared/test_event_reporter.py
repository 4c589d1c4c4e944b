"""Events are told in order, together where they come together, and never more than can be kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from shared import event_reporter
from shared.broker.transport import unavailable
from shared.errors import PermanentError
from shared.event_reporter import EventReporter
from shared.events import ConversionEvent, conversion_event
from shared.messages import ConversionRequest, DriverChoice
from shared.oci.reference import parse_reference
from shared.telemetry.metrics import Metrics

REQUEST = ConversionRequest(
    id="1" * 32,
    source=parse_reference("harbor.example.com/library/app:v1"),
    target=parse_reference("harbor.example.com/library/app:v1_esgz"),
    driver=DriverChoice(type="estargz"),
)


class Stream:
    """Keeps what it is told; away while ``failures`` is above 0."""

    def __init__(self, failures: int = 0) -> None:
        self.told: list[tuple[ConversionEvent, ...]] = []
        self.failures = failures

    async def publish(self, *events: ConversionEvent) -> None:
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise unavailable("it is away")
        self.told.append(events)

    def read(self, **_: object) -> AsyncGenerator[ConversionEvent]:
        raise NotImplementedError("it is only told")

    def bodies(self, **_: object) -> AsyncGenerator[bytes]:
        raise NotImplementedError("it is only told")


def events(count: int) -> list[ConversionEvent]:
    return [conversion_event("started", REQUEST, attempt=number) for number in range(count)]


async def test_a_burst_goes_together_and_in_order() -> None:
    stream, burst = Stream(), events(event_reporter.CAPACITY)
    async with EventReporter(stream, Metrics(), ()).running() as reporter:
        for event in burst:
            reporter.tell(event)
    assert [event for told in stream.told for event in told] == burst
    assert len(stream.told) == event_reporter.CAPACITY // event_reporter.TOGETHER


async def test_what_failed_is_told_again_without_its_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_reporter, "PAUSES", (0, 0, 0))
    stream, (first, last) = Stream(failures=1), events(2)
    async with EventReporter(stream, Metrics(), ()).running() as reporter:
        for event in (first, conversion_event("progress", REQUEST, progress={"done": 1}), last):
            reporter.tell(event)
    assert stream.told == [(first, last)]


async def test_a_stream_that_comes_back_in_the_last_pause_gets_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_reporter, "PAUSES", (0, 0, 0))
    stream, (event,) = Stream(failures=3), events(1)
    async with EventReporter(stream, Metrics(), ()).running() as reporter:
        reporter.tell(event)
    assert stream.told == [(event,)]


async def test_an_outage_of_any_length_costs_no_event_but_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """RabbitMQ with an alarm takes acknowledgements and no events: the conversion would seem to run for ever."""
    monkeypatch.setattr(event_reporter, "PAUSES", (0, 0, 0))
    stream, (event,) = Stream(failures=50), events(1)
    async with EventReporter(stream, Metrics(), ()).running() as reporter:
        reporter.tell(event)
    assert stream.told == [(event,)]


async def test_what_the_stream_refuses_or_does_not_take_for_too_long_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Refusing(Stream):
        async def publish(self, *events: ConversionEvent) -> None:
            if events == (refused,):
                raise PermanentError("not this one", code="broker_refused")
            await super().publish(*events)

    monkeypatch.setattr(event_reporter, "KEPT", -1)
    monkeypatch.setattr(event_reporter, "TOGETHER", 1)
    stream, (refused, late, event) = Refusing(failures=1), events(3)
    metrics = Metrics()
    async with EventReporter(stream, metrics, ()).running() as reporter:
        for each in (refused, late, event):
            reporter.tell(each)
    assert stream.told == [(event,)]
    assert b"ics_events_dropped_total 2.0" in metrics.render("")[0]


async def test_who_waits_goes_on_as_soon_as_the_stream_has_what_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_reporter, "PACE", 60)
    stream, (first, last) = Stream(), events(2)
    async with EventReporter(stream, Metrics(), ()).running() as reporter:
        for event in (first, last):
            reporter.tell(event)
            await reporter.published()
            assert stream.told[-1] == (event,)


async def test_nobody_waits_for_a_stream_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_reporter, "PAUSES", (0.1, 0.1, 0.1))
    monkeypatch.setattr(event_reporter, "FLUSH", 600)
    stream, (first, last) = Stream(failures=2), events(2)
    async with EventReporter(stream, Metrics(), ()).running() as reporter:
        for event in (first, last):
            reporter.tell(event)
            await reporter.published()
            assert not stream.told
    assert [event for told in stream.told for event in told] == [first, last]
