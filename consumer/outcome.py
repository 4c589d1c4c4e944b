"""What becomes of a delivery: a pure function of how its attempt ended."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from shared.errors import CorruptLayerError, IcsError, PermanentError, SkippedError, SupersededError, TransientError
from shared.messages import Attempt, Failure
from shared.settings.model import Retry as RetrySettings
from shared.telemetry.redaction import redact


@dataclass(frozen=True, slots=True)
class Ack:
    """Done, or nothing to do; ``reason`` where there was nothing."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Retry:
    """Come back after ``delay`` seconds."""

    delay: float
    failure: Failure


@dataclass(frozen=True, slots=True)
class Dead:
    """No further attempt can help, or all are used up."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class Leave:
    """Not settled here: the broker delivers it again. ``error`` goes on to whoever cancelled."""

    error: BaseException


Outcome = Ack | Retry | Dead | Leave


def decide(error: BaseException | None, attempts: Sequence[Attempt], retry: RetrySettings, *, jitter: float) -> Outcome:
    """Map the end of an attempt to an outcome.

    Args:
        error: None after a success.
        attempts: the failed attempts before this one.
        retry: how often and how slowly.
        jitter: in [0, 1); spreads the delay over its upper half, so that what failed together does not return together.
    """
    match error:
        case None:
            return Ack()
        case SkippedError():
            return Ack(error.reason)
        case SupersededError():
            return Ack("superseded")
        case asyncio.CancelledError() | KeyboardInterrupt() | SystemExit():
            return Leave(error)
        case CorruptLayerError() if not any(attempt.failure.code == error.code for attempt in attempts):
            # Bytes are damaged on the way, too: once more, and the second time the layer itself is to blame.
            return _again(Failure.of(error), None, attempts, retry, jitter)
        case PermanentError():
            return Dead(Failure.of(error))
        case TransientError():
            return _again(Failure.of(error), error.retry_after, attempts, retry, jitter)
        case IcsError():
            return Dead(Failure.of(error))
        case _:
            return _again(_unclassified(error), None, attempts, retry, jitter)


def _again(
    failure: Failure, retry_after: float | None, attempts: Sequence[Attempt], retry: RetrySettings, jitter: float
) -> Outcome:
    number = len(attempts) + 1
    if number >= retry.maximum_attempts:
        return Dead(failure)
    delay = min(retry.maximum_delay, retry.initial_delay * 2 ** min(number - 1, 30))
    delay = delay / 2 + delay / 2 * jitter
    if retry_after is not None:
        delay = max(delay, min(retry_after, retry.maximum_delay))
    return Retry(delay, failure)


def _unclassified(error: BaseException) -> Failure:
    """An error that nobody thought of: bounded retries, then a dead letter that names its type."""
    kind = type(error)
    text = redact(f"{kind.__module__}.{kind.__qualname__}: {error}"[:500])
    return Failure(code="unclassified", kind="transient", message=text)
