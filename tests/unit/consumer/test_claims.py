"""Consumers that share a broker convert a common layer once; where that cannot be, nobody is worse off than alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from consumer.claims import PATIENCE, LayerClaims
from consumer.conversion import Converter
from consumer.layer_cache import record_tag
from drivers import layerwise
from drivers.api import Result
from drivers.estargz import EstargzDriver, EstargzOptions
from shared.broker import claims
from shared.broker.api import Broker
from shared.broker.memory import MemoryServer, open_memory
from shared.broker.queue import QueueBroker
from shared.settings.model import Limits, Timeouts
from shared.telemetry.metrics import Metrics
from tests.images.small import SmallImage
from tests.unit.consumer.sharing import Base, at_once
from tests.unit.consumer.support import LIMITS, REGISTRY, converter, pushed, request, source
from tests.waiting import until
from tests.watched_store import WatchedStore

METRICS = Metrics(10, process_metrics=False)
SOON = 60.0
"""Seconds: a limit, not an expectation."""


@asynccontextmanager
async def connected(server: MemoryServer) -> AsyncIterator[Broker]:
    async with open_memory(server) as transport:
        yield QueueBroker(transport, delivery_limit=1)


class Consumers:
    """Of one broker, each with a process' own connection; their images have the first layer in common."""

    def __init__(self, **store: Any) -> None:
        self.server = MemoryServer()
        self.store = WatchedStore(**store)
        self.images: list[SmallImage] = []
        self.patience = SOON
        self.metrics = Metrics(10, process_metrics=False)

    async def push(self, count: int) -> Base:
        for number in range(count):
            self.images.append(await pushed(self.store, number, source(f"v{number}")))
        return Base(self.images[0].manifest.layers[0].digest)

    async def convert(self, number: int, base: Base) -> Result:
        """By a consumer of its own."""
        async with connected(self.server) as broker:
            return await run(self.consumer(broker), self.images[number], number, base)

    def counted(self, name: str) -> dict[str, float]:
        """What is not 0, by its label."""
        return {
            next(iter(sample.labels.values())): sample.value
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.name == name and sample.value
        }

    def consumer(self, broker: Broker, limits: Limits = LIMITS) -> Converter:
        return converter(self.store, cache=True, limits=limits, claims=LayerClaims(broker, self.patience, self.metrics))


async def run(made: Converter, image: SmallImage, number: int, base: Base) -> Result:
    where = source(f"v{number}")
    job = request(source=where.with_digest(image.manifest.digest), target=where.with_tag(f"v{number}_esgz"))
    async with asyncio.timeout(SOON):
        return (await made.convert(job, base.progress())).result


async def test_consumers_that_start_at_once_convert_a_common_layer_once() -> None:
    here = Consumers()
    base = await here.push(3)
    counted: dict[str, float] = {}

    async def look() -> None:
        await base.until(lambda: base.waiting == 2)
        await until(lambda: here.counted("ics_layer_claims").get("waiting") == 2)
        counted.update(here.counted("ics_layer_claims"))

    base.before = look
    results = await asyncio.gather(*(here.convert(number, base) for number in range(3)))
    assert base.conversions == 1
    assert counted["waiting"] == 2
    assert counted["held"] >= 1  # the shared layer, and each one's own for as long as it lasts
    assert here.counted("ics_layer_claims") == {}
    assert here.counted("ics_layer_claims_given_up_total") == {}
    assert sorted(result.layers_reused for result in results) == [0, 1, 1]
    assert here.server.claimed == set()


async def test_where_nothing_can_be_recorded_each_waits_once_and_then_converts_beside_the_others() -> None:
    here = Consumers(mounts=False)
    base = await here.push(3)

    async def together() -> None:
        if base.conversions == 1:
            await base.until(lambda: base.waiting == 2)
        else:
            await base.until(lambda: base.conversions == 3)

    base.before = together
    results = await asyncio.gather(*(here.convert(number, base) for number in range(3)))
    assert (base.conversions, base.waits) == (3, 2)
    assert [result.layers_reused for result in results] == [0, 0, 0]


async def for_ever() -> None:
    await asyncio.Event().wait()


async def test_a_conversion_that_is_stopped_lets_the_next_one_convert() -> None:
    here = Consumers()
    base = await here.push(2)
    base.before = for_ever
    stopped = asyncio.create_task(here.convert(0, base))
    await base.until(lambda: base.conversions == 1)
    next_one = asyncio.create_task(here.convert(1, base))
    await base.until(lambda: base.waiting == 1)
    base.before = at_once
    stopped.cancel()
    assert (await next_one).layers_reused == 0
    assert base.conversions == 2
    assert stopped.cancelled()
    assert here.server.claimed == set()


async def test_who_waits_keeps_neither_a_slot_nor_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for one layer: what else there is is converted while the base is converted elsewhere, and then it after all."""
    monkeypatch.setattr(layerwise, "LAYERS_AT_ONCE", 1)
    here = Consumers()
    base = await here.push(1)
    own = here.images[0].own_layer
    unrelated = await pushed(here.store, 10, source("v10"))
    cached = f"{REGISTRY}/library/ics-cache"
    fingerprint = EstargzDriver().fingerprint(EstargzOptions())
    async with connected(here.server) as broker, connected(here.server) as other:
        made = here.consumer(broker, Limits(memory=1 << 26))
        async with other.claim(f"{cached}:{record_tag(base.digest, fingerprint)}", 0):
            converting = asyncio.create_task(run(made, here.images[0], 0, base))
            await base.until(lambda: base.waiting == 1)
            assert (await run(made, unrelated, 10, base)).layers_reused == 0
            await until(lambda: record_tag(own, fingerprint) in here.store.repositories[cached].tags)
            assert (base.waiting, base.conversions) == (1, 0)
        assert (await converting).layers_reused == 0
        assert base.conversions == 1


async def test_a_claim_is_taken_when_the_layers_turn_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layerwise, "LAYERS_AT_ONCE", 1)
    here = Consumers()
    base = await here.push(1)
    seen = []

    async def look() -> None:
        await asyncio.sleep(0.05)  # the other layer could come to its claim meanwhile
        seen.append(len(here.server.claimed))

    base.before = look
    await here.convert(0, base)
    assert seen == [1]


async def test_a_broker_that_is_away_is_gone_on_without() -> None:
    here = Consumers()
    base = await here.push(2)
    here.server.available = False
    assert (await here.convert(0, base)).layers_reused == 0
    assert (await here.convert(1, base)).layers_reused == 1
    assert (base.conversions, base.waits) == (1, 0)
    (given_up,) = here.counted("ics_layer_claims_given_up_total").items()
    assert given_up == ("broker_unavailable", 3)


async def test_a_holder_that_is_too_slow_is_not_waited_for_any_longer() -> None:
    here = Consumers()
    base = await here.push(2)
    base.before = lambda: base.until(lambda: base.conversions == 2)
    here.patience = 0.1
    await asyncio.gather(*(here.convert(number, base) for number in range(2)))
    assert here.counted("ics_layer_claims_given_up_total") == {"patience": 1}


async def test_after_an_error_the_broker_is_left_alone_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    class Broken:
        async def acquire(self, key: str, patience: float) -> None:
            nonlocal asked
            asked += 1
            raise ZeroDivisionError(key, patience)

    desk = claims.ClaimDesk(Broken())
    for _ in range(3):
        async with desk.claim("key", 0) as ours:
            assert ours
    assert asked == 1
    monkeypatch.setattr(desk, "_rests_until", 0.0)
    async with desk.claim("key", 0) as ours:
        assert ours
    assert asked == 2


class NoClaims:
    def claim(
        self, key: str, patience: float, unanswered: Callable[[str], object] | None = None
    ) -> AbstractAsyncContextManager[bool]:
        raise AssertionError((key, patience, unanswered))


async def test_without_a_cache_nothing_is_claimed() -> None:
    store = WatchedStore()
    image = await pushed(store)
    base = Base(image.manifest.layers[0].digest)
    made = converter(store, cache=False, claims=LayerClaims(NoClaims(), SOON, METRICS))
    assert (await made.convert(request(image), base.progress())).result.layers_total == 2


def test_waiting_leaves_time_to_convert() -> None:
    assert LayerClaims.of(NoClaims(), Timeouts(), METRICS).patience == PATIENCE
    assert LayerClaims.of(NoClaims(), Timeouts(conversion=60), METRICS).patience == 15
