"""Others are told of conversions: signed, retried, once, and without ever holding anything up."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import SecretStr
from yarl import URL

from shared.errors import PermanentError
from shared.events import ConversionEvent, EventType, conversion_event
from shared.messages import ConversionRequest, DriverChoice
from shared.oci.reference import parse_reference
from shared.outgoing.notifications import Notifier
from shared.settings.model import HarborSettings, Notification, Settings
from shared.telemetry.metrics import Metrics
from tests.servers.forward_proxy import ForwardProxy, forward_proxy
from tests.waiting import PATIENCE

SOURCE = "harbor.example.com/team/base/redis:7@sha256:" + "a" * 64


class Receiver:
    """Answers with the statuses it is given, then 204; keeps what came."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self.answers: dict[tuple[str, str], Any] = {}
        self.arrived = asyncio.Condition()

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        async with self.arrived:
            self.seen.append((request.method, request.raw_path, dict(request.headers), body))
            self.arrived.notify_all()
        key = (request.method, request.path)
        if key in self.answers:
            answer = self.answers[key]
            return web.json_response(
                answer.pop(0) if isinstance(answer, list) and request.path.endswith("labels") else answer
            )
        return web.Response(status=self.statuses.pop(0) if self.statuses else 204, headers={"Location": "/elsewhere"})

    async def wait(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE), self.arrived:
            await self.arrived.wait_for(lambda: len(self.seen) >= count)


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
async def url(receiver: Receiver) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.handle)
    async with TestServer(app) as server:
        yield str(server.make_url("/hook?token=quiet"))


def event(kind: EventType, **data: Any) -> ConversionEvent:
    request = ConversionRequest(
        id="1" * 32,
        source=parse_reference(SOURCE),
        target=parse_reference("harbor.example.com/team/base/redis:7_esgz"),
        driver=DriverChoice(type="estargz"),
        replay_of=data.pop("replay_of", ""),
    )
    return conversion_event(kind, request, **data)


def settings(url: str, **more: Any) -> Settings:
    return Settings(notifications=(Notification(url=SecretStr(url), secret=SecretStr("s3cret"), **more),))


def outcomes(metrics: Metrics) -> dict[str, float]:
    return {
        sample.labels["outcome"]: sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "ics_notifications_total" and sample.value
    }


async def test_a_signed_cloudevent_arrives(url: str, receiver: Receiver) -> None:
    told = event("succeeded", target_digest="sha256:" + "b" * 64)
    async with Notifier.from_settings(settings(url), Metrics()) as notifier:
        notifier(told)
        await receiver.wait(1)
    _, path, headers, body = receiver.seen[0]
    assert path == "/hook?token=quiet"
    assert headers["Content-Type"].startswith("application/cloudevents+json")
    document = orjson.loads(body)
    assert (document["specversion"], document["id"]) == ("1.0", told.id)
    assert document["type"] == "io.goharbor.ics.conversion.succeeded"
    signed = f"{told.id}.{headers['webhook-timestamp']}.".encode() + body
    wanted = base64.b64encode(hmac.new(b"s3cret", signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{wanted}"


async def test_both_go_through_their_proxies(url: str, receiver: Receiver) -> None:
    receiver.answers[("GET", "/api/v2.0/projects/team")] = {"project_id": 7}
    receiver.answers[("GET", "/api/v2.0/labels")] = [[{"id": 3, "name": "fast"}]]
    here = URL(url).authority
    async with forward_proxy(ForwardProxy({"chat.test": here, "harbor.test": here}, "ics:pr0xy")) as proxy:
        through = SecretStr(proxy.url)
        harbor = HarborSettings(url="http://harbor.test", label="fast", proxy=through)
        wanted = Settings(
            notifications=(Notification(url=SecretStr("http://chat.test/hook"), proxy=through),),
            harbor={"harbor.example.com": harbor},
        )
        async with Notifier.from_settings(wanted, Metrics()) as notifier:
            notifier(event("succeeded"))
            await receiver.wait(4)
    assert set(proxy.seen) == {"chat.test", "harbor.test"}


async def test_it_is_told_again_until_it_is_taken_with_the_same_id(url: str, receiver: Receiver) -> None:
    receiver.statuses = [503, 429, 500]
    metrics = Metrics()
    async with Notifier.from_settings(settings(url), metrics, first_delay=0.01) as notifier:
        notifier(event("failed"))
        await receiver.wait(4)
    assert len({headers["webhook-id"] for _, _, headers, _ in receiver.seen}) == 1
    assert outcomes(metrics) == {"delivered": 1}


@pytest.mark.parametrize("status", [400, 404, 410, 302])
async def test_a_refusal_is_final_and_redirects_are_not_followed(url: str, receiver: Receiver, status: int) -> None:
    receiver.statuses = [status]
    metrics = Metrics()
    async with Notifier.from_settings(settings(url), metrics, first_delay=0.01) as notifier:
        notifier(event("failed"))
        notifier(event("succeeded"))
        await receiver.wait(2)
    assert [path for _, path, _, _ in receiver.seen] == ["/hook?token=quiet"] * 2
    assert outcomes(metrics) == {"failed": 1, "delivered": 1}


async def test_only_the_wanted_kinds_are_told_and_a_replay_when_it_starts(url: str, receiver: Receiver) -> None:
    async with Notifier.from_settings(settings(url, events=("skipped", "replayed")), Metrics()) as notifier:
        for each in (
            event("started"),
            event("succeeded"),
            event("progress"),
            event("started", replay_of="letter-1", attempt=2),
            event("started", replay_of="letter-1"),
            event("skipped", reason="up to date"),
        ):
            notifier(each)
        await receiver.wait(2)
    kinds = [orjson.loads(body)["type"].rpartition(".")[2] for _, _, _, body in receiver.seen]
    assert kinds == ["replayed", "skipped"]


async def test_a_secret_that_is_broken_is_refused_at_the_start() -> None:
    target = Notification(url=SecretStr("http://127.0.0.1:9/"), secret=SecretStr("whsec_%%%"))
    with pytest.raises(PermanentError) as caught:
        async with Notifier.from_settings(Settings(notifications=(target,)), Metrics()):
            pass
    assert caught.value.code == "invalid_configuration"


async def test_without_any_target_nothing_runs() -> None:
    before = asyncio.all_tasks()
    async with Notifier.from_settings(Settings(), Metrics()) as notifier:
        notifier(event("succeeded"))
        assert asyncio.all_tasks() == before


async def test_a_full_queue_drops_and_counts(unused_url: str) -> None:
    metrics = Metrics()
    async with Notifier.from_settings(settings(unused_url), metrics, first_delay=60) as notifier:
        for _ in range(1003):
            notifier(event("succeeded"))
        assert outcomes(metrics)["dropped"] == 3


@pytest.fixture
def unused_url(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("shared.outgoing.outbox.FLUSH", 0.05)
    return "http://127.0.0.1:9/hook"


async def test_the_source_artifact_gets_the_label_of_its_project(url: str, receiver: Receiver) -> None:
    receiver.answers = {
        ("GET", "/api/v2.0/projects/team"): {"project_id": 7},
        ("GET", "/api/v2.0/labels"): [[], [{"id": 3, "name": "lazy-old"}, {"id": 4, "name": "lazy"}]],
    }
    harbor = HarborSettings(url=url.partition("/hook")[0], username="robot$ics", password=SecretStr("pw"), label="lazy")
    metrics = Metrics()
    async with Notifier.from_settings(Settings(harbor={"Harbor.Example.com": harbor}), metrics) as notifier:
        notifier(event("succeeded"))
        await receiver.wait(5)
        notifier(event("succeeded"))
        await receiver.wait(6)
    calls = [(method, path) for method, path, _, _ in receiver.seen]
    labelled = ("POST", f"/api/v2.0/projects/team/repositories/base%252Fredis/artifacts/sha256%3A{'a' * 64}/labels")
    assert calls[2] == ("POST", "/api/v2.0/labels")
    assert calls[4:] == [labelled, labelled]
    assert orjson.loads(receiver.seen[4][3]) == {"id": 4}
    assert receiver.seen[0][2]["Authorization"] == "Basic " + base64.b64encode(b"robot$ics:pw").decode()
    assert outcomes(metrics) == {"delivered": 2}
