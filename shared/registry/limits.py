"""Answers are read up to a limit, whatever they announce."""

from __future__ import annotations

import aiohttp

from shared.errors import LimitExceededError
from shared.registry.errors import Operation


async def read_limited(
    response: aiohttp.ClientResponse, limit: int, operation: Operation, name: str = "answer_size"
) -> bytes:
    """The whole body.

    Raises:
        LimitExceededError: more than ``limit`` bytes; ``name`` is the limit's.
    """
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > limit:
            raise LimitExceededError(
                f"{operation}: the answer is larger than {limit} bytes ({name})", limit=name, **operation.details()
            )
    return bytes(body)


async def read_start(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """At most ``limit`` bytes of the body, in however many pieces they come; what follows is not waited for."""
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) >= limit:
            break
    return bytes(body[:limit])
