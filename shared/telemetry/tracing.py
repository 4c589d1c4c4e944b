"""OpenTelemetry traces: one provider per process, made in the composition root and passed on; no global provider is set.

Everything is configured by the standard ``OTEL_*`` variables. Without an OTLP endpoint spans go nowhere, but trace ids stay
valid: messages, logs, events and the console name them all the same.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, MutableMapping
from importlib.metadata import PackageNotFoundError, version

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import Link, Span, Tracer, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from shared.errors import PermanentError

_PROPAGATOR = TraceContextTextMapPropagator()


class Tracing:
    """A tracer and the provider behind it."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self.tracer: Tracer = provider.get_tracer("ics", _service_version())

    @classmethod
    def from_environment(cls, service_name: str, *, enabled: bool = True) -> Tracing:
        """Exporter, protocol, sampler, batching, headers and resource by ``OTEL_*``; ``service_name`` unless they name one.

        ``enabled=False`` (``telemetry.enabled``) samples nothing: spans cost an id and no more.

        Raises:
            PermanentError: ``invalid_configuration`` for an exporter or protocol that does not exist.
        """
        provider = TracerProvider(resource=_resource(service_name), sampler=None if enabled else ALWAYS_OFF)
        if enabled and (exporter := _exporter()) is not None:
            provider.add_span_processor(BatchSpanProcessor(exporter))
        return cls(provider)

    def shutdown(self) -> None:
        """Send what is waiting (bounded by the exporter's time-out), then stop. Blocks: call it in a thread."""
        self._provider.shutdown()


def inject(headers: MutableMapping[str, str], span: Span | None = None) -> None:
    """Write ``traceparent`` (and ``tracestate``) of ``span``, or of the current one, into message headers."""
    _PROPAGATOR.inject(headers, context=set_span_in_context(span) if span is not None else None)


def extract(headers: Mapping[str, str]) -> Context:
    """The context that message or request headers carry; a malformed ``traceparent`` counts as none."""
    return _PROPAGATOR.extract({name.lower(): value for name, value in headers.items()}, context=Context())


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
    match protocol or "http/protobuf":  # the specification's default
        case "grpc":
            return GrpcExporter()
        case "http/protobuf":
            return HttpExporter()
    raise PermanentError(
        f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol!r}: use grpc or http/protobuf", code="invalid_configuration"
    )


def _resource(service_name: str) -> Resource:
    host = socket.gethostname()
    own: dict[str, AttributeValue] = {
        "service.name": service_name,
        "service.namespace": "ics",
        "service.version": _service_version(),
        "service.instance.id": f"{host}/{os.getpid()}",
        "host.name": host,
        "process.pid": os.getpid(),
    }
    return Resource.create(own).merge(OTELResourceDetector().detect())


def _service_version() -> str:
    try:
        return version("image-conversion-service")
    except PackageNotFoundError:
        return "source"
