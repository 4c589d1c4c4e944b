"""Cancelling in the console, one conversion or all of a list's filters, confirmed on a page of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute

from ingress.console.assets import HEADERS
from ingress.console.form import read_form
from ingress.console.pages import Renderer, form_filter
from ingress.status.cancelling import (
    NotCancellableError,
    by_status,
    cancel,
    cancel_matching,
    cancellable,
    cancellable_filter,
    matching,
)
from ingress.status.service import Status
from shared.request_filter import RequestFilter


def create_cancel_router(status: Status, renderer: Renderer, route_class: type[APIRoute]) -> APIRouter:
    """Behind ``console.operator_credential`` and the form's token."""
    router = APIRouter(prefix="/console/conversions", route_class=route_class, include_in_schema=False)
    operator = Depends(status.access.operate)

    @router.post("/cancel")
    async def confirm_all(request: Request, _actor: str = operator) -> HTMLResponse:
        where = _wanted(await read_form(request), status)
        until = datetime.now(UTC)
        found = await matching(status.history, where, until)
        return renderer.page(
            request,
            "cancel_all.html",
            active="conversions",
            count=len(found),
            by_status=by_status(found),
            fields=_fields(where),
            query=urlencode(_fields(where)),
            until=until,
            token=status.access.form_token(_purpose(where, until.isoformat())),
        )

    @router.post("/cancel/apply")
    async def apply_all(request: Request, actor: str = operator) -> RedirectResponse:
        form = await read_form(request)
        where, until = _wanted(form, status), form.get("until", [""])[0]
        status.access.check_form_token(_purpose(where, until), form.get("token", [""])[0])
        accepted_until = datetime.fromisoformat(until)
        count = len(await matching(status.history, where, accepted_until))
        await cancel_matching(status.broker, where, accepted_until, actor)
        query = urlencode([*_fields(where), ("cancelled", count)])
        return RedirectResponse(f"../../conversions?{query}", 303, HEADERS)

    @router.post("/{conversion_id}/cancel")
    async def confirm(request: Request, conversion_id: str, _actor: str = operator) -> HTMLResponse:
        with _refusals():
            found = cancellable(status.history, conversion_id)
        return renderer.page(
            request,
            "cancel.html",
            active="conversions",
            c=status.views.summary(found),
            token=status.access.form_token(f"cancel {conversion_id}"),
        )

    @router.post("/{conversion_id}/cancel/apply")
    async def apply(request: Request, conversion_id: str, actor: str = operator) -> RedirectResponse:
        form = await read_form(request)
        status.access.check_form_token(f"cancel {conversion_id}", form.get("token", [""])[0])
        with _refusals():
            found = await cancel(status.broker, status.history, conversion_id, actor)
        return RedirectResponse(f"../../{found.id}?asked=1", 303, HEADERS)

    return router


def _wanted(form: dict[str, list[str]], status: Status) -> RequestFilter:
    if status.follower.rebuilding:
        raise HTTPException(503, "The history is still being read: ask again in a few seconds.")
    where = cancellable_filter(form_filter(form))
    if where is None or where == RequestFilter():
        raise HTTPException(422, "Nothing is selected that could be cancelled.")
    return where


def _fields(where: RequestFilter) -> list[tuple[str, str]]:
    """As :func:`form_filter` reads them."""
    named = [(name, getattr(where, name)) for name in ("repository", "tag", "driver", "priority", "code")]
    named.append(("q", where.text))
    return [("status", each) for each in sorted(where.statuses)] + [(name, value) for name, value in named if value]


def _purpose(where: RequestFilter, until: str) -> str:
    return f"cancel all {where.model_dump_json()} {until}"


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except NotCancellableError as error:
        raise HTTPException(409 if error.ended else 404, error.message) from None
