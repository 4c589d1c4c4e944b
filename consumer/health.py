"""The consumer's own small port: health for orchestrators, metrics for Prometheus."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from aiohttp import web

from consumer.machine import Machine
from drivers.api import Driver, DriverOptions
from shared.background import beside
from shared.broker.api import Broker
from shared.errors import IcsError
from shared.exhausted import LOCAL_RESOURCE
from shared.listening import listening_socket
from shared.settings.model import Settings
from shared.telemetry.metrics import Metrics

CHECK_TIMEOUT = 3.0
WATCH_PERIOD = 5.0
"""Seconds."""
_log = logging.getLogger(__name__)


class HealthCheck:
    """Whether conversions can run here.

    Args:
        drivers: that the rules use, with their options.
    """

    def __init__(
        self, broker: Broker, drivers: Sequence[tuple[Driver, DriverOptions]], machine: Machine, metrics: Metrics
    ) -> None:
        self._broker = broker
        self._drivers = drivers
        self._machine = machine
        self._metrics = metrics

    async def reason(self) -> str:
        """Why not; empty when healthy."""
        if self._machine.out:
            return f"{LOCAL_RESOURCE}: {self._machine.reason}"
        try:
            async with asyncio.timeout(CHECK_TIMEOUT):
                await self._check_broker()
                for driver, option in self._drivers:
                    await driver.check_health(option)
        except TimeoutError:
            return f"no answer from the broker or a driver within {CHECK_TIMEOUT:.0f} s"
        except IcsError as error:
            return f"{error.code}: {error.message}"
        return ""

    async def watch(self) -> None:
        """Keep the metric of the broker's state true, whether or not anybody asks for health."""
        while True:
            with suppress(IcsError, TimeoutError):
                async with asyncio.timeout(CHECK_TIMEOUT):
                    await self._check_broker()
            await asyncio.sleep(WATCH_PERIOD)

    async def _check_broker(self) -> None:
        up = False
        try:
            await self._broker.check_health()
            up = True
        finally:
            self._metrics.broker_up(up=up)


@asynccontextmanager
async def serve_health(settings: Settings, check: HealthCheck, metrics: Metrics) -> AsyncIterator[int]:
    """Serve ``/health`` (204, or 500 with the reason) and the metrics path; yields the port.

    Raises:
        PermanentError: ``address_unavailable``.
    """

    async def health(_request: web.Request) -> web.Response:
        reason = await check.reason()
        return web.Response(status=500, text=reason) if reason else web.Response(status=204)

    async def exposition(request: web.Request) -> web.Response:
        body, content_type = await asyncio.to_thread(metrics.render, request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    application = web.Application()
    application.router.add_get("/health", health)
    application.router.add_get(settings.metric.path, exposition)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        async with beside(check.watch(), "watching the broker"):
            await web.SockSite(runner, listening_socket(settings.hostname, settings.metric.port, "metric.port")).start()
            port: int = runner.addresses[0][1]
            _log.info("health and metrics on port %d", port)
            yield port
    finally:
        await runner.cleanup()
