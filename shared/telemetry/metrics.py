"""The metrics of one process: the Harbor proposal's six under their names, and the service's own as ``ics_*``.

One :class:`Metrics` is made in the composition root and passed to whoever counts; it owns its registry, so that tests and
several processes in one interpreter do not share numbers. Every method is cheap, thread-safe and never raises.
"""

from __future__ import annotations

import platform
import threading
from collections import Counter as Tally
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from functools import cache
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from shared.exhausted import Resource
from shared.telemetry.cardinality import LabelValues, RefTagLabels
from shared.telemetry.exposition import render
from shared.version import service_version

Outcome = Literal["succeeded", "skipped", "failed", "cancelled", "retrying", "preempted", "released"]
"""How one attempt ended. ``released``: handed back without an outcome (drain, open circuit, a machine that lacks something).
``cancelled``: by an operator. ``preempted``: a backfill that was handed back for a push."""
WebhookOutcome = Literal["accepted", "ignored", "unauthorized", "invalid", "unavailable"]
CircuitState = Literal["closed", "half_open", "open"]

CONVERSION_BUCKETS = (0.01, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600)
"""Seconds. Conversions take from a tenth of a second (everything reused) to an hour, their shortest stages a hundredth."""
QUEUE_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 14400, 86400)
WEBHOOK_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 3)
"""Seconds; Harbor gives up after 3."""
REQUEST_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
RATIO_BUCKETS = (0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 1, 1.05, 1.1, 1.25, 1.5, 2, 4)
"""Converted size : source size."""

STAGES = ("resolve", "wait", "pull", "convert", "push", "merge", "manifest", "tag")
_CODES = 100
_CIRCUIT = {"closed": 0, "half_open": 1, "open": 2}


class Metrics:
    """Args:
    label_cap: distinct (ref, tag) pairs that get series of their own, see :class:`RefTagLabels`.
    process_metrics: also show CPU, memory and file descriptors of this process.
    """

    def __init__(self, label_cap: int = 200, *, process_metrics: bool = True) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self._labels = RefTagLabels(label_cap)
        self._codes = LabelValues(_CODES)
        self._inflight: Tally[tuple[str, str]] = Tally()
        self._lock = threading.Lock()
        self._define_conversion_metrics()
        self._define_webhook_metrics()
        self._define_broker_metrics()
        self._define_registry_metrics()
        if process_metrics:
            ProcessCollector(registry=self.registry)
        self._begin_at_zero()
        build = self._gauge("ics_build_info", "1, with the build's version as labels", "version", "python")
        build.labels(service_version(), platform.python_version()).set(1)

    # -- conversions ---------------------------------------------------------------------------------------------------

    def conversion_started(self, ref: str, tag: str) -> None:
        """Pair with exactly one :meth:`conversion_finished`."""
        pair = self._labels.admit(ref, tag)
        with self._lock:
            self._inflight[pair] += 1
            self._conversion_inflight.labels(*pair).set(self._inflight[pair])

    def conversion_finished(self, ref: str, tag: str, outcome: Outcome, seconds: float, trace_id: str = "") -> None:
        """One attempt ended; ``seconds`` of work. Only successes enter ``conversion_duration_seconds``, as proposed."""
        pair = self._labels.admit(ref, tag)
        with self._lock:
            self._inflight[pair] -= 1
            if self._inflight[pair] > 0:
                self._conversion_inflight.labels(*pair).set(self._inflight[pair])
            else:
                del self._inflight[pair]
                self._conversion_inflight.remove(*pair)
        exemplar = _exemplar(trace_id)
        self._attempts.labels(outcome).inc(exemplar=exemplar)
        if outcome == "succeeded":
            self._conversion_succeed.inc(exemplar=exemplar)
            self._conversion_duration.labels(*pair).observe(seconds, exemplar=exemplar)
            self._work.observe(seconds, exemplar=exemplar)
        elif outcome == "failed":
            self._conversion_failed.inc(exemplar=exemplar)

    def skipped(self, reason: str) -> None:
        """``reason``: the short stable phrase of ``SkippedError`` or ``superseded``."""
        self._skipped.labels(self._codes.admit(reason)).inc()

    def retried(self, code: str) -> None:
        self._retries.labels(self._codes.admit(code)).inc()

    def dead_lettered(self, code: str, trace_id: str = "") -> None:
        self._dead_lettered.labels(self._codes.admit(code)).inc(exemplar=_exemplar(trace_id))

    def queue_time(self, seconds: float, trace_id: str = "") -> None:
        """From publish to delivery."""
        self._queue_time.observe(max(0.0, seconds), exemplar=_exemplar(trace_id))

    def stage(self, name: str, seconds: float, trace_id: str = "") -> None:
        """``name``: one of :data:`STAGES`, or a driver's own."""
        self._stage.labels(self._codes.admit(name)).observe(seconds, exemplar=_exemplar(trace_id))

    def sizes(self, source: int, target: int) -> None:
        """Bytes of all layers of one successful conversion, before and after."""
        self._source_bytes.inc(source)
        self._target_bytes.inc(target)
        if source > 0:
            self._size_ratio.observe(target / source)

    def layers(self, *, converted: int, reused: int) -> None:
        self._layers.labels("converted").inc(converted)
        self._layers.labels("reused").inc(reused)

    def cache(self, *, hit: bool) -> None:
        """One look-up of a converted layer."""
        (self._cache_hits if hit else self._cache_misses).inc()

    def claim(self, state: Literal["held", "waiting"]) -> AbstractContextManager[None]:
        """For as long as a layer's claim is held, or waited for."""
        return self._claims.labels(state).track_inprogress()

    def claim_given_up(self, reason: str) -> None:
        """A layer is converted although another consumer may convert it too: ``patience`` has ended, or an error code."""
        self._claims_given_up.labels(self._codes.admit(reason)).inc()

    def concurrency(self, limit: int) -> None:
        """``maximum_concurrency`` of this consumer."""
        self._concurrency.set(limit)

    def out_of(self, resource: Resource, *, out: bool) -> None:
        """Whether this consumer takes no work for want of something that its machine should give."""
        self._out_of.labels(resource).set(out)

    def buffers(self, used: int, limit: int) -> None:
        """Bytes of the memory budget that all conversions of a process share."""
        self._buffers.labels("used").set(used)
        self._buffers.labels("limit").set(limit)

    # -- webhooks ------------------------------------------------------------------------------------------------------

    def webhook(self, ref: str, tag: str, seconds: float, outcome: WebhookOutcome, trace_id: str = "") -> None:
        """One request; ``ref`` and ``tag`` empty where the body named none (such a request gets no series of its own)."""
        exemplar = _exemplar(trace_id)
        self._webhook_total.inc(exemplar=exemplar)
        self._webhooks_answered(outcome).inc(exemplar=exemplar)
        pair = self._labels.admit(ref, tag) if outcome == "accepted" else ("", "")
        self._webhook_duration(*pair).observe(seconds, exemplar=exemplar)
        self._webhook_seconds.observe(seconds, exemplar=exemplar)

    # -- broker --------------------------------------------------------------------------------------------------------

    def broker_up(self, up: bool) -> None:
        self._broker_up.set(up)

    def queue(self, states: Mapping[str, int | None], consumers: int | None, oldest_age: float | None) -> None:
        """Queue depth by state (``ready``, ``in_flight``, ``retrying``, ``dead``); None removes a series: unknown is not 0."""
        for state, count in states.items():
            if count is None:
                self._queue.remove_by_labels({"state": state})
            else:
                self._queue.labels(state).set(count)
        self._consumers.value = consumers
        self._oldest_age.value = oldest_age

    def dead_letters(self, by_code: Mapping[str, int]) -> None:
        """The dead-letter queue's content, grouped; codes not named any more lose their series."""
        self._dead_letters.clear()
        grouped: Tally[str] = Tally()
        for code, count in by_code.items():
            grouped[self._codes.admit(code)] += count
        for code, count in grouped.items():
            self._dead_letters.labels(code).set(count)

    def dead_letter_operation(self, operation: Literal["replayed", "discarded"]) -> None:
        self._operations.labels(operation).inc()

    def event_dropped(self) -> None:
        """An event for the status stream could not be published; the conversion went on."""
        self._events_dropped.inc()

    def event_passed_over(self, reason: Literal["unreadable", "unknown_type"]) -> None:
        """An event was left out of what is read from the broker: damaged, or another version's."""
        self._events_passed_over.labels(reason).inc()

    def history(self, conversions: int) -> None:
        """Conversions that this replica's read model holds."""
        self._history.set(conversions)

    def notification(self, outcome: Literal["delivered", "failed", "dropped"]) -> None:
        self._notifications.labels(outcome).inc()

    # -- registries ----------------------------------------------------------------------------------------------------

    def registry_up(self, registry: str, up: bool) -> None:
        self._registry_up.labels(registry).set(up)

    def registry_circuit(self, registry: str, state: CircuitState) -> None:
        self._circuit.labels(registry).set(_CIRCUIT[state])

    def request(self, operation: str, registry: str, status: int, seconds: float) -> None:
        """``shared.registry.observer.Observer``: ``status`` 0 means that no answer came."""
        outcome = f"{status // 100}xx" if status else "no_answer"
        self._registry_requests.labels(registry, operation, outcome).inc()
        self._registry_seconds.labels(registry, operation).observe(seconds)

    def retry(self, operation: str, registry: str, code: str, delay: float) -> None:  # noqa: ARG002  the seam's signature
        self._registry_retries.labels(registry, operation, self._codes.admit(code)).inc()

    def transferred(self, operation: str, registry: str, received: int, sent: int) -> None:  # noqa: ARG002  the seam's
        if received:
            self._transferred.labels(registry, "in").inc(received)
        if sent:
            self._transferred.labels(registry, "out").inc(sent)

    # -- exposition ----------------------------------------------------------------------------------------------------

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Body and content type for an ``Accept`` header: Prometheus text, OpenMetrics (with exemplars), or the proposal's JSON."""
        return render(self.registry, accept)

    # -- definitions ---------------------------------------------------------------------------------------------------

    def _define_conversion_metrics(self) -> None:
        self._conversion_succeed = self._counter("conversion_succeed_total", "Successful conversions")
        self._conversion_failed = self._counter("conversion_failed_total", "Conversions that failed for good")
        self._conversion_inflight = self._gauge("conversion_inflight_tasks", "Conversions under way", "ref", "tag")
        self._conversion_duration = self._histogram(
            "conversion_duration_seconds", "Work on successful conversions", CONVERSION_BUCKETS, "ref", "tag"
        )
        # Most (ref, tag) pairs are converted once, and Prometheus cannot see the rate of what happens once in a series.
        self._work = self._histogram("ics_conversion_seconds", "The same of all together", CONVERSION_BUCKETS)
        self._attempts = self._counter("ics_conversion_attempts_total", "Attempts by their end", "outcome")
        self._skipped = self._counter("ics_conversions_skipped_total", "Conversions with nothing to do", "reason")
        self._retries = self._counter("ics_conversion_retries_total", "Failed attempts that come back", "code")
        self._dead_lettered = self._counter("ics_dead_lettered_total", "Conversions that died", "code")
        self._queue_time = self._histogram("ics_conversion_queue_seconds", "From publish to delivery", QUEUE_BUCKETS)
        self._stage = self._histogram("ics_conversion_stage_seconds", "One stage", CONVERSION_BUCKETS, "stage")
        self._source_bytes = self._counter("ics_conversion_source_bytes_total", "Layer bytes before conversion")
        self._target_bytes = self._counter("ics_conversion_target_bytes_total", "Layer bytes after conversion")
        self._size_ratio = self._histogram("ics_conversion_size_ratio", "Converted : source size", RATIO_BUCKETS)
        self._layers = self._counter("ics_layers_total", "Layers by how they came to be", "origin")
        self._cache_hits = self._counter("ics_layer_cache_hits_total", "Converted layers found")
        self._cache_misses = self._counter("ics_layer_cache_misses_total", "Converted layers not found")
        self._claims = self._gauge("ics_layer_claims", "Claims on layers that consumers share", "state")
        self._claims_given_up = self._counter("ics_layer_claims_given_up_total", "Claims gone on without", "reason")
        self._concurrency = self._gauge("ics_consumer_concurrency_limit", "maximum_concurrency of this consumer")
        self._out_of = self._gauge(
            "ics_consumer_out_of_resources", "1 while the consumer takes no work for want of it", "resource"
        )
        self._buffers = self._gauge("ics_consumer_buffer_bytes", "Shared memory budget", "state")

    def _begin_at_zero(self) -> None:
        """Series whose labels are known are there from the start: an alert on a rate would not see a first value of 1."""
        for metric, values in (
            (self._attempts, get_args(Outcome)),
            (self._stage, STAGES),
            (self._layers, ("converted", "reused")),
            (self._claims, ("held", "waiting")),
            (self._claims_given_up, ("patience", "broker_refused", "broker_unavailable")),
            (self._out_of, get_args(Resource)),
            (self._operations, ("replayed", "discarded")),
            (self._events_passed_over, ("unreadable", "unknown_type")),
            (self._notifications, ("delivered", "failed", "dropped")),
        ):
            for value in values:
                metric.labels(value)
        for answer in get_args(WebhookOutcome):
            self._webhooks_answered(answer)

    def _define_webhook_metrics(self) -> None:
        self._webhook_total = self._counter("webhook_request_total", "Webhook requests")
        durations = self._histogram(
            "webhook_request_duration_seconds", "Webhook requests", WEBHOOK_BUCKETS, "ref", "tag"
        )
        # What finds a series by its labels costs more than what counts in it; the cap bounds how many there are.
        self._webhook_duration = cache(durations.labels)
        self._webhook_seconds = self._histogram("ics_webhook_seconds", "The same of all together", WEBHOOK_BUCKETS)
        outcomes = self._counter("ics_webhook_requests_total", "Webhook requests by answer", "outcome")
        self._webhooks_answered = cache(outcomes.labels)

    def _define_broker_metrics(self) -> None:
        self._broker_up = self._gauge("ics_broker_up", "1 while the broker answers")
        self._queue = self._gauge("ics_queue_messages", "Queue depth", "state")
        self._consumers = self._known("ics_queue_consumers", "Consumers subscribed to the work queue")
        self._oldest_age = self._known("ics_queue_oldest_message_age_seconds", "Oldest waiting message")
        self._dead_letters = self._gauge("ics_dead_letters", "Dead letters kept", "code")
        self._operations = self._counter("ics_dead_letter_operations_total", "Replays and discards", "operation")
        self._events_dropped = self._counter("ics_events_dropped_total", "Events that could not be published")
        self._events_passed_over = self._counter("ics_events_passed_over_total", "Events left out by readers", "reason")
        self._history = self._gauge("ics_status_conversions", "Conversions in the read model")
        self._notifications = self._counter("ics_notifications_total", "Outgoing webhooks", "outcome")

    def _define_registry_metrics(self) -> None:
        self._registry_up = self._gauge("ics_registry_up", "1 while the registry answers", "registry")
        self._circuit = self._gauge("ics_registry_circuit_state", "0 closed, 1 half open, 2 open", "registry")
        self._registry_requests = self._counter(
            "ics_registry_requests_total", "Requests to registries", "registry", "operation", "outcome"
        )
        self._registry_seconds = self._histogram(
            "ics_registry_request_seconds", "Until the answer's head", REQUEST_BUCKETS, "registry", "operation"
        )
        self._registry_retries = self._counter(
            "ics_registry_retries_total", "Repeated requests", "registry", "operation", "code"
        )
        self._transferred = self._counter("ics_registry_bytes_total", "Blob bytes moved", "registry", "direction")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, f"{text}.", labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, f"{text}.", labels, registry=self.registry)

    def _known(self, name: str, text: str) -> _KnownGauge:
        gauge = _KnownGauge(name, f"{text}.")
        self.registry.register(gauge)
        return gauge

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(
            name,
            f"{text}, seconds." if name.endswith("seconds") else f"{text}.",
            labels,
            buckets=buckets,
            registry=self.registry,
        )


class _KnownGauge(Collector):
    """A gauge without labels that has no sample while its value is not known."""

    def __init__(self, name: str, text: str) -> None:
        self._name, self._text = name, text
        self.value: float | None = None

    def describe(self) -> Iterable[Metric]:
        return [GaugeMetricFamily(self._name, self._text)]

    def collect(self) -> Iterable[Metric]:
        return [GaugeMetricFamily(self._name, self._text, value=self.value)]


def _exemplar(trace_id: str) -> dict[str, str] | None:
    """None for anything but a trace id: an exemplar over 128 characters would raise."""
    return {"trace_id": trace_id} if len(trace_id) == 32 else None
