"""The proposal's six under their names and labels, everything bounded, three expositions."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from shared.registry.observer import Observer
from shared.telemetry.cardinality import OTHER, RefTagLabels
from shared.telemetry.metrics import Metrics

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def samples(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    return {
        tuple(sample.labels.values()): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == name
    }


def test_the_proposals_six_have_its_names_and_labels() -> None:
    metrics = Metrics()
    metrics.conversion_started("h/r", "1")
    assert samples(metrics, "conversion_inflight_tasks") == {("h/r", "1"): 1}
    metrics.conversion_finished("h/r", "1", "succeeded", 30.18, TRACE)
    metrics.webhook("h/r", "1", 0.01, "accepted")
    assert samples(metrics, "conversion_succeed_total") == {(): 1}
    assert samples(metrics, "conversion_failed_total") == {(): 0}
    assert samples(metrics, "webhook_request_total") == {(): 1}
    assert samples(metrics, "conversion_duration_seconds_count") == {("h/r", "1"): 1}
    assert samples(metrics, "webhook_request_duration_seconds_count") == {("h/r", "1"): 1}


def test_a_conversion_that_succeeds_on_its_retry_is_one_success_and_no_failure() -> None:
    metrics = Metrics()
    for outcome in ("retrying", "succeeded"):
        metrics.conversion_started("h/r", "1")
        metrics.conversion_finished("h/r", "1", outcome, 1)
    assert samples(metrics, "conversion_failed_total") == {(): 0}
    assert samples(metrics, "conversion_succeed_total") == {(): 1}
    ended = {outcome: count for outcome, count in samples(metrics, "ics_conversion_attempts_total").items() if count}
    assert ended == {("retrying",): 1, ("succeeded",): 1}


def test_what_an_alert_takes_the_rate_of_is_there_before_it_happens() -> None:
    """A series that begins with its first event has no rate: ten webhooks lost at once would ring no bell."""
    metrics = Metrics(process_metrics=False)
    for name in ("ics_webhook_requests_total", "ics_conversion_attempts_total", "ics_dead_letter_operations_total"):
        assert set(samples(metrics, name).values()) == {0}
    assert samples(metrics, "ics_webhook_requests_total").keys() >= {("unavailable",), ("accepted",)}
    for name in ("ics_conversion_seconds_count", "ics_webhook_seconds_count", "ics_events_dropped_total"):
        assert samples(metrics, name) == {(): 0}


def test_conversions_of_many_tags_are_one_histogram() -> None:
    metrics = Metrics()
    for tag in ("1", "2"):
        metrics.conversion_started("h/r", tag)
        metrics.conversion_finished("h/r", tag, "succeeded", 2)
        metrics.webhook("h/r", tag, 0.01, "accepted")
    metrics.webhook("", "", 0.01, "unauthorized")
    assert samples(metrics, "ics_conversion_seconds_count") == {(): 2}
    assert samples(metrics, "ics_webhook_seconds_count") == {(): 3}


def test_in_flight_pairs_vanish_at_zero() -> None:
    metrics = Metrics()
    metrics.conversion_started("h/r", "1")
    metrics.conversion_started("h/r", "1")
    metrics.conversion_finished("h/r", "1", "failed", 1)
    assert samples(metrics, "conversion_inflight_tasks") == {("h/r", "1"): 1}
    metrics.conversion_finished("h/r", "1", "released", 1)
    assert samples(metrics, "conversion_inflight_tasks") == {}


@given(st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3)), max_size=200), st.integers(1, 5))
def test_labels_are_bounded_and_stable(pairs: list[tuple[str, str]], cap: int) -> None:
    labels = RefTagLabels(cap)
    given_out = {pair: labels.admit(*pair) for pair in pairs}
    assert len(set(given_out.values())) <= 2 * cap + 1
    for pair, shown in given_out.items():
        assert shown in (pair, (pair[0], OTHER), (OTHER, OTHER))
    kept = {pair: shown for pair, shown in given_out.items() if shown == pair}
    assert {pair: labels.admit(*pair) for pair in kept} == kept


def test_hostile_names_cannot_grow_the_exposition_without_end() -> None:
    metrics = Metrics(label_cap=10)
    for number in range(500):
        metrics.webhook(f"h/r{number}", "x" * 100, 0.1, "accepted")
        metrics.webhook(f"h/r{number}", "y", 0.1, "unauthorized")
        metrics.retried(f"code{number}")
    assert len(samples(metrics, "webhook_request_duration_seconds_count")) <= 2 * 10 + 2
    assert len(samples(metrics, "ics_conversion_retries_total")) == 101


def test_what_the_broker_cannot_tell_has_no_series() -> None:
    metrics = Metrics()
    assert samples(metrics, "ics_queue_consumers") == {}
    metrics.queue({"ready": 3, "dead": 1}, 2, 4.5)
    metrics.queue({"ready": 3, "dead": None}, 0, None)
    assert samples(metrics, "ics_queue_messages") == {("ready",): 3}
    assert samples(metrics, "ics_queue_consumers") == {(): 0}
    assert samples(metrics, "ics_queue_oldest_message_age_seconds") == {}
    metrics.dead_letters({"denied": 2})
    metrics.dead_letters({"corrupt_layer": 1})
    assert samples(metrics, "ics_dead_letters") == {("corrupt_layer",): 1}


def test_metrics_are_the_registry_clients_observer() -> None:
    metrics = Metrics()
    observer: Observer = metrics
    observer.request("pull_blob", "h", 0, 1.0)
    observer.request("pull_blob", "h", 206, 1.0)
    observer.retry("pull_blob", "h", "registry_timeout", 1.0)
    observer.transferred("pull_blob", "h", 10, 0)
    assert samples(metrics, "ics_registry_requests_total") == {
        ("h", "pull_blob", "no_answer"): 1,
        ("h", "pull_blob", "2xx"): 1,
    }
    assert samples(metrics, "ics_registry_bytes_total") == {("h", "in"): 10}


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "text/plain"),
        ("*/*", "text/plain"),
        ("application/json", "application/json"),
        ("text/html, application/json;q=0.9", "application/json"),
        ("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5", "application/openmetrics-text"),
        ("application/openmetrics-text;q=0.1, text/plain", "text/plain"),
        ("application/json;q=nonsense", "text/plain"),
        ("application/json;q=0", "text/plain"),
    ],
)
def test_the_accept_header_chooses_the_language(accept: str, kind: str) -> None:
    assert Metrics().render(accept)[1].startswith(kind)


def test_json_is_the_proposals_object() -> None:
    metrics = Metrics()
    for tag, seconds in (("1", 10.0), ("2", 20.0)):
        metrics.conversion_started("h/r", tag)
        metrics.conversion_finished("h/r", tag, "succeeded", seconds)
    metrics.conversion_started("h/r", "3")
    assert orjson.loads(metrics.render("application/json")[0]) == {
        "conversion_succeed_total": 2,
        "conversion_failed_total": 0,
        "conversion_inflight_tasks": 1,
        "conversion_duration_seconds": 15.0,
        "webhook_request_total": 0,
        "webhook_request_duration_seconds": 0.0,
    }


def test_openmetrics_carries_trace_ids_and_both_formats_parse() -> None:
    metrics = Metrics()
    metrics.conversion_started("h/r", 'quo"te\n')
    metrics.conversion_finished("h/r", 'quo"te\n', "succeeded", 42.0, TRACE)
    metrics.conversion_started("h/r", "2")
    metrics.conversion_finished("h/r", "2", "succeeded", 42.0, "x" * 500)
    text = metrics.render("application/openmetrics-text")[0].decode()
    families = list(parse_openmetrics(text))  # type: ignore[no-untyped-call]  # the library's annotations are incomplete
    exemplars = [s.exemplar for family in families for s in family.samples if s.exemplar]
    assert {e.labels["trace_id"] for e in exemplars} == {TRACE}
    assert {f.name for f in parse_text(metrics.render()[0].decode())} >= {"conversion_duration_seconds"}


def test_buckets_fit_minutes_long_conversions() -> None:
    metrics = Metrics()
    metrics.conversion_started("h/r", "1")
    metrics.conversion_finished("h/r", "1", "succeeded", 1500)
    buckets = {float(key[-1]): value for key, value in samples(metrics, "conversion_duration_seconds_bucket").items()}
    assert (buckets[1200.0], buckets[1800.0]) == (0, 1)
