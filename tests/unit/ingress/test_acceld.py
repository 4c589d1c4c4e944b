"""acceld's clients: the requests that ``accelctl`` makes, answer by answer."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from ingress import intake
from ingress.acceld import convert
from shared.events import conversion_event
from shared.messages import ConversionRequest, Failure
from tests.unit.ingress.conftest import AUTH, Ingress, running, settings_for
from tests.waiting import PATIENCE, until

DIGEST = "sha256:" + "ab" * 32


def body(*resources: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "PUSH_ARTIFACT",
        "event_data": {"resources": [{"resource_url": each, **more} for each in resources]},
    }


async def create(ingress: Ingress, content: dict[str, Any], sync: str = "false", **headers: str) -> httpx.Response:
    return await ingress.http.post(
        f"/api/v1/conversions?sync={sync}", json=content, headers={**AUTH, **headers}, timeout=30
    )


async def settle(ingress: Ingress, *kinds: Any, message: str = "") -> ConversionRequest:
    """Tell events of the next request in the queue, as a consumer does."""
    ((request, _),) = await ingress.queued(1)
    failure = Failure(code="manifest_unknown", kind="permanent", message=message)
    for kind in kinds:
        facts: dict[str, Any] = {"failure": failure} if kind in {"failed", "retrying"} else {}
        await ingress.broker.events.publish(conversion_event(kind, request, consumer="c/1", attempt=1, **facts))
    return request


async def test_a_task_is_created_with_the_tag_that_people_leave_out(ingress: Ingress) -> None:
    for given, meant in (
        ("harbor.dev/library/app", "harbor.dev/library/app:latest"),
        ("harbor.dev/library/app:v1", "harbor.dev/library/app:v1"),
        (f"harbor.dev/library/app:v1@{DIGEST}", f"harbor.dev/library/app:v1@{DIGEST}"),
    ):
        answer = await create(ingress, body(given))
        assert (answer.status_code, answer.json()) == (200, "Ok")
        ((request, _),) = await ingress.queued(1)
        assert str(request.source) == meant


async def test_what_is_asked_for_again_is_asked_for_anew(ingress: Ingress) -> None:
    """The body is the same for ever: a tag that was pushed again must not count as converted already."""
    for _ in range(2):
        assert (await create(ingress, body("harbor.dev/library/app:v1"))).status_code == 200
    found = await ingress.queued(2)
    assert len({request.id for request, _ in found}) == 2


async def test_a_resource_with_its_digest_keeps_it(ingress: Ingress) -> None:
    assert (await create(ingress, body("harbor.dev/library/app:v1", digest=DIGEST, tag="v1"))).status_code == 200
    ((request, _),) = await ingress.queued(1)
    assert request.source.digest == DIGEST


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        ("unknown.example.com/library/app:v1", "registry not allowed"),
        (f"harbor.dev/library/app@{DIGEST}", "pushed by digest"),
    ],
)
async def test_what_comes_to_nothing_is_no_success_to_who_asked_by_name(
    ingress: Ingress, reference: str, why: str
) -> None:
    answer = await create(ingress, body(reference))
    assert (answer.status_code, answer.json()["code"]) == (400, "ERR_ILLEGAL_PARAMETER")
    assert why in answer.json()["message"]
    event = body(reference) | {"occur_at": 1}  # Harbor's: it would send a refused event again
    assert (await create(ingress, event)).status_code == 200
    assert (await ingress.broker.stats()).ready == 0


async def test_without_a_registry_docker_hub_is_meant(ingress: Ingress) -> None:
    answer = await create(ingress, body("nginx"))
    assert answer.json() == {"code": "ERR_ILLEGAL_PARAMETER", "message": "nothing is converted: registry not allowed"}


async def test_a_signature_is_nothing_to_do(ingress: Ingress) -> None:
    answer = await create(ingress, body(f"harbor.dev/library/app:sha256-{'ab' * 32}.sig"))
    assert (answer.status_code, answer.json()) == (200, "Ok")


@pytest.mark.parametrize(
    "content",
    [
        {"type": "PUSH_ARTIFACT"},
        {"type": "PUSH_ARTIFACT", "event_data": None},
        {"type": "PUSH_ARTIFACT", "event_data": {}},
        body(),
        body(""),
        body("harbor.dev/Library/app:v1"),
        {"type": "PUSH_ARTIFACT", "event_data": {"resources": [None]}},
        {"type": "PUSH_ARTIFACT", "event_data": {"resources": [{"resource_url": 1}]}},
    ],
)
async def test_a_body_without_its_data_is_refused_with_the_place(ingress: Ingress, content: dict[str, Any]) -> None:
    answer = await create(ingress, content)
    assert (answer.status_code, answer.json()["code"]) == (400, "ERR_ILLEGAL_PARAMETER")
    assert "event_data" in answer.json()["message"]


@pytest.mark.parametrize("sync", ["true", "1", "t", "T", "TRUE", "True"])
async def test_a_synchronous_call_answers_when_it_is_done(ingress: Ingress, sync: str) -> None:
    asked = asyncio.create_task(create(ingress, body("harbor.dev/library/app:v1"), sync))
    await settle(ingress, "started")
    assert not asked.done()
    request = ConversionRequest.model_validate(await _only(ingress))
    await ingress.broker.events.publish(conversion_event("succeeded", request, consumer="c/1", attempt=1))
    answer = await asked
    assert (answer.status_code, answer.json()) == (200, "Ok")


async def _only(ingress: Ingress) -> Any:
    """The request that the event stream knows."""
    async for event in ingress.broker.events.read():
        if event.data.request is not None:
            return event.data.request
    raise AssertionError


async def test_a_conversion_that_fails_says_why_and_one_that_its_retry_mends_is_completed(ingress: Ingress) -> None:
    asked = asyncio.create_task(create(ingress, body("harbor.dev/library/app:v1"), "true"))
    await settle(ingress, "started", "failed", message="there is no such image")
    answer = await asked
    assert answer.status_code == 500
    assert answer.json() == {"code": "ERR_CONVERT_FAILED", "message": "there is no such image"}
    asked = asyncio.create_task(create(ingress, body("harbor.dev/library/app:v2"), "true"))
    await settle(ingress, "started", "retrying", "started", "succeeded", message="the registry was away")
    assert (await asked).status_code == 200
    tasks = {task["source"]: task for task in (await ingress.http.get("/api/v1/conversions")).json()}
    assert tasks["harbor.dev/library/app:v1"]["status"] == "FAILED"
    assert tasks["harbor.dev/library/app:v1"]["reason"] == "there is no such image"
    mended = tasks["harbor.dev/library/app:v2"]
    assert (mended["status"], mended["reason"]) == ("COMPLETED", "")


@pytest.mark.parametrize("sync", ["", "false", "maybe", "0"])
async def test_another_value_is_no_synchronous_call(ingress: Ingress, sync: str) -> None:
    assert (await create(ingress, body("harbor.dev/library/app:v1"), sync)).status_code == 200


async def test_synchronous_calls_are_bounded_in_number(ingress: Ingress, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "BUDGET", PATIENCE)  # a busy machine may need longer for all of them
    count = convert.SYNC_AT_ONCE + 3
    calls = [
        asyncio.create_task(create(ingress, body(f"harbor.dev/library/app:v{number}"), "true"))
        for number in range(count)
    ]
    await until(lambda: sum(call.done() for call in calls) == 3)
    refused = [call.result() for call in calls if call.done()]
    assert {answer.status_code for answer in refused} == {500}
    assert all("too many" in answer.json()["message"] for answer in refused)
    assert (await ingress.broker.stats()).ready == count
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


async def test_a_synchronous_call_is_bounded_in_time(ingress: Ingress, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "SYNC_LIMIT", 0.01)
    answer = await create(ingress, body("harbor.dev/library/app:v1"), "true")
    assert answer.status_code == 500
    assert "in the background" in answer.json()["message"]
    assert (await ingress.broker.stats()).ready == 1


async def test_what_could_not_be_persisted_is_an_error_that_the_client_sees(ingress: Ingress) -> None:
    """accelctl takes a status above 500 for success."""
    ingress.server.available = False
    answer = await create(ingress, body("harbor.dev/library/app:v1"))
    assert (answer.status_code, answer.json()["code"]) == (500, "ERR_CONVERT_FAILED")
    assert answer.headers["retry-after"]


async def test_without_the_header_it_is_told_how_to_live_with_a_client_that_sends_none(ingress: Ingress) -> None:
    answer = await ingress.http.post("/api/v1/conversions", json=body("harbor.dev/library/app:v1"))
    assert (answer.status_code, answer.json()["code"]) == (401, "ERR_UNAUTHORIZED")
    assert "accelctl" in answer.json()["message"]
    wrong = await create(ingress, body("harbor.dev/library/app:v1"), Authorization="Bearer wrong")
    assert "accelctl" not in wrong.json()["message"]


async def test_an_endpoint_that_is_none_is_told_in_accelds_words(ingress: Ingress) -> None:
    answer = await ingress.http.get("/api/v1/tasks")
    assert (answer.status_code, answer.json()["code"]) == (404, "ERR_INVALID_ENDPOINT")
    ours = await ingress.http.get("/api/v1/status/conversions/unknown")
    assert (ours.status_code, "code" in ours.json()) == (404, False)
    assert answer.json()["title"] == "Not Found"
    assert "code" not in (await ingress.http.get("/nowhere")).json()


async def test_a_list_that_is_closed_says_so_where_the_client_looks() -> None:
    async with running(settings_for(ICS_CONSOLE__CREDENTIAL="reader:word")) as closed:
        answer = await closed.http.get("/api/v1/conversions")
        assert (answer.status_code, answer.json()["code"]) == (401, "ERR_UNAUTHORIZED")
        assert "console" in answer.json()["message"]
        assert answer.headers["www-authenticate"].startswith("Basic")
        assert (await closed.http.get("/api/v1/conversions", auth=("reader", "word"))).json() == []
        assert "detail" in (await closed.http.get("/api/v1/status/conversions")).json()
