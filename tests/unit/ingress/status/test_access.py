"""Reading and acting need what the settings say, and no other site can act in an operator's name."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from fastapi import APIRouter
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from opentelemetry.sdk.trace import TracerProvider
from pydantic import SecretStr
from starlette.requests import Request

from ingress.acceld.tasks import create_task_router
from ingress.backfill.api import create_backfill_router
from ingress.backfill.runner import BackfillRunner
from ingress.console.console import create_console
from ingress.dead_letters import create_dead_letter_router
from ingress.problem import HttpProblem
from ingress.status.access import Access, json_only
from ingress.status.api import create_status_router
from ingress.status.service import Status, create_status
from shared.broker.memory import MemoryServer, MemoryTransport
from shared.broker.queue import QueueBroker
from shared.event_reporter import EventReporter
from shared.settings.model import Console, Settings
from shared.telemetry.metrics import Metrics
from shared.telemetry.tracing import Tracing

READER, OPERATOR = "reader:look-only", "boss:replay-it"
BOTH = Console(credential=SecretStr(READER), operator_credential=SecretStr(OPERATOR))


def make_request(credential: str = "", method: str = "GET", **headers: str) -> Request:
    values = {name.replace("_", "-"): value for name, value in headers.items()}
    if credential:
        values["authorization"] = "Basic " + base64.b64encode(credential.encode()).decode()
    raw = [(name.encode(), value.encode()) for name, value in values.items()]
    return Request({"type": "http", "method": method, "path": "/", "headers": raw, "query_string": b""})


def make_status(console: Console = BOTH) -> Status:
    broker = QueueBroker(MemoryTransport(MemoryServer()), delivery_limit=3)
    return create_status(Settings(console=console), broker, Metrics(), Tracing(TracerProvider()))


async def refusal(access: Access, request: Request, *, operate: bool) -> int:
    try:
        await (access.operate(request) if operate else access.read(request))
    except HttpProblem as error:
        return error.status_code
    return 200


@pytest.mark.parametrize(
    ("console", "credential", "read", "operate"),
    [
        (Console(), "", 200, 403),
        (Console(), OPERATOR, 200, 403),
        (Console(operator_credential=SecretStr(OPERATOR)), "", 200, 401),
        (BOTH, "", 401, 401),
        (BOTH, READER, 200, 401),
        (BOTH, OPERATOR, 200, 200),
        (BOTH, "boss:", 401, 401),
        (BOTH, "boss:replay-it ", 401, 401),
        (BOTH, ":", 401, 401),
    ],
)
async def test_who_may_read_and_who_may_act(console: Console, credential: str, read: int, operate: int) -> None:
    access = Access(console)
    assert await refusal(access, make_request(credential), operate=False) == read
    assert await refusal(access, make_request(credential), operate=True) == operate


@pytest.mark.parametrize("header", ["Basic ***", "Basic /w==", "Bearer abc", "Basic", ""])
async def test_a_header_that_is_no_credential_is_refused(header: str) -> None:
    assert await refusal(Access(BOTH), make_request(authorization=header), operate=False) == 401


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"sec_fetch_site": "same-origin", "origin": "https://proxy.example.com", "host": "10.0.0.1"}, True),
        ({"sec_fetch_site": "cross-site"}, False),
        ({"sec_fetch_site": "same-site"}, False),
        ({"origin": "https://evil.example.com", "host": "ics.example.com"}, False),
        ({"origin": "null", "host": "ics.example.com"}, False),
        ({"origin": "https://ics.example.com", "host": "ics.example.com"}, True),
        ({"origin": "https://ics.example.com", "host": "10.0.0.1", "x_forwarded_host": "ics.example.com"}, True),
    ],
)
async def test_another_site_cannot_act_with_the_operators_credential(headers: dict[str, str], allowed: bool) -> None:
    forged = make_request(OPERATOR, "POST", **headers)
    assert await refusal(Access(BOTH), forged, operate=True) == (200 if allowed else 403)


def test_a_forms_token_belongs_to_its_purpose_and_its_operator() -> None:
    access = Access(BOTH)
    token = access.form_token("replay a b")
    access.check_form_token("replay a b", Access(BOTH).form_token("replay a b"))
    other = Console(operator_credential=SecretStr("boss:other"))
    for purpose, given in (
        ("replay a", token),
        ("replay a b", ""),
        ("replay a b", Access(other).form_token("replay a b")),
    ):
        with pytest.raises(HttpProblem):
            access.check_form_token(purpose, given)


def test_only_json_bodies_change_anything() -> None:
    json_only(make_request(method="POST", content_type="application/json; charset=utf-8"))
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        with pytest.raises(HttpProblem):
            json_only(make_request(method="POST", content_type=kind))


def names(dependant: Dependant) -> set[str]:
    found = {getattr(dependant.call, "__qualname__", "")}
    return found.union(*(names(child) for child in dependant.dependencies))


def effective(routers: Iterable[APIRouter]) -> Iterator[Any]:
    """Routes with everything that the routers around them add; FastAPI keeps included routers as nested ones."""
    for route in (route for router in routers for route in router.routes):
        if isinstance(route, APIRoute):
            yield route
        else:
            yield from route.effective_route_contexts()  # type: ignore[attr-defined]  # of its private nested router


def test_every_route_is_behind_a_credential_and_every_change_behind_the_operators() -> None:
    status = make_status()
    reporter = EventReporter(status.broker.events, status.metrics, ())
    runner = BackfillRunner(Settings(), status.broker, status.backfills, tracing=status.tracing, reporter=reporter)
    open_to_all = {"/console", "/console/static/{name}", "/api/v1/health"}
    routers = (
        create_status_router(status),
        create_task_router(status),
        create_dead_letter_router(status),
        create_console(status, runner),
        create_backfill_router(status.access, status.backfills, runner),
    )
    seen = set()
    for route in effective(routers):
        guards = names(route.dependant)
        reading = route.methods <= {"GET"} and route.path != "/console/sign-in"
        assert route.path in open_to_all or ("Access.read" if reading else "Access.operate") in guards, route.path
        seen.add(route.path)
    assert {"/api/v1/status/events", "/api/v1/dead-letters/replay", "/console/dead-letters/apply", "/console/"} <= seen
