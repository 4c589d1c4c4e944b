"""Claims: of all consumers of a broker one holds a key, so that the others need not do its work too.

An economy and never a matter of correctness. Whatever goes wrong with a claim means to go on without it: nothing fails for it,
and nobody waits longer than he said.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic

from shared.broker.cancellation import attempted, finish
from shared.broker.transport import ClaimStore, HeldClaim
from shared.errors import IcsError
from shared.unreachable import why

ANSWER = 5.0
"""Seconds that a broker may take to answer for a claim, beside the patience."""
REST = 30.0
"""Seconds without another question to a broker that gave no answer, so that conversions without it are not slow conversions.
Twice as many after each question more, up to :data:`LONGEST_REST`."""
LONGEST_REST = 300.0
RELEASE = 2.0
"""Seconds that giving back may take; what is not given back expires."""
_log = logging.getLogger(__name__)


class ClaimDesk:
    """What is policy about claims, over any transport's store."""

    def __init__(self, store: ClaimStore) -> None:
        self._store = store
        self._rests_until = 0.0
        self._rest = REST
        self._problem = ""
        """What the operator was told last."""
        self._code = ""
        """Why the broker rests."""

    @asynccontextmanager
    async def claim(
        self, key: str, patience: float, unanswered: Callable[[str], object] | None = None
    ) -> AsyncIterator[bool]:
        """See :meth:`shared.broker.api.Claims.claim`."""
        held: HeldClaim | None = None
        mine = True
        if monotonic() >= self._rests_until:
            try:
                async with asyncio.timeout(patience + ANSWER):
                    held = await self._store.acquire(_name(key), patience)
                mine = held is not None
                self._rest, self._problem, self._code = REST, "", ""
            except Exception as error:  # noqa: BLE001  no error is worth more than going on without
                self._leave_alone(error)
        if self._code and unanswered is not None:
            unanswered(self._code)
        try:
            yield mine
        finally:
            if held is not None:
                await finish(attempted(held.release(), RELEASE))

    def _leave_alone(self, error: Exception) -> None:
        if monotonic() < self._rests_until:  # another that was under way has done so
            return
        self._rests_until = monotonic() + self._rest
        self._code = error.code if isinstance(error, IcsError) else "broker_unavailable"
        self._rest = min(2 * self._rest, LONGEST_REST)
        problem = error.message if isinstance(error, IcsError) else why(error)
        level = logging.DEBUG if problem == self._problem else logging.WARNING
        self._problem = problem
        _log.log(
            level, "the broker cannot tell who converts which layer, some may be converted more than once: %s", problem
        )


def _name(key: str) -> str:
    """32 hex digits, whatever characters the key has."""
    return hashlib.sha256(key.encode()).hexdigest()[:32]
