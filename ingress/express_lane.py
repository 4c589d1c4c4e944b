"""Webhooks go straight to their handler: routing, middleware, dependencies and exit stacks of a request cost more than the webhook
itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request, Response
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from ingress.problem_api import ProblemApi, problem_of
from shared.errors import IcsError

Take = Callable[[Request], Awaitable[Response]]


class ExpressLane(ProblemApi):
    """An application with paths whose POSTs go round everything else in it. A route to the same handler is what the API's
    description is made of.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._express: dict[str, Take] = {}

    def express(self, path: str, take: Take) -> None:
        """``take`` answers every POST to ``path``, whatever is wrong with it."""
        self._express[path] = take

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        take = self._express.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if take is None:
            await super().__call__(scope, receive, send)
        else:
            try:
                response = await take(Request(scope, receive))
            except (HTTPException, IcsError) as error:
                response = problem_of(error).response()
            except Exception as error:
                await problem_of(error).response()(scope, receive, send)
                raise  # to the server's log
            await response(scope, receive, send)
