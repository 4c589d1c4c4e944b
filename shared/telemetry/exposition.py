"""``GET /metrics`` in three languages: Prometheus text 0.0.4, OpenMetrics (which carries exemplars), the proposal's JSON."""

from __future__ import annotations

import orjson
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPENMETRICS_TYPE
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

JSON_TYPE = "application/json"


def render(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """Body and content type that suit an ``Accept`` header; anything unknown gets Prometheus text.

    The most wanted of the media types that are served wins; among equal weights the first named does.
    """
    wanted = _preferred(accept)
    if wanted == JSON_TYPE:
        return orjson.dumps(proposal_object(registry), option=orjson.OPT_INDENT_2), JSON_TYPE
    if wanted == "application/openmetrics-text":
        text: bytes = generate_openmetrics(registry)  # type: ignore[no-untyped-call]  # its annotations are incomplete
        return text, OPENMETRICS_TYPE
    return generate_latest(registry), CONTENT_TYPE_LATEST


def proposal_object(registry: CollectorRegistry) -> dict[str, float]:
    """The Harbor proposal's flat object: totals over all labels, and the mean of each duration (seconds, 0 without data)."""
    sums: dict[str, float] = {}
    for family in registry.collect():
        for sample in family.samples:
            if not sample.name.endswith("_bucket"):
                sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    return {
        "conversion_succeed_total": int(sums.get("conversion_succeed_total", 0)),
        "conversion_failed_total": int(sums.get("conversion_failed_total", 0)),
        "conversion_inflight_tasks": int(sums.get("conversion_inflight_tasks", 0)),
        "conversion_duration_seconds": _mean(sums, "conversion_duration_seconds"),
        "webhook_request_total": int(sums.get("webhook_request_total", 0)),
        "webhook_request_duration_seconds": _mean(sums, "webhook_request_duration_seconds"),
    }


def _mean(sums: dict[str, float], name: str) -> float:
    count = sums.get(f"{name}_count", 0)
    return round(sums[f"{name}_sum"] / count, 6) if count else 0.0


def _preferred(accept: str) -> str:
    best, best_weight = "", 0.0
    for item in accept.lower().split(","):
        media_type, *parameters = (part.strip() for part in item.split(";"))
        if media_type not in {JSON_TYPE, "application/openmetrics-text", "text/plain"}:
            continue
        weight = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name == "q":
                try:
                    weight = float(value)
                except ValueError:
                    weight = 0.0
        if weight > best_weight:
            best, best_weight = media_type, weight
    return best
