"""What one attempt tells the event stream."""

from __future__ import annotations

from opentelemetry.trace import Span

from shared.event_reporter import EventReporter
from shared.events import EventType, conversion_event
from shared.instance import INSTANCE
from shared.messages import ConversionRequest
from shared.telemetry.tracing import trace_id, traceparent


class AttemptEvents:
    """Events about ``request``'s attempt ``number``, by this consumer."""

    def __init__(self, reporter: EventReporter, request: ConversionRequest, number: int) -> None:
        self._reporter = reporter
        self._request = request
        self._number = number

    def tell(self, kind: EventType, span: Span, **data: object) -> None:
        event = conversion_event(
            kind,
            self._request,
            traceparent=traceparent(span),
            attempt=self._number,
            consumer=INSTANCE,
            trace_id=trace_id(span),
            **data,
        )
        self._reporter.tell(event)

    def progress(self, progress: dict[str, object]) -> None:
        self._reporter.tell(
            conversion_event("progress", self._request, attempt=self._number, consumer=INSTANCE, progress=progress)
        )
