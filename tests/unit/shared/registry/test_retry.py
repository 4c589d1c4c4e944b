from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import PermanentError, TransientError
from shared.registry.errors import Operation
from shared.registry.observer import Silent
from shared.registry.retry import Attempts, RetryPolicy, repeated

OPERATION = Operation("get_blob", "h.io")


def failure(retry_after: float | None = None) -> TransientError:
    return TransientError("x", code="registry_unavailable", retry_after=retry_after)


@given(st.integers(1, 60), st.floats(0, 1, exclude_max=True))
def test_delays_grow_are_jittered_and_stay_under_the_maximum(attempt: int, jitter: float) -> None:
    policy = RetryPolicy(attempts=100, initial=0.5, maximum=8, random=lambda: jitter)
    delay = policy.delay(attempt, failure())
    assert delay is not None
    assert 0 <= delay <= min(8, 0.5 * 2.0 ** (attempt - 1))


def test_the_registry_may_ask_for_more_but_not_for_too_much() -> None:
    policy = RetryPolicy(attempts=3, initial=0.1, maximum=8, random=lambda: 0.5)
    assert policy.delay(1, failure(5)) == 5
    assert policy.delay(1, failure(0)) == 0.05
    assert policy.delay(1, failure(9)) is None
    assert policy.delay(3, failure()) is None


def test_a_registry_that_hangs_is_not_waited_for_often() -> None:
    policy = RetryPolicy(attempts=5, timeout_attempts=2)
    hangs = TransientError("x", code="registry_timeout")
    assert policy.delay(1, hangs) is not None
    assert policy.delay(2, hangs) is None


async def test_a_registry_that_hangs_is_told_of_before_the_conversion_ends(caplog: pytest.LogCaptureFixture) -> None:
    attempts = Attempts(RetryPolicy(initial=0, maximum=0), OPERATION, Silent())
    await attempts.failed(OPERATION.transient("the registry did not answer in time", code="registry_timeout"))
    assert caplog.messages == ["get_blob h.io: the registry did not answer in time; asking again"]


async def test_only_transient_errors_are_repeated_and_only_so_often() -> None:
    policy = RetryPolicy(attempts=3, initial=0, maximum=0)
    calls: list[int] = []

    async def transient() -> None:
        calls.append(1)
        raise failure()

    async def permanent() -> None:
        calls.append(1)
        raise PermanentError("x", code="denied")

    with pytest.raises(TransientError):
        await repeated(policy, OPERATION, Silent(), transient)
    assert len(calls) == 3
    with pytest.raises(PermanentError):
        await repeated(policy, OPERATION, Silent(), permanent)
    assert len(calls) == 4


async def test_progress_starts_the_count_anew() -> None:
    attempts = Attempts(RetryPolicy(attempts=2, initial=0, maximum=0), OPERATION, Silent())
    for _ in range(5):
        await attempts.failed(failure())
        attempts.progressed()
    await attempts.failed(failure())
    with pytest.raises(TransientError):
        await attempts.failed(failure())
