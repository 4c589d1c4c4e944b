"""Errors of the HTTP API as problem details (RFC 9457), and the inbound checks that every webhook passes first."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import orjson
from fastapi import Request, Response
from pydantic import SecretStr

from shared.time_limit import TimeLimit

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


class AuthHeader:
    """The exact ``Authorization`` values that are accepted; none configured accepts every request."""

    def __init__(self, accepted: Sequence[SecretStr]) -> None:
        self._accepted = [sha256(value.get_secret_value().encode()).digest() for value in accepted]

    def check(self, request: Request) -> None:
        """Every accepted value is compared, in constant time, whichever matches.

        Raises:
            HttpProblem: 401.
        """
        if not self._accepted:
            return
        given = sha256(request.headers.get("authorization", "").encode("latin-1")).digest()
        matched = False
        for accepted in self._accepted:
            matched |= hmac.compare_digest(given, accepted)
        if not matched:
            raise HttpProblem(
                401,
                "the Authorization header is missing or wrong",
                "set the webhook policy's auth_header to a value of auth_header in ICS's configuration",
                headers={"WWW-Authenticate": "Bearer"},
            )


async def read_body(request: Request, *, limit: int, setting: str = "", within: TimeLimit) -> bytes:
    """The body, never more than ``limit`` bytes of it; ``setting`` is the key of the configuration that says so, if one does.

    Raises:
        HttpProblem: 413, 408, 400.
    """
    if int(request.headers.get("content-length") or 0) > limit:
        raise _too_large(limit, setting)
    pieces: list[bytes] = []
    size, more = 0, True
    try:
        with within():
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise HttpProblem(400, "the sender went away before its body was complete")
                pieces.append(message.get("body", b""))
                size += len(pieces[-1])
                if size > limit:
                    raise _too_large(limit, setting)
                more = message.get("more_body", False)
    except TimeoutError:
        raise HttpProblem(408, "the body took too long to arrive") from None
    return b"".join(pieces)


def _too_large(limit: int, setting: str) -> HttpProblem:
    most = f"{setting} ({limit} bytes)" if setting else f"{limit} bytes"
    # The connection is closed: what is left of the body is not read.
    return HttpProblem(413, f"the body is larger than {most}", headers={"Connection": "close"})
