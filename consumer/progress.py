"""How far a conversion is: stages become spans, metrics and the waterfall; bytes read become throttled events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from drivers.api import StageRecord
from shared.events import Stage
from shared.oci.digest import Digest
from shared.telemetry.metrics import Metrics
from shared.telemetry.spans import stage_span
from shared.telemetry.tracing import Tracing, trace_id

INTERVAL = 1.0
"""Seconds between two progress events of one conversion."""


@dataclass
class ConversionProgress:
    """Satisfies ``drivers.api.Progress`` for one attempt."""

    tracing: Tracing
    metrics: Metrics
    report: Callable[[dict[str, Any]], None] = lambda _progress: None
    """Told ``{"layer": digest, "done": bytes, "total": bytes}`` now and then; must not block."""
    stages: list[Stage] = field(default_factory=list)
    tagging: bool = False
    """The tag is being put, or has been."""
    _started: float = field(default_factory=monotonic)
    _reported: float = 0.0

    def layer(self, digest: Digest, done: int, total: int) -> None:
        now = monotonic()
        if now - self._reported >= INTERVAL or done >= total:
            self._reported = now
            self.report({"layer": str(digest), "done": done, "total": total})

    @asynccontextmanager
    async def stage(self, name: str, subject: str = "") -> AsyncIterator[StageRecord]:
        """A span, a histogram sample, and a row of the waterfall, even when the stage fails."""
        record = StageRecord()
        begin = monotonic()
        self.tagging |= name == "tag"
        with stage_span(self.tracing, name, str(subject)) as span:
            try:
                yield record
            finally:
                seconds = monotonic() - begin
                if record.bytes:
                    span.set_attribute("ics.stage.bytes", record.bytes)
                self.metrics.stage(name, seconds, trace_id(span))
                self.stages.append(
                    Stage(
                        name=name,
                        subject=str(subject),
                        start_seconds=round(begin - self._started, 6),
                        duration_seconds=round(seconds, 6),
                        bytes=record.bytes,
                    )
                )
