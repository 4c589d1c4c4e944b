"""OpenTelemetry traces: one provider per process, made in the composition root and passed on; no global provider is set.

Everything is configured by the standard ``OTEL_*`` variables. Without an OTLP endpoint spans go nowhere, but trace ids stay
valid: messages, logs, events and the console name them all the same.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, MutableMapping, Sequence

from opentelemetry.context import Context, attach, detach
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes, AttributeValue

from shared.errors import PermanentError
from shared.instance import INSTANCE
from shared.version import service_version

_PROPAGATOR = TraceContextTextMapPropagator()
_CARRIED = frozenset(_PROPAGATOR.fields)
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_NOTHING = Context()


class CurrentSpan:
    """A span that is the current one within a ``with`` block, and ends with it."""

    __slots__ = ("_failed", "_span", "_token")

    def __init__(self, span: Span, failed: Callable[[Span, BaseException], None] | None) -> None:
        self._span = span
        self._failed = failed

    def __enter__(self) -> Span:
        self._token = attach(set_span_in_context(self._span))
        return self._span

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if error is not None and self._failed is not None:
            self._failed(self._span, error)
        detach(self._token)
        self._span.end()


class _OuterSpan(CurrentSpan):
    """The span that is the current one already."""

    __slots__ = ()

    def __init__(self, span: Span) -> None:
        super().__init__(span, None)

    def __enter__(self) -> Span:
        return self._span

    def __exit__(self, *_: object) -> None:
        """It ends where it began."""


class Tracing:
    """Where spans are made. Without a provider nobody collects them: the outermost one of a process consists of its ids, which
    messages, logs and events go on naming, and stands for those within it, which nobody could tell apart. A caller's decision to
    sample travels on, and without one a trace counts as sampled for those who collect.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("ics", service_version()) if provider else None
        self._ids = RandomIdGenerator()

    @property
    def collected(self) -> bool:
        """Whether somebody collects spans: without, their attributes need not be made."""
        return self._tracer is not None

    def span(
        self,
        name: str,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] = (),
        context: Context | None = None,
        failed: Callable[[Span, BaseException], None] | None = None,
    ) -> CurrentSpan:
        """The current span until the end of the block; ``context`` instead of the current one names its parent, ``failed`` is told
        what ends the block early.
        """
        if self._tracer is None:
            if context is None and (outer := get_current_span()).get_span_context().is_valid:
                return _OuterSpan(outer)
            return CurrentSpan(self._unrecorded(context), None)
        span = self._tracer.start_span(name, context=context, kind=kind, attributes=attributes, links=links)
        return CurrentSpan(span, failed)

    def _unrecorded(self, context: Context | None) -> Span:
        trace, _span, _remote, flags, state, known = get_current_span(context).get_span_context()
        own = self._ids.generate_span_id()
        if known:
            return NonRecordingSpan(SpanContext(trace, own, False, flags, state))
        return NonRecordingSpan(SpanContext(self._ids.generate_trace_id(), own, False, _SAMPLED))

    @classmethod
    def from_environment(cls, service_name: str, *, enabled: bool = True) -> Tracing:
        """Exporter, protocol, sampler, batching, headers and resource by ``OTEL_*``; ``service_name`` unless they name one.

        Without an exporter nothing is recorded, and ``enabled=False`` (``telemetry.enabled``) also tells the processes behind
        this one not to: a webhook or an attempt costs an id and no more.

        Raises:
            PermanentError: ``invalid_configuration`` for an exporter or protocol that does not exist.
        """
        if not enabled:
            return cls(TracerProvider(sampler=ALWAYS_OFF))
        if (exporter := _exporter()) is None:
            return cls()
        provider = TracerProvider(resource=resource(service_name))
        provider.add_span_processor(BatchSpanProcessor(exporter))
        return cls(provider)

    def shutdown(self) -> None:
        """Send what is waiting (bounded by the exporter's time-out), then stop. Blocks: call it in a thread."""
        if self._provider is not None:
            self._provider.shutdown()


def inject(headers: MutableMapping[str, str], span: Span | None = None) -> None:
    """Write ``traceparent`` (and ``tracestate``) of ``span``, or of the current one, into message headers."""
    trace, own, _remote, flags, state, known = (span or get_current_span()).get_span_context()
    if known:
        headers["traceparent"] = f"00-{trace:032x}-{own:016x}-{flags:02x}"
        if state:
            headers["tracestate"] = state.to_header()


def extract(headers: Mapping[str, str]) -> Context:
    """The context that message or request headers carry; a malformed ``traceparent`` counts as none."""
    carried = {lower: value for name, value in headers.items() if (lower := name.lower()) in _CARRIED}
    return _PROPAGATOR.extract(carried, context=_NOTHING) if carried else _NOTHING


def trace_id(span: Span | None = None) -> str:
    """32 hex digits of ``span`` or the current one; empty when there is no trace."""
    context = (span or get_current_span()).get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else ""


def span_id(span: Span | None = None) -> str:
    """16 hex digits, or empty."""
    context = (span or get_current_span()).get_span_context()
    return f"{context.span_id:016x}" if context.is_valid else ""


def traceparent(span: Span | None = None) -> str:
    """W3C Trace Context header value of ``span`` or the current one; empty when there is no trace."""
    headers: dict[str, str] = {}
    inject(headers, span)
    return headers.get("traceparent", "")


def link(value: str, relation: str = "") -> Link | None:
    """A link to the span that a ``traceparent`` names; None if there is none or it is malformed."""
    context = get_current_span(extract({"traceparent": value})).get_span_context()
    if not context.is_valid:
        return None
    return Link(context, {"ics.link.relation": relation} if relation else None)


def _exporter() -> SpanExporter | None:
    name = os.environ.get("OTEL_TRACES_EXPORTER", "otlp").strip() or "otlp"
    endpoint = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if name == "none" or (name == "otlp" and not endpoint):
        return None
    if name != "otlp":
        raise PermanentError(f"OTEL_TRACES_EXPORTER={name!r}: use otlp or none", code="invalid_configuration")
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    # Imported where they are chosen: gRPC alone takes longer to load than all of OpenTelemetry.
    match protocol or "http/protobuf":  # the specification's default
        case "grpc":
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as Grpc  # noqa: PLC0415

            return Grpc()
        case "http/protobuf":
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as Http  # noqa: PLC0415

            return Http()
    raise PermanentError(
        f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol!r}: use grpc or http/protobuf", code="invalid_configuration"
    )


def resource(service_name: str) -> Resource:
    """What this process calls itself, over which ``OTEL_*`` variables win."""
    own: dict[str, AttributeValue] = {
        "service.name": service_name,
        "service.namespace": "ics",
        "service.version": service_version(),
        "service.instance.id": INSTANCE,
        "host.name": socket.gethostname(),
        "process.pid": os.getpid(),
    }
    return Resource.create(own).merge(OTELResourceDetector().detect())
