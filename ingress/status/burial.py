"""What a dead letter says of its conversion where no event did.

A consumer tells of a letter before it settles the original. Nobody tells of one that was buried because its message had killed its
consumers, or by RabbitMQ itself; and the event stream may have been away.
"""

from __future__ import annotations

from typing import cast

from ingress.status.conversion import Conversion
from ingress.status.stored_event import StoredEvent, StoredFailure
from shared.events import TYPE_PREFIX
from shared.messages import DeadLetter


def untold_end(conversion: Conversion, letter: DeadLetter) -> StoredEvent | None:
    """The event that is missing; None where ``conversion`` has ended, or has begun or was replayed since ``letter``."""
    if conversion.settled or (conversion.status == "queued" and conversion.run > 1):
        return None
    attempts = conversion.attempts
    if letter.died_at.timestamp() < (attempts[-1].started if attempts else conversion.created):
        return None
    return {
        "id": f"buried-{letter.id}",
        "type": f"{TYPE_PREFIX}failed",
        "subject": conversion.id,
        "time": letter.died_at,
        "data": {
            "attempt": max(1, conversion.attempt, len(letter.attempts)),
            "trace_id": letter.trace_id,
            "failure": cast("StoredFailure", letter.failure.model_dump()),
            "dead_letter_id": letter.id,
        },
    }
