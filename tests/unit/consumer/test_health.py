"""A consumer's own port: healthy, unhealthy with the reason, and a metric of the broker that is true without being asked."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from aiohttp import ClientSession
from pydantic import SecretStr

import consumer.health
from consumer.health import HealthCheck, serve_health
from consumer.machine import Machine
from drivers.api import Driver, DriverOptions
from shared.broker.memory import MemoryServer, MemoryTransport
from shared.broker.queue import QueueBroker
from shared.errors import TransientError
from shared.settings.model import BrokerSettings, Metric, Settings
from shared.telemetry.metrics import Metrics
from tests.unit.consumer.at_work import Given
from tests.waiting import PATIENCE


async def test_the_brokers_state_is_told_by_health_and_by_the_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer.health, "WATCH_PERIOD", 0.01)
    server = MemoryServer()
    metrics = Metrics(process_metrics=False)
    settings = Settings(hostname="127.0.0.1", metric=Metric(port=0), broker=BrokerSettings(url=SecretStr("memory:")))
    check = HealthCheck(QueueBroker(MemoryTransport(server), delivery_limit=3), (), Machine(Given(), metrics), metrics)
    async with serve_health(settings, check, metrics) as port, ClientSession(f"http://127.0.0.1:{port}") as http:

        async def until(value: str) -> None:
            async with asyncio.timeout(PATIENCE):
                while True:
                    async with http.get("/metrics") as answer:
                        if f"ics_broker_up {value}" in await answer.text():
                            return

        await until("1.0")
        async with http.get("/health") as answer:
            assert answer.status == 204
        server.available = False
        await until("0.0")  # nobody asked for health
        async with http.get("/health") as answer:
            assert answer.status == 500
            assert "broker_unavailable" in await answer.text()
        server.available = True
        await until("1.0")


async def test_a_driver_that_two_rules_use_is_checked_for_both() -> None:
    class Builder:
        async def check_health(self, option: DriverOptions | None = None) -> None:
            if option == Options(path="/missing"):
                raise TransientError("no builder there", code="builder_unavailable")

    class Options(DriverOptions):
        path: str

    broker = QueueBroker(MemoryTransport(MemoryServer()), delivery_limit=3)
    driver = cast("Driver", Builder())
    used = [(driver, Options(path="/missing")), (driver, Options(path="/there"))]
    metrics = Metrics(process_metrics=False)
    check = HealthCheck(broker, used, Machine(Given(), metrics), metrics)
    assert await check.reason() == "builder_unavailable: no builder there"


async def test_a_machine_that_lacks_something_is_the_reason_while_it_does() -> None:
    metrics = Metrics(process_metrics=False)
    machine = Machine(Given(), metrics, sleep=lambda _: asyncio.sleep(0))
    check = HealthCheck(QueueBroker(MemoryTransport(MemoryServer()), delivery_limit=3), (), machine, metrics)
    await machine.ran_out("disk", "No space left on device", again=False)
    assert await check.reason() == "local_resource: out of disk: No space left on device"
    await machine.recovered()
    assert await check.reason() == ""
