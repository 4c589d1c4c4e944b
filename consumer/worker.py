"""Taking deliveries: at most ``maximum_concurrency`` at once, until told to stop; then drain."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

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

    Raises:
        PermanentError: the broker refuses us (credentials, mismatched queues).
    """
    running: set[asyncio.Task[None]] = set()
    try:
        async with broker.deliveries(workshop.settings.maximum_concurrency) as deliveries:
            taking = asyncio.create_task(_take(deliveries, workshop, running), name="take-deliveries")
            stopping = asyncio.create_task(stop.wait(), name="await-stop")
            try:
                await asyncio.wait({taking, stopping}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (taking, stopping):
                    task.cancel()
                outcomes = await asyncio.gather(taking, stopping, return_exceptions=True)
            if isinstance(outcomes[0], Exception):
                raise outcomes[0]
        await _drain(running, workshop.settings.timeouts.drain)
    finally:
        await _cancel(running)


async def _take(deliveries: AsyncIterator[Delivery], workshop: Workshop, running: set[asyncio.Task[None]]) -> None:
    async for delivery in deliveries:
        task = asyncio.create_task(_handle(workshop, delivery), name=f"convert {delivery.request.id}")
        running.add(task)
        task.add_done_callback(running.discard)


async def _handle(workshop: Workshop, delivery: Delivery) -> None:
    try:
        # From the first moment: asking a registry that hangs takes longer than JetStream waits for a sign of life.
        async with heartbeat(delivery, workshop.extend_interval):
            await AttemptRun(workshop, delivery).handle()
    except asyncio.CancelledError:
        await _release(delivery, 0)
        raise
    except Exception:  # noqa: BLE001  a defect outside the conversion: logged whole, and the message must not stick here
        _log.exception("handling %s failed", delivery.request.source)
        await _release(delivery, AFTER_A_DEFECT)


async def _release(delivery: Delivery, delay: float) -> None:
    """Hand back what is not settled; a broker that does not take it delivers it again once we are gone."""
    try:
        async with asyncio.timeout(RELEASE_TIMEOUT):
            await delivery.release(delay, begun=True)
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
