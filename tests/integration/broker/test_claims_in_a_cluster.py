"""Claims while nodes of a real three-node cluster die: whoever waits goes on, and what is claimed next has one holder again.

On RabbitMQ a claim is its holder's channel, and ends with the node of either. On JetStream it is a message that the other nodes
have too, and that its holder, connected to one of them, goes on renewing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, AsyncExitStack
from pathlib import Path

import pytest

from drivers.api import Result
from shared.broker.api import Broker
from shared.broker.open import open_broker
from shared.oci.manifest import ImageManifest
from shared.oci.reference import parse_reference
from shared.registry.client import RegistryClient
from shared.settings.model import Auth, Settings
from tests.images.small import push_image, small_image
from tests.integration.broker.conftest import Server, settings_for
from tests.integration.broker.converting import convert
from tests.servers.nats import nats_cluster
from tests.servers.rabbitmq import rabbitmq_cluster
from tests.servers.registry import docker_registry
from tests.unit.consumer.sharing import Base
from tests.waiting import PATIENCE


@pytest.mark.parametrize(
    ("cluster", "outlives_its_node"),
    [pytest.param(rabbitmq_cluster, False, id="rabbitmq"), pytest.param(nats_cluster, True, id="nats")],
)
async def test_a_node_that_dies_holds_nobody_up(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cluster: Callable[[Path], AbstractContextManager[Sequence[Server]]],
    outlives_its_node: bool,
) -> None:
    # A loaded machine may take its time to elect a leader: nobody gives up here meanwhile.
    monkeypatch.setattr("shared.broker.jetstream.claims.ELECTION", PATIENCE)
    monkeypatch.setattr("shared.broker.claims.ANSWER", PATIENCE)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    manager = cluster(tmp_path / "cluster")
    nodes = await asyncio.to_thread(manager.__enter__)
    try:
        async with AsyncExitStack() as stack:
            brokers = []
            for number in range(3):
                # Each is connected to another node: to the first on RabbitMQ; NATS clients choose, and are told of the others.
                urls = [node.url for node in (*nodes[number:], *nodes[:number])]
                settings = settings_for(urls[0] if outlives_its_node else ",".join(urls), "t", tmp_path, replicas=3)
                brokers.append(await stack.enter_async_context(open_broker(settings)))
            await a_node_that_is_not_the_holders(brokers, nodes[2], outlives_its_node)
            await asyncio.to_thread(nodes[2].start)
            await the_holders_node(brokers, nodes[0], tmp_path, outlives_its_node)
            await until_exclusive(brokers)
    finally:
        await asyncio.to_thread(manager.__exit__, None, None, None)


async def claimed(broker: Broker, key: str, patience: float = 0) -> bool:
    async with broker.claim(key, patience) as ours:
        return ours


async def until_exclusive(brokers: Sequence[Broker]) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            async with brokers[0].claim("next", 0) as ours:
                if ours and not any([await claimed(broker, "next") for broker in brokers[1:]]):
                    return
            await asyncio.sleep(0.2)


async def a_node_that_is_not_the_holders(brokers: Sequence[Broker], node: Server, outlives_its_node: bool) -> None:
    holder, other, loser = brokers
    async with holder.claim("layer", 0) as ours:
        assert ours
        waiting, losing = (asyncio.create_task(claimed(broker, "layer", 2 * PATIENCE)) for broker in (other, loser))
        await asyncio.sleep(1)
        assert not waiting.done()
        assert not losing.done()
        await asyncio.to_thread(node.kill)
        if not outlives_its_node:
            async with asyncio.timeout(PATIENCE):
                assert await losing  # with its connection went its place, so it goes on
        assert not await claimed(other, "layer")
        assert not waiting.done()
    async with asyncio.timeout(PATIENCE):
        assert await waiting
        assert await losing


async def the_holders_node(brokers: Sequence[Broker], node: Server, folder: Path, outlives_its_node: bool) -> None:
    base = Base(small_image(0).manifest.layers[0].digest)
    died = asyncio.Event()

    async def hold() -> None:
        await died.wait()

    base.before = hold
    with docker_registry(folder / "registry") as server:
        settings = Settings(auths={server.host: Auth(insecure=True)})
        async with RegistryClient.from_settings(settings) as client, asyncio.timeout(2 * PATIENCE):
            source = parse_reference(f"{server.host}/library/app:1")
            for number in range(len(brokers)):
                await push_image(client, source.with_tag(str(number)), small_image(number))

            def start(number: int) -> asyncio.Task[Result]:
                return asyncio.create_task(
                    convert(brokers[number], client, source.with_tag(str(number)), "estargz", base)
                )

            converting = [start(0)]
            await base.until(lambda: base.conversions == 1)
            converting += map(start, range(1, len(brokers)))
            await base.until(lambda: base.waiting == len(brokers) - 1)
            await asyncio.to_thread(node.kill)
            if not outlives_its_node:
                await base.until(lambda: base.conversions == len(brokers))
            died.set()
            results = await asyncio.gather(*converting)
            assert base.conversions == (1 if outlives_its_node else len(brokers))
            assert sum(result.layers_reused for result in results) == len(brokers) - base.conversions
            roots = [result.root for result in results if isinstance(result.root, ImageManifest)]
            (made,) = {root.layers[0].digest for root in roots}
            assert await client.has_blob(source, made)
