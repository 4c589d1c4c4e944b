"""Every replica rebuilds the same picture from the broker alone, and keeps it in step, on both transports."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import TracerProvider
from pydantic import SecretStr

from ingress.status.query import search
from ingress.status.service import Status, create_status
from shared.broker.open import open_broker
from shared.events import conversion_event
from shared.request_filter import RequestFilter
from shared.settings.model import BrokerSettings, Settings
from shared.telemetry.metrics import Metrics
from shared.telemetry.tracing import Tracing
from tests.integration.console.site import CONSUMERS, DENIED, failed, letter, request, succeeded
from tests.servers.nats import nats
from tests.servers.rabbitmq import rabbitmq
from tests.waiting import until


@pytest.fixture(params=["nats", "rabbitmq"], scope="module")
def broker_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    start = nats if request.param == "nats" else rabbitmq
    with start(tmp_path_factory.mktemp("broker")) as server:
        yield server.url


async def picture(status: Status) -> list[tuple[object, ...]]:
    page = await search(status.history, RequestFilter(), limit=500)
    return [(c.id, c.status, c.created, c.finished, c.trace_id, len(c.attempts), c.code) for c in page.items]


async def caught_up(status: Status, conversion_id: str, wanted: str) -> None:
    await until(lambda: (found := status.history.get(conversion_id)) is not None and found.status == wanted)


async def test_replicas_show_the_same_before_and_after_a_restart(broker_url: str) -> None:
    settings = Settings(broker=BrokerSettings(url=SecretStr(broker_url), publish_timeout=30))
    tracing = Tracing(TracerProvider())
    async with open_broker(settings) as first, open_broker(settings) as second:
        one = create_status(settings, first, Metrics(), tracing)
        async with one.running():
            for number in range(1, 41):
                r = request(number, "library/redis", f"v{number}", age=500 - number)
                for event in succeeded(r, r.requested_at, consumer=CONSUMERS[number % 2]):
                    await first.events.publish(event)
            dead = request(50, "payments/ledger", "1", age=10)
            for event in failed(dead, dead.requested_at, DENIED, "letter-50"):
                await second.events.publish(event)
            await first.dead_letters.add(letter(dead, DENIED, "letter-50"))
            await caught_up(one, dead.id, "failed")
            late = create_status(settings, second, Metrics(), tracing)  # a replica that was not there
            async with late.running():
                await caught_up(late, dead.id, "failed")
                assert await picture(one) == await picture(late)
                assert len(await picture(late)) == 41
                live = request(60, "web/shop", "live", age=0)
                await first.events.publish(conversion_event("started", live, consumer=CONSUMERS[0]))
                await caught_up(one, live.id, "converting")
                await caught_up(late, live.id, "converting")
                await late.monitor.look()
                assert late.monitor.snapshot.up
                assert late.monitor.snapshot.dead_by_code == {"denied": 1}
                assert late.monitor.snapshot.stats.dead == 1
