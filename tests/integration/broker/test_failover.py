"""A node of a real three-node cluster is killed while webhooks come: ingress and consumer go on with the others."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import pytest

from shared.oci.reference import Reference, parse_reference
from tests.dead_letters import dead
from tests.e2e.system import System, running_system
from tests.images.comparing import source_digest_of
from tests.images.small import SmallImage, push_image, small_image
from tests.servers.nats import nats_cluster
from tests.servers.rabbitmq import rabbitmq_cluster


class Node(Protocol):
    @property
    def url(self) -> str: ...
    def start(self) -> None: ...
    def kill(self, sign: signal.Signals = signal.SIGKILL) -> None: ...


def source(system: System, number: int) -> Reference:
    return parse_reference(f"{system.host}/library/app:v{number}")


async def until_accepted(system: System, number: int, image: SmallImage) -> str:
    """Post until the answer is 202, as whoever pushes a release again would; the conversion's id."""
    async with asyncio.timeout(60):
        while True:
            status, answer = await system.webhook(str(source(system, number)), str(image.manifest.digest))
            if status == 202:
                identity: str = answer["conversions"][0]["id"]
                return identity
            assert status == 503, answer
            await asyncio.sleep(0.2)


@pytest.mark.parametrize(
    ("cluster", "victims"),
    [
        # The first node is the one that is connected to and, since queues are led where they are declared, their leader.
        pytest.param(rabbitmq_cluster, 1, id="rabbitmq"),
        # NATS clients and leaders are anywhere: each in turn.
        pytest.param(nats_cluster, 3, id="nats"),
    ],
)
async def test_a_node_that_dies_costs_nothing(
    tmp_path: Path, cluster: Callable[[Path], AbstractContextManager[list[Node]]], victims: int
) -> None:
    manager = cluster(tmp_path / "cluster")
    nodes = await asyncio.to_thread(manager.__enter__)
    try:
        broker = {"url": ",".join(node.url for node in nodes), "replicas": 3}
        async with running_system(tmp_path / "system", "embedded", {"broker": broker}) as system:
            images = [small_image(number) for number in range(8 * victims)]
            for number, image in enumerate(images):
                await push_image(system.client, source(system, number), image)
            accepted = 0
            for victim in nodes[:victims]:
                batch = list(enumerate(images))[accepted : accepted + 8]
                posting = asyncio.gather(*(until_accepted(system, number, image) for number, image in batch[:4]))
                await asyncio.to_thread(victim.kill)
                identities = await posting
                identities += [await until_accepted(system, number, image) for number, image in batch[4:]]
                await asyncio.gather(system.ingress.ready(), system.consumer.ready())
                for number, image in batch:
                    target = f"{source(system, number)}_esgz"
                    await system.until_tagged(target)
                    assert await source_digest_of(system.client, parse_reference(target)) == image.manifest.digest
                accepted += len(identities)
                if victim is not nodes[victims - 1]:
                    await asyncio.to_thread(victim.start)
            await system.idle()
            assert await dead(system.broker) == 0
            assert (system.ingress.starts, system.consumer.starts) == (1, 1)
    finally:
        await asyncio.to_thread(manager.__exit__, None, None, None)
