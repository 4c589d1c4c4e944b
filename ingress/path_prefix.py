"""Below a proxy's path prefix: links are made with it, requests are routed with and without it."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class PathPrefix:
    """ASGI middleware that says so to everything behind it, in the place of a server that is told ``root_path``: uvicorn would
    put the prefix before paths that have it already.
    """

    def __init__(self, app: ASGIApp, *, prefix: str) -> None:
        self._app, self._prefix = app, prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "root_path": self._prefix}
        await self._app(scope, receive, send)
