"""A release of many images on a new base, and more than one consumer: the base is converted by one of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shared.oci.manifest import ImageManifest
from shared.oci.reference import parse_reference
from tests.e2e.system import BrokerKind, System, running_system
from tests.images.small import image_over, layer_tar, push_image
from tests.servers.ports import free_port
from tests.servers.processes import Service

LARGE = 5_000
"""Entries of the base: some 50 MB, so that a consumer is busy with it for a while."""


@asynccontextmanager
async def second_consumer(system: System) -> AsyncIterator[Service]:
    port = free_port()
    own = {
        "DOCKER_CONFIG": str(system.folder / "docker-config"),
        "ICS_METRIC__PORT": str(port),
        "ICS_WORK_DIR": str(system.folder / "work-2"),
    }
    config, log = system.folder / "config.yml", system.folder / "consumer-2.log"
    consumer = Service("consumer", config, own, f"http://127.0.0.1:{port}/health", log)
    await consumer.start()
    try:
        await consumer.ready()
        yield consumer
    finally:
        await consumer.stop()


@pytest.mark.parametrize("broker", ["rabbitmq", "embedded"])
async def test_a_new_base_is_converted_by_one_of_two_consumers(broker: BrokerKind, tmp_path: Path) -> None:
    tar = layer_tar(77, LARGE)
    images = [image_over(tar, number) for number in range(2)]
    base = images[0].manifest.layers[0].digest
    async with (
        running_system(tmp_path, broker, {"maximum_concurrency": 1}) as system,
        second_consumer(system),
    ):
        sources = [parse_reference(f"{system.host}/library/app{number}:1") for number in range(2)]
        for source, image in zip(sources, images, strict=True):
            await push_image(system.client, source, image)
        system.registry.pause()  # until both are at work: else one may be through before the other begins
        ids = [
            await system.accepted(str(source), str(image.manifest.digest))
            for source, image in zip(sources, images, strict=True)
        ]
        for identity in ids:
            await system.told(identity, "started")
        system.registry.resume()
        events = await asyncio.gather(*(system.outcome(identity) for identity in ids))
        assert [event.kind for event in events] == ["succeeded"] * 2
        stages = [stage for event in events for stage in event.data.stages if stage.subject == base]
        assert len({event.data.consumer for event in events}) == 2
        # The other waits for it, or comes so late, its first request having hung, that it finds the record.
        assert [stage.name for stage in stages].count("convert") == 1
        assert sorted((event.data.layers_total, event.data.layers_reused) for event in events) == [(2, 0), (2, 1)]
        made = [await system.client.manifest(source.with_tag("1_esgz")) for source in sources]
        assert all(isinstance(each, ImageManifest) for each in made)
        first, second = (each.layers[0] for each in made if isinstance(each, ImageManifest))
        assert first == second
