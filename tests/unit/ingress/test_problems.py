"""Whatever goes wrong over HTTP is answered as problem details; acceld's endpoints answer in acceld's words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import pytest

from ingress import problem_api
from tests.unit.ingress.conftest import AUTH, OPERATOR, Ingress, running, settings_for
from tests.waiting import until

LETTERS, STATUS, BACKFILLS = "/api/v1/dead-letters", "/api/v1/status", "/api/v1/backfills"


@pytest.fixture
async def closed() -> AsyncIterator[Ingress]:
    async with running(settings_for(ICS_CONSOLE__CREDENTIAL="viewer:word")) as made:
        await until(lambda: not made.app.state.status.follower.rebuilding)
        yield made


def problem(answer: httpx.Response) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/problem+json"
    told: dict[str, Any] = answer.json()
    assert told["status"] == answer.status_code
    assert told["title"]
    assert "credential" not in told.get("type", "")
    return told


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "code"),
    [
        ("GET", STATUS, {}, 401, "unauthorized"),
        ("GET", f"{STATUS}/conversions/x", {"auth": OPERATOR}, 404, "no_such_conversion"),
        ("POST", f"{STATUS}/conversions/x/cancel", {"auth": OPERATOR}, 404, "no_such_conversion"),
        ("POST", f"{STATUS}/conversions/cancel", {"auth": OPERATOR, "json": {}}, 400, "nothing_selected"),
        ("POST", f"{STATUS}/conversions/cancel", {"auth": OPERATOR, "content": b"x"}, 415, "wrong_content_type"),
        ("GET", f"{LETTERS}/x", {"auth": OPERATOR}, 404, "no_such_dead_letter"),
        ("DELETE", f"{LETTERS}/x", {"auth": OPERATOR}, 404, "no_such_dead_letter"),
        ("POST", f"{LETTERS}/x/replay", {"auth": OPERATOR}, 404, "no_such_dead_letter"),
        ("POST", f"{LETTERS}/x/replay", {}, 401, "unauthorized"),
        (
            "POST",
            f"{LETTERS}/x/replay",
            {"auth": OPERATOR, "headers": {"Sec-Fetch-Site": "cross-site"}},
            403,
            "other_site",
        ),
        ("POST", f"{LETTERS}/import", {"auth": OPERATOR, "content": b"{}"}, 400, "invalid_import"),
        ("GET", f"{BACKFILLS}/x", {"auth": OPERATOR}, 404, "no_such_backfill"),
        ("POST", BACKFILLS, {"auth": OPERATOR, "json": {"registry": "no.dev"}}, 422, "not_allowed"),
        ("POST", "/conversion", {}, 401, "unauthorized"),
        ("POST", "/conversion", {"headers": AUTH, "content": b"{}"}, 400, "malformed_webhook"),
        ("GET", "/conversion", {}, 405, ""),
        ("GET", "/nowhere", {}, 404, ""),
        ("GET", "/api/v1/nowhere", {}, 404, ""),
        ("PUT", "/api/v1/conversions", {}, 405, ""),
        ("PATCH", LETTERS, {"auth": OPERATOR}, 405, ""),
    ],
)
async def test_each_refusal_has_one_shape_and_a_type_that_stays(
    closed: Ingress, method: str, path: str, options: dict[str, Any], status: int, code: str
) -> None:
    answer = await closed.http.request(method, path, **options)
    told = problem(answer)
    assert (told["status"], told["type"]) == (status, f"urn:ics:problem:{code}" if code else "about:blank")
    assert ("www-authenticate" in answer.headers) == (status == 401)


@pytest.mark.parametrize(
    ("place", "name", "options"),
    [
        ("query", "limit", {"method": "GET", "url": f"{STATUS}/conversions?limit=many"}),
        ("query", "status.0", {"method": "GET", "url": f"{STATUS}/conversions?status=odd"}),
        ("body", "/dry_run", {"method": "POST", "url": f"{LETTERS}/replay", "json": {"dry_run": "perhaps"}}),
        ("body", "/ids/1", {"method": "POST", "url": f"{LETTERS}/replay", "json": {"ids": ["a", 2]}}),
        ("body", "", {"method": "POST", "url": f"{LETTERS}/replay", "json": []}),
        ("body", "/registry", {"method": "POST", "url": BACKFILLS, "json": {}}),
    ],
)
async def test_what_is_wrong_with_a_request_is_told_with_its_place(
    ingress: Ingress, place: str, name: str, options: dict[str, Any]
) -> None:
    told = problem(await ingress.http.request(**options, auth=OPERATOR))
    assert (told["status"], told["type"]) == (422, "urn:ics:problem:invalid_request")
    ((finding),) = told["errors"]
    assert (finding["in"], finding["name"]) == (place, name)
    assert finding["detail"] in told["detail"]


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[" * 100_000])
async def test_a_body_that_is_no_json_is_a_400(ingress: Ingress, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    told = problem(await ingress.http.post(f"{LETTERS}/replay", content=body, headers=headers, auth=OPERATOR))
    assert told["status"] == 400


async def test_a_document_is_bounded_in_size_and_time(ingress: Ingress, monkeypatch: pytest.MonkeyPatch) -> None:
    body = orjson.dumps({"code": "x" * problem_api.BODY_LIMIT})
    headers = {"Content-Type": "application/json"}
    told = problem(await ingress.http.post(f"{LETTERS}/discard", content=body, headers=headers))
    assert (told["status"], told["type"]) == (413, "urn:ics:problem:body_too_large")
    monkeypatch.setattr(problem_api, "BODY_SECONDS", 0)

    async def never() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    told = problem(await ingress.http.post(BACKFILLS, content=never(), headers=headers, auth=OPERATOR))
    assert (told["status"], told["type"]) == (408, "urn:ics:problem:slow_body")


@pytest.mark.parametrize("path", [LETTERS, f"{LETTERS}/export"])
async def test_a_broker_that_is_away_is_a_503_from_the_first_byte(ingress: Ingress, path: str) -> None:
    ingress.server.available = False
    told = problem(await ingress.http.get(path))
    assert (told["status"], told["type"]) == (503, "urn:ics:problem:broker_unavailable")


async def test_nobody_may_act_where_acting_is_off() -> None:
    settings = settings_for()
    console = settings.console.model_copy(update={"operator_credential": None})
    async with running(settings.model_copy(update={"console": console})) as ingress:
        told = problem(await ingress.http.delete(f"{LETTERS}/x", auth=OPERATOR))
        assert (told["status"], told["type"]) == (403, "urn:ics:problem:read_only")


async def test_what_nobody_thought_of_is_a_problem_too(ingress: Ingress, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_now: float) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(ingress.app.state.status.views, "overview", broken)
    transport = httpx.ASGITransport(ingress.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://ics") as http:
        assert problem(await http.get(STATUS))["status"] == 500


async def test_accelds_list_says_in_its_words_what_is_wrong_with_its_question(ingress: Ingress) -> None:
    answer = await ingress.http.get("/api/v1/conversions?limit=many")
    assert (answer.status_code, answer.json()["code"]) == (422, "ERR_ILLEGAL_PARAMETER")
    assert answer.headers["content-type"] == "application/json"
    assert "limit" in answer.json()["message"]


async def test_every_error_is_described_as_it_is_answered(ingress: Ingress) -> None:
    document = (await ingress.http.get("/openapi.json")).json()
    described = document["components"]["schemas"]
    assert {"type", "title", "status", "detail", "errors"} == set(described["Problem"]["properties"])
    assert not {"HTTPValidationError", "ValidationError"} & set(described)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            acceld = operation["tags"] == ["acceld"]
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    kind, shape = ("json", "Refusal") if acceld else ("problem+json", "Problem")
                    schema = response["content"][f"application/{kind}"]["schema"]
                    assert schema == {"$ref": f"#/components/schemas/{shape}"}, (path, status)
