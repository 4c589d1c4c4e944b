"""One attempt as the read model keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any, Literal

from ingress.status.stored_event import StoredData

AttemptOutcome = Literal[
    "running", "lost", "interrupted", "preempted", "retrying", "succeeded", "skipped", "failed", "cancelled"
]
UNDER_WAY: frozenset[AttemptOutcome] = frozenset({"running", "lost"})
"""No end was told yet."""
_STAGE = itemgetter("name", "subject", "start_seconds", "duration_seconds", "bytes")


class AttemptRecord:
    """One delivery to a consumer. ``run`` counts from 1 and goes up with every replay; times are UNIX seconds."""

    __slots__ = (
        "code", "consumer", "details", "duration", "kind", "message", "number", "outcome", "queue_seconds",
        "retry_in", "run", "stages", "started", "trace_id",
    )  # fmt: skip

    def __init__(self, run: int, number: int, started: float, consumer: str, trace_id: str) -> None:
        self.run = run
        self.number = number
        self.started = started
        self.consumer = consumer
        self.trace_id = trace_id
        self.outcome: AttemptOutcome = "running"
        self.duration: float | None = None
        self.queue_seconds: float | None = None
        self.retry_in: float | None = None
        self.code = ""
        self.kind = ""
        self.message = ""
        self.details: dict[str, Any] = {}
        self.stages: list[Sequence[Any]] = []
        """Name, subject, start seconds, duration seconds, bytes."""

    def stop(self, outcome: AttemptOutcome, data: StoredData) -> None:
        self.outcome = outcome
        self.duration = data.get("duration_seconds")
        self.stages = stages_of(data)

    @classmethod
    def from_list(cls, values: list[Any]) -> AttemptRecord:
        record = cls.__new__(cls)
        for name, value in zip(cls.__slots__, values, strict=True):
            setattr(record, name, value)
        return record


def stages_of(data: StoredData) -> list[Sequence[Any]]:
    return list(map(_STAGE, data.get("stages", ())))
