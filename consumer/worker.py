"""Taking deliveries: at most ``maximum_concurrency`` at once, and none while the machine lacks something; then drain."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager

from consumer.attempt import AttemptRun
from consumer.lease import heartbeat
from consumer.workshop import Workshop
from shared.broker.api import Broker, Delivery
from shared.errors import IcsError

AFTER_A_DEFECT = 60.0
RELEASE_TIMEOUT = 5.0
"""Seconds."""
_log = logging.getLogger(__name__)


async def work(broker: Broker, workshop: Workshop, stop: asyncio.Event) -> None:
    """Handle deliveries until ``stop``; then let what runs finish for ``timeouts.drain`` seconds and hand the rest back.

    While the machine lacks something, nobody is subscribed: what waits is for others. What runs goes on; it may need nothing of
    what is missing, and gives back what it holds.

    Raises:
        PermanentError: the broker refuses us (credentials, mismatched queues).
    """
    machine, slots = workshop.machine, workshop.settings.maximum_concurrency
    crew = _Crew(workshop, slots)
    try:
        while not stop.is_set():
            change = machine.change
            if machine.out:
                await _first_of(machine.recovered(), stop.wait())
                continue
            async with broker.deliveries(1 if machine.on_trial else slots) as deliveries:
                await _first_of(crew.take(deliveries), change.wait(), stop.wait())
        await _drain(crew.running, workshop.settings.timeouts.drain)
    finally:
        await _cancel(crew.running)


async def _first_of(*parts: Coroutine[None, None, object]) -> None:
    """Until one of them ends; the others are cancelled."""
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome


class _Crew:
    """What runs, over all subscriptions: what is left of one that has ended holds its slot still."""

    def __init__(self, workshop: Workshop, slots: int) -> None:
        self._shop = workshop
        self._free = slots
        self._freed = asyncio.Event()
        self.running: set[asyncio.Task[None]] = set()

    async def take(self, deliveries: AsyncIterator[Delivery]) -> None:
        async for delivery in deliveries:
            task = asyncio.create_task(self._handle(delivery), name=f"convert {delivery.request.id}")
            self.running.add(task)
            task.add_done_callback(self.running.discard)

    async def _handle(self, delivery: Delivery) -> None:
        try:
            # From the first moment: asking a registry that hangs takes longer than JetStream waits for a sign of life.
            async with heartbeat(delivery, self._shop.extend_interval), self._slot() as admitted:
                if admitted:
                    await AttemptRun(self._shop, delivery).handle()
                else:
                    await _release(delivery, 0, begun=False)
        except asyncio.CancelledError:
            await _release(delivery, 0)
            raise
        except Exception:  # noqa: BLE001  a defect outside the conversion: logged whole, and the message must not stick here
            _log.exception("handling %s failed", delivery.request.source)
            await _release(delivery, AFTER_A_DEFECT)

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[bool]:
        """False once the machine lacks something: what waits here is for others."""
        while not self._free and not self._shop.machine.out:
            self._freed.clear()
            await _first_of(self._freed.wait(), self._shop.machine.change.wait())
        if self._shop.machine.out:
            yield False
            return
        self._free -= 1
        try:
            yield True
        finally:
            self._free += 1
            self._freed.set()


async def _release(delivery: Delivery, delay: float, *, begun: bool = True) -> None:
    """Hand back what is not settled; a broker that does not take it delivers it again once we are gone."""
    try:
        async with asyncio.timeout(RELEASE_TIMEOUT):
            await delivery.release(delay, begun=begun)
    except RuntimeError:  # settled already
        return
    except (IcsError, TimeoutError) as error:
        _log.warning("%s could not be handed back and will be delivered again: %s", delivery.request.source, error)


async def _drain(running: set[asyncio.Task[None]], seconds: float) -> None:
    if running:
        _log.info("draining: %d conversions get %.0f s to finish", len(running), seconds)
        await asyncio.wait(set(running), timeout=seconds)


async def _cancel(running: set[asyncio.Task[None]]) -> None:
    """Cancel what is left: uploads are cancelled at the registry, deliveries go back to the queue."""
    left = set(running)
    if left:
        _log.warning("handing %d conversions back to the queue", len(left))
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
