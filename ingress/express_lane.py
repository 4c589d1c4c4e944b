"""Webhooks go straight to their handler: routing, dependencies and exit stacks of a request cost more than the webhook itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

from fastapi import Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send


class ExpressLane:
    """ASGI middleware; everything but a POST to one of ``paths`` goes on to ``app``, whose own route to the same handler is what
    the API's description is made of.

    Args:
        take: answers the request, whatever is wrong with it.
    """

    def __init__(self, app: ASGIApp, *, paths: Collection[str], take: Callable[[Request], Awaitable[Response]]) -> None:
        self._app, self._paths, self._take = app, paths, take

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in self._paths and scope["method"] == "POST":
            response = await self._take(Request(scope, receive))
            await response(scope, receive, send)
        else:
            await self._app(scope, receive, send)
