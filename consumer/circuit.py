"""A registry that is down is left alone: its conversions wait without costing attempts, and one at a time probes it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from shared.errors import TransientError
from shared.telemetry.metrics import Metrics

DOWN = frozenset({"registry_unavailable", "registry_timeout"})
"""Codes that speak of a registry which is away; a refusal or a rate limit does not."""
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Circuit:
    failures: int = 0
    open_until: float = 0.0
    pause: float = 0.0
    probing: bool = False


class CircuitBreaker:
    """One circuit a registry host.

    Args:
        threshold: failures in a row that open a circuit.
        pause: seconds that a circuit stays open at first; doubles with every failed probe, up to ``maximum_pause``.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        threshold: int = 3,
        pause: float = 5,
        maximum_pause: float = 120,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._metrics = metrics
        self._threshold = threshold
        self._pause = pause
        self._maximum_pause = maximum_pause
        self._clock = clock
        self._circuits: dict[str, _Circuit] = {}

    def wait(self, registry: str) -> float:
        """Seconds that a conversion has to wait before it may contact ``registry``; 0: go ahead.

        When the pause is over, the first to ask becomes the probe (half open); the others wait for what it finds.
        """
        circuit = self._circuits.get(registry)
        if circuit is None or circuit.failures < self._threshold:
            return 0
        left = circuit.open_until - self._clock()
        if left > 0:
            return left
        if circuit.probing:
            return circuit.pause
        circuit.probing = True
        self._metrics.registry_circuit(registry, "half_open")
        return 0

    def succeeded(self, registry: str) -> None:
        """The registry answered, whatever it answered."""
        circuit = self._circuits.pop(registry, None)
        if circuit is not None and circuit.failures >= self._threshold:
            _log.info("registry %s is back", registry)
        self._metrics.registry_up(registry, up=True)
        self._metrics.registry_circuit(registry, "closed")

    def failed(self, registry: str, error: TransientError) -> None:
        """An attempt ended with ``error``; codes outside :data:`DOWN` count as an answer."""
        if error.code not in DOWN:
            self.succeeded(registry)
            return
        circuit = self._circuits.setdefault(registry, _Circuit(pause=self._pause))
        circuit.failures += 1
        if circuit.failures < self._threshold:
            return
        if circuit.probing:
            circuit.pause = min(circuit.pause * 2, self._maximum_pause)
        circuit.probing = False
        circuit.open_until = self._clock() + circuit.pause
        self._metrics.registry_up(registry, up=False)
        self._metrics.registry_circuit(registry, "open")
        _log.warning("registry %s is down (%s): its conversions wait %.0f s", registry, error.code, circuit.pause)

    def abandoned(self, registry: str) -> None:
        """A probe ended without an answer either way (drain, cancellation): the next one may probe."""
        circuit = self._circuits.get(registry)
        if circuit is not None:
            circuit.probing = False
