"""A registry that is down is left alone, asked by one, and taken back when it answers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from consumer import circuit
from consumer.circuit import CircuitBreaker
from shared.errors import PermanentError, TransientError
from shared.telemetry.metrics import Metrics

DOWN = TransientError("its name does not resolve", code="registry_unavailable")
LIMITED = TransientError("slow down", code="rate_limited")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Registries:
    """What is asked, and what the answer is."""

    down: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    answer: Exception | None = None
    gate: asyncio.Event | None = None

    async def ask(self, registry: str) -> None:
        self.asked.append(registry)
        if self.gate is not None:
            await self.gate.wait()
        if self.answer is not None:
            raise self.answer
        if registry in self.down:
            raise DOWN


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registries() -> Registries:
    return Registries()


@pytest.fixture
def circuits(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(Metrics(10, process_metrics=False), threshold=3, pause=10, maximum_pause=30, clock=clock)


async def test_a_failure_of_a_registry_that_does_not_answer_opens_its_circuit_at_once(
    circuits: CircuitBreaker, registries: Registries, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    registries.down = {"r"}
    assert await circuits.confirm("r", DOWN, registries.ask, since=clock.now) == 10
    assert await circuits.admit(["r"], registries.ask) == 10
    assert await circuits.admit(["other"], registries.ask) == 0
    assert registries.asked == ["r"]
    assert caplog.messages == ["conversions of registry r wait 10 s: its name does not resolve"]


async def test_failures_at_once_ask_once_each_and_do_not_lengthen_the_pause(
    circuits: CircuitBreaker, registries: Registries, clock: Clock
) -> None:
    registries.down = {"r"}
    registries.gate = asyncio.Event()
    failing = [asyncio.create_task(circuits.confirm("r", DOWN, registries.ask, since=clock.now)) for _ in range(5)]
    await asyncio.sleep(0)
    registries.gate.set()
    assert await asyncio.gather(*failing) == [10] * 5


async def test_a_registry_that_answers_questions_but_fails_conversions_opens_after_a_row_of_them(
    circuits: CircuitBreaker, registries: Registries, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        assert await circuits.admit(["r"], registries.ask) == 0
        assert await circuits.confirm("r", DOWN, registries.ask, since=clock.now) == 0
    assert await circuits.admit(["r"], registries.ask) == 10
    assert "it answers, but 3 conversions in a row failed: its name does not resolve" in caplog.text


@pytest.mark.parametrize("between", ["success", "rate limit"])
async def test_an_answer_in_between_starts_the_count_again(
    circuits: CircuitBreaker, registries: Registries, clock: Clock, between: str
) -> None:
    for _ in range(4):
        await circuits.confirm("r", DOWN, registries.ask, since=clock.now)
        await circuits.confirm("r", DOWN, registries.ask, since=clock.now)
        if between == "success":
            circuits.succeeded("r")
        else:
            assert await circuits.confirm("r", LIMITED, registries.ask, since=clock.now) == 0
    assert await circuits.admit(["r"], registries.ask) == 0


async def test_after_the_pause_one_asks_and_the_others_wait_for_the_answer(
    circuits: CircuitBreaker, registries: Registries, clock: Clock
) -> None:
    registries.down = {"r"}
    await circuits.confirm("r", DOWN, registries.ask, since=clock.now)
    clock.now = 11
    registries.down.clear()
    registries.asked.clear()
    registries.gate = asyncio.Event()
    first = asyncio.create_task(circuits.admit(["r"], registries.ask))
    await asyncio.sleep(0)
    assert await circuits.admit(["r"], registries.ask) == 10
    registries.gate.set()
    assert await first == 0
    assert await circuits.admit(["r"], registries.ask) == 0
    assert registries.asked == ["r"]


async def test_a_refusal_is_an_answer(circuits: CircuitBreaker, registries: Registries, clock: Clock) -> None:
    registries.down = {"r"}
    await circuits.confirm("r", DOWN, registries.ask, since=clock.now)
    clock.now = 11
    registries.answer = PermanentError("no", code="unauthorized")
    assert await circuits.admit(["r"], registries.ask) == 0


async def test_a_registry_that_hangs_is_down(
    circuits: CircuitBreaker, registries: Registries, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuit, "PROBE_TIMEOUT", 0.01)
    registries.gate = asyncio.Event()
    assert await circuits.confirm("r", DOWN, registries.ask, since=clock.now) == 10


async def test_pauses_grow_up_to_a_bound_while_it_stays_down(
    circuits: CircuitBreaker, registries: Registries, clock: Clock
) -> None:
    registries.down = {"r"}
    await circuits.confirm("r", DOWN, registries.ask, since=clock.now)
    pauses = []
    for _ in range(3):
        clock.now += 100
        pauses.append(await circuits.admit(["r"], registries.ask))
    assert pauses == [20, 30, 30]


async def test_images_that_fail_alone_never_hold_up_the_others_for_long(
    circuits: CircuitBreaker, registries: Registries, clock: Clock
) -> None:
    """Ten of them, again and again, while the registry answers: found by the fault harness."""
    for _ in range(10):
        for _ in range(3):
            assert await circuits.admit(["r"], registries.ask) == 0
            await circuits.confirm("r", DOWN, registries.ask, since=clock.now)
        assert await circuits.admit(["r"], registries.ask) == 10
        clock.now += 11


async def test_an_outage_after_an_answer_begins_with_a_short_pause_again(
    circuits: CircuitBreaker, registries: Registries, clock: Clock
) -> None:
    registries.down = {"r"}
    await circuits.confirm("r", DOWN, registries.ask, since=clock.now)
    clock.now = 11
    assert await circuits.admit(["r"], registries.ask) == 20
    registries.down.clear()
    clock.now = 40
    assert await circuits.admit(["r"], registries.ask) == 0
    registries.down = {"r"}
    assert await circuits.confirm("r", DOWN, registries.ask, since=clock.now) == 10


async def test_a_question_that_is_cancelled_lets_the_next_one_ask(
    circuits: CircuitBreaker, registries: Registries, clock: Clock
) -> None:
    registries.down = {"r"}
    await circuits.confirm("r", DOWN, registries.ask, since=clock.now)
    clock.now = 11
    registries.down.clear()
    registries.gate = asyncio.Event()
    asking = asyncio.create_task(circuits.admit(["r"], registries.ask))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    registries.gate = None
    assert await circuits.admit(["r"], registries.ask) == 0


async def test_a_source_that_is_back_is_not_kept_waiting_by_a_target_that_was_down(
    circuits: CircuitBreaker, registries: Registries, clock: Clock
) -> None:
    """Both ends of a conversion are down; one pause is over before the other."""
    registries.down = {"source", "target"}
    await circuits.confirm("source", DOWN, registries.ask, since=clock.now)
    clock.now = 5
    await circuits.confirm("target", DOWN, registries.ask, since=clock.now)
    clock.now = 11
    registries.down.clear()
    assert await circuits.admit(["source", "target"], registries.ask) == 4
    clock.now = 16
    assert await circuits.admit(["source", "target"], registries.ask) == 0
    assert await circuits.admit(["source"], registries.ask) == 0


async def test_who_failed_while_the_registry_was_away_waits_although_it_is_back(
    circuits: CircuitBreaker, registries: Registries, clock: Clock
) -> None:
    registries.down = {"r"}
    clock.now = 1
    await circuits.confirm("r", DOWN, registries.ask, since=0)
    registries.down = set()
    circuits.succeeded("r")  # a third conversion's last try went through
    clock.now = 2
    assert await circuits.confirm("r", DOWN, registries.ask, since=0.5) == 10
    assert await circuits.admit(["r"], registries.ask) == 0
    assert await circuits.confirm("r", DOWN, registries.ask, since=1.5) == 0  # began after it: that is its own failure
