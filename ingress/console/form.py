"""Reading a posted form without more memory than its limit."""

from __future__ import annotations

from urllib.parse import parse_qs

from fastapi import HTTPException, Request

_BODY = 1 << 20
SELECTION = 10_000
"""Values of one form at most."""


async def read_form(request: Request) -> dict[str, list[str]]:
    """Field → values; 413 beyond a mebibyte."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _BODY:
            raise HTTPException(413, "too many selected at once")
    return parse_qs(body.decode("ascii", "replace"), max_num_fields=SELECTION + 20)
