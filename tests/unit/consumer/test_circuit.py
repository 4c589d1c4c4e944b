"""A registry that is down is left alone, probed by one, and taken back when it answers."""

from __future__ import annotations

import pytest

from consumer.circuit import CircuitBreaker
from shared.errors import TransientError
from shared.telemetry.metrics import Metrics

DOWN = TransientError("down", code="registry_unavailable")
LIMITED = TransientError("slow down", code="rate_limited")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def circuits(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(Metrics(10, process_metrics=False), threshold=3, pause=10, maximum_pause=30, clock=clock)


def break_it(circuits: CircuitBreaker) -> None:
    for _ in range(3):
        circuits.failed("r", DOWN)


def test_it_opens_after_failures_in_a_row(circuits: CircuitBreaker) -> None:
    circuits.failed("r", DOWN)
    circuits.failed("r", DOWN)
    assert circuits.wait("r") == 0
    circuits.failed("r", DOWN)
    assert circuits.wait("r") == 10


def test_another_registry_is_not_touched(circuits: CircuitBreaker) -> None:
    break_it(circuits)
    assert circuits.wait("other") == 0


def test_an_answer_in_between_starts_the_count_again(circuits: CircuitBreaker) -> None:
    circuits.failed("r", DOWN)
    circuits.failed("r", DOWN)
    circuits.succeeded("r")
    circuits.failed("r", DOWN)
    assert circuits.wait("r") == 0


def test_a_rate_limit_is_an_answer(circuits: CircuitBreaker) -> None:
    circuits.failed("r", DOWN)
    circuits.failed("r", DOWN)
    circuits.failed("r", LIMITED)
    circuits.failed("r", DOWN)
    assert circuits.wait("r") == 0


def test_after_the_pause_one_probes_and_the_others_wait(circuits: CircuitBreaker, clock: Clock) -> None:
    break_it(circuits)
    clock.now = 10
    assert circuits.wait("r") == 0
    assert circuits.wait("r") > 0


def test_a_probe_that_succeeds_closes_the_circuit(circuits: CircuitBreaker, clock: Clock) -> None:
    break_it(circuits)
    clock.now = 10
    circuits.wait("r")
    circuits.succeeded("r")
    assert circuits.wait("r") == 0
    assert circuits.wait("r") == 0


def test_probes_that_fail_pause_longer_each_time_up_to_a_bound(circuits: CircuitBreaker, clock: Clock) -> None:
    break_it(circuits)
    pauses = []
    for _ in range(3):
        clock.now += 100
        assert circuits.wait("r") == 0
        circuits.failed("r", DOWN)
        pauses.append(circuits.wait("r"))
    assert pauses == [20, 30, 30]


def test_a_probe_that_ends_without_an_answer_lets_the_next_one_probe(circuits: CircuitBreaker, clock: Clock) -> None:
    break_it(circuits)
    clock.now = 10
    circuits.wait("r")
    circuits.abandoned("r")
    circuits.abandoned("unknown")
    assert circuits.wait("r") == 0
