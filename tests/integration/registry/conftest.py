"""Clients against real registries: Debian's docker-registry, and the development registry with its faults."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from shared.oci.reference import Reference, parse_reference
from shared.registry.client import RegistryClient
from shared.registry.retry import RetryPolicy
from shared.settings.model import Auth, Settings, Timeouts
from tests.servers.devregistry import FaultyRegistry, serve_registry
from tests.servers.registry import RegistryServer, docker_registry

QUICK = RetryPolicy(attempts=4, initial=0.01, maximum=0.05)
CHUNK = 1 << 20

OpenClient = Callable[..., Any]


@pytest.fixture(scope="session")
def shared_docker_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    """One process for all tests of a worker; each test takes a repository of its own."""
    with docker_registry(tmp_path_factory.mktemp("docker-registry")) as server:
        yield server


@pytest.fixture
def no_docker_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "no-docker-config"))


@pytest.fixture
async def open_client(no_docker_config: None) -> AsyncIterator[OpenClient]:
    """``await open_client(host, insecure=True, ...)`` gives a client that may contact ``host`` only; keywords are of ``Auth``."""
    async with AsyncExitStack() as stack:

        async def opened(
            host: str,
            *,
            timeouts: Timeouts | None = None,
            retry: RetryPolicy = QUICK,
            chunk_size: int = CHUNK,
            endpoints: dict[str, str] | None = None,
            more: dict[str, Auth] | None = None,
            observer: Any = None,
            **auth: Any,
        ) -> RegistryClient:
            settings = Settings(
                auths={host: Auth(**{"insecure": True, **auth}), **(more or {})},
                endpoints=endpoints or {},
                timeouts=timeouts or Timeouts(connect=5, read=10),
            )
            client = RegistryClient.from_settings(settings, retry=retry, chunk_size=chunk_size, observer=observer)
            return await stack.enter_async_context(client)

        yield opened


@pytest.fixture
async def development(tmp_path: Path) -> AsyncIterator[tuple[FaultyRegistry, str]]:
    """A development registry of its own, and where it listens."""
    registry = FaultyRegistry(tmp_path / "registry")
    async with serve_registry(registry) as host:
        yield registry, host


@pytest.fixture(params=["docker-registry", "devregistry"])
async def host(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """``host:port`` of either registry: whoever takes this runs against both."""
    if request.param == "docker-registry":
        server: RegistryServer = request.getfixturevalue("shared_docker_registry")
        yield server.host
        return
    async with serve_registry(FaultyRegistry(tmp_path / "registry")) as address:
        yield address


@pytest.fixture
async def client(host: str, open_client: OpenClient) -> RegistryClient:
    opened: RegistryClient = await open_client(host)
    return opened


@pytest.fixture
def repository(host: str, request: pytest.FixtureRequest) -> Reference:
    return parse_reference(f"{host}/project/{os.urandom(6).hex()}:latest")
