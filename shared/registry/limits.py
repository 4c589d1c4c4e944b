"""Answers are read up to a limit, whatever they announce."""

from __future__ import annotations

import aiohttp

from shared.registry.errors import Operation


async def read_limited(response: aiohttp.ClientResponse, limit: int, operation: Operation) -> bytes:
    """The whole body.

    Raises:
        PermanentError: code ``answer_too_large`` above ``limit`` bytes.
    """
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > limit:
            raise operation.permanent(f"the answer is larger than {limit} bytes", code="answer_too_large", limit=limit)
    return bytes(body)
