"""Webhooks go straight to their handler: routing, middleware, dependencies and exit stacks of a request cost more than the webhook
itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.types import Receive, Scope, Send


class ExpressLane(FastAPI):
    """An application whose POSTs to ``express_paths`` go to ``express`` and round everything else; its own route to the same
    handler is what the API's description is made of.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.express_paths: Collection[str] = ()
        self.express: Callable[[Request], Awaitable[Response]]
        """Answers the request, whatever is wrong with it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in self.express_paths and scope["method"] == "POST":
            response = await self.express(Request(scope, receive))
            await response(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)
