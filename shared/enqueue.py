"""Putting a planned conversion into the work queue: within its trace, confirmed, and told to the event stream."""

from __future__ import annotations

from collections.abc import Callable

from shared.broker.api import Broker
from shared.events import ConversionEvent, conversion_event
from shared.messages import ConversionRequest
from shared.settings.model import Settings
from shared.telemetry.spans import publish_span
from shared.telemetry.tracing import Tracing, inject, trace_id
from shared.telemetry.work_queue import WorkQueue


class Enqueuer:
    """One for the process.

    Args:
        settings: name the broker for spans.
        broker: where it goes.
        tracing: this process's.
        tell: takes the ``requested`` event of each; must not wait (``EventReporter.tell``).
    """

    def __init__(
        self, settings: Settings, broker: Broker, *, tracing: Tracing, tell: Callable[[ConversionEvent], None]
    ) -> None:
        self._broker = broker
        self._tracing = tracing
        self._tell = tell
        self._queue = WorkQueue.of(settings)

    async def __call__(self, request: ConversionRequest) -> None:
        """Returns once the broker has confirmed. Raises what ``Broker.publish`` raises; nothing is told then."""
        headers: dict[str, str] = {}
        with publish_span(self._tracing, request, self._queue) as span:
            inject(headers, span)
            await self._broker.publish(request, headers)
            parent = headers.get("traceparent", "")
            self._tell(conversion_event("requested", request, traceparent=parent, trace_id=trace_id(span)))
