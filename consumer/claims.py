"""Of all consumers one converts a layer; the others wait for its record in the layer cache.

The broker tells who, and nothing depends on its answer. What keeps this free of deadlocks: a claim is taken last, when the
layer has its slot and its memory, so that a holder waits for nothing but the registry; and who waits for another's claim holds
neither, nor a claim.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from shared.broker.api import Claims
from shared.oci.reference import Reference
from shared.settings.model import Timeouts
from shared.telemetry.metrics import Metrics

PATIENCE = 300.0
"""Seconds to wait for another consumer's layer: some 10 GB at the usual 30 to 60 MB/s. A holder that is gone or failed lets go
earlier; who waits longer waits for one that is slower than it would be itself."""
_PART = 4
"""Of ``timeouts.conversion``, the part that may be waited: the rest is for converting after all."""


@dataclass(frozen=True, slots=True)
class LayerClaims:
    """Claims on the records of a layer cache (:meth:`consumer.layer_cache.LayerCache.record`).

    Args:
        broker: shared by the consumers.
        patience: seconds that one layer waits at most.
    """

    broker: Claims
    patience: float
    metrics: Metrics

    @classmethod
    def of(cls, broker: Claims, timeouts: Timeouts, metrics: Metrics) -> LayerClaims:
        return cls(broker, min(PATIENCE, timeouts.conversion / _PART), metrics)

    @asynccontextmanager
    async def hold(self, record: Reference) -> AsyncIterator[bool]:
        """False: another consumer holds it. True: convert."""
        problems: list[str] = []
        async with self.broker.claim(str(record), 0, problems.append) as ours:
            for code in problems:
                self.metrics.claim_given_up(code)
            if ours and not problems:
                with self.metrics.claim("held"):
                    yield True
            else:
                yield ours

    async def wait(self, record: Reference) -> None:
        """Until nobody holds it, or for as long as the patience lasts."""
        with self.metrics.claim("waiting"):
            async with self.broker.claim(str(record), self.patience, self.metrics.claim_given_up) as free:
                if not free:
                    self.metrics.claim_given_up("patience")
