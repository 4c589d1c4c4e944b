"""An OTLP receiver (gRPC): keeps every span that it is sent."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass(frozen=True)
class Received:
    """One span, and which process sent it."""

    service: str
    instance: str
    span: Span

    @property
    def name(self) -> str:
        return self.span.name

    @property
    def attributes(self) -> dict[str, object]:
        return {
            each.key: getattr(each.value, each.value.WhichOneof("value") or "string_value")
            for each in self.span.attributes
        }


def holds_an_attempt(spans: Sequence[Received], *, failed: bool = False) -> bool:
    """Whether an attempt that ended so is there, and whatever is above it: each process sends its own spans when it likes."""
    by_id = {each.span.span_id: each for each in spans}
    for each in spans:
        above: Received | None = each
        if each.attributes.get("messaging.operation.type") == "process" and ("error.type" in each.attributes) == failed:
            while above is not None and above.span.parent_span_id:
                above = by_id.get(above.span.parent_span_id)
            if above is not None:
                return True
    return False


class OtlpReceiver(TraceServiceServicer):
    """``environment`` is what a process needs to send its spans here."""

    def __init__(self) -> None:
        self.url = ""
        self._lock = threading.Lock()
        self._received: list[Received] = []
        self._exports: list[str] = []
        self._metadata: list[tuple[str, str]] = []

    @property
    def environment(self) -> dict[str, str]:
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}

    def Export(self, request: ExportTraceServiceRequest, context: grpc.ServicerContext) -> ExportTraceServiceResponse:  # noqa: N802
        with self._lock:
            self._exports.append(str(request))
            self._metadata += [(key, str(value)) for key, value in context.invocation_metadata()]
            for resource in request.resource_spans:
                facts = {each.key: each.value.string_value for each in resource.resource.attributes}
                self._received += [
                    Received(facts.get("service.name", ""), facts.get("service.instance.id", ""), span)
                    for scope in resource.scope_spans
                    for span in scope.spans
                ]
        return ExportTraceServiceResponse()

    def trace(self, trace_id: str) -> list[Received]:
        """Every span of one trace so far."""
        with self._lock:
            return [each for each in self._received if each.span.trace_id.hex() == trace_id]

    def exports(self) -> str:
        """Everything received, resources and all, as protobuf text."""
        with self._lock:
            return "\n".join(self._exports)

    def sent_headers(self) -> list[tuple[str, str]]:
        """Of every export: names (lower case) and values."""
        with self._lock:
            return list(self._metadata)

    def everything(self) -> list[Received]:
        with self._lock:
            return list(self._received)


@contextlib.contextmanager
def otlp_receiver() -> Iterator[OtlpReceiver]:
    """One on a free port of 127.0.0.1."""
    receiver = OtlpReceiver()
    server = grpc.server(ThreadPoolExecutor(2))
    add_TraceServiceServicer_to_server(receiver, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    receiver.url = f"http://127.0.0.1:{port}"
    try:
        yield receiver
    finally:
        server.stop(0).wait()
