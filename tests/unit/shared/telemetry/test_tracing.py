"""Traces cross the queue, link what belongs together, and name errors without their secrets."""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from shared.broker.amqp.topology import Topology
from shared.errors import PermanentError, SkippedError
from shared.messages import Attempt, ConversionRequest, DriverChoice, Failure
from shared.oci.reference import parse_reference
from shared.settings.model import Settings
from shared.telemetry.spans import process_span, publish_span, record_response, stage_span, webhook_span
from shared.telemetry.tracing import Tracing, extract, inject, link, resource, span_id, trace_id, traceparent
from shared.telemetry.work_queue import WorkQueue

EXPORTER = "OTEL_EXPORTER_OTLP_ENDPOINT"


def queue(url: str) -> WorkQueue:
    return WorkQueue.of(Settings.model_validate({"broker": {"url": url}}))


QUEUE = queue("amqps://ics:hunter22@rabbitmq.internal/")


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(spans: InMemorySpanExporter) -> Tracing:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    return Tracing(provider)


def request(**changes: str) -> ConversionRequest:
    return ConversionRequest(
        id="1" * 32,
        source=parse_reference("harbor.example.com/library/redis:7"),
        target=parse_reference("harbor.example.com/library/redis:7_esgz"),
        driver=DriverChoice(type="estargz"),
        harbor_request_id="req-42",
    ).model_copy(update=changes)


def attempt(parent: str) -> Attempt:
    return Attempt(
        number=1,
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
        duration_seconds=1,
        consumer="host/1",
        failure=Failure(code="registry_unavailable", kind="transient", message="503"),
        traceparent=parent,
    )


def named(spans: InMemorySpanExporter, name: str) -> ReadableSpan:
    return next(span for span in spans.get_finished_spans() if span.name == name)


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


def test_one_trace_leads_from_the_webhook_over_the_queue_to_the_stages(
    tracing: Tracing, spans: InMemorySpanExporter
) -> None:
    headers: dict[str, str] = {}
    with webhook_span(tracing, method="POST", route="/conversion", scheme="http", headers={}) as server:
        with publish_span(tracing, request(), QUEUE) as producer:
            inject(headers, producer)
        record_response(server, 202)
    with (
        process_span(tracing, request(), QUEUE, headers=headers, queue_seconds=1.5),
        stage_span(tracing, "pull", "l"),
    ):
        pass
    chain = [
        named(spans, n) for n in ("POST /conversion", "publish ics.conversions", "process ics.conversions", "pull")
    ]
    assert [span.kind for span in chain] == [SpanKind.SERVER, SpanKind.PRODUCER, SpanKind.CONSUMER, SpanKind.INTERNAL]
    for parent, child in itertools.pairwise(chain):
        assert child.parent is not None
        assert child.parent.span_id == parent.context.span_id
        assert child.context.trace_id == parent.context.trace_id
    processed = attributes(chain[2])
    assert processed["ics.queue.seconds"] == 1.5
    assert processed["messaging.operation.type"] == "process"
    assert processed["messaging.message.id"] == "1" * 32
    assert (processed["messaging.system"], processed["messaging.destination.name"]) == ("rabbitmq", "ics.conversions")
    assert (processed["server.address"], processed["server.port"]) == ("rabbitmq.internal", 5671)
    assert "hunter22" not in str(processed)
    assert processed["harbor.request_id"] == "req-42"
    assert attributes(chain[0])["http.response.status_code"] == 202


@pytest.mark.parametrize("url", ["nats://a:4222,nats://b:4222", "embedded:", "memory:"])
def test_a_server_that_is_not_known_has_no_address(url: str) -> None:
    assert "server.address" not in queue(url).attributes


def test_a_comma_in_a_password_makes_no_cluster() -> None:
    assert queue("amqp://ics:a,b@rabbitmq.internal/").attributes["server.address"] == "rabbitmq.internal"


def test_retries_and_replays_are_links(tracing: Tracing, spans: InMemorySpanExporter) -> None:
    with tracing.span("first") as first, tracing.span("died") as died:
        retried, replayed = traceparent(first), traceparent(died)
    message = request(replayed_trace=replayed, replay_of="dead-1")
    with process_span(tracing, message, QUEUE, headers={}, attempts=[attempt(retried), attempt("")], queue_seconds=0):
        pass
    with publish_span(tracing, message, QUEUE):
        pass
    span = named(spans, "process ics.conversions")
    relations = [(dict(found.attributes or {})["ics.link.relation"], found.context.span_id) for found in span.links]
    assert relations == [("retried", first.get_span_context().span_id), ("replayed", died.get_span_context().span_id)]
    assert attributes(span)["ics.attempt"] == 3
    assert [dict(f.attributes or {})["ics.link.relation"] for f in named(spans, "publish ics.conversions").links] == [
        "replayed"
    ]


def test_classified_errors_end_a_span_with_their_code_and_no_credential(
    tracing: Tracing, spans: InMemorySpanExporter
) -> None:
    with pytest.raises(PermanentError), stage_span(tracing, "pull"):
        raise PermanentError("GET https://user:hunter22@h/v2/ denied", code="denied")
    span = named(spans, "pull")
    assert attributes(span)["error.type"] == "denied"
    assert attributes(span)["ics.error.kind"] == "permanent"
    assert span.status.status_code is StatusCode.ERROR
    assert "hunter22" not in str(span.status.description)
    assert not span.events


def test_texts_of_unknown_exceptions_stay_out_of_the_trace(tracing: Tracing, spans: InMemorySpanExporter) -> None:
    with pytest.raises(KeyError), stage_span(tracing, "convert"):
        raise KeyError("hunter22")
    span = named(spans, "convert")
    assert attributes(span)["error.type"] == "builtins.KeyError"
    assert "hunter22" not in span.to_json()


@pytest.mark.parametrize("interruption", [SkippedError("up to date"), asyncio.CancelledError()])
def test_what_is_no_failure_leaves_the_span_without_error(
    tracing: Tracing, spans: InMemorySpanExporter, interruption: BaseException
) -> None:
    with pytest.raises(type(interruption)), stage_span(tracing, "resolve"):
        raise interruption
    span = named(spans, "resolve")
    assert span.status.status_code is StatusCode.UNSET
    assert "ics.outcome" in attributes(span)


def test_a_backfills_spans_name_the_backfills_queue(tracing: Tracing, spans: InMemorySpanExporter) -> None:
    backfill = request(priority="backfill")
    with publish_span(tracing, backfill, QUEUE), process_span(tracing, backfill, QUEUE, headers={}, queue_seconds=0):
        pass
    for name in ("publish ics.conversions.backfill", "process ics.conversions.backfill"):
        assert attributes(named(spans, name))["messaging.destination.name"] == "ics.conversions.backfill"
    assert QUEUE.lane("backfill") == Topology("ics", 3, 60).lane("backfill")


def test_a_server_error_marks_the_webhook_span(tracing: Tracing, spans: InMemorySpanExporter) -> None:
    parent = {"Traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01", "user-agent": "Go-http-client/1.1"}
    with webhook_span(
        tracing,
        method="POST",
        route="/c",
        scheme="https",
        headers=parent,
        server="h",
        server_port=8443,
        client="10.0.0.1",
    ) as span:
        record_response(span, 503)
        assert trace_id() == "a" * 32
    finished = named(spans, "POST /c")
    assert attributes(finished)["error.type"] == "503"
    assert attributes(finished)["client.address"] == "10.0.0.1"
    assert (attributes(finished)["server.address"], attributes(finished)["server.port"]) == ("h", 8443)


@pytest.mark.parametrize("text", ["", "nonsense", "00-" + "0" * 32 + "-" + "b" * 16 + "-01", "00-zz-zz-01"])
def test_a_malformed_traceparent_counts_as_none(text: str) -> None:
    assert link(text) is None
    assert trace_id() == ""
    with Tracing(TracerProvider()).span("x", context=extract({"traceparent": text})) as span:
        assert getattr(span, "parent", "missing") is None


@pytest.mark.parametrize("enabled", [True, False])
def test_without_an_exporter_trace_ids_are_still_valid(monkeypatch: pytest.MonkeyPatch, enabled: bool) -> None:
    monkeypatch.delenv(EXPORTER, raising=False)
    tracing = Tracing.from_environment("ics-test", enabled=enabled)
    headers: dict[str, str] = {}
    with tracing.span("a") as span:
        inject(headers)
        assert headers["traceparent"] == traceparent(span)
        assert headers["traceparent"].startswith(f"00-{trace_id()}-{span_id()}-")
        assert span.get_span_context().trace_flags.sampled is enabled
    tracing.shutdown()


def test_the_environment_names_service_and_resource(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=prod")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "converter")
    attributes = resource("ics-test").attributes
    assert attributes["service.name"] == "converter"
    assert attributes["service.namespace"] == "ics"
    assert attributes["deployment.environment.name"] == "prod"


def test_unrecorded_spans_keep_the_callers_trace_and_its_decision() -> None:
    parent = "00-" + "a" * 32 + "-" + "b" * 16 + "-00"
    tracing = Tracing()
    with tracing.span("outer", context=extract({"traceparent": parent})) as outer:
        assert not outer.is_recording()
        assert traceparent(outer) == f"00-{'a' * 32}-{span_id(outer)}-00"
        assert span_id(outer) != "b" * 16
        with tracing.span("inner") as inner:
            assert traceparent() == traceparent(inner) == traceparent(outer), "nobody could tell them apart"
        assert traceparent() == traceparent(outer)
    assert trace_id() == ""


@pytest.mark.parametrize(
    ("variable", "value"), [("OTEL_TRACES_EXPORTER", "zipkin"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier-pigeon")]
)
def test_an_exporter_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(EXPORTER, "http://127.0.0.1:1")
    monkeypatch.setenv(variable, value)
    with pytest.raises(PermanentError, match=value) as caught:
        Tracing.from_environment("ics-test")
    assert caught.value.code == "invalid_configuration"
