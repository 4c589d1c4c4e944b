"""Errors in the distribution spec's JSON (section Error Codes)."""

from __future__ import annotations

import json
from collections.abc import Mapping

from aiohttp import web


class Problem(Exception):  # noqa: N818  an answer, not a fault of ours
    """Ends a request with an error body."""

    def __init__(self, status: int, code: str, message: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(f"{status} {code} {message}")
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})

    def response(self) -> web.Response:
        body = json.dumps({"errors": [{"code": self.code, "message": self.message or self.code.lower()}]})
        return web.Response(status=self.status, text=body, content_type="application/json", headers=self.headers)
