"""Real consumer processes whose surroundings fail: they are stopped, run out of time or of files, or their registry is away."""

from __future__ import annotations

import base64
import re
import resource
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, ClientTimeout

from shared.oci.reference import Reference, parse_reference
from tests.dead_letters import dead
from tests.e2e.system import BrokerKind, System, running_system
from tests.faults.proxy import Fault, FaultKind, FaultProxy, Stage
from tests.images.comparing import differences
from tests.images.small import push_image, small_image
from tests.integration.broker.test_conformance import settled
from tests.servers.registry import docker_registry
from tests.waiting import PATIENCE, until

REGISTRY = "registry.resources.test:5000"
"""What webhooks name; the consumer reaches it through the proxy."""
MIDDLE_OF_AN_UPLOAD: tuple[FaultKind, Stage, int, str] = ("hang", "push", 1, "PUT")


@dataclass
class Place:
    system: System
    proxy: FaultProxy

    async def announced(self, tag: str, number: int = 1) -> str:
        """Push an image past the proxy, and post its webhook: the conversion's id."""
        image = small_image(number)
        await push_image(self.system.client, self.direct(tag), image)
        return await self.system.accepted(f"{REGISTRY}/library/app:{tag}", str(image.manifest.digest))

    def direct(self, tag: str) -> Reference:
        return parse_reference(f"{self.system.host}/library/app:{tag}")

    async def converted(self, tag: str) -> None:
        """Wait for the target, and read it back."""
        await self.system.until_tagged(str(self.direct(f"{tag}_esgz")))
        assert await differences(self.system.client, self.direct(tag), self.direct(f"{tag}_esgz")) == []

    async def told(self, identity: str, kind: str) -> Any:
        """The first event of a kind."""
        return await self.system.told(identity, kind)

    async def struck(self) -> None:
        await until(lambda: bool(self.proxy.struck))

    async def shows(self, name: str, value: float) -> bool:
        """Whether it is the largest value of a metric: an attempt is counted after it is told and acknowledged."""
        url = f"http://127.0.0.1:{self.system.settings.metric.port}/metrics"
        async with ClientSession(timeout=ClientTimeout(total=PATIENCE)) as session, session.get(url) as answer:
            lines = (await answer.text()).splitlines()
        return max((float(line.split()[-1]) for line in lines if line.startswith(f"{name}{{")), default=-1) == value


@asynccontextmanager
async def place(folder: Path, broker: BrokerKind = "embedded", **configuration: Any) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(FaultProxy(""))
        system = await stack.enter_async_context(
            running_system(
                folder,
                broker,
                {"endpoints": {REGISTRY: proxy.address}, "cache": {"enabled": False}, **configuration},
                auths={REGISTRY: {"insecure": True}, proxy.address: {"insecure": True}},
            )
        )
        proxy.upstream = system.host
        yield Place(system, proxy)


@pytest.mark.parametrize("broker", ["rabbitmq", "embedded"])
async def test_sigterm_in_the_middle_of_an_upload_hands_the_conversion_back(tmp_path: Path, broker: BrokerKind) -> None:
    async with place(tmp_path, broker, timeouts={"drain": 0.5}) as here:
        here.proxy.arm(Fault(*MIDDLE_OF_AN_UPLOAD))
        await here.announced("v1")
        await here.struck()
        assert here.system.registry.upload_sessions()
        await here.system.consumer.stop()
        assert here.system.consumer.exit_code == 0
        assert here.system.registry.upload_sessions() == []
        await settled(here.system.broker, ready=1, retrying=0, dead=0)
        here.proxy.calm()
        await here.system.consumer.start()
        await here.converted("v1")
        await here.system.idle()
        assert await dead(here.system.broker) == 0


async def test_the_upload_that_a_killed_consumer_left_is_cancelled_by_the_next(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        here.proxy.arm(Fault(*MIDDLE_OF_AN_UPLOAD))
        await here.announced("v1")
        await here.struck()
        here.system.consumer.kill()
        records = [path.read_text() for path in (tmp_path / "work").glob("consumer-*/uploads/*")]
        # Beside the one that hangs, another may just have begun, with no record yet, or ended, with its record still there.
        sessions = [
            each for each in here.system.registry.upload_sessions() if any(each.name in text for text in records)
        ]
        assert sessions
        # Whose session and where; no credential, and no more than its address.
        shape = rf"{REGISTRY}/library/app\n/v2/library/app/blobs/uploads/[0-9a-f-]+\?_state=[\w=%-]+\n"
        assert all(re.fullmatch(shape, text) for text in records), records
        await here.system.consumer.restart()
        await until(lambda: not any((session / "startedat").exists() for session in sessions))


async def test_sigterm_lets_what_is_nearly_done_finish(tmp_path: Path) -> None:
    async with place(tmp_path, timeouts={"drain": 50}) as here:
        here.proxy.arm(Fault("slow", "pull"))
        identity = await here.announced("v1")
        await here.struck()
        await here.system.consumer.stop()
        assert here.system.consumer.exit_code == 0
        await here.converted("v1")
        assert (await here.told(identity, "succeeded")).data.attempt == 1


async def test_a_conversion_beyond_its_time_gives_everything_back(tmp_path: Path) -> None:
    """All of the memory budget is one layer's: a second attempt could not even begin if the first kept its share."""
    timeouts = {"conversion": 8, "drain": 1}
    retry = {"initial_delay": 0.1}
    async with place(tmp_path, timeouts=timeouts, retry=retry, limits={"memory": 64 << 20}) as here:
        here.proxy.arm(Fault(*MIDDLE_OF_AN_UPLOAD))
        identity = await here.announced("v1")
        retrying = await here.told(identity, "retrying")
        assert retrying.data.failure.code == "conversion_timeout"
        assert here.system.registry.upload_sessions() == []
        await here.converted("v1")
        assert (await here.told(identity, "succeeded")).data.attempt == 2


async def test_a_registry_that_is_away_costs_no_attempt(tmp_path: Path) -> None:
    """One attempt is all there is, and the registry is away for longer than any retry of a request."""
    async with place(tmp_path, retry={"maximum_attempts": 1}) as here:
        for number in (1, 2, 3):
            await push_image(here.system.client, here.direct(f"v{number}"), small_image(number))
        here.system.registry.stop()
        identities = []
        for number in (1, 2, 3):
            digest = str(small_image(number).manifest.digest)
            identities.append(await here.system.accepted(f"{here.system.host}/library/app:v{number}", digest))

        await until(lambda: here.shows("ics_registry_circuit_state", 2))
        assert await dead(here.system.broker) == 0
        here.system.registry.start()
        for number, identity in zip((1, 2, 3), identities, strict=True):
            await here.converted(f"v{number}")
            assert (await here.told(identity, "succeeded")).data.attempt == 1
        assert await dead(here.system.broker) == 0


async def test_it_says_at_its_start_which_registries_let_it_in(tmp_path: Path) -> None:
    """The one that refuses it keeps nothing else from being converted."""
    wrong = base64.b64encode(b"ics:canary-wrong").decode()
    with docker_registry(tmp_path / "other", credential=("ics", "another")) as other:
        auths = {other.host: {"insecure": True, "auth": wrong}}
        async with running_system(tmp_path / "system", "embedded", credential=("ics", "s3cret"), auths=auths) as system:
            log = system.consumer.log
            await until(lambda: f"{other.host} cannot be used as it is under `auths`" in log.read_text())
            await until(lambda: f"{system.host}: credentials accepted" in log.read_text())
            assert "canary-wrong" not in log.read_text()
            assert system.consumer.running


async def test_a_closed_file_table_is_this_machines_trouble_and_passes(tmp_path: Path) -> None:
    async with place(tmp_path, retry={"maximum_attempts": 1}) as here:
        process = here.system.consumer._process
        assert process is not None
        pid = process.pid
        soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(list(Path(f"/proc/{pid}/fd").iterdir())), hard))
        identity = await here.announced("v1")
        retrying = await here.told(identity, "retrying")
        assert retrying.data.failure.code == "local_resource"
        assert "open files" in retrying.data.failure.message
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
        await here.converted("v1")
        assert here.system.consumer.running
        assert (await here.told(identity, "succeeded")).data.attempt == 1
        await until(lambda: here.shows("ics_registry_circuit_state", 0))
