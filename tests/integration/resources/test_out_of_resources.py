"""A consumer process whose disk is full costs no image an attempt; one image that is too big for the disk stops nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, ClientTimeout

from drivers.testing.images import Tar
from shared.oci.reference import parse_reference
from tests.dead_letters import dead
from tests.e2e.system import BrokerKind, System, running_system
from tests.images.small import SmallImage, image_over, push_image, small_image
from tests.integration.broker.test_conformance import settled
from tests.integration.nydus.stand_in_builder import install
from tests.integration.resources.test_full_disk import fill, small_disk
from tests.waiting import PATIENCE, until


@dataclass
class Place:
    system: System
    disk: Path

    async def announced(self, tag: str, image: SmallImage) -> str:
        reference = f"{self.system.host}/library/app:{tag}"
        await push_image(self.system.client, parse_reference(reference), image)
        return await self.system.accepted(reference, str(image.manifest.digest))

    async def says(self, path: str) -> str:
        """What the consumer answers on its own port."""
        url = f"http://127.0.0.1:{self.system.settings.metric.port}{path}"
        async with ClientSession(timeout=ClientTimeout(total=PATIENCE)) as session, session.get(url) as answer:
            return await answer.text()

    async def out_of_disk(self, out: int) -> None:
        async def so() -> bool:
            return f'ics_consumer_out_of_resources{{resource="disk"}} {out}.0' in await self.says("/metrics")

        await until(so)


@asynccontextmanager
async def place(folder: Path, broker: BrokerKind, size: str, **configuration: Any) -> AsyncIterator[Place]:
    """A consumer that builds with files, on a disk of its own; needs root."""
    builder = folder / "builder"
    builder.mkdir()
    script = install(builder)
    with small_disk(folder / "disk", size) as disk:
        driver = {"type": "nydus", "config": {"builder_path": str(script), "work_dir": str(disk)}}
        rules = [{"target_suffix": "nydus", "driver": driver}]
        async with running_system(folder / "system", broker, {"rules": rules, **configuration}) as system:
            yield Place(system, disk)


@pytest.mark.parametrize("broker", ["rabbitmq", "embedded"])
async def test_a_full_disk_costs_no_attempt_holds_no_delivery_and_is_told(tmp_path: Path, broker: BrokerKind) -> None:
    """One attempt is all there is."""
    async with place(tmp_path, broker, "64m", retry={"maximum_attempts": 1}) as here:
        filler = fill(here.disk)
        identities = [await here.announced(f"v{number}", small_image(number)) for number in range(6)]
        await here.out_of_disk(1)
        assert "local_resource: out of disk: " in await here.says("/health")
        await settled(here.system.broker, ready=6, in_flight=0, retrying=0, dead=0)
        filler.unlink()
        for number, identity in enumerate(identities):
            await here.system.until_tagged(f"{here.system.host}/library/app:v{number}_nydus")
            assert (await here.system.told(identity, "succeeded", "failed")).data.attempt == 1
        await here.out_of_disk(0)
        assert await dead(here.system.broker) == 0
        log = here.system.consumer.log.read_text()
        assert f"{here.disk}: 0 bytes free of {64 << 20}" in log
        assert (log.count("out of disk: "), log.count("there is enough disk again")) == (1, 1)


async def test_sigterm_while_the_disk_is_full_ends_the_consumer_and_leaves_everything_queued(tmp_path: Path) -> None:
    async with place(tmp_path, "embedded", "64m") as here:
        fill(here.disk)
        for number in range(3):
            await here.announced(f"v{number}", small_image(number))
        await here.out_of_disk(1)
        await here.system.consumer.stop()
        assert here.system.consumer.exit_code == 0
        await settled(here.system.broker, ready=3, in_flight=0, retrying=0, dead=0)


async def test_an_image_that_is_too_big_for_the_disk_ends_as_a_dead_letter_and_the_others_are_converted(
    tmp_path: Path,
) -> None:
    retry = {"maximum_attempts": 2, "initial_delay": 0.1, "maximum_delay": 0.2}
    async with place(tmp_path, "embedded", "8m", retry=retry) as here:
        await here.announced("big", image_over(Tar().file("big", bytes(12 << 20)).bytes(), 100))
        for number in range(3):
            await here.announced(f"v{number}", small_image(number))
        letter = await here.system.dead_letter()
        assert letter.request is not None
        assert letter.request.tag == "big"
        assert [attempt.failure.code for attempt in letter.attempts] == ["local_resource"] * 2
        for number in range(3):
            await here.system.until_tagged(f"{here.system.host}/library/app:v{number}_nydus")
        await here.out_of_disk(0)
