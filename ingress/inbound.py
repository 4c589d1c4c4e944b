"""What a request has to pass before anybody looks at what it says: who sends it, how large it is, how long it takes."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from hashlib import sha256

from fastapi import Request
from pydantic import SecretStr

from ingress.problem import HttpProblem
from shared.time_limit import TimeLimit


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
                code="unauthorized",
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
                    raise HttpProblem(400, "the sender went away before its body was complete", code="incomplete_body")
                pieces.append(message.get("body", b""))
                size += len(pieces[-1])
                if size > limit:
                    raise _too_large(limit, setting)
                more = message.get("more_body", False)
    except TimeoutError:
        raise HttpProblem(408, "the body took too long to arrive", code="slow_body") from None
    return b"".join(pieces)


def _too_large(limit: int, setting: str) -> HttpProblem:
    most = f"{setting} ({limit} bytes)" if setting else f"{limit} bytes"
    # The connection is closed: what is left of the body is not read.
    headers = {"Connection": "close"}
    return HttpProblem(413, "the body is too large", f"at most {most}", code="body_too_large", headers=headers)
