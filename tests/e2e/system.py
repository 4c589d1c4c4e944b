"""The whole service as an operator runs it: a registry, a broker, ``ics ingress`` and ``ics consumer`` as processes."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson
import yaml
from aiohttp import ClientSession, ClientTimeout

from drivers.catalogue import option_models
from shared.broker.api import Broker
from shared.broker.open import open_broker
from shared.messages import DeadLetter
from shared.oci.descriptor import Descriptor
from shared.oci.reference import parse_reference
from shared.registry.client import RegistryClient
from shared.settings.load import load_settings
from shared.settings.model import Settings
from tests.servers.ports import free_port
from tests.servers.processes import Service
from tests.servers.rabbitmq import rabbitmq
from tests.servers.registry import RegistryServer, docker_registry
from tests.waiting import PATIENCE, patient, until

AUTHORIZATION = "Bearer end-to-end"
BrokerKind = Literal["rabbitmq", "embedded"]


@dataclass
class System:
    """Running, with an open broker and registry client of the test's own."""

    registry: RegistryServer
    ingress: Service
    consumer: Service
    endpoint: str
    settings: Settings
    broker: Broker
    client: RegistryClient
    folder: Path
    _moments: Iterator[int] = field(default_factory=lambda: itertools.count(1_700_000_000))

    @property
    def host(self) -> str:
        return self.registry.host

    async def webhook(
        self, reference: str, digest: str, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Post Harbor's Default body for a push of ``repository:tag``."""
        return await self.post(self._pushed(reference, digest), headers)

    async def accepted(self, reference: str, digest: str, headers: dict[str, str] | None = None) -> str:
        """The same until it is accepted: Harbor sends an event again that a busy ingress refused. The conversion's id."""
        body = self._pushed(reference, digest)
        while (found := await self.post(body, headers))[0] == 503:
            await asyncio.sleep(0.5)
        status, answer = found
        assert status == 202, answer
        (conversion,) = answer["conversions"]
        identity: str = conversion["id"]
        return identity

    def _pushed(self, reference: str, digest: str) -> bytes:
        source = parse_reference(reference)
        project, _, name = source.repository.partition("/")
        body = {
            "type": "PUSH_ARTIFACT",
            "occur_at": next(self._moments),  # pushed anew: another event
            "operator": "admin",
            "event_data": {
                "resources": [{"digest": digest, "tag": source.tag, "resource_url": reference}],
                "repository": {
                    "date_created": 1_700_000_000,
                    "name": name,
                    "namespace": project,
                    "repo_full_name": source.repository,
                    "repo_type": "private",
                },
            },
        }
        return orjson.dumps(body)

    async def post(self, body: bytes, headers: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
        async with ClientSession(timeout=ClientTimeout(total=PATIENCE)) as session:
            all_headers = {"Authorization": AUTHORIZATION, "Content-Type": "application/json", **(headers or {})}
            async with session.post(self.endpoint, data=body, headers=all_headers) as answer:
                return answer.status, orjson.loads(await answer.read() or b"{}")

    async def until_tagged(self, reference: str, *, within: float = 120) -> Descriptor:
        """Wait until the target's tag is there."""
        target = parse_reference(reference)
        async with asyncio.timeout(within):
            while (found := await self.client.resolve(target)) is None:
                await asyncio.sleep(0.1)
        return found

    async def told(self, conversion_id: str, *kinds: str, within: float = 120) -> Any:
        """The conversion's first event of one of these kinds."""
        async with asyncio.timeout(within):
            async for event in self.broker.events.read():
                if event.subject == conversion_id and event.kind in kinds:
                    return event
        raise AssertionError

    async def outcome(self, conversion_id: str) -> Any:
        """The conversion's last event."""
        return await self.told(conversion_id, "succeeded", "failed", "skipped")

    async def dead_letter(self, *, within: float = 120) -> DeadLetter:
        """The only one."""
        async with asyncio.timeout(within):
            while not (found := [each async for each in self.broker.dead_letters.list()]):
                await asyncio.sleep(0.2)
        assert len(found) == 1
        return found[0]

    async def idle(self, *, within: float = 120) -> None:
        """Wait until the work queue is empty."""

        async def so() -> bool:
            stats = await self.broker.stats()
            return not stats.ready and not stats.in_flight and not stats.retrying

        await until(so, within)


@asynccontextmanager
async def running_system(
    folder: Path,
    broker: BrokerKind,
    configuration: dict[str, Any] | None = None,
    environment: dict[str, str] | None = None,
    credential: tuple[str, str] | None = None,
    auths: dict[str, Any] | None = None,
) -> AsyncIterator[System]:
    """Start everything below ``folder``.

    Args:
        folder: of this system alone.
        broker: Debian's RabbitMQ, or the embedded NATS in the ingress' own care.
        configuration: more of config.yml.
        environment: more for both processes.
        credential: user and password that the registry wants.
        auths: more of them, beside the registry's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        registry = stack.enter_context(docker_registry(folder / "registry", credential=credential))
        url = "embedded:"
        if broker == "rabbitmq":
            url = stack.enter_context(rabbitmq(folder / "rabbitmq")).url
        http, metrics = free_port(), free_port()
        document = {
            "hostname": "127.0.0.1",
            "http": {"port": http},
            "metric": {"port": metrics},
            "auth_header": AUTHORIZATION,
            "auths": {
                registry.host: {"insecure": True, **({"auth": registry.basic} if registry.basic else {})},
                **(auths or {}),
            },
            "broker": {"url": url, "data_dir": str(folder / "broker")},
            "work_dir": str(folder / "work"),
            "log": {"level": "debug"},
            "rules": [{"target_suffix": "esgz", "driver": {"type": "estargz"}}],
            **(configuration or {}),
        }
        config = folder / "config.yml"
        config.write_text(yaml.safe_dump(document))
        docker = folder / "docker-config"
        docker.mkdir()
        own = {"DOCKER_CONFIG": str(docker), **(environment or {})}
        base = f"http://127.0.0.1:{http}"
        ingress = Service("ingress", config, own, f"{base}/health", folder / "ingress.log")
        consumer = Service("consumer", config, own, f"http://127.0.0.1:{metrics}/health", folder / "consumer.log")
        await ingress.start()
        stack.push_async_callback(ingress.stop)
        await ingress.ready()
        await consumer.start()
        stack.push_async_callback(consumer.stop)
        await consumer.ready()
        settings = load_settings(config, environ={}, option_models=option_models())
        opened = await stack.enter_async_context(open_broker(patient(settings)))
        client = await stack.enter_async_context(RegistryClient.from_settings(settings))
        yield System(registry, ingress, consumer, f"{base}/conversion", settings, opened, client, folder)
