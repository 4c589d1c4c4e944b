"""The console as a whole: pages, dead letters, and errors as pages too."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from ingress.backfill.runner import BackfillRunner
from ingress.console.assets import HEADERS, create_asset_router
from ingress.console.backfill_pages import create_backfill_router
from ingress.console.cancel_pages import create_cancel_router
from ingress.console.dead_letter_pages import create_dead_letter_router
from ingress.console.pages import Renderer, create_pages_router
from ingress.problem import HttpProblem
from ingress.status.service import Status
from shared.errors import IcsError


def create_console(status: Status, backfills: BackfillRunner) -> APIRouter:
    """A router with ``/console/...``; include it where nothing else claims that path."""
    renderer = Renderer(status)
    pages = _route_class(renderer)
    router = APIRouter()
    router.include_router(create_asset_router("/console"))
    router.include_router(create_dead_letter_router(status, renderer, pages))
    router.include_router(create_cancel_router(status, renderer, pages))
    router.include_router(create_backfill_router(status, backfills, renderer, pages))
    router.include_router(create_pages_router(status, renderer, pages))
    return router


def _route_class(renderer: Renderer) -> type[APIRoute]:
    class PageRoute(APIRoute):
        """Errors become pages: people read them."""

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                try:
                    return await handle(request)
                except HTTPException as error:
                    message = error.message if isinstance(error, HttpProblem) else error.detail
                    page = _page(renderer, request, error.status_code, message)
                    page.headers.update(error.headers or {})
                    return page
                except RequestValidationError:
                    return _page(renderer, request, 422, "The address holds a value that this page cannot use.")
                except IcsError as error:
                    return _page(renderer, request, 503 if error.kind == "transient" else 500, error.message)

            return guarded

    return PageRoute


def _page(renderer: Renderer, request: Request, code: int, message: str) -> Response:
    if code == 401:  # nothing of the page for who has not signed in
        return Response("Sign in to see this page.\n", code, HEADERS, media_type="text/plain")
    return renderer.page(
        request, "error.html", status_code=code, code=code, title=HTTPStatus(code).phrase, message=message
    )
