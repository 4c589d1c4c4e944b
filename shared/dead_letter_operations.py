"""Replaying and discarding dead letters: one, many, or all, for the API, the console and the command line alike.

One letter after the other: a broker that goes away in between loses none, and a rate keeps a replay of thousands from pushing
live conversions aside.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from shared.broker.api import Broker, DeadLetterFilter
from shared.errors import IcsError, TransientError
from shared.events import ConversionEvent, conversion_event
from shared.messages import DeadLetter
from shared.settings.model import Settings
from shared.telemetry.metrics import Metrics
from shared.telemetry.spans import publish_span
from shared.telemetry.tracing import Tracing, inject, link, traceparent
from shared.telemetry.work_queue import WorkQueue

Operation = Literal["replay", "discard"]
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Result:
    """What became of the letters that were named."""

    done: int = 0
    gone: int = 0
    """Somebody else was faster."""
    failed: int = 0
    """Still in the dead-letter queue."""
    errors: list[str] = field(default_factory=list)
    """Why, a line each, without repeats."""

    def note(self, error: IcsError) -> None:
        line = f"{error.code}: {error.message}"
        if line not in self.errors:
            self.errors.append(line)


class DeadLetterOperations:
    """One for the process."""

    def __init__(self, settings: Settings, broker: Broker, *, tracing: Tracing, metrics: Metrics) -> None:
        self._broker = broker
        self._queue = WorkQueue.of(settings)
        self._tracing = tracing
        self._metrics = metrics

    async def find(self, where: DeadLetterFilter, *, limit: int | None = None) -> list[DeadLetter]:
        """Oldest first."""
        found: list[DeadLetter] = []
        async for letter in self._broker.dead_letters.list(where):
            if limit is not None and len(found) >= limit:
                break
            found.append(letter)
        return found

    async def carry_out(
        self,
        operation: Operation,
        letters: Sequence[DeadLetter],
        *,
        actor: str,
        rate: float = 0,
        on_progress: Callable[[Result], None] = lambda _result: None,
    ) -> Result:
        """Replay or discard ``letters``; stops at the first sign that the broker is away, counting the rest as failed.

        Args:
            operation: what to do.
            letters: as :meth:`find` gave them; whatever happened to one since is counted as gone.
            actor: who asked; recorded in the event.
            rate: letters a second at most; 0 is as fast as the broker confirms.
            on_progress: told after each.
        """
        result = Result()
        for position, letter in enumerate(letters):
            if rate > 0 and position:
                await asyncio.sleep(1 / rate)
            try:
                settled = await (self._replay(letter, actor) if operation == "replay" else self._discard(letter, actor))
            except TransientError as error:
                result.note(error)
                result.failed += len(letters) - position
                break
            except IcsError as error:
                result.note(error)
                result.failed += 1
            else:
                if not settled:
                    result.gone += 1
                else:
                    result.done += 1
                    _log.info("dead letter %s: %s by %s", letter.id, operation, actor)
                    self._metrics.dead_letter_operation("replayed" if operation == "replay" else "discarded")
            finally:
                on_progress(result)
        return result

    async def import_letters(self, letters: Iterable[DeadLetter]) -> None:
        """Add exported letters; one that is there already stays one."""
        for letter in letters:
            await self._broker.dead_letters.add(letter)

    async def _replay(self, letter: DeadLetter, actor: str) -> bool:
        if letter.request is None:
            return await self._broker.dead_letters.replay(letter.id) is not None  # says what is wrong with it
        headers: dict[str, str] = {}
        replayed = link(letter.traceparent, "replayed")
        links = [replayed] if replayed else []
        with publish_span(self._tracing, letter.request, self._queue, links=links) as span:
            span.set_attribute("ics.replay_of", letter.id)
            inject(headers, span)
            request = await self._broker.dead_letters.replay(letter.id, headers)
            if request is None:
                return False
            event = conversion_event(
                "replayed", request, traceparent=traceparent(span), dead_letter_id=letter.id, actor=actor
            )
        await self._tell(event)
        return True

    async def _discard(self, letter: DeadLetter, actor: str) -> bool:
        if not await self._broker.dead_letters.discard(letter.id):
            return False
        if letter.request is not None:
            await self._tell(
                conversion_event(
                    "discarded",
                    letter.request,
                    dead_letter_id=letter.id,
                    actor=actor,
                    attempt=max(1, len(letter.attempts)),
                    trace_id=letter.trace_id,
                    failure=letter.failure,
                    died_at=letter.died_at,
                )
            )
        return True

    async def _tell(self, event: ConversionEvent) -> None:
        try:
            await self._broker.events.publish(event)
        except IcsError:
            self._metrics.event_dropped()
