"""Everything that runs: the registry, a proxy before it for each consumer, consumers, ingresses, and the run's own clients."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import orjson
import yaml
from aiohttp import ClientSession, ClientTimeout

from drivers.catalogue import option_models
from shared.broker.api import Broker
from shared.broker.open import open_broker
from shared.errors import IcsError
from shared.oci.reference import Reference, parse_reference
from shared.registry.client import RegistryClient
from shared.settings.load import load_settings
from shared.settings.model import Settings
from tests.faults.broken_images import Breakage
from tests.faults.proxy import FaultProxy
from tests.faults.scale import Scale
from tests.servers.ports import free_port
from tests.servers.processes import Service
from tests.servers.registry import RegistryServer, docker_registry
from tests.waiting import patient

T = TypeVar("T")
REGISTRY = "registry.faults.test:5000"
"""What references name; every process reaches it through its own proxy."""
AUTH_HEADER = "Bearer faults"
PATIENCE = 120.0
"""Seconds that the harness's own calls outlive the faults that it injects; a fault that lasts longer is none of its own."""


class RestartableBroker(Protocol):
    """A real server of ``tests.servers`` that keeps its data over a restart."""

    @property
    def url(self) -> str: ...
    def kill(self, sign: signal.Signals) -> None: ...
    def start(self) -> None: ...


@dataclass
class Fleet:
    """What a run is made of; ``store`` reaches the registry past every proxy."""

    server: RestartableBroker
    registry: RegistryServer
    store: RegistryClient
    broker: Broker
    http: ClientSession
    broken: dict[str, Breakage]
    """Digest → what is wrong with the layer, for all proxies."""
    proxies: list[FaultProxy] = field(default_factory=list)
    """In the order of ``consumers``."""
    consumers: list[Service] = field(default_factory=list)
    ingresses: list[Service] = field(default_factory=list)

    @property
    def services(self) -> list[Service]:
        return [*self.consumers, *self.ingresses]

    async def ready(self) -> None:
        await asyncio.gather(*(service.ready() for service in self.services))


@asynccontextmanager
async def running_fleet(scale: Scale, server: RestartableBroker, folder: Path) -> AsyncIterator[Fleet]:
    """Start everything, and wait until it is healthy."""
    async with AsyncExitStack() as stack:
        registry = stack.enter_context(docker_registry(folder / "registry"))
        settings = _load(folder, server, {})
        direct = {"ICS_ENDPOINTS": orjson.dumps({REGISTRY: registry.host}).decode(), **_auths(registry.host)}
        fleet = Fleet(
            server,
            registry,
            await stack.enter_async_context(RegistryClient.from_settings(_load(folder, server, direct))),
            await stack.enter_async_context(open_broker(patient(settings))),
            await stack.enter_async_context(ClientSession(timeout=ClientTimeout(total=3))),
            broken={},
        )
        for number in range(scale.consumers):
            proxy = await stack.enter_async_context(FaultProxy(registry.host, broken=fleet.broken))
            fleet.proxies.append(proxy)
            fleet.consumers.append(_consumer(folder, number, proxy))
        fleet.ingresses += [_ingress(folder, number) for number in range(scale.ingresses)]
        try:
            for service in fleet.services:
                await service.start()
            await fleet.ready()
            yield fleet
        finally:
            await asyncio.gather(*(service.stop() for service in fleet.services))


def source_of(tag: str) -> Reference:
    return parse_reference(f"{REGISTRY}/library/app:{tag}")


def target_of(tag: str) -> Reference:
    return parse_reference(f"{REGISTRY}/library/app:{tag}_esgz")


async def patiently(call: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """The harness's own work outlives the faults that it injects, and nothing else.

    Raises:
        IcsError: still after ``PATIENCE``.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE
    while True:
        try:
            return await call()
        except IcsError:
            if loop.time() > deadline:
                raise
            await asyncio.sleep(0.5)


def _load(folder: Path, server: RestartableBroker, environment: dict[str, str]) -> Settings:
    path = folder / "config.yml"
    config = {
        "hostname": "127.0.0.1",
        "auth_header": AUTH_HEADER,
        "maximum_concurrency": 4,
        "auths": {REGISTRY: {"insecure": True}},
        "rules": {"target_suffix": "esgz"},
        "broker": {"url": server.url, "delivery_limit": 50},
        "retry": {"maximum_attempts": 5, "initial_delay": 0.5, "maximum_delay": 5},
        "timeouts": {"conversion": 60, "connect": 3, "read": 4, "drain": 5},
        "work_dir": str(folder / "work"),
        "telemetry": {"enabled": False},
    }
    path.write_text(yaml.safe_dump(config))
    return load_settings(path, environ=environment, option_models=option_models())


def _auths(host: str) -> dict[str, str]:
    return {"ICS_AUTHS": orjson.dumps({REGISTRY: {"insecure": True}, host: {"insecure": True}}).decode()}


def _consumer(folder: Path, number: int, proxy: FaultProxy) -> Service:
    port = free_port()
    return Service(
        role="consumer",
        config=folder / "config.yml",
        environment={
            "ICS_METRIC__PORT": str(port),
            "ICS_ENDPOINTS": orjson.dumps({REGISTRY: proxy.address}).decode(),
            **_auths(proxy.address),
        },
        health=f"http://127.0.0.1:{port}/health",
        log=folder / f"consumer-{number}.log",
    )


def _ingress(folder: Path, number: int) -> Service:
    port = free_port()
    return Service(
        role="ingress",
        config=folder / "config.yml",
        environment={"ICS_HTTP__PORT": str(port)},
        health=f"http://127.0.0.1:{port}/health",
        log=folder / f"ingress-{number}.log",
    )
