"""A registry that is down is left alone: its conversions wait without costing attempts, and one at a time probes it.

A conversion that fails in a way which speaks of a registry that is away asks the registry again (:meth:`CircuitBreaker.confirm`).
No answer: the circuit opens at once, and for longer each time. An answer: it is only counted, and a row of such failures makes
everybody pause for a moment (manifests are served while the blobs' storage is away, say); not for longer, since a handful of
images that cannot be read looks the same and must not hold up the others. An open circuit is half open after its pause: the
first conversion that comes asks the registry one question before it does anything else (:meth:`CircuitBreaker.admit`), and the
answer decides for all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from time import monotonic

from shared.errors import IcsError, TransientError
from shared.telemetry.metrics import Metrics

DOWN = frozenset({"registry_unavailable", "registry_timeout"})
"""Codes that speak of a registry which is away; a refusal or a rate limit does not."""
PROBE_TIMEOUT = 30.0
"""Seconds that one question may take, with what the client repeats on its own."""
Probe = Callable[[str], Awaitable[object]]
"""Asks a registry host something that only a registry which works answers; raises a classified error."""
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Circuit:
    pause: float
    failures: int = 0
    open_until: float = 0.0
    opened: bool = False
    probing: bool = False


class CircuitBreaker:
    """One circuit a registry host.

    Args:
        threshold: failures in a row that open a circuit although the registry answers questions.
        pause: seconds that a circuit stays open at first; doubles with every question that is not answered, up to
            ``maximum_pause``.
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
        self._found_down: dict[str, float] = {}
        """When a registry last left a question without an answer."""

    async def admit(self, registries: Collection[str], probe: Probe) -> float:
        """Seconds that a conversion has to wait before it may contact all of ``registries``; 0: go ahead.

        When a pause is over, the first to come asks the question; the others wait for its answer.
        """
        if (wait := max(self._wait(each) for each in registries)) > 0:
            return wait
        for registry in registries:
            circuit = self._circuits.get(registry)
            if circuit is None or not circuit.opened:
                continue
            self._metrics.registry_circuit(registry, "half_open")
            circuit.probing = True
            try:
                problem = await self._asked(registry, probe)
            finally:
                circuit.probing = False
            if problem is not None:
                self._open(registry, circuit, problem)
                return circuit.pause
            _log.info("registry %s answers again", registry)
            circuit.opened = False
            circuit.failures = 0
            circuit.pause = self._pause
            self._closed(registry)
        return 0

    async def confirm(self, registry: str, error: TransientError, probe: Probe, *, since: float) -> float:
        """A conversion that began at ``since`` ended with ``error``: seconds that it has to wait; 0 if the registry answers.

        ``since`` is by the clock that the circuits go by. More than 0 means that the registry is down, or was meanwhile, and
        that ``error`` says nothing about the image.
        """
        if error.code not in DOWN:
            self.succeeded(registry)
            return 0
        circuit = self._circuits.setdefault(registry, _Circuit(self._pause))
        if (wait := self._wait(registry)) > 0:  # somebody else has found out
            return wait
        problem = await self._asked(registry, probe)
        if (wait := self._wait(registry)) > 0:
            return wait
        if problem is not None:
            self._open(registry, circuit, problem)
            return circuit.pause
        if self._found_down.get(registry, since) > since:  # it is back, but it was away while the conversion ran
            return self._pause
        circuit.failures += 1
        if circuit.failures >= self._threshold:
            circuit.pause = self._pause
            self._open(
                registry, circuit, f"it answers, but {circuit.failures} conversions in a row failed: {error.message}"
            )
        return 0

    def succeeded(self, registry: str) -> None:
        """The registry answered, whatever it answered."""
        self._circuits.pop(registry, None)
        self._closed(registry)

    async def _asked(self, registry: str, probe: Probe) -> str | None:
        """Ask ``registry``: what shows that it is down, None if it answers."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                await probe(registry)
        except TimeoutError:
            problem = f"no answer within {PROBE_TIMEOUT:.0f} s"
        except IcsError as error:
            if error.code not in DOWN:
                return None
            problem = error.message
        else:
            return None
        self._found_down[registry] = self._clock()
        return problem

    def _wait(self, registry: str) -> float:
        circuit = self._circuits.get(registry)
        if circuit is None or not circuit.opened:
            return 0
        left = circuit.open_until - self._clock()
        return left if left > 0 or not circuit.probing else circuit.pause

    def _open(self, registry: str, circuit: _Circuit, problem: str) -> None:
        self._circuits[registry] = circuit  # another conversion's success may have taken it out meanwhile
        if circuit.opened:
            circuit.pause = min(circuit.pause * 2, self._maximum_pause)
        circuit.opened = True
        circuit.open_until = self._clock() + circuit.pause
        self._metrics.registry_up(registry, up=False)
        self._metrics.registry_circuit(registry, "open")
        _log.warning("conversions of registry %s wait %.0f s: %s", registry, circuit.pause, problem)

    def _closed(self, registry: str) -> None:
        self._metrics.registry_up(registry, up=True)
        self._metrics.registry_circuit(registry, "closed")
