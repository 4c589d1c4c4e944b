"""The spans of a conversion, named and attributed by OpenTelemetry's semantic conventions (HTTP, messaging).

::

    POST /conversion            server     ingress
    └── publish ics.conversions   producer   ingress, one per conversion
        └── process ics.conversions  consumer   links: earlier attempts, the conversion that is replayed
            └── resolve, wait, pull, convert, push, merge, manifest, tag     internal

A backfill's queue is ``ics.conversions.backfill``.

Errors end a span with ``error.type`` = the stable code and ``ics.error.kind``; texts of unknown exceptions are left out, since
they may hold what is secret.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue

from shared.errors import IcsError, SkippedError, SupersededError
from shared.messages import Attempt, ConversionRequest
from shared.telemetry.redaction import redact
from shared.telemetry.tracing import CurrentSpan, Tracing, extract, link
from shared.telemetry.work_queue import WorkQueue


def webhook_span(
    tracing: Tracing,
    *,
    method: str,
    route: str,
    scheme: str,
    headers: Mapping[str, str],
    server: str = "",
    server_port: int | None = None,
    client: str = "",
) -> CurrentSpan:
    """The server span of one webhook request; a caller's ``traceparent`` is its parent. End it with :func:`record_response`."""
    name, context = f"{method} {route}", extract(headers)
    if not tracing.collected:
        return tracing.span(name, context=context)
    attributes: dict[str, AttributeValue] = {
        "http.request.method": method,
        "http.route": route,
        "url.path": route,
        "url.scheme": scheme,
    }
    if server:
        attributes["server.address"] = server
        if server_port is not None:
            attributes["server.port"] = server_port
    if client:
        attributes["client.address"] = client
    if agent := headers.get("user-agent"):
        attributes["user_agent.original"] = agent[:200]
    return _span(tracing, name, SpanKind.SERVER, attributes, context=context)


def record_response(span: Span, status: int) -> None:
    """HTTP semantic conventions: a server span is an error from 500 on."""
    span.set_attribute("http.response.status_code", status)
    if status >= 500:
        span.set_attribute("error.type", str(status))
        span.set_status(Status(StatusCode.ERROR))


def publish_span(
    tracing: Tracing, request: ConversionRequest, queue: WorkQueue, *, links: Sequence[Link] = ()
) -> CurrentSpan:
    """The producer span of one conversion request; inject it into the message's headers."""
    name = f"publish {queue.lane(request.priority)}"
    if not tracing.collected:
        return tracing.span(name)
    attributes = _messaging(request, queue) | {
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
    }
    if request.replayed_trace and (replayed := link(request.replayed_trace, "replayed")):
        links = (*links, replayed)
    return _span(tracing, name, SpanKind.PRODUCER, attributes, links=links)


def process_span(
    tracing: Tracing,
    request: ConversionRequest,
    queue: WorkQueue,
    *,
    headers: Mapping[str, str],
    attempts: Sequence[Attempt] = (),
    queue_seconds: float,
    redelivered: bool = False,
) -> CurrentSpan:
    """The consumer span of one attempt: child of the publish span, linked to earlier attempts and to what it replays.

    ``queue_seconds``: from the publish, or the end of the last attempt, to this delivery.
    """
    attributes = _messaging(request, queue) | {
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "ics.attempt": len(attempts) + 1,
        "ics.queue.seconds": round(max(0.0, queue_seconds), 6),
        "ics.redelivered": redelivered,
    }
    candidates = [link(attempt.traceparent, "retried") for attempt in attempts]
    candidates.append(link(request.replayed_trace, "replayed"))
    links = [found for found in candidates if found is not None]
    return _span(
        tracing,
        f"process {queue.lane(request.priority)}",
        SpanKind.CONSUMER,
        attributes,
        context=extract(headers),
        links=links,
    )


def stage_span(tracing: Tracing, name: str, subject: str = "") -> CurrentSpan:
    """One stage of the current attempt; ``subject`` is a layer's digest or a platform."""
    attributes: dict[str, AttributeValue] = {"ics.stage": name}
    if subject:
        attributes["ics.stage.subject"] = subject
    return _span(tracing, name, SpanKind.INTERNAL, attributes)


def record_error(span: Span, error: BaseException) -> None:
    """Mark ``span`` as failed by ``error``; what is not a failure (skipped, superseded) is only noted."""
    if isinstance(error, SkippedError | SupersededError):
        span.set_attribute("ics.outcome", "superseded" if isinstance(error, SupersededError) else "skipped")
        return
    if isinstance(error, IcsError):
        span.set_attribute("error.type", error.code)
        span.set_attribute("ics.error.kind", error.kind)
        span.set_status(Status(StatusCode.ERROR, redact(error.message)))
        return
    if not isinstance(error, Exception):  # cancellation, exit: nothing has failed
        span.set_attribute("ics.outcome", "interrupted")
        return
    span.set_attribute("error.type", f"{type(error).__module__}.{type(error).__qualname__}")
    span.set_status(Status(StatusCode.ERROR))


def _span(
    tracing: Tracing,
    name: str,
    kind: SpanKind,
    attributes: Mapping[str, AttributeValue],
    *,
    context: Context | None = None,
    links: Sequence[Link] = (),
) -> CurrentSpan:
    return tracing.span(name, kind=kind, attributes=attributes, links=links, context=context, failed=record_error)


def _messaging(request: ConversionRequest, queue: WorkQueue) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {
        **queue.attributes,
        "messaging.destination.name": queue.lane(request.priority),
        "messaging.message.id": request.id,
        "ics.source": str(request.source),
        "ics.target": str(request.target),
        "ics.rule": request.rule,
        "ics.driver": request.driver.type,
        "ics.priority": request.priority,
    }
    if request.harbor_request_id:
        attributes["harbor.request_id"] = request.harbor_request_id
    if request.replay_of:
        attributes["ics.replay_of"] = request.replay_of
    return attributes
