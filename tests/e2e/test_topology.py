"""The shipped deployment on real servers: one trace over three processes, every panel with data, every alert when it should."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import ClientPayloadError, ClientSession, ClientTimeout, encode_basic_auth, web

from shared.broker.api import Broker
from shared.broker.open import open_broker
from shared.events import conversion_event
from shared.messages import ConversionRequest, DriverChoice, request_id
from shared.oci.digest import Digest
from shared.oci.reference import parse_reference
from shared.outgoing.notifications import sign
from shared.registry.client import RegistryClient
from tests.e2e.topology import DEPLOY, Topology, running_topology
from tests.images.small import push_image, small_image
from tests.servers.otlp import Received, holds_an_attempt
from tests.servers.scripted import scripted_server
from tests.waiting import patient, until

SECRET = "signed-by-ics"
PATIENCE = 120.0
"""Seconds until what should happen must have happened; nothing waits that long by itself."""
DASHBOARDS = sorted((DEPLOY / "grafana/dashboards").glob("*.json"))
HOST = "localhost:5000"
"""The registry as pushes name it; config.yml's ``endpoints`` knows where it is."""


@dataclass
class Sink:
    """Takes notifications; the first attempt at each is refused."""

    refused: set[str] = field(default_factory=set)
    delivered: dict[str, dict[str, Any]] = field(default_factory=dict)

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        name, stamp = request.headers["webhook-id"], request.headers["webhook-timestamp"]
        if request.headers["webhook-signature"] != sign(SECRET.encode(), name, stamp, body):
            return web.Response(status=401)
        if name not in self.refused:
            self.refused.add(name)
            return web.Response(status=503)
        self.delivered[name] = orjson.loads(body)
        return web.Response(status=204)


@dataclass
class Run:
    """One run of the topology, with the hands of Harbor and of an operator."""

    topology: Topology
    sink: Sink
    client: RegistryClient
    broker: Broker
    http: ClientSession
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def operator(self) -> dict[str, str]:
        return {"Authorization": encode_basic_auth(*self.topology.operator)}

    async def push(self) -> tuple[str, Digest]:
        """A new image; its reference as Harbor names it."""
        number = next(self._numbers)
        image = small_image(number * 10)
        reference = f"{HOST}/library/app{number}:1"
        await push_image(self.client, parse_reference(reference), image)
        return reference, image.manifest.digest

    async def webhook(self, reference: str, digest: Digest, event: int = 0) -> tuple[int, str]:
        """Harbor's CloudEvents body through nginx; status and the conversion's id. ``event``: the same again."""
        source = parse_reference(reference)
        number = event or next(self._numbers)
        body = {
            "specversion": "1.0",
            "id": f"event-{number}",
            "source": "/projects/1/webhook/policies/1",
            "type": "harbor.artifact.pushed",
            "time": "2026-03-06T06:08:43Z",
            "requestid": f"harbor-{number}",
            "operator": "admin",
            "data": {
                "resources": [{"digest": str(digest), "tag": source.tag, "resource_url": reference}],
                "repository": {
                    "date_created": 1_700_000_000,
                    "name": source.repository.partition("/")[2],
                    "namespace": "library",
                    "repo_full_name": source.repository,
                    "repo_type": "private",
                },
            },
        }
        headers = {"Authorization": self.topology.authorization, "Content-Type": "application/cloudevents+json"}
        async with self.http.post(f"{self.topology.url}/conversion", json=body, headers=headers) as answer:
            found = await answer.json(content_type=None) if answer.status == 202 else {}
        return answer.status, found["conversions"][0]["id"] if found else ""

    async def accepted(self, reference: str, digest: Digest) -> str:
        """Harbor sends an event three times in all, until somebody takes it."""
        event = next(self._numbers)
        for _ in range(3):
            try:
                status, conversion = await self.webhook(reference, digest, event)
            except ClientPayloadError:  # killed within its answer; Harbor would not mind, but we want to know the id
                status = 0
            else:
                if status == 202:
                    return conversion
            await asyncio.sleep(2)
        pytest.fail(f"a webhook is lost: the last answer was {status}")

    async def conversion(self, conversion_id: str) -> dict[str, Any]:
        """As the status API shows it; empty while it does not know it."""
        address = f"{self.topology.url}/api/v1/status/conversions/{conversion_id}"
        async with self.http.get(address, headers=self.operator) as answer:
            found: dict[str, Any] = await answer.json() if answer.status == 200 else {}
        return found

    async def until(self, conversion_id: str, *wanted: str) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE):
            while (found := await self.conversion(conversion_id)).get("status") not in wanted:
                await asyncio.sleep(0.2)
        return found

    async def firing(self) -> set[str]:
        samples = await asyncio.to_thread(self.topology.prometheus.query, 'ALERTS{alertstate="firing"}')
        return {sample["metric"]["alertname"] for sample in samples}

    async def until_firing(self, *names: str) -> None:
        await self._until_alerts(lambda found: set(names) <= found, f"{names} to fire")

    async def until_quiet(self, *names: str) -> None:
        await self._until_alerts(lambda found: not set(names) & found, f"{names} to end")

    async def _until_alerts(self, wanted: Any, what: str) -> None:
        found: set[str] = set()
        try:
            async with asyncio.timeout(PATIENCE):
                while not wanted(found := await self.firing()):
                    await asyncio.sleep(0.3)
        except TimeoutError:
            pytest.fail(f"waited in vain for {what}; firing: {sorted(found)}")

    async def until_only(self, *names: str) -> None:
        """Every one fires, and nothing else; a process that is scraped too late is away for a moment."""
        await self._until_alerts(lambda found: found == set(names), f"{names} to fire alone")

    async def until_shown(self, expression: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while not await asyncio.to_thread(self.topology.prometheus.query, expression):
                await asyncio.sleep(0.3)

    async def spans(self, trace_id: str, *, succeeded: bool) -> list[Received]:
        """Of one trace, once it holds an attempt that ended so, up to the webhook."""
        receiver = self.topology.receiver
        await until(lambda: holds_an_attempt(receiver.trace(trace_id), failed=not succeeded), PATIENCE)
        return receiver.trace(trace_id)


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Run]:
    sink = Sink()
    async with scripted_server(sink.take) as address:
        more = {"ICS_NOTIFICATIONS": json.dumps([{"url": f"http://{address}/hook", "secret": SECRET}])}
        async with (
            running_topology(folder, more) as topology,
            RegistryClient.from_settings(topology.settings) as client,
            open_broker(patient(topology.settings)) as broker,
            ClientSession(timeout=ClientTimeout(total=PATIENCE)) as http,
        ):
            yield Run(topology, sink, client, broker, http)


@pytest.mark.timeout(1200)
async def test_the_shipped_topology(tmp_path: Path) -> None:
    async with running(tmp_path / "topology") as run:
        await asyncio.to_thread(run.topology.import_policies)
        waiting = await nobody_converts(run)
        await consumers_come(run, waiting)
        await the_registry_goes_away_and_comes_back(run)
        await one_trace_over_three_processes(run)
        await what_died_is_replayed(run)
        await every_panel_shows_data(run)
        await killing_an_ingress_loses_nothing(run)
        await the_disk_fills(run)
        await the_broker_dies(run)
        await all_ingresses_are_gone(run)


async def nobody_converts(run: Run) -> list[str]:
    """Webhooks are accepted by a system without consumers, and it says so."""
    waiting = [await run.accepted(*await run.push()) for _ in range(2)]
    reference, digest = await run.push()
    source = parse_reference(f"{reference}@{digest}")
    target = parse_reference(f"{reference}_esgz")
    old = ConversionRequest(
        id=request_id("old", digest, "estargz", target),
        source=source,
        target=target,
        driver=DriverChoice(type="estargz"),
        requested_at=datetime.now(UTC) - timedelta(hours=1),
    )
    await run.broker.publish(old)
    event = conversion_event("requested", old)
    await run.broker.events.publish(event.model_copy(update={"time": old.requested_at}))
    await run.until_only("IcsNoConsumers", "IcsQueueStuck", "IcsQueueOld")
    return [*waiting, old.id]


async def consumers_come(run: Run, waiting: list[str]) -> None:
    """What waited is converted, the alarms end, and those who wanted to know are told, at the second attempt."""
    following = asyncio.create_task(changes(run, set(waiting)))
    for consumer in run.topology.consumers:
        await consumer.start()
    for consumer in run.topology.consumers:
        await consumer.ready()
    for conversion in waiting:
        assert (await run.until(conversion, "succeeded", "failed"))["status"] == "succeeded"
    await following
    await run.until_quiet("IcsNoConsumers", "IcsQueueStuck", "IcsQueueOld")
    async with asyncio.timeout(PATIENCE):
        while {event["subject"] for event in run.sink.delivered.values()} < set(waiting):
            await asyncio.sleep(0.1)
    assert set(run.sink.delivered) <= run.sink.refused
    reference = f"{HOST}/library/app1:1"
    again = await run.accepted(reference, small_image(10).manifest.digest)
    assert (await run.until(again, "skipped"))["reason"] == "up to date"
    await acceld_s_clients_wait_for_the_end(run)


async def changes(run: Run, wanted: set[str]) -> None:
    """Return when server-sent events, which the proxy must not hold back, have told that each of them succeeded."""
    address = f"{run.topology.url}/api/v1/status/events"
    patience = ClientTimeout(total=2 * PATIENCE)
    async with run.http.get(address, headers=run.operator, timeout=patience) as answer:
        async for line in answer.content:
            if line.startswith(b"data: {") and (told := orjson.loads(line[6:])).get("status") == "succeeded":
                wanted.discard(told["id"])
                if not wanted:
                    return


async def acceld_s_clients_wait_for_the_end(run: Run) -> None:
    """Through the same proxy, which gives webhooks no more than Harbor's three seconds."""
    reference, _ = await run.push()
    body = {"type": "PUSH_ARTIFACT", "event_data": {"resources": [{"resource_url": reference}]}}
    headers = {"Authorization": run.topology.authorization}
    address = f"{run.topology.url}/api/v1/conversions?sync=true"
    async with run.http.post(address, json=body, headers=headers, timeout=ClientTimeout(total=PATIENCE)) as answer:
        assert (answer.status, await answer.json()) == (200, "Ok")
    assert await run.client.resolve(parse_reference(f"{reference}_esgz")) is not None


async def the_registry_goes_away_and_comes_back(run: Run) -> None:
    """Its conversions wait, and go on by themselves."""
    images = [await run.push() for _ in range(2)]
    run.topology.registry.stop()
    conversions = [await run.accepted(*image) for image in images]
    await run.until_firing("IcsRegistryCircuitOpen")
    run.topology.registry.start()
    for conversion in conversions:
        await run.until(conversion, "succeeded")
    await run.until_quiet("IcsRegistryCircuitOpen")


async def one_trace_over_three_processes(run: Run) -> None:
    """An upload is refused; the consumer that met that is killed, the other converts: one trace, its attempts linked."""
    reference, digest = await run.push()
    uploads = run.topology.registry.uploads_of(parse_reference(reference).repository)
    shutil.rmtree(uploads, ignore_errors=True)
    uploads.write_bytes(b"")  # where a folder is to be made: every upload is answered with 500
    conversion = await run.accepted(reference, digest)
    failed = await run.until(conversion, "retrying")
    by_pid = {str(consumer.pid): consumer for consumer in run.topology.consumers}
    unlucky = by_pid[failed["attempts"][-1]["consumer"].rpartition("/")[2]]
    await run.spans(failed["trace_id"], succeeded=False)
    await run.until_shown("sum(rate(ics_conversion_retries_total[5m]))")  # its counters die with it
    unlucky.kill()
    uploads.unlink()
    done = await run.until(conversion, "succeeded")
    assert len(done["attempts"]) >= 2
    assert done["trace_id"] == failed["trace_id"]
    judge(await run.spans(done["trace_id"], succeeded=True), done)
    await unlucky.restart()
    await unlucky.ready()


def judge(spans: list[Received], conversion: dict[str, Any]) -> None:
    """Right processes, parents, kinds, links, attributes."""
    by_id = {each.span.span_id: each for each in spans}
    (server,) = [each for each in spans if each.name == "POST /conversion"]
    (publish,) = [each for each in spans if each.name == "publish ics.conversions"]
    attempts = [each for each in spans if each.name == "process ics.conversions"]
    attempts.sort(key=lambda each: each.span.start_time_unix_nano)
    assert len({each.instance for each in (server, *attempts)}) == 3
    assert not server.span.parent_span_id
    assert publish.span.parent_span_id == server.span.span_id
    assert [kind_of(each) for each in (server, publish, attempts[0])] == ["SERVER", "PRODUCER", "CONSUMER"]
    for position, attempt in enumerate(attempts):
        assert attempt.span.parent_span_id == publish.span.span_id
        # An attempt that was under way when its consumer was killed left no span, but a link may name it.
        earlier = {each.span.span_id for each in attempts[:position]}
        assert {link.span_id for link in attempt.span.links} >= earlier
        assert attempt.attributes["ics.attempt"] == len(attempt.span.links) + 1
        assert attempt.attributes["harbor.request_id"] == conversion["harbor_request_id"] != ""
        assert attempt.attributes["messaging.system"] == "rabbitmq"
        assert "ics.queue.seconds" in attempt.attributes
    assert attempts[0].attributes["error.type"] == conversion["attempts"][-1]["code"] != ""
    assert "error.type" not in attempts[-1].attributes
    inside = {each.name for each in spans if above(each, by_id) is attempts[-1]}
    assert inside >= {"resolve", "pull", "convert", "push", "manifest", "tag"}


def above(each: Received, by_id: dict[bytes, Received]) -> Received:
    """The attempt that a stage belongs to, else the trace's root."""
    while each.span.parent_span_id in by_id and each.name != "process ics.conversions":
        each = by_id[each.span.parent_span_id]
    return each


def kind_of(each: Received) -> str:
    name: str = each.span.SpanKind.Name(each.span.kind)
    return name.removeprefix("SPAN_KIND_")


async def what_died_is_replayed(run: Run) -> None:
    """A layer is gone, and conversions die; it comes back, one is replayed over the API, its trace links to the failed one."""
    image = small_image(99)
    names = [f"{HOST}/library/late:{tag}" for tag in range(30)]
    layer = run.topology.registry.blob_file(str(image.manifest.layers[1].digest))
    for name in names:
        await push_image(run.client, parse_reference(name), image)
    layer.rename(layer.with_suffix(".away"))
    lost = [await run.accepted(name, image.manifest.digest) for name in names]
    for conversion in lost:
        dead = await run.until(conversion, "failed")
        assert dead["code"] == "blob_unknown"
    await run.until_firing("IcsDeadLettersGrowing", "IcsErrorRatio")
    layer.with_suffix(".away").rename(layer)
    address = f"{run.topology.url}/api/v1/dead-letters/{dead['dead_letter_id']}/replay"
    async with run.http.post(address, headers=run.operator) as answer:
        assert (answer.status, (await answer.json())["done"]) == (200, 1)
    done = await run.until(lost[-1], "succeeded")
    assert done["replays"][0]["actor"] == run.topology.operator[0]
    assert done["trace_id"] != dead["trace_id"]
    spans = await run.spans(done["trace_id"], succeeded=True)
    (failed,) = [
        each for each in await run.spans(dead["trace_id"], succeeded=False) if each.name == "process ics.conversions"
    ]
    (publish,) = [each for each in spans if kind_of(each) == "PRODUCER"]
    (process,) = [each for each in spans if kind_of(each) == "CONSUMER"]
    assert process.span.parent_span_id == publish.span.span_id
    for each in (publish, process):
        assert failed.span.span_id in {link.span_id for link in each.span.links}


async def every_panel_shows_data(run: Run) -> None:
    """Every query of every dashboard, and every recording rule, by the Prometheus that scraped the system."""
    empty: list[str] = []
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            while empty := await asyncio.to_thread(without_data, run.topology):
                await asyncio.sleep(1)
    assert empty == []
    await run.until_firing("IcsLatencyObjectiveFastBurn", "IcsLatencyObjectiveSlowBurn")


def without_data(topology: Topology) -> list[str]:
    queries = {
        f"{path.stem}: {panel['title']}": target["expr"]
        for path in DASHBOARDS
        for panel in json.loads(path.read_text())["panels"]
        for target in panel["targets"]
    }
    found = topology.prometheus.get("/api/v1/rules")["groups"]
    rules = [rule for group in found for rule in group["rules"]]
    assert [rule for rule in rules if rule.get("lastError")] == []
    queries |= {rule["name"]: rule["name"] for rule in rules if rule["type"] == "recording"}
    queries["every process is scraped"] = 'count(up{job=~"ics-.*|rabbitmq|registry"} == 1) == 6'
    empty = []
    for where, expression in queries.items():
        filled = expression.replace("$__rate_interval", "5m").replace("$ref", ".*")
        if not [sample for sample in topology.prometheus.query(filled) if sample["value"][1] != "NaN"]:
            empty.append(f"{where}: {filled}")
    return empty


async def killing_an_ingress_loses_nothing(run: Run) -> None:
    """While webhooks arrive, one of two ingresses is killed: each webhook is answered with 202 and its image converted."""
    images = [await run.push() for _ in range(5)]
    one = run.topology.ingresses[0]
    conversions: list[str] = []

    async def harbor(number: int) -> None:
        for reference, digest in images:
            conversions.append(await run.accepted(reference, digest))
            if number == 0 and one.running:
                one.kill()

    await asyncio.gather(*(harbor(number) for number in range(6)))
    assert len(conversions) == 30
    for conversion in conversions:
        assert (await run.until(conversion, "succeeded", "skipped", "failed"))["status"] != "failed"
    await run.until_firing("IcsIngressDown")
    await run.until_quiet("IcsIngressAllDown")
    await one.restart()
    await one.ready()
    await run.until_quiet("IcsIngressDown")


async def the_disk_fills(run: Run) -> None:
    """RabbitMQ takes nothing: a webhook is refused, so that Harbor sends it again, and not lost in silence."""
    await asyncio.to_thread(run.topology.broker.control, "set_disk_free_limit", "1000000GB")
    await run.until_firing("IcsBrokerAlarm")
    reference, digest = await run.push()
    statuses = await asyncio.gather(*(run.webhook(reference, digest) for _ in range(10)))
    assert min(status for status, _ in statuses) >= 500
    await run.until_firing("IcsWebhooksNotPersisted", "IcsWebhookSlow")
    await asyncio.to_thread(run.topology.broker.control, "set_disk_free_limit", "50MB")
    await run.until_quiet("IcsBrokerAlarm")
    async with asyncio.timeout(PATIENCE):  # as Harbor would
        while (await run.webhook(reference, digest))[0] != 202:
            await asyncio.sleep(0.5)


async def the_broker_dies(run: Run) -> None:
    """Killed while conversions are under way: neither they nor what they tell are lost."""
    images = [await run.push() for _ in range(4)]
    run.topology.registry.pause()
    conversions = [await run.accepted(*image) for image in images]
    for conversion in conversions:
        await run.until(conversion, "converting")
    run.topology.broker.kill()
    run.topology.registry.resume()
    await run.until_firing("IcsBrokerDown")
    await asyncio.to_thread(run.topology.broker.start)
    await run.until_quiet("IcsBrokerDown")
    for (reference, _), conversion in zip(images, conversions, strict=True):
        assert (await run.until(conversion, "succeeded", "skipped", "failed"))["status"] != "failed"
        assert await run.client.resolve(parse_reference(f"{reference}_esgz")) is not None


async def all_ingresses_are_gone(run: Run) -> None:
    for ingress in run.topology.ingresses:
        ingress.kill()
    await run.until_firing("IcsIngressAllDown")
    await run.until_quiet("IcsNoConsumers", "IcsQueueOld", "IcsRegistryCircuitOpen")
