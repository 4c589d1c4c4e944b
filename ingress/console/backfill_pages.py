"""Backfills in the console: planned first, then enqueued, followed, stopped and resumed."""

from __future__ import annotations

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from pydantic import ValidationError

from ingress.backfill.api import BackfillView
from ingress.backfill.record import BackfillRecord
from ingress.backfill.runner import BackfillRunner
from ingress.console.assets import HEADERS
from ingress.console.form import read_form
from ingress.console.pages import Renderer
from ingress.status.service import Status
from shared.backfill.events import BackfillPlan
from shared.errors import PermanentError

PURPOSE = "backfill"
"""What the forms' token is for."""


def create_backfill_router(
    status: Status, runner: BackfillRunner, renderer: Renderer, route_class: type[APIRoute]
) -> APIRouter:
    """Reading is behind ``console.credential``, acting behind ``console.operator_credential`` and the form's token."""
    router = APIRouter(prefix="/console/backfill", route_class=route_class, include_in_schema=False)
    access, backfills = status.access, status.backfills
    reader, operator = [Depends(access.read)], Depends(access.operate)

    def back() -> RedirectResponse:
        return RedirectResponse("../backfill", 303, HEADERS)

    def known(form: dict[str, list[str]]) -> BackfillRecord:
        record = backfills.get(form.get("id", [""])[0])
        if record is None:
            raise HTTPException(404, "There is no such backfill: it is older than the event history.")
        return record

    @router.get("", dependencies=reader)
    async def listing(request: Request) -> HTMLResponse:
        walks = [BackfillView.of(record) for record in backfills.newest_first()]
        return renderer.page(
            request,
            "backfill.html",
            walks=walks,
            busy=any(walk.state == "running" for walk in walks),
            registries=runner.registries,
            token=access.form_token(PURPOSE) if access.is_operator(request) else "",
        )

    @router.post("/start")
    async def start(request: Request, actor: str = operator) -> RedirectResponse:
        """A form's fields plan; the id of a plan enqueues what it planned."""
        form = await read_form(request)
        access.check_form_token(PURPOSE, form.get("token", [""])[0])
        plan = known(form).plan.model_copy(update={"dry_run": False}) if "id" in form else _plan(form)
        try:
            runner.start(plan, actor)
        except PermanentError as error:
            raise HTTPException(409 if error.code == "already_running" else 422, error.message) from None
        return back()

    @router.post("/resume")
    async def resume(request: Request, actor: str = operator) -> RedirectResponse:
        form = await read_form(request)
        access.check_form_token(PURPOSE, form.get("token", [""])[0])
        try:
            runner.resume(known(form), actor)
        except PermanentError as error:
            raise HTTPException(409, error.message) from None
        return back()

    @router.post("/stop")
    async def stop(request: Request, actor: str = operator) -> RedirectResponse:
        form = await read_form(request)
        access.check_form_token(PURPOSE, form.get("token", [""])[0])
        runner.stop(known(form), actor)
        return back()

    return router


def _plan(form: dict[str, list[str]]) -> BackfillPlan:
    """Globs are separated by spaces or commas; an empty field means everything."""

    def globs(name: str) -> tuple[str, ...]:
        return tuple(form.get(name, [""])[0].replace(",", " ").split()) or ("*",)

    try:
        return BackfillPlan(
            registry=form.get("registry", [""])[0].strip(),
            project=form.get("project", [""])[0].strip(),
            repositories=globs("repositories"),
            tags=globs("tags"),
            dry_run=True,
        )
    except ValidationError as error:
        raise HTTPException(422, f"The form holds a value that cannot be used: {error.errors()[0]['msg']}") from None
