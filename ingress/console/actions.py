"""Carrying out a confirmed replay or discard, one letter after the other, so that a broker that goes away loses none."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from opentelemetry.trace import SpanKind

from ingress.status.service import Status
from shared.broker.api import DeadLetterFilter
from shared.errors import IcsError, TransientError
from shared.events import ConversionEvent, conversion_event
from shared.telemetry.tracing import inject, traceparent

Operation = Literal["replay", "discard"]
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Result:
    done: int = 0
    gone: int = 0
    """Somebody else was faster."""
    failed: int = 0
    """Still in the dead-letter queue."""


async def carry_out(status: Status, operation: Operation, ids: Sequence[str], actor: str) -> Result:
    """Replay or discard ``ids``; stops at the first sign that the broker is away, counting the rest as failed."""
    result = Result()
    letters = status.broker.dead_letters
    wanted = DeadLetterFilter(ids=frozenset(ids))
    requests = {letter.id: letter.request async for letter in letters.list(wanted)} if ids else {}
    for position, letter_id in enumerate(ids):
        try:
            if operation == "replay":
                settled = await _replay(status, letter_id, actor)
            else:
                settled = await letters.discard(letter_id)
        except IcsError as error:
            _log.warning("%s of %s: %s", operation, letter_id, error.message, extra={"code": error.code})
            if isinstance(error, TransientError):
                result.failed += len(ids) - position
                break
            result.failed += 1
            continue
        if not settled:
            result.gone += 1
            continue
        result.done += 1
        _log.info("dead letter %s: %s by %s", letter_id, operation, actor)
        status.metrics.dead_letter_operation("replayed" if operation == "replay" else "discarded")
        if operation == "discard" and (request := requests.get(letter_id)) is not None:
            await _tell(status, conversion_event("discarded", request, dead_letter_id=letter_id, actor=actor))
    return result


async def _replay(status: Status, letter_id: str, actor: str) -> bool:
    headers: dict[str, str] = {}
    attributes = {"messaging.operation.name": "publish", "messaging.operation.type": "send", "ics.replay_of": letter_id}
    with status.tracing.tracer.start_as_current_span("replay", kind=SpanKind.PRODUCER, attributes=attributes) as span:
        inject(headers, span)
        request = await status.broker.dead_letters.replay(letter_id, headers, actor)
        if request is None:
            return False
        span.set_attribute("messaging.message.id", request.id)
        event = conversion_event(
            "replayed", request, traceparent=traceparent(span), dead_letter_id=letter_id, actor=actor
        )
    await _tell(status, event)
    return True


async def _tell(status: Status, event: ConversionEvent) -> None:
    try:
        await status.broker.events.publish(event)
    except IcsError:
        status.metrics.event_dropped()
