"""Webhooks: what is accepted, what is not wanted, what is refused, and that an answer of 202 means confirmed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ingress import intake
from shared.telemetry.tracing import extract, trace_id
from tests.unit.ingress.conftest import AUTH, Ingress, running, settings_for

SAMPLES = Path(__file__).parents[2] / "data/harbor"
DIGEST = "sha256:" + "ab" * 32


def sample(name: str) -> bytes:
    return (SAMPLES / f"{name}.json").read_bytes()


def push(tag: str = "v1", host: str = "harbor.dev", **changes: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "type": "PUSH_ARTIFACT",
        "occur_at": 1,
        "operator": "admin",
        "event_data": {
            "resources": [{"digest": DIGEST, "tag": tag, "resource_url": f"{host}/library/app:{tag}"}],
            "repository": {"name": "app", "namespace": "library", "repo_full_name": "library/app"},
        },
    }
    return body | changes


async def test_harbors_default_push_is_queued_and_answered_with_its_ids(ingress: Ingress) -> None:
    answer = await ingress.post(sample("push-tag"))
    assert answer.status_code == 202
    ((request, headers),) = await ingress.queued(1)
    assert [each["id"] for each in answer.json()["conversions"]] == [request.id]
    assert str(request.source).startswith("hub.harbor.com/test-webhook/debian:latest@sha256:8a9e")
    assert str(request.target) == "hub.harbor.com/test-webhook/debian:latest_esgz"
    assert trace_id_of(headers)


def trace_id_of(headers: dict[str, str]) -> str:
    from opentelemetry.trace import get_current_span

    return trace_id(get_current_span(extract(headers)))


async def test_a_browser_at_the_root_is_led_to_the_console(ingress: Ingress) -> None:
    answer = await ingress.http.get("/")
    assert (answer.status_code, answer.headers["location"]) == (307, "console/")


async def test_a_cloudevents_push_carries_harbors_request_id(ingress: Ingress) -> None:
    answer = await ingress.post(sample("push-cloudevents"), **{"Content-Type": "application/cloudevents+json"})
    assert answer.status_code == 202
    ((request, _),) = await ingress.queued(1)
    assert request.harbor_request_id == "2eedfab8-61d3-4f3c-8ec3-8f82d1ec4c84"
    assert request.event_id == "4b2f89a6-548d-4c12-9993-a1f5790b97d2"
    assert request.operator == "admin"


async def test_the_trace_of_the_sender_goes_on(ingress: Ingress) -> None:
    await ingress.post(push(), traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01")
    ((_, headers),) = await ingress.queued(1)
    assert trace_id_of(headers) == "a" * 32


@pytest.mark.parametrize("name", ["push-digest", "quota-exceeded", "scan-completed"])
async def test_what_is_not_wanted_is_understood_and_told_why(ingress: Ingress, name: str) -> None:
    answer = await ingress.post(sample(name))
    assert answer.status_code == 200
    body = answer.json()
    assert body["conversions"] == []
    assert body.get("reason") or body["skipped"][0]["reason"]


@pytest.mark.parametrize(
    "kind",
    [
        "PULL_ARTIFACT", "DELETE_ARTIFACT", "SCANNING_COMPLETED", "SCANNING_FAILED", "SCANNING_STOPPED", "QUOTA_EXCEED",
        "QUOTA_WARNING", "REPLICATION", "TAG_RETENTION", "SOMETHING_NEW",
    ],
)  # fmt: skip
async def test_every_other_event_of_harbor_is_answered_with_success(ingress: Ingress, kind: str) -> None:
    assert (await ingress.post(push(type=kind))).status_code == 200
    cloud = orjson.loads(sample("push-cloudevents")) | {"type": "harbor.artifact.pulled"}
    assert (await ingress.post(cloud)).status_code == 200


async def test_a_repeated_delivery_asks_for_the_same_conversion(ingress: Ingress) -> None:
    first, second = await ingress.post(sample("push-tag")), await ingress.post(sample("push-tag"))
    assert first.json()["conversions"] == second.json()["conversions"]


@pytest.mark.parametrize("tag", ["sha256-" + "ab" * 32 + ".sig", "sha256-" + "ab" * 32, "sha256-" + "ab" * 32 + ".att"])
async def test_signatures_are_skipped(ingress: Ingress, tag: str) -> None:
    assert (await ingress.post(push(tag))).json()["skipped"][0]["reason"] == "signature, attestation or SBOM"


async def test_a_host_that_is_not_allowed_is_skipped_not_refused(ingress: Ingress) -> None:
    answer = await ingress.post(push(host="169.254.169.254"))
    assert answer.status_code == 200
    assert answer.json()["skipped"][0]["reason"] == "registry not allowed"


async def test_our_own_robots_pushes_are_skipped() -> None:
    async with running(settings_for(ICS_OPERATORS_TO_IGNORE='["robot$ics"]')) as ingress:
        answer = await ingress.post(push(operator="robot$ics"))
        assert answer.json()["skipped"][0]["reason"] == "pushed by ICS itself"


async def test_a_users_tag_with_our_suffix_goes_to_the_consumer(ingress: Ingress) -> None:
    answer = await ingress.post(push("v1_esgz"))
    assert answer.json()["conversions"][0]["target"].endswith(":v1_esgz_esgz")


async def test_one_push_yields_every_rules_conversion() -> None:
    rules = [
        {"name": "a", "target_suffix": "esgz", "match": {"repositories": {"include": ["library/*"]}}},
        {"name": "b", "target_suffix": "-nydus", "driver": {"type": "nydus"}},
        {"name": "c", "target_suffix": "x", "match": {"tags": {"exclude": ["v*"]}}},
    ]
    async with running(settings_for(ICS_RULES=orjson.dumps(rules).decode())) as ingress:
        answer = await ingress.post(push())
        found = [(each["rule"], each["target"], each["driver"]) for each in answer.json()["conversions"]]
        assert found == [
            ("a", "harbor.dev/library/app:v1_esgz", "estargz"),
            ("b", "harbor.dev/library/app:v1-nydus", "nydus"),
        ]
        assert len(await ingress.queued(2)) == 2


@pytest.mark.parametrize("authorization", [None, "", "Bearer wrong", "bearer webhook", "Bearer webhook "])
async def test_a_missing_or_wrong_header_is_refused(ingress: Ingress, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    answer = await ingress.http.post("/conversion", json=push(), headers=headers)
    if authorization == "Bearer webhook ":  # HTTP drops white space around a value
        assert answer.status_code in {202, 401}
    else:
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/problem+json"


async def test_a_rotated_header_is_accepted_too(ingress: Ingress) -> None:
    assert (await ingress.post(push(), Authorization="Bearer rotated")).status_code == 202


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'"x"', b"{}", b'{"type": 1}', b'{"type": "PUSH_ARTIFACT"}', b"\xff\xfe"]
)
async def test_what_is_malformed_is_a_problem_that_says_where(ingress: Ingress, body: bytes) -> None:
    answer = await ingress.post(body)
    assert answer.status_code == 400
    problem = answer.json()
    assert problem["status"] == 400
    assert problem["detail"]


async def test_a_body_above_the_limit_is_refused_without_being_held(ingress: Ingress) -> None:
    async def endless() -> Any:
        for _ in range(100):
            yield b" " * 65536

    answer = await ingress.http.post("/conversion", content=endless(), headers=AUTH)
    assert answer.status_code == 413
    assert "limits.webhook_body" in answer.json()["detail"]
    assert (await ingress.post(b" " * (2 << 20))).status_code == 413


async def test_without_the_brokers_confirm_the_answer_is_503(ingress: Ingress) -> None:
    ingress.server.available = False
    answer = await ingress.post(push())
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    ingress.server.available = True
    assert (await ingress.post(push())).status_code == 202


@pytest.fixture
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "BUDGET", 0.2)
    monkeypatch.setattr(intake, "BODY_SHARE", 0.05)


@pytest.mark.usefixtures("in_a_hurry")
async def test_a_broker_that_hangs_is_answered_in_time(ingress: Ingress, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(*_: object, **__: object) -> None:
        await asyncio.sleep(3600)

    monkeypatch.setattr(ingress.broker, "publish", hang)
    assert (await ingress.post(push())).status_code == 503


@pytest.mark.parametrize(("after", "status"), [("nothing", 408), ("disconnect", 400)])
async def test_a_body_that_does_not_come_is_refused_and_nothing_is_queued(
    ingress: Ingress, after: str, status: int, request: pytest.FixtureRequest
) -> None:
    if after == "nothing":
        request.getfixturevalue("in_a_hurry")
    first = iter([{"type": "http.request", "body": b'{"type":', "more_body": True}])
    sent: list[Any] = []

    async def receive() -> Any:
        if message := next(first, None):
            return message
        if after == "nothing":
            await asyncio.sleep(3600)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/conversion", "scheme": "http", "query_string": b"", "client": None,
        "headers": [(b"authorization", AUTH["Authorization"].encode()), (b"content-length", b"500")],
    }  # fmt: skip
    await ingress.app(scope, receive, send)
    assert sent[0]["status"] == status
    assert (b"content-type", b"application/problem+json") in sent[0]["headers"]
    assert (await ingress.broker.stats()).ready == 0


async def test_health_follows_the_broker(ingress: Ingress) -> None:
    assert (await ingress.http.get("/health")).status_code == 204
    assert (await ingress.http.head("/health")).status_code == 204
    ingress.server.available = False
    answer = await ingress.http.get("/health")
    assert answer.status_code == 500
    assert "broker" in answer.text


async def test_metrics_come_as_text_and_as_json(ingress: Ingress) -> None:
    await ingress.post(push())
    text = (await ingress.http.get("/metrics")).text
    for name in ("webhook_request_total", "webhook_request_duration_seconds", "conversion_succeed_total",
                 "conversion_failed_total", "conversion_inflight_tasks", "conversion_duration_seconds"):  # fmt: skip
        assert name in text
    answer = await ingress.http.get("/metrics", headers={"Accept": "application/json"})
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.json()


async def test_the_api_describes_itself(ingress: Ingress) -> None:
    description = (await ingress.http.get("/openapi.json")).json()
    assert {"/conversion", "/health", "/metrics", "/api/v1/dead-letters"} <= set(description["paths"])


async def test_of_a_thousand_webhooks_at_once_each_is_accepted_or_asked_to_come_again(ingress: Ingress) -> None:
    async def sent(number: int) -> str:
        # 503: this machine was too busy to do it in time.
        while (answer := await ingress.post(push(f"v{number}"))).status_code == 503:
            assert answer.headers["retry-after"]
        assert answer.status_code == 202
        return str(answer.json()["conversions"][0]["id"])

    assert len(set(await asyncio.gather(*(sent(number) for number in range(1000))))) == 1000


async def test_more_than_can_wait_is_refused_at_once(ingress: Ingress, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "WAITING", 0)
    monkeypatch.setattr(intake, "AT_ONCE", 3)
    free, publishing = asyncio.Event(), asyncio.Semaphore(0)

    async def hangs(*_: object, **__: object) -> None:
        publishing.release()
        await free.wait()

    monkeypatch.setattr(ingress.broker, "publish", hangs)
    waiting = [asyncio.create_task(ingress.post(push(f"v{number}"))) for number in range(3)]
    for _ in waiting:
        await publishing.acquire()
    answer = await ingress.post(push())
    assert answer.status_code == 503
    assert "too many" in answer.json()["detail"]
    assert answer.headers["Retry-After"]
    free.set()
    assert [each.status_code for each in await asyncio.gather(*waiting)] == [202] * 3
    assert (await ingress.post(push("later"))).status_code == 202


@pytest.mark.parametrize("path", ["/conversion", "/ics/conversion"])
async def test_webhooks_arrive_with_and_without_a_proxys_prefix(path: str) -> None:
    async with running(settings_for(ICS_CONSOLE__PATH_PREFIX="/ics")) as ingress:
        answer = await ingress.http.post(path, json=push(), headers=AUTH)
        assert answer.status_code == 202
        assert (await ingress.http.get(path)).status_code == 405
        described = (await ingress.http.get("/ics/openapi.json")).json()
        assert described["servers"][0]["url"] == "/ics"


async def test_accelds_clients_get_accelds_answers(ingress: Ingress) -> None:
    body = {"type": "PUSH_ARTIFACT", "event_data": {"resources": [{"resource_url": "harbor.dev/library/app:v1"}]}}
    answer = await ingress.http.post("/api/v1/conversions", json=body, headers=AUTH)
    assert (answer.status_code, answer.json()) == (200, "Ok")
    ((request, _),) = await ingress.queued(1)
    assert request.source.digest is None
    other = await ingress.http.post("/api/v1/conversions", json={"type": "DELETE_ARTIFACT"}, headers=AUTH)
    assert other.status_code == 200
    bad = await ingress.http.post("/api/v1/conversions", content=b"{", headers=AUTH)
    assert (bad.status_code, bad.json()["code"]) == (400, "ERR_ILLEGAL_PARAMETER")
    denied = await ingress.http.post("/api/v1/conversions", json=body)
    assert (denied.status_code, denied.json()["code"]) == (401, "ERR_UNAUTHORIZED")
    assert (await ingress.http.get("/api/v1/health")).text == "Ok"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
KEYS = (
    "type",
    "event_data",
    "resources",
    "repository",
    "tag",
    "digest",
    "resource_url",
    "specversion",
    "data",
    "events",
)
MORE_KEYS = ("target", "action", "mediaType", "id", "operator", "occur_at", "repo_full_name")
keys = st.sampled_from(KEYS + MORE_KEYS)
bodies = st.dictionaries(keys, json_values | st.dictionaries(keys, json_values, max_size=5), max_size=6)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(bodies, st.sampled_from(["PUSH_ARTIFACT", "harbor.artifact.pushed"]))
def test_no_body_whatever_it_holds_is_an_error_of_ours(body: dict[str, Any], kind: str) -> None:
    async def run() -> httpx.Response:
        async with running(settings_for()) as ingress:
            return await ingress.post(body | {"type": kind})

    assert asyncio.run(run()).status_code in {200, 202, 400}


async def test_refused_webhooks_are_told_in_the_log_once_in_a_while(
    ingress: Ingress, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        assert (
            await ingress.http.post("/conversion", json=push(), headers={"Authorization": "old"})
        ).status_code == 401
    assert (await ingress.http.post("/conversion", content=b"[", headers=AUTH)).status_code == 400
    told = [message for message in caplog.messages if "was refused" in message]
    assert [("(401)" in line, "(400)" in line) for line in told] == [(True, False), (False, True)]
    assert "auth_header" in told[0]
