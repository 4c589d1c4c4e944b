"""Every kind of broker, real servers included, behind one fixture."""

from __future__ import annotations

import itertools
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from shared.broker import claims
from shared.broker.api import Broker
from shared.broker.memory import MemoryServer, open_memory
from shared.broker.open import open_broker
from shared.broker.queue import QueueBroker
from shared.settings.load import load_settings
from shared.settings.model import Settings
from tests.servers.nats import nats
from tests.servers.rabbitmq import rabbitmq
from tests.waiting import PATIENCE

_serial = itertools.count()
DELIVERY_LIMIT = 1
"""Low, because JetStream takes its lease's time to hand out again what a dead process held."""


class Server(Protocol):
    @property
    def url(self) -> str: ...
    def start(self) -> None: ...
    def kill(self, sign: signal.Signals = signal.SIGKILL) -> None: ...


@dataclass
class Kind:
    """One kind of broker under test. ``connect()`` opens one connection, as one process would."""

    name: str
    connect: Callable[[], AbstractAsyncContextManager[Broker]]
    server: Server | None = None
    url: str = ""
    prefix: str = ""


def settings_for(url: str, prefix: str, folder: Path, *, replicas: int = 1) -> Settings:
    from drivers.api import DriverOptions

    environ = {
        "ICS_BROKER__URL": url,
        "ICS_BROKER__PREFIX": prefix,
        "ICS_BROKER__PUBLISH_TIMEOUT": "10",  # a loaded machine makes its servers slow
        "ICS_BROKER__DATA_DIR": str(folder / "broker"),
        "ICS_BROKER__DELIVERY_LIMIT": str(DELIVERY_LIMIT),
        "ICS_BROKER__REPLICAS": str(replicas),
        "ICS_DRIVER": '{"type": "none"}',
    }
    return load_settings(None, environ=environ, option_models={"none": DriverOptions})


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Server]]:
    """Started when first asked for, one of each for a worker."""
    running: dict[str, Server] = {}
    contexts = []

    def server(name: str) -> Server:
        if name not in running:
            folder = tmp_path_factory.mktemp(name) / "server"
            context = rabbitmq(folder) if name == "rabbitmq" else nats(folder)
            contexts.append(context)
            running[name] = context.__enter__()
        return running[name]

    yield server
    for context in contexts:
        context.__exit__(None, None, None)


@pytest.fixture(autouse=True)
def patient_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an answer everybody would go on as if the claim were his, and a loaded machine answers late."""
    monkeypatch.setattr(claims, "ANSWER", PATIENCE)


@pytest.fixture(params=["memory", "embedded", "nats", "rabbitmq"])
def kind(request: pytest.FixtureRequest, tmp_path: Path, servers: Callable[[str], Server]) -> Kind:
    name: str = request.param
    prefix = f"t{next(_serial)}"
    if name == "memory":
        state = MemoryServer()

        @asynccontextmanager
        async def connect_memory() -> AsyncIterator[Broker]:
            async with open_memory(state) as transport:
                yield QueueBroker(transport, delivery_limit=DELIVERY_LIMIT)

        return Kind(name, connect_memory)
    server = None if name == "embedded" else servers(name)
    url = server.url if server else "embedded:"
    settings = settings_for(url, prefix, tmp_path)
    return Kind(name, lambda: open_broker(settings), server, url, prefix)
