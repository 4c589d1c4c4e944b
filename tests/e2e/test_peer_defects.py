"""What the service that ICS replaces got wrong, held against real processes: queue, registry, ingress and consumers."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
from aiohttp import ClientSession, ClientTimeout, web

from drivers.api import ANNOTATION_SOURCE_DIGEST
from shared.oci.reference import Reference, parse_reference
from tests.dead_letters import dead
from tests.e2e.system import AUTHORIZATION, System, running_system
from tests.images.small import push_image, small_image
from tests.servers.ports import free_port
from tests.servers.processes import Service
from tests.servers.scripted import scripted_server


async def pushed(system: System, name: str, number: int) -> Reference:
    """Push image ``number`` as ``library/name:1``; with its digest."""
    reference = parse_reference(f"{system.host}/library/{name}:1")
    image = small_image(number)
    await push_image(system.client, reference, image)
    return reference.with_digest(image.manifest.digest)


async def announced(system: System, reference: Reference) -> str:
    """Post its webhook; the conversion's id."""
    return await system.accepted(str(replace(reference, digest=None)), str(reference.digest))


def target_of(reference: Reference) -> str:
    return f"{reference.registry}/{reference.repository}:1_esgz"


def second_consumer(system: System) -> Service:
    """Of the same configuration, on the same work directory."""
    port = free_port()
    environment = {**system.consumer.environment, "ICS_METRIC__PORT": str(port)}
    log = system.folder / "second-consumer.log"
    return Service("consumer", system.consumer.config, environment, f"http://127.0.0.1:{port}/health", log)


async def test_what_waits_and_what_runs_survives_the_death_of_every_process(tmp_path: Path) -> None:
    """Two consumers on one work directory; requests that wait while nobody runs; SIGKILL in the middle; SIGTERM at the end."""
    async with running_system(tmp_path / "system", "rabbitmq") as system:
        await system.consumer.stop()
        assert system.consumer.exit_code == 0
        images = [await pushed(system, f"app{number}", number) for number in range(12)]
        ids = [await announced(system, image) for image in images]
        system.ingress.kill()  # with all of them queued and none begun
        await system.ingress.restart()
        second = second_consumer(system)
        try:
            await asyncio.gather(system.consumer.start(), second.start())
            await asyncio.gather(system.consumer.ready(), second.ready())
            work = tmp_path / "system" / "work"
            assert len(list(work.glob("consumer-*"))) == 2
            await system.until_tagged(target_of(images[0]))
            system.consumer.kill()
            outcomes = await asyncio.gather(*(system.outcome(each) for each in ids))
            assert {each.kind for each in outcomes} <= {"succeeded", "skipped"}
            for image in images:
                made = await system.client.manifest(parse_reference(target_of(image)))
                assert made.annotations[ANNOTATION_SOURCE_DIGEST] == image.digest
            await system.idle()
            assert await dead(system.broker) == 0
            await second.stop()
            assert second.exit_code == 0
            assert len(list(work.glob("consumer-*"))) == 1  # of the one that was killed, until the next start
            await system.consumer.restart()
            await system.consumer.ready()
            assert len(list(work.glob("consumer-*"))) == 1
        finally:
            await second.stop()


async def test_the_old_path_is_guarded_and_what_is_asked_there_is_done(tmp_path: Path) -> None:
    contacted: list[str] = []

    async def listening(request: web.Request) -> web.StreamResponse:
        contacted.append(request.path)
        return web.json_response({})

    async with (
        scripted_server(listening) as stranger,
        running_system(tmp_path / "system", "embedded") as system,
        ClientSession(timeout=ClientTimeout(total=120)) as http,
    ):
        url = system.endpoint.replace("/conversion", "/api/v1/conversions")

        async def post(
            body: dict[str, Any], *, sync: bool = False, authorization: str = AUTHORIZATION
        ) -> tuple[int, Any]:
            headers = {"Content-Type": "application/json"}
            if authorization:
                headers["Authorization"] = authorization
            target = f"{url}?sync={str(sync).lower()}"
            async with http.post(target, data=orjson.dumps(body), headers=headers) as answer:
                return answer.status, orjson.loads(await answer.read())

        def task(reference: str) -> dict[str, Any]:
            return {"type": "PUSH_ARTIFACT", "event_data": {"resources": [{"resource_url": reference}]}}

        first = await pushed(system, "app", 1)
        tagged = str(replace(first, digest=None))
        assert (await post(task(tagged), authorization=""))[0] == 401
        assert (await post(task(tagged), authorization="Bearer wrong"))[0] == 401
        assert (await post(task(f"{stranger}/library/app:1")))[0] == 400
        assert (await post({"type": "PUSH_ARTIFACT"}))[0] == 400
        assert (await post(task(str(replace(first, tag=None)))))[0] == 400
        assert await system.client.resolve(parse_reference(target_of(first))) is None

        for number in (1, 2):  # the same body, after another push: converted anew, not taken for done
            source = await pushed(system, "app", number)
            assert await post(task(tagged), sync=True) == (200, "Ok")
            made = await system.client.manifest(parse_reference(target_of(source)))
            assert made.annotations[ANNOTATION_SOURCE_DIGEST] == source.digest

        event = {"specversion": "1.0", "id": "1", "source": "/projects/1", "type": "harbor.artifact.pushed"}
        other = await pushed(system, "cloud", 3)
        data = task(str(replace(other, digest=None)))["event_data"]
        data["resources"][0] |= {"tag": "1", "digest": str(other.digest)}
        assert await post({**event, "data": data}, sync=True) == (200, "Ok")
        assert await system.client.resolve(parse_reference(target_of(other))) is not None

        by_digest = str(replace(first, tag=None))
        child = {"resource_url": by_digest, "tag": str(first.digest), "digest": str(first.digest)}
        status, _ = await post({**event, "id": "2", "data": {"resources": [child]}})
        assert status == 200  # every child of an index sends one, and nothing comes of it
        await system.idle()
        tags = [tag async for tag in system.client.tags(first)]
        assert sorted(tags) == ["1", "1_esgz"]
        assert contacted == []
