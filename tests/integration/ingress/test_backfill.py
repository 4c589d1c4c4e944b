"""``/api/v1/backfills`` on two ingress replicas over one broker: planned, followed, stopped elsewhere, resumed elsewhere."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from drivers.catalogue import option_models
from ingress.app import create_app
from shared.broker.api import Broker
from shared.broker.open import open_broker
from shared.oci.reference import parse_reference
from shared.registry.client import RegistryClient
from shared.settings.load import load_settings
from shared.settings.model import Settings
from shared.telemetry.metrics import Metrics
from shared.telemetry.tracing import Tracing
from tests.integration.broker.test_conformance import settled
from tests.servers.nats import nats
from tests.servers.registry import RegistryServer, docker_registry
from tests.unit.cli.test_stores import put_image
from tests.waiting import PATIENCE, until

OPERATOR = httpx.BasicAuth("operator", "word")
READER = httpx.BasicAuth("viewer", "word")
REPOSITORIES = 6
TAGS = 4


@dataclass
class Replica:
    http: httpx.AsyncClient
    broker: Broker

    async def start(self, **plan: Any) -> str:
        answer = await self.http.post("/api/v1/backfills", json=plan, auth=OPERATOR)
        assert answer.status_code == 202, answer.text
        found: str = answer.json()["id"]
        return found

    async def show(self, backfill: str) -> dict[str, Any]:
        answer = await self.http.get(f"/api/v1/backfills/{backfill}", auth=READER)
        found: dict[str, Any] = answer.json() if answer.status_code == 200 else {}
        return found

    async def until(self, backfill: str, state: str) -> dict[str, Any]:
        async def so() -> bool:
            return bool((await self.show(backfill)).get("state") == state)

        await until(so)
        return await self.show(backfill)

    async def until_it_hangs(self, backfill: str, registry: RegistryServer) -> None:
        """Once a repository is done and the next begun: the registry answers no longer, so that the walk cannot end."""

        async def so() -> bool:
            return bool((await self.show(backfill)).get("published", 0) > TAGS)

        await until(so)
        registry.pause()


@asynccontextmanager
async def replica(settings: Settings) -> AsyncIterator[Replica]:
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(open_broker(settings))
        tracing = Tracing.from_environment("ics-ingress", enabled=False)
        app = create_app(settings, broker, metrics=Metrics(), tracing=tracing)
        await stack.enter_async_context(app.router.lifespan_context(app))
        transport = httpx.ASGITransport(app=app)
        http = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://ics"))
        yield Replica(http, broker)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[RegistryServer]:
    with docker_registry(tmp_path / "registry") as server:
        yield server


@pytest.fixture
async def settings(
    tmp_path: Path, registry: RegistryServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Settings]:
    """A registry with a few repositories, and a broker."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "none"))
    with nats(tmp_path / "nats") as server:
        environ = {
            "ICS_AUTHS": f'{{"{registry.host}": {{"insecure": true}}}}',
            "ICS_BROKER__URL": server.url,
            "ICS_BROKER__PUBLISH_TIMEOUT": "30",
            "ICS_CONSOLE__CREDENTIAL": "viewer:word",
            "ICS_CONSOLE__OPERATOR_CREDENTIAL": "operator:word",
        }
        found = load_settings(None, environ=environ, option_models=option_models())
        async with RegistryClient.from_settings(found) as client:
            for number in range(REPOSITORIES):
                for tag in range(TAGS):
                    await put_image(client, parse_reference(f"{registry.host}/team/app{number}:{tag}"))
        yield found


async def test_a_walk_is_planned_followed_stopped_and_resumed_from_any_replica(
    settings: Settings, registry: RegistryServer
) -> None:
    async with replica(settings) as other:
        async with replica(settings) as first:
            plan = await first.start(registry=registry.host, dry_run=True)
            planned = await other.until(plan, "finished")
            assert (planned["repositories"], planned["planned"], planned["published"]) == (6, 24, 0)
            assert planned["actor"] == "operator"
            (sampled,) = [each for each in planned["sample"] if "/app0:0@" in each["source"]]
            assert sampled["target"] == f"{registry.host}/team/app0:0_esgz"
            assert (await first.broker.stats()).ready == 0

            walk = await first.start(registry=registry.host, repositories=["team/*"], tags=["[0-3]"], rate=4)
            await other.until_it_hangs(walk, registry)
            refused = await other.http.post("/api/v1/backfills", json={"registry": registry.host}, auth=OPERATOR)
            assert refused.status_code == 409
            stopping = await other.http.post(f"/api/v1/backfills/{walk}/stop", auth=OPERATOR)
            assert stopping.status_code == 202
            stopped = await other.until(walk, "stopped")
            assert 0 < stopped["published"] < 24
            registry.resume()
        # The replica that walked is gone.
        resumed = await other.http.post(f"/api/v1/backfills/{walk}/resume", auth=OPERATOR)
        assert resumed.status_code == 202, resumed.text
        done = await other.until(walk, "finished")
        assert done["resumed"] >= 1
        assert done["resumed"] + done["repositories"] == REPOSITORIES
        assert await queued(other.broker) == {
            f"/team/app{n}:{t}_esgz" for n in range(REPOSITORIES) for t in range(TAGS)
        }


async def queued(broker: Broker) -> set[str]:
    """Targets in the queue, all of low priority."""
    found: set[str] = set()
    async with asyncio.timeout(PATIENCE), broker.deliveries(100) as deliveries:
        while len(found) < REPOSITORIES * TAGS:
            delivery = await anext(deliveries)
            assert delivery.request.priority == "backfill"
            found.add(str(delivery.request.target).partition("/")[2])
            await delivery.ack()
    return {f"/{each}" for each in found}


async def test_a_walk_that_its_replica_leaves_behind_is_resumed(settings: Settings, registry: RegistryServer) -> None:
    async with replica(settings) as first:
        walk = await first.start(registry=registry.host, rate=4)
        await first.until_it_hangs(walk, registry)
    registry.resume()
    async with replica(settings) as second:
        left = await second.until(walk, "stopped")
        assert left["error"] == "the ingress that walked was shut down"
        answer = await second.http.post(f"/api/v1/backfills/{walk}/resume", auth=OPERATOR)
        assert answer.status_code == 202
        assert (await second.until(walk, "finished"))["resumed"] >= 1


async def test_nobody_starts_a_walk_by_accident_or_from_elsewhere(settings: Settings) -> None:
    (registry,) = settings.auths
    plan = {"registry": registry}
    async with replica(settings) as one:

        async def status(**request: Any) -> int:
            answer = await one.http.post("/api/v1/backfills", **request)
            return answer.status_code

        assert await status(json=plan) == 401
        assert await status(json=plan, auth=READER) == 401
        assert await status(json=plan, auth=OPERATOR, headers={"Origin": "https://evil.example.com"}) == 403
        assert await status(content=b"registry=x", auth=OPERATOR, headers={"Content-Type": "text/plain"}) == 415
        assert await status(json={"registry": "metadata.internal"}, auth=OPERATOR) == 422
        assert await status(json=plan | {"colour": "red"}, auth=OPERATOR) == 422
        assert await status(json=plan | {"tags": ["x"] * 101}, auth=OPERATOR) == 422
        assert (await one.http.get("/api/v1/backfills")).status_code == 401
        assert (await one.http.get("/api/v1/backfills", auth=READER)).json() == []
        failing = await one.start(registry=registry, project="library")
        failed = await one.until(failing, "failed")
        assert failed["error"].startswith("invalid_request: a project needs Harbor's API")


async def test_the_console_plans_and_then_enqueues_what_was_planned(settings: Settings) -> None:
    (registry,) = settings.auths
    async with replica(settings) as one:

        async def page() -> str:
            answer = await one.http.get("/console/backfill", auth=OPERATOR)
            return answer.text

        async def post(action: str, **form: str) -> int:
            answer = await one.http.post(f"/console/backfill/{action}", data=form, auth=OPERATOR)
            return answer.status_code

        (token,) = set(re.findall(r'name="token" value="(\w+)"', await page()))
        assert await post("start", registry=registry) == 403  # a form of another site knows no token
        assert await post("start", token=token, registry="metadata.internal") == 422
        assert await post("start", token=token, registry=registry, repositories="team/app0, team/app1") == 303

        async def planned() -> bool:
            return "Enqueue 8</button>" in await page()

        await until(planned)
        (plan,) = re.findall(r'name="id" value="(\w+)"', await page())
        assert await post("start", token=token, id="another") == 404
        assert await post("start", token=token, id=plan) == 303
        await settled(one.broker, ready=8)
        walks = (await one.http.get("/api/v1/backfills", auth=READER)).json()
        assert [walk["plan"]["dry_run"] for walk in walks] == [False, True]
        assert (await one.http.get("/console/backfill", auth=READER)).text.count("<button") == 2  # plan (off), theme
