"""What becomes of a delivery, for every way in which an attempt can end."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.outcome import Ack, Dead, Leave, Retry, decide
from shared.errors import (
    CorruptLayerError,
    IcsError,
    LimitExceededError,
    PermanentError,
    SkippedError,
    SupersededError,
    TransientError,
)
from shared.messages import Attempt, Failure
from shared.settings.model import Retry as RetrySettings

SETTINGS = RetrySettings(maximum_attempts=4, initial_delay=10, maximum_delay=60)


def failed(code: str, count: int = 1) -> list[Attempt]:
    failure = Failure(code=code, kind="transient", message="before")
    return [
        Attempt(number=n + 1, started_at=datetime.now(UTC), duration_seconds=1, consumer="host/1", failure=failure)
        for n in range(count)
    ]


def test_success_is_acknowledged() -> None:
    assert decide(None, [], SETTINGS, jitter=0) == Ack()


def test_nothing_to_do_is_acknowledged_with_its_reason() -> None:
    assert decide(SkippedError("up to date"), [], SETTINGS, jitter=0) == Ack("up to date")
    assert decide(SupersededError("moved"), [], SETTINGS, jitter=0) == Ack("superseded")


@pytest.mark.parametrize("error", [asyncio.CancelledError(), KeyboardInterrupt(), SystemExit()])
def test_cancellation_leaves_the_delivery_to_the_broker(error: BaseException) -> None:
    assert decide(error, [], SETTINGS, jitter=0) == Leave(error)


@pytest.mark.parametrize(
    "error",
    [
        PermanentError("no", code="denied"),
        LimitExceededError("too large", limit="layer_size"),
        IcsError("neither", code="odd"),
    ],
)
def test_what_no_retry_can_mend_dies_at_once(error: IcsError) -> None:
    if type(error) is IcsError:
        error.kind = "permanent"
    outcome = decide(error, [], SETTINGS, jitter=0)
    assert isinstance(outcome, Dead)
    assert outcome.failure.code == error.code


def test_transient_failures_come_back_with_growing_delays() -> None:
    error = TransientError("down", code="registry_unavailable")
    delays = []
    for earlier in range(3):
        outcome = decide(error, failed("registry_unavailable", earlier), SETTINGS, jitter=0.999999)
        assert isinstance(outcome, Retry)
        delays.append(round(outcome.delay))
    assert delays == [10, 20, 40]


def test_the_last_attempt_dies() -> None:
    error = TransientError("down", code="registry_unavailable")
    assert isinstance(decide(error, failed("registry_unavailable", 3), SETTINGS, jitter=0), Dead)


def test_the_registrys_own_time_is_honoured_but_bounded() -> None:
    short = decide(TransientError("wait", code="rate_limited", retry_after=33), [], SETTINGS, jitter=0)
    long = decide(TransientError("wait", code="rate_limited", retry_after=9999), [], SETTINGS, jitter=0)
    assert isinstance(short, Retry)
    assert isinstance(long, Retry)
    assert (short.delay, long.delay) == (33, 60)


def test_a_corrupt_layer_gets_one_more_chance_and_no_second() -> None:
    error = CorruptLayerError("digest differs")
    assert isinstance(decide(error, [], SETTINGS, jitter=0), Retry)
    assert isinstance(decide(error, failed("registry_timeout"), SETTINGS, jitter=0), Retry)
    assert isinstance(decide(error, failed("corrupt_layer"), SETTINGS, jitter=0), Dead)


def test_an_unknown_error_is_retried_within_bounds_and_named_without_its_secrets() -> None:
    error = RuntimeError("at https://user:canary-word@host/")
    outcome = decide(error, [], SETTINGS, jitter=0)
    assert isinstance(outcome, Retry)
    assert outcome.failure.code == "unclassified"
    assert "RuntimeError" in outcome.failure.message
    assert "canary-word" not in outcome.failure.message
    assert isinstance(decide(error, failed("unclassified", 3), SETTINGS, jitter=0), Dead)


@given(
    earlier=st.integers(0, 200),
    jitter=st.floats(0, 1, exclude_max=True),
    retry_after=st.none() | st.floats(0, 1e9),
    maximum=st.integers(1, 100),
)
def test_every_delay_is_bounded_and_every_chain_ends(
    earlier: int, jitter: float, retry_after: float | None, maximum: int
) -> None:
    settings = RetrySettings(maximum_attempts=maximum, initial_delay=5, maximum_delay=900)
    error = TransientError("x", code="x", retry_after=retry_after)
    outcome = decide(error, failed("x", earlier), settings, jitter=jitter)
    if earlier + 1 >= maximum:
        assert isinstance(outcome, Dead)
    else:
        assert isinstance(outcome, Retry)
        assert 0 < outcome.delay <= 900
