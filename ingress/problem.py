"""Errors of the HTTP API as problem details (RFC 9457)."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import Response

PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The body or a parameter cannot be used; `detail` says why (problem+json)"},
    401: {"description": "A credential is missing or wrong"},
    403: {"description": "Acting is switched off, or the request comes from another site"},
    404: {"description": "There is nothing of this id"},
    503: {"description": "The broker cannot be asked"},
}
"""What the routers for people and programs may answer, for their OpenAPI."""


class HttpProblem(Exception):  # noqa: N818  an answer that we give, not a failure of ours
    """Answered as ``application/problem+json``."""

    def __init__(self, status: int, title: str, detail: str = "", *, headers: dict[str, str] | None = None) -> None:
        super().__init__(title)
        self.status = status
        self.title = title
        self.detail = detail
        self.headers = headers or {}

    def response(self) -> Response:
        body = {"type": "about:blank", "title": self.title, "status": self.status}
        if self.detail:
            body["detail"] = self.detail
        return Response(orjson.dumps(body), self.status, self.headers, media_type="application/problem+json")
