"""The console's pages: rendered on the server, readable without JavaScript, which only keeps them fresh."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.routing import APIRoute
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ingress.console import presentation
from ingress.console.assets import HEADERS
from ingress.console.charts import hour_columns, waterfall
from ingress.status.cancelling import cancellable_filter
from ingress.status.conversion import STATUSES
from ingress.status.query import search
from ingress.status.service import Status
from shared.explanations import explain
from shared.request_filter import RequestFilter

_HERE = Path(__file__).parent
PAGE = 50


class Renderer:
    """Templates with everything escaped; links are relative, so that any path prefix works."""

    def __init__(self, status: Status) -> None:
        self._status = status
        self._templates = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals |= {
            "pill": presentation.status_pill,
            "copyable": presentation.copyable,
            "size_change": presentation.size_change,
            "explain": explain,
            "status_words": presentation.STATUS_WORDS,
            "waterfall": waterfall,
        }
        self._templates.filters |= {
            "bytes": presentation.bytes_text,
            "duration": presentation.duration_text,
            "ago": presentation.ago,
            "utc": presentation.utc_text,
            "digest": presentation.short_digest,
            "cut": presentation.cut,
        }

    def page(self, request: Request, template: str, *, status_code: int = 200, **values: Any) -> HTMLResponse:
        access = self._status.access
        route = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
        depth = route.removeprefix("/console/").count("/")
        context = {
            "root": "../" * depth or "./",
            "active": template.partition(".")[0],
            "operator": access.is_operator(request),
            "may_operate": access.may_operate,
            "queue": self._status.views.queue(),
            "as_of": self._status.views.as_of(),
            "now": datetime.now(UTC),
            "rebuilding": self._status.follower.rebuilding,
            **values,
        }
        body = self._templates.get_template(template).render(context)
        return HTMLResponse(body, status_code, HEADERS)


def create_pages_router(status: Status, renderer: Renderer, route_class: type[APIRoute]) -> APIRouter:
    """Reading: overview, conversions, queue. Everything is behind ``console.credential``."""
    router = APIRouter(prefix="/console", route_class=route_class, include_in_schema=False)
    protected = APIRouter(route_class=route_class, dependencies=[Depends(status.access.read)])
    views = status.views

    @protected.get("/")
    async def overview(request: Request) -> HTMLResponse:
        seen = views.overview(time.time())
        columns, largest = hour_columns(seen.hours)
        running = [views.summary(c) for c, _ in zip(status.history.by_status("converting"), range(10), strict=False)]
        recent = await search(status.history, RequestFilter(), limit=8)
        failed = await search(status.history, RequestFilter(statuses=frozenset({"failed", "retrying"})), limit=6)
        return renderer.page(
            request,
            "overview.html",
            overview=seen,
            columns=columns,
            largest=largest,
            running=running,
            recent=[views.summary(c) for c in recent.items],
            failures=[views.summary(c) for c in failed.items],
        )

    @protected.get("/conversions")
    async def conversions(
        request: Request,
        where: Annotated[RequestFilter, Depends(_query_filter)],
        cursor: Annotated[str, Query(max_length=100)] = "",
        cancelled: Annotated[int, Query(ge=0)] = 0,
    ) -> HTMLResponse:
        try:
            page = await search(status.history, where, limit=PAGE, cursor=cursor)
        except ValueError:
            raise HTTPException(422, "this page does not exist") from None
        query = [
            (key, value)
            for key, value in request.query_params.multi_items()
            if value and key not in {"cursor", "cancelled"}
        ]
        return renderer.page(
            request,
            "conversions.html",
            items=[views.summary(c) for c in page.items],
            where=where,
            statuses=STATUSES,
            first=not cursor,
            first_query=urlencode(query),
            next_query=urlencode([*query, ("cursor", page.cursor)]) if page.cursor else "",
            filtered=bool(query),
            cancellable=bool(query) and cancellable_filter(where) is not None,
            cancelled=cancelled,
            known=len(status.history),
        )

    @protected.get("/conversions/{conversion_id}")
    async def conversion(
        request: Request, conversion_id: str, asked: Annotated[str, Query(max_length=1)] = ""
    ) -> HTMLResponse:
        found = status.history.get(conversion_id)
        if found is None:
            raise HTTPException(404, "This conversion is not in the history: it is older than a week, or never was.")
        return renderer.page(request, "conversion.html", c=views.detail(found), asked=asked, settled=found.settled)

    @protected.get("/queue")
    async def queue(request: Request) -> HTMLResponse:
        return renderer.page(request, "queue.html", overview=views.overview(time.time()), consumers=views.consumers())

    @protected.get("/sign-in", dependencies=[Depends(status.access.operate)])
    async def sign_in() -> RedirectResponse:
        """Asks the browser for the operator's credential, which it then sends with every page."""
        return RedirectResponse("./", 303, HEADERS)

    @router.get("")
    async def without_slash() -> RedirectResponse:
        return RedirectResponse("console/", 307)

    @protected.get("/{page:path}")
    async def nothing(page: str) -> Response:
        raise HTTPException(404, f"There is no page {page[:100]!r} here.")

    router.include_router(protected)
    return router


def form_filter(given: Mapping[str, Sequence[str]]) -> RequestFilter:
    """The search form's fields; an empty one means no condition, an unknown status none either."""

    def first(name: str, length: int) -> str:
        return given.get(name, ("",))[0].strip()[:length]

    return RequestFilter(
        statuses=frozenset(STATUSES).intersection(given.get("status", ())),
        repository=first("repository", 300),
        tag=first("tag", 150),
        driver=first("driver", 50),
        priority=first("priority", 50),
        code=first("code", 100),
        text=first("q", 300),
    )


def _query_filter(request: Request) -> RequestFilter:
    return form_filter({name: request.query_params.getlist(name) for name in request.query_params})
