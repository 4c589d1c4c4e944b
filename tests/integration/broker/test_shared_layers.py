"""Consumers on one real broker, with one real registry: a layer that all of them need at once is converted by one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from drivers.api import Result
from shared.oci.reference import Reference, parse_reference
from shared.registry.client import RegistryClient
from shared.settings.model import Auth, Settings
from tests.images.small import push_image, small_image
from tests.integration.broker.conftest import Kind
from tests.integration.broker.converting import convert
from tests.servers.registry import docker_registry
from tests.unit.consumer.sharing import Base

CONSUMERS = 3


async def converted(kind: Kind, client: RegistryClient, source: Reference, driver: str, base: Base) -> Result:
    async with kind.connect() as broker:
        return await convert(broker, client, source, driver, base)


@pytest.mark.parametrize("driver", ["estargz", "nydus"])
@pytest.mark.parametrize("kind", ["nats", "rabbitmq"], indirect=True)
async def test_consumers_that_start_at_once_convert_a_common_layer_once(
    kind: Kind, driver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    base = Base(small_image(0).manifest.layers[0].digest)
    base.before = lambda: base.until(lambda: base.waiting == CONSUMERS - 1)
    with docker_registry(tmp_path / "registry") as server:
        settings = Settings(auths={server.host: Auth(insecure=True)})
        async with RegistryClient.from_settings(settings) as client, asyncio.timeout(120):
            sources = [parse_reference(f"{server.host}/library/app{number}:1") for number in range(CONSUMERS)]
            for number, source in enumerate(sources):
                await push_image(client, source, small_image(number))
            results = await asyncio.gather(*(converted(kind, client, source, driver, base) for source in sources))
    assert (base.conversions, base.waits) == (1, CONSUMERS - 1)
    assert sorted(result.layers_reused for result in results) == [0] + [1] * (CONSUMERS - 1)
