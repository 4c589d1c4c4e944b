"""Cancelling a conversion in the console, confirmed on a page of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute

from ingress.console.form import read_form
from ingress.console.pages import HEADERS, Renderer
from ingress.status.cancelling import NotCancellableError, cancel, cancellable
from ingress.status.service import Status


def create_cancel_router(status: Status, renderer: Renderer, route_class: type[APIRoute]) -> APIRouter:
    """Behind ``console.operator_credential`` and the form's token."""
    router = APIRouter(
        prefix="/console/conversions/{conversion_id}/cancel", route_class=route_class, include_in_schema=False
    )
    operator = Depends(status.access.operate)

    @router.post("")
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

    @router.post("/apply")
    async def apply(request: Request, conversion_id: str, actor: str = operator) -> RedirectResponse:
        form = await read_form(request)
        status.access.check_form_token(f"cancel {conversion_id}", form.get("token", [""])[0])
        with _refusals():
            found = await cancel(status.broker, status.history, conversion_id, actor)
        return RedirectResponse(f"../../{found.id}?asked=1", 303, HEADERS)

    return router


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except NotCancellableError as error:
        raise HTTPException(409 if error.ended else 404, error.message) from None
