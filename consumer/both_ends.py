"""The registries at both ends of one request, as their circuits know them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from consumer.circuit import CircuitBreaker
from shared.errors import TransientError
from shared.messages import ConversionRequest
from shared.oci.reference import Reference


class BothEnds:
    """Args:
    ask: see :attr:`consumer.workshop.Workshop.ask`.
    """

    def __init__(
        self, request: ConversionRequest, circuits: CircuitBreaker, ask: Callable[[Reference], Awaitable[object]]
    ) -> None:
        self._request = request
        self._circuits = circuits
        self._ask_for = ask
        self._hosts = sorted({request.source.registry, request.target.registry})

    async def admit(self) -> float:
        """Seconds that the conversion has to wait for one of them; 0: go ahead."""
        return await self._circuits.admit(self._hosts, self._ask)

    async def inform(self, error: BaseException | None, *, since: float) -> float:
        """How a conversion ended that began at ``since`` (by the circuits' clock): seconds to wait for a registry that turned
        out to be down; 0: both answer, or nobody knows.
        """
        pause = 0.0
        if isinstance(error, TransientError):
            named = error.details.get("registry")
            for host in self._hosts:
                if named in {None, host}:
                    pause = max(pause, await self._circuits.confirm(host, error, self._ask, since=since))
        elif error is None or isinstance(error, Exception):
            for host in self._hosts:
                self._circuits.succeeded(host)
        return pause

    async def _ask(self, host: str) -> None:
        source, target = self._request.source, self._request.target
        await self._ask_for(source if source.registry == host else target)
