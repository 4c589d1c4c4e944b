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
