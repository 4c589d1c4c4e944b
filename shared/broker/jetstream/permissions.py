"""What a NATS user may not do: the server says so at once, on the connection, and never answers the request itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared.errors import PermanentError


class Permissions:
    """Tells those who wait for an answer that none will come."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Timeout, tuple[str, ...]] = {}

    def refused(self, told: str) -> bool:
        """``told``: the server's words, which name the subject. Whether somebody waited for it."""
        told = told.lower()
        concerned = [
            limit for limit, subjects in self._waiting.items() if any(each.lower() in told for each in subjects)
        ]
        for limit in concerned:
            if not limit.expired():
                limit.reschedule(0)
        return bool(concerned)

    @asynccontextmanager
    async def needed(self, *subjects: str) -> AsyncIterator[None]:
        """What goes on inside needs ``subjects``, or parts of them.

        Raises:
            PermanentError: ``broker_refused``, as soon as the server says that one of them is not this user's.
        """
        limit = asyncio.timeout(None)
        self._waiting[limit] = subjects
        try:
            async with limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            raise PermanentError(
                f"NATS does not let this user use {' and '.join(subjects)}", code="broker_refused"
            ) from None
        finally:
            del self._waiting[limit]
