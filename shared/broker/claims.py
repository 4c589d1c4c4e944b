"""Claims: of all consumers of a broker one holds a key, so that the others need not do its work too.

An economy and never a matter of correctness. Whatever goes wrong with a claim means to go on without it: nothing fails for it,
and nobody waits longer than he said.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

from shared.broker.cancellation import attempted, finish
from shared.broker.transport import ClaimStore, HeldClaim
from shared.errors import IcsError

ANSWER = 5.0
"""Seconds that a broker may take to answer for a claim, beside the patience."""
REST = 30.0
"""Seconds without another question to a broker that gave no answer, so that conversions without it are not slow conversions."""
RELEASE = 2.0
"""Seconds that giving back may take; what is not given back expires."""
_log = logging.getLogger(__name__)


class ClaimDesk:
    """What is policy about claims, over any transport's store."""

    def __init__(self, store: ClaimStore) -> None:
        self._store = store
        self._rests_until = 0.0

    @asynccontextmanager
    async def claim(self, key: str, patience: float) -> AsyncIterator[bool]:
        """See :meth:`shared.broker.api.Claims.claim`."""
        held: HeldClaim | None = None
        mine = True
        if monotonic() >= self._rests_until:
            try:
                async with asyncio.timeout(patience + ANSWER):
                    held = await self._store.acquire(_name(key), patience)
                mine = held is not None
            except Exception as error:  # noqa: BLE001  no error is worth more than going on without
                self._rests_until = monotonic() + REST
                why = error.message if isinstance(error, IcsError) else type(error).__name__
                _log.info("the broker cannot tell who converts what, going on without for %.0f s: %s", REST, why)
        try:
            yield mine
        finally:
            if held is not None:
                await finish(attempted(held.release(), RELEASE))


def _name(key: str) -> str:
    """32 hex digits, whatever characters the key has."""
    return hashlib.sha256(key.encode()).hexdigest()[:32]
