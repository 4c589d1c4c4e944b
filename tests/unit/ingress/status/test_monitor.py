"""What the monitor makes of a broker that tells less than there is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest

from ingress.status import monitor as monitor_module
from ingress.status.history import History
from ingress.status.monitor import BrokerMonitor
from shared.broker.api import BrokerStats
from shared.broker.memory import MemoryServer, MemoryTransport
from shared.broker.queue import QueueBroker
from shared.messages import DeadLetter
from shared.telemetry.metrics import Metrics
from tests.unit.ingress.test_dead_letters import letter as dead_letter


class LookedAt(MemoryTransport):
    """Like RabbitMQ while another replica lists the dead letters: they are not counted, and come once that one is through."""

    looked_at = False

    async def stats(self) -> BrokerStats:
        dead = 0 if self.looked_at else len(self.server.dead)
        return BrokerStats(ready=0, in_flight=0, retrying=0, dead=dead, consumers=1, oldest_age_seconds=0)


async def monitored(letters: Sequence[DeadLetter]) -> tuple[LookedAt, QueueBroker, BrokerMonitor, Metrics]:
    transport, metrics = LookedAt(MemoryServer()), Metrics(process_metrics=False)
    broker, history = QueueBroker(transport, delivery_limit=3), History()
    for letter in letters:
        await broker.dead_letters.add(letter)
    return transport, broker, BrokerMonitor(broker, history, metrics, history.bury), metrics


def shown(metrics: Metrics) -> list[float]:
    """The gauge of dead letters in the queue."""
    return [
        sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.labels.get("state") == "dead"
    ]


async def test_letters_that_another_process_looks_at_are_counted() -> None:
    transport, _, monitor, metrics = await monitored([dead_letter(1), dead_letter(2)])
    transport.looked_at = True
    await monitor.look()
    assert (monitor.snapshot.stats.dead, sum(monitor.snapshot.dead_by_code.values()), shown(metrics)) == (2, 2, [2])


async def test_the_number_does_not_fall_while_the_letters_are_counted() -> None:
    transport, broker, monitor, metrics = await monitored([dead_letter(1)])
    await monitor.look()
    transport.looked_at = True
    seen: list[list[float]] = []
    snapshot = transport.dead.snapshot

    async def slowly(wanted: Callable[[DeadLetter], bool]) -> object:
        seen.append(shown(metrics))
        return await snapshot(wanted)

    transport.dead.snapshot = slowly  # type: ignore[method-assign, assignment]
    await monitor.look()
    assert (seen, shown(metrics)) == ([[1]], [1])
    transport.looked_at = False
    await broker.dead_letters.discard(dead_letter(1).id)
    await monitor.look()
    assert (monitor.snapshot.stats.dead, shown(metrics)) == (0, [0])


async def test_dead_letters_that_take_long_to_read_are_left_alone_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    transport, broker, monitor, _ = await monitored([])
    now, reads, snapshot = 1000.0, 0, transport.dead.snapshot

    async def slowly(wanted: Callable[[DeadLetter], bool]) -> object:
        nonlocal now, reads
        now, reads = now + 3, reads + 1
        return await snapshot(wanted)

    async def pause(seconds: float) -> None:
        """Each time that the monitor sleeps, one more has died."""
        nonlocal now
        now += seconds
        await broker.dead_letters.add(dead_letter(int(now)))
        if now > 1300:
            raise TimeoutError

    transport.dead.snapshot = slowly  # type: ignore[method-assign, assignment]
    monkeypatch.setattr(monitor_module, "time", SimpleNamespace(time=lambda: now, monotonic=lambda: now))
    monkeypatch.setattr(monitor_module, "asyncio", SimpleNamespace(timeout=asyncio.timeout, sleep=pause))
    with pytest.raises(TimeoutError):
        await monitor.run()
    assert reads == 5  # 3 seconds each, in 300
    assert monitor.snapshot.stats.dead == len(transport.server.dead) - 1  # that is told all the same
