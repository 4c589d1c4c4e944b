"""When and how often a request is repeated: exponential back-off with full jitter that honours ``Retry-After``."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from shared.errors import TransientError
from shared.registry.errors import Operation
from shared.registry.observer import Observer

T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Quick repetitions inside one conversion; what outlasts them is the broker's to repeat, minutes later."""

    attempts: int = 5
    initial: float = 0.25
    """Seconds; upper bound of the first delay, doubles with every attempt."""
    maximum: float = 8.0
    """Seconds; no delay is longer, and a registry that asks for a longer one is not waited for here."""
    timeout_attempts: int = 2
    """A registry that hangs is not waited for as often as one that answers."""
    random: Callable[[], float] = field(default=random.random)  # jitter, no secret

    def delay(self, attempt: int, error: TransientError) -> float | None:
        """Seconds before the attempt after ``attempt`` (the first is 1); None: give up."""
        limit = min(self.attempts, self.timeout_attempts) if error.code == "registry_timeout" else self.attempts
        if attempt >= limit:
            return None
        if error.retry_after is not None and error.retry_after > self.maximum:
            return None
        jittered = self.random() * min(self.maximum, self.initial * 2.0 ** (attempt - 1))
        return max(error.retry_after or 0.0, jittered)


class Attempts:
    """Counts the failures of one operation; ``progressed`` starts anew, since a transfer that moves is worth going on."""

    def __init__(self, policy: RetryPolicy, operation: Operation, observer: Observer) -> None:
        self._policy = policy
        self._operation = operation
        self._observer = observer
        self._failed = 0

    def progressed(self) -> None:
        self._failed = 0

    async def failed(self, error: TransientError) -> None:
        """Wait before the next attempt, or raise ``error`` when there is none."""
        self._failed += 1
        delay = self._policy.delay(self._failed, error)
        if delay is None:
            raise error
        self._observer.retry(self._operation.name, self._operation.registry, error.code, delay)
        if error.code == "registry_timeout":  # minutes pass before a conversion says so itself
            _log.warning("%s; asking again", error.message)
        await asyncio.sleep(delay)


async def repeated(
    policy: RetryPolicy, operation: Operation, observer: Observer, attempt: Callable[[], Awaitable[T]]
) -> T:
    """Run ``attempt``, which must be repeatable, until it succeeds, fails for good, or the policy gives up."""
    attempts = Attempts(policy, operation, observer)
    while True:
        try:
            return await attempt()
        except TransientError as error:
            await attempts.failed(error)
