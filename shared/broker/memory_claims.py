"""Claims on the broker without a broker."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shared.broker.memory import MemoryServer


@dataclass(frozen=True, slots=True)
class _HeldClaim:
    claims: MemoryClaims
    key: str

    async def release(self) -> None:
        self.claims.leave(self.key)


class MemoryClaims:
    """One connection's; see :class:`shared.broker.transport.ClaimStore`."""

    def __init__(self, server: MemoryServer) -> None:
        self._server = server
        self._held: set[str] = set()

    async def acquire(self, key: str, patience: float) -> _HeldClaim | None:
        server = self._server
        server.check()
        async with server.changed:
            try:
                async with asyncio.timeout(patience):
                    await server.changed.wait_for(lambda: key not in server.claimed)
            except TimeoutError:
                return None
            server.claimed.add(key)
        self._held.add(key)
        return _HeldClaim(self, key)

    def leave(self, key: str) -> None:
        if key in self._held:
            self._held.remove(key)
            self._server.claimed.remove(key)
            self._server.wake()

    def close(self) -> None:
        for key in list(self._held):
            self.leave(key)
