"""The status API over HTTP: lists, details, acceld's shape, live updates that resume."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from shared.events import conversion_event
from tests.integration.console.site import CONSUMERS, Site, digest, request, site, stages
from tests.waiting import PATIENCE


@pytest.fixture(scope="module")
def api() -> Iterator[Site]:
    with site() as running:
        yield running


def get(api: Site, path: str) -> Any:
    with urllib.request.urlopen(f"{api.url}{path}", timeout=PATIENCE) as answer:
        return json.load(answer)


def status_of(api: Site, path: str) -> int:
    try:
        with urllib.request.urlopen(f"{api.url}{path}", timeout=PATIENCE) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_the_overview_tells_counts_queue_consumers_registries_and_hours(api: Site) -> None:
    found = get(api, "/api/v1/status")
    assert found["counts"]["failed"] == 3
    assert found["queue"]["up"] is True
    assert found["queue"]["dead"] == 3
    assert {c["name"] for c in found["consumers"]} == set(CONSUMERS)
    assert sum(c["failed_attempts"] for c in found["consumers"]) >= 3
    assert found["registries"][0]["last_code"]
    assert len(found["hours"]) == 24
    assert sum(h["failed"] for h in found["hours"]) == 3
    assert found["rebuilding"] is False


def test_conversions_are_listed_searched_and_paged(api: Site) -> None:
    first = get(api, "/api/v1/status/conversions?limit=20")
    second = get(api, f"/api/v1/status/conversions?limit=20&cursor={first['next']}")
    assert len({c["id"] for c in first["items"] + second["items"]}) == 40
    failed = get(api, "/api/v1/status/conversions?status=failed&status=retrying&repository=payments/*")
    assert {c["code"] for c in failed["items"]} == {"denied"}
    for wrong in ("status=unheard", "limit=0", "since=yesterday"):
        assert status_of(api, f"/api/v1/status/conversions?{wrong}") == 422
    assert status_of(api, "/api/v1/status/conversions?cursor=nonsense") == 400


def test_one_conversion_has_attempts_stages_and_its_trace(api: Site) -> None:
    found = get(api, f"/api/v1/status/conversions/{digest(3)[7:39]}")
    (attempt,) = found["attempts"]
    assert [s["name"] for s in attempt["stages"]] == [s.name for s in stages()]
    assert found["trace_url"] == f"https://grafana.example.com/trace/{found['trace_id']}"
    assert (found["layers_total"], found["layers_reused"]) == (6, 2)
    assert found["operator"] == "robot$ci"
    assert status_of(api, "/api/v1/status/conversions/unknown") == 404


def test_acceld_clients_get_their_shape(api: Site) -> None:
    tasks = get(api, "/api/v1/conversions")
    wanted = {"id", "created", "finished", "source", "source_size", "target_size", "status", "reason"}
    assert all(set(task) == wanted for task in tasks)
    assert [task["created"] for task in tasks] == sorted((task["created"] for task in tasks), reverse=True)
    by_status = {task["status"]: task for task in tasks}
    assert by_status["PROCESSING"]["finished"] == "0001-01-01T00:00:00Z"
    assert by_status["COMPLETED"]["source"].startswith("harbor.example.com/")
    assert "403" in by_status["FAILED"]["reason"] or "gzip" in by_status["FAILED"]["reason"]
    with urllib.request.urlopen(f"{api.url}/api/v1/health", timeout=PATIENCE) as answer:
        assert (answer.status, answer.read()) == (200, b"Ok")


def frames(stream: Any) -> Iterator[dict[str, str]]:
    """Server-sent events as dictionaries; comments as ``{"": ""}``."""
    frame: dict[str, str] = {}
    for raw in stream:
        line = raw.decode().rstrip("\n")
        if line:
            name, _, value = line.partition(":")
            frame[name] = value.strip()
        elif frame:
            yield frame
            frame = {}


def test_live_updates_arrive_beat_and_resume_after_a_lost_connection(api: Site) -> None:
    with urllib.request.urlopen(f"{api.url}/api/v1/status/events", timeout=PATIENCE) as stream:
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        found = frames(stream)
        assert "retry" in next(found)
        assert next(found) == {"": ""}  # the heartbeat: the subscription stands
        live = request(9000, "library/redis", "live", age=0)
        api.publish(conversion_event("started", live, consumer=CONSUMERS[0]))
        frame = next(f for f in found if f.get("event") == "conversion")
    assert json.loads(frame["data"])["status"] == "converting"
    other = request(9001, "library/redis", "other", age=0)
    api.publish(
        conversion_event("succeeded", live, consumer=CONSUMERS[0], duration_seconds=1.0),
        conversion_event("started", other, consumer=CONSUMERS[0]),
    )
    headers = {"Last-Event-ID": frame["id"]}
    again = urllib.request.Request(f"{api.url}/api/v1/status/events?conversion={live.id}", headers=headers)
    with urllib.request.urlopen(again, timeout=PATIENCE) as stream:
        missed = next(f for f in frames(stream) if "data" in f)
    assert json.loads(missed["data"])["status"] == "succeeded"
    stale = urllib.request.Request(f"{api.url}/api/v1/status/events", headers={"Last-Event-ID": "of another week"})
    with urllib.request.urlopen(stale, timeout=PATIENCE) as stream:
        assert next(f for f in frames(stream) if "data" in f)["event"] == "reset"
