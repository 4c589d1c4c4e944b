"""One run: start everything, post webhooks while faults are injected, settle, account, replay, account again."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, Self, TypeVar

import orjson
import yaml
from aiohttp import ClientError, ClientSession, ClientTimeout

from consumer.budget import KeyedLocks
from drivers.catalogue import option_models
from shared.broker.api import Broker
from shared.broker.open import open_broker
from shared.errors import IcsError
from shared.oci.digest import Digest
from shared.oci.reference import Reference, parse_reference
from shared.registry.client import RegistryClient
from shared.settings.load import load_settings
from shared.settings.model import Settings
from tests.faults.broken_images import DAMAGED_ON_THE_WAY, EXPECTED, Breakage, breakage_of
from tests.faults.images import push_image, small_image
from tests.faults.ledger import Accepted, Ledger
from tests.faults.processes import Service
from tests.faults.proxy import PROXY_FAULTS, Fault, FaultProxy
from tests.faults.verify import differences, source_digest_of
from tests.servers.registry import RegistryServer, docker_registry, free_port

T = TypeVar("T")
BrokerName = Literal["rabbitmq", "nats"]
REGISTRY = "registry.faults.test:5000"
"""What references name; every process reaches it through its own proxy."""
AUTH_HEADER = "Bearer faults"
FAULT_PAUSE = (0.05, 0.6)
"""Seconds between two faults, at least and at most."""


class RestartableBroker(Protocol):
    """A real server of ``tests.servers`` that keeps its data over a restart."""

    @property
    def url(self) -> str: ...
    def kill(self, sign: signal.Signals) -> None: ...
    def start(self) -> None: ...


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    events: int
    faults: int
    consumers: int = 3
    ingresses: int = 2
    seed: int = 1
    settle: float = 300
    """Seconds that accepted events get to end after the last fault."""


@dataclass
class Report:
    """What one run showed."""

    broker: BrokerName
    scale: Scale
    faults: Counter[str] = field(default_factory=Counter)
    webhooks: Counter[str] = field(default_factory=Counter)
    """What is special about some of them."""
    ledger: Ledger = field(default_factory=Ledger)
    late: list[Accepted] = field(default_factory=list)
    """Accepted events that nothing accounted for yet when the time to settle was over."""
    lost: list[Accepted] = field(default_factory=list)
    """Those that nothing accounts for at the end, after the replay."""
    stale: list[str] = field(default_factory=list)
    """Targets that are not made of what their source tag points at."""
    damaged: list[str] = field(default_factory=list)
    """Targets that do not give their source back."""
    dead: Counter[str] = field(default_factory=Counter)
    misclassified: list[str] = field(default_factory=list)
    """Dead letters of broken images under another class than what is wrong with them, and permanent ones of sound images."""
    broken_unnoticed: list[str] = field(default_factory=list)
    """Events of broken images that ended neither dead nor superseded."""
    dead_after_replay: Counter[str] = field(default_factory=Counter)
    unreplayed: list[str] = field(default_factory=list)
    """Source tags without a current target after all dead letters were replayed with the faults off."""
    verified: int = 0
    """Targets that were read back, entry by entry, and are their source."""
    sessions_left: int = 0
    seconds: float = 0


class Run:
    """``async with Run(...) as run: report = await run.execute()``."""

    def __init__(self, scale: Scale, broker_name: BrokerName, server: RestartableBroker, folder: Path) -> None:
        self.report = Report(broker_name, scale)
        self._scale = scale
        self._server = server
        self._folder = folder
        self._rng = random.Random(scale.seed)
        self._tags: dict[str, int] = {}
        self._broken: dict[str, Breakage] = {}
        self._pushing = KeyedLocks()
        self._stack = AsyncExitStack()
        self._stopping: set[asyncio.Task[Any]] = set()
        self._moving: set[asyncio.Task[Any]] = set()
        self._numbers = itertools.count(scale.events)
        """Of images that nobody has seen yet."""

    async def __aenter__(self) -> Self:
        folder = self._folder
        self._registry: RegistryServer = self._stack.enter_context(docker_registry(folder / "registry"))
        self._proxies: list[FaultProxy] = []
        self._consumers: list[Service] = []
        self._ingresses: list[Service] = []
        self._settings = self._load({})
        direct = {REGISTRY: self._registry.host}
        store_settings = self._load(
            {"ICS_ENDPOINTS": orjson.dumps(direct).decode(), **self._auths(self._registry.host)}
        )
        self._store = await self._stack.enter_async_context(RegistryClient.from_settings(store_settings))
        self._broker: Broker = await self._stack.enter_async_context(open_broker(self._settings))
        self._http = await self._stack.enter_async_context(ClientSession(timeout=ClientTimeout(total=3)))
        for number in range(self._scale.consumers):
            await self._add_consumer(number)
        for number in range(self._scale.ingresses):
            self._add_ingress(number)
        self._stack.push_async_callback(self._stop_services)
        for service in self._services:
            await service.start()
        for service in self._services:
            await service.ready()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def _services(self) -> list[Service]:
        return [*self._consumers, *self._ingresses]

    async def execute(self) -> Report:
        started = asyncio.get_running_loop().time()
        watcher = asyncio.create_task(self._watch())
        try:
            async with asyncio.TaskGroup() as group:
                posting = group.create_task(self._post_all())
                group.create_task(self._inject_all(posting))
            await self._calm()
            await self._settle(lambda: not self.report.ledger.open)
            await self._account()
            self._broken.clear()
            await self._replay()
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
        self.report.sessions_left = len(self._registry.upload_sessions())
        self.report.seconds = asyncio.get_running_loop().time() - started
        return self.report

    # -- what is set up ------------------------------------------------------------------------------------------------

    def _load(self, environment: dict[str, str]) -> Settings:
        path = self._folder / "config.yml"
        config = {
            "hostname": "127.0.0.1",
            "auth_header": AUTH_HEADER,
            "maximum_concurrency": 4,
            "auths": {REGISTRY: {"insecure": True}},
            "rules": {"target_suffix": "esgz"},
            "broker": {"url": self._server.url, "delivery_limit": 50},
            "retry": {"maximum_attempts": 5, "initial_delay": 0.5, "maximum_delay": 5},
            "timeouts": {"conversion": 60, "connect": 3, "read": 4, "drain": 5},
            "work_dir": str(self._folder / "work"),
            "telemetry": {"enabled": False},
        }
        path.write_text(yaml.safe_dump(config))
        return load_settings(path, environ=environment, option_models=option_models())

    @staticmethod
    def _auths(host: str) -> dict[str, str]:
        return {"ICS_AUTHS": orjson.dumps({REGISTRY: {"insecure": True}, host: {"insecure": True}}).decode()}

    async def _add_consumer(self, number: int) -> None:
        proxy = await self._stack.enter_async_context(FaultProxy(self._registry.host, broken=self._broken))
        port = free_port()
        service = Service(
            role="consumer",
            config=self._folder / "config.yml",
            environment={
                "ICS_METRIC__PORT": str(port),
                "ICS_ENDPOINTS": orjson.dumps({REGISTRY: proxy.address}).decode(),
                **self._auths(proxy.address),
            },
            health=f"http://127.0.0.1:{port}/health",
            log=self._folder / f"consumer-{number}.log",
        )
        proxy.on_kill = lambda: self._kill(service)
        proxy.on_move = self._move
        self._proxies.append(proxy)
        self._consumers.append(service)

    def _add_ingress(self, number: int) -> None:
        port = free_port()
        service = Service(
            role="ingress",
            config=self._folder / "config.yml",
            environment={"ICS_HTTP__PORT": str(port)},
            health=f"http://127.0.0.1:{port}/health",
            log=self._folder / f"ingress-{number}.log",
        )
        self._ingresses.append(service)

    async def _stop_services(self) -> None:
        await asyncio.gather(*self._stopping, return_exceptions=True)
        await asyncio.gather(*(service.stop() for service in self._services))

    # -- webhooks ------------------------------------------------------------------------------------------------------

    async def _post_all(self) -> None:
        """Push and post. One in ten is a duplicate, one in ten moves a tag, one in ten comes late: after newer ones, perhaps."""
        slots = asyncio.Semaphore(8)
        # As long as the faults take, so that they strike work and not idleness.
        pause = max(0.02, 2 * self._scale.faults * sum(FAULT_PAUSE) / 2 / self._scale.events)

        async def one(number: int) -> None:
            async with slots:
                tag, pushed = await self._push(number)
            if self._rng.random() < 0.1:
                await asyncio.sleep(self._rng.uniform(0.5, 3))
            await self._announce(tag, pushed)

        async with asyncio.TaskGroup() as group:
            for number in range(self._scale.events):
                group.create_task(one(number))
                await asyncio.sleep(self._rng.uniform(0, pause))

    async def _push(self, number: int) -> tuple[str, int]:
        """The tag, and the number of the image that is to be announced."""
        choice = self._rng.random()
        tag = self._rng.choice(sorted(self._tags)) if self._tags and choice < 0.2 else f"t{number}"
        async with self._pushing.hold(tag):  # a registry's webhook never overtakes its push
            if choice < 0.1 and tag in self._tags:
                self.report.webhooks["duplicates"] += 1
                return tag, self._tags[tag]
            if tag in self._tags:
                self.report.webhooks["of a tag that moved"] += 1
            await self._push_as(tag, number)
        return tag, number

    async def _push_as(self, tag: str, number: int) -> None:
        """The caller holds the tag."""
        image = small_image(number)
        if breakage := breakage_of(number):
            self._broken[str(image.manifest.layers[-1].digest)] = breakage
        await self._patiently(lambda: push_image(self._store, self._source(tag), image))
        self._tags[tag] = number

    async def _announce(self, tag: str, number: int) -> None:
        if self._tags[tag] != number:
            self.report.webhooks["that came after a newer push"] += 1
        await self._post(tag, small_image(number).manifest.digest, breakage_of(number))

    async def _move(self, tag: str) -> None:
        """Under the hands of whoever converts it; the webhook follows as any."""
        number = next(self._numbers)
        async with self._pushing.hold(tag):
            await self._push_as(tag, number)
        task = asyncio.get_running_loop().create_task(self._announce(tag, number))
        self._moving.add(task)
        task.add_done_callback(self._moving.discard)

    async def _post(self, tag: str, digest: Digest, breakage: Breakage | None) -> None:
        """As Harbor does: three tries, any answer but 2xx is tried again, then the event is gone."""
        resource = {"digest": str(digest), "tag": tag, "resource_url": f"{REGISTRY}/library/app:{tag}"}
        repository = {"name": "app", "namespace": "library", "repo_full_name": "library/app", "repo_type": "private"}
        body = {
            "type": "PUSH_ARTIFACT",
            "occur_at": 1_700_000_000,
            "operator": "admin",
            "event_data": {"resources": [resource], "repository": repository},
        }
        self.report.ledger.posts += 1
        for attempt, ingress in enumerate(itertools.islice(itertools.cycle(self._shuffled_ingresses()), 3)):
            url = ingress.health.replace("/health", "/conversion")
            try:
                async with self._http.post(url, json=body, headers={"Authorization": AUTH_HEADER}) as answer:
                    payload = await answer.read()
                    if answer.status == 202:
                        self._accept(tag, digest, breakage, orjson.loads(payload))
                        return
                    self.report.ledger.refused[answer.status] += 1
            except (ClientError, TimeoutError):
                self.report.ledger.refused[0] += 1
            await asyncio.sleep(0.5 * (attempt + 1))

    def _shuffled_ingresses(self) -> list[Service]:
        return self._rng.sample(self._ingresses, len(self._ingresses))

    def _accept(self, tag: str, digest: Digest, breakage: Breakage | None, answer: dict[str, Any]) -> None:
        for conversion in answer["conversions"]:
            identity = conversion["id"]
            target = str(parse_reference(conversion["target"]))
            self.report.ledger.accepted[identity] = Accepted(identity, tag, str(digest), target, breakage)

    # -- faults --------------------------------------------------------------------------------------------------------

    async def _inject_all(self, posting: asyncio.Task[None]) -> None:
        """``faults`` of them, spread over the time that posting takes and, if that is over sooner, after it."""
        whole = (
            [self._kill_a_consumer] * 3
            + [self._kill_an_ingress] * 3
            + [self._stop_a_consumer] * 2
            + [self._restart_the_registry] * 2
            + [self._restart_the_broker]
            + [self._kill_the_broker]
        )
        self._rng.shuffle(whole)
        small = list(PROXY_FAULTS)
        self._rng.shuffle(small)
        every = itertools.cycle(small)  # each kind in each stage, before any comes again
        for number in range(self._scale.faults):
            await asyncio.sleep(self._rng.uniform(*FAULT_PAUSE))
            if number % 4:
                kind, stage = next(every)
                times = self._rng.randrange(5, 30) if kind.startswith("status") else 1
                self._rng.choice(self._proxies).arm(Fault(kind, stage, times))
            else:
                await whole[(number // 4) % len(whole)]()
        await posting

    async def _stop_a_consumer(self) -> None:
        """SIGTERM, as a new release does."""
        service = self._rng.choice(self._consumers)
        self.report.faults["SIGTERM consumer"] += 1

        async def anew() -> None:
            await service.stop()
            await service.restart()

        task = asyncio.get_running_loop().create_task(anew())
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    def _kill(self, service: Service) -> None:
        self.report.faults[f"SIGKILL {service.role}"] += 1
        service.kill()
        task = asyncio.get_running_loop().create_task(service.restart())
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    async def _kill_a_consumer(self) -> None:
        self._kill(self._rng.choice(self._consumers))

    async def _kill_an_ingress(self) -> None:
        self._kill(self._rng.choice(self._ingresses))

    async def _restart_the_registry(self) -> None:
        self.report.faults["registry restart"] += 1
        await asyncio.to_thread(self._registry.stop)
        await asyncio.sleep(self._rng.uniform(0, 2))
        await asyncio.to_thread(self._registry.start)

    async def _restart_the_broker(self) -> None:
        self.report.faults["broker restart"] += 1
        await asyncio.to_thread(self._server.kill, signal.SIGTERM)
        await asyncio.to_thread(self._server.start)

    async def _kill_the_broker(self) -> None:
        self.report.faults["SIGKILL broker"] += 1
        await asyncio.to_thread(self._server.kill, signal.SIGKILL)
        await asyncio.to_thread(self._server.start)

    async def _calm(self) -> None:
        for proxy in self._proxies:
            proxy.calm()
            self.report.faults.update(proxy.struck)
        await asyncio.gather(*self._stopping, *self._moving, return_exceptions=True)
        for service in self._services:
            await service.ready()

    # -- the account ---------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        async for event in self._broker.events.read():
            self.report.ledger.observe(event)

    async def _settle(self, is_over: Callable[[], bool]) -> None:
        """Until it is over and nothing waits, or time is up; what is open then is judged by what is left."""
        deadline = asyncio.get_running_loop().time() + self._scale.settle
        quiet = 0
        while asyncio.get_running_loop().time() < deadline:
            stats = await self._patiently(self._broker.stats)
            waiting = (stats.ready or 0) + (stats.in_flight or 0) + (stats.retrying or 0)
            quiet = quiet + 1 if waiting == 0 else 0
            if quiet >= 3 and is_over():
                return
            if quiet >= 40:  # nothing waits, so no further event will come
                return
            await asyncio.sleep(0.5)

    async def _account(self) -> None:
        dead: set[str] = set()
        async for letter in self._broker.dead_letters.list():
            self.report.dead[letter.failure.code] += 1
            if letter.request is None:
                self.report.misclassified.append(f"a dead letter without a request: {letter.failure.code}")
                continue
            dead.add(letter.request.id)
            event = self.report.ledger.accepted.get(letter.request.id)
            wanted = EXPECTED[event.breakage] if event and event.breakage else DAMAGED_ON_THE_WAY
            if letter.failure.kind == "permanent" and letter.failure.code != wanted:
                self.report.misclassified.append(f"{letter.id}: {letter.failure.code} instead of {wanted}")
        self.report.broken_unnoticed = self.report.ledger.broken_unnoticed(dead)
        current = await self._current()
        self.report.late = self.report.ledger.lost(dead, current)

    async def _current(self) -> dict[str, str]:
        current: dict[str, str] = {}
        for target in {event.target for event in self.report.ledger.accepted.values()}:
            if digest := await source_digest_of(self._store, parse_reference(target)):
                current[target] = digest
        return current

    async def _replay(self) -> None:
        outcomes = self.report.ledger.outcomes
        before: dict[str, int] = {}
        for letter in [letter async for letter in self._broker.dead_letters.list()]:
            ended = {identity: len(labels) for identity, labels in outcomes.items()}
            if request := await self._broker.dead_letters.replay(letter.id, actor="faults"):
                self.report.ledger.replayed += 1
                before[request.id] = ended.get(request.id, 0)
        ledger = self.report.ledger
        await self._settle(
            lambda: not ledger.open and all(len(outcomes[identity]) > count for identity, count in before.items())
        )
        dead: set[str] = set()
        async for letter in self._broker.dead_letters.list():
            self.report.dead_after_replay[letter.failure.code] += 1
            if letter.request is not None:
                dead.add(letter.request.id)
        self.report.lost = self.report.ledger.lost(dead, await self._current())
        accepted_tags = {event.tag for event in self.report.ledger.accepted.values()}
        newest_accepted = {(event.tag, event.digest) for event in self.report.ledger.accepted.values()}
        for tag in sorted(accepted_tags):
            source = await self._store.resolve(self._source(tag))
            assert source is not None, f"the harness itself pushed {tag}"
            target = parse_reference(f"{REGISTRY}/library/app:{tag}_esgz")
            made_of = await source_digest_of(self._store, target)
            if (tag, str(source.digest)) in newest_accepted:
                if made_of is None:
                    self.report.unreplayed.append(tag)
                    continue
                if made_of != source.digest:
                    self.report.stale.append(tag)
                    continue
            elif made_of is None:
                continue  # the tag moved, and the webhook of its newest image was never accepted
            found = await differences(self._store, self._source(tag).with_digest(Digest(made_of)), target)
            self.report.damaged.extend(f"{tag}: {difference}" for difference in found)
            self.report.verified += not found

    @staticmethod
    def _source(tag: str) -> Reference:
        return parse_reference(f"{REGISTRY}/library/app:{tag}")

    async def _patiently(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The harness's own work outlives the faults that it injects."""
        while True:
            try:
                return await call()
            except IcsError:
                await asyncio.sleep(0.5)
