"""Harbor's part: images are pushed, tags move, and webhooks come once, twice, late, or after newer ones."""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import Any

import orjson
from aiohttp import ClientError

from consumer.keyed_locks import KeyedLocks
from shared.oci.digest import Digest
from shared.oci.reference import parse_reference
from tests.faults.account import Report
from tests.faults.broken_images import Breakage, breakage_of
from tests.faults.fleet import AUTH_HEADER, REGISTRY, Fleet, patiently, source_of
from tests.faults.ledger import Accepted
from tests.faults.scale import FAULT_PAUSE
from tests.images.small import image_of, push_image
from tests.servers.processes import Service


class Pusher:
    """Pushes images under tags and posts their webhooks; what was accepted goes into the report's ledger."""

    def __init__(self, fleet: Fleet, report: Report, rng: random.Random) -> None:
        self._fleet = fleet
        self._report = report
        self._rng = rng
        self._tags: dict[str, int] = {}
        self._pushing = KeyedLocks()
        self._moving: set[asyncio.Task[Any]] = set()
        self._numbers = itertools.count(report.scale.events)
        """Of images that nobody has seen yet."""

    async def post_all(self) -> None:
        """Push and post. One in ten is a duplicate, one in ten moves a tag, one in ten comes late: after newer ones, perhaps."""
        slots = asyncio.Semaphore(8)
        scale = self._report.scale
        # As long as the faults take, so that they strike work and not idleness.
        pause = max(0.02, 2 * scale.faults * sum(FAULT_PAUSE) / 2 / scale.events)

        async def one(number: int) -> None:
            async with slots:
                tag, pushed = await self._push(number)
            if self._rng.random() < 0.1:
                await asyncio.sleep(self._rng.uniform(0.5, 3))
            await self._announce(tag, pushed)

        async with asyncio.TaskGroup() as group:
            for number in range(scale.events):
                group.create_task(one(number))
                await asyncio.sleep(self._rng.uniform(0, pause))

    async def move(self, tag: str) -> None:
        """Under the hands of whoever converts it; the webhook follows as any."""
        number = next(self._numbers)
        async with self._pushing.hold(tag):
            await self._push_as(tag, number)
        task = asyncio.get_running_loop().create_task(self._announce(tag, number))
        self._moving.add(task)
        task.add_done_callback(self._moving.discard)

    async def moved(self) -> None:
        """Wait for the webhooks of moved tags."""
        await asyncio.gather(*self._moving, return_exceptions=True)

    async def _push(self, number: int) -> tuple[str, int]:
        """The tag, and the number of the image that is to be announced."""
        choice = self._rng.random()
        tag = self._rng.choice(sorted(self._tags)) if self._tags and choice < 0.2 else f"t{number}"
        async with self._pushing.hold(tag):  # a registry's webhook never overtakes its push
            if choice < 0.1 and tag in self._tags:
                self._report.webhooks["duplicates"] += 1
                return tag, self._tags[tag]
            if tag in self._tags:
                self._report.webhooks["of a tag that moved"] += 1
            await self._push_as(tag, number)
        return tag, number

    async def _push_as(self, tag: str, number: int) -> None:
        """The caller holds the tag."""
        image = image_of(number)
        if breakage := breakage_of(number):
            self._fleet.broken[str(image.own_layer)] = breakage
            self._report.ledger.broken[str(image.manifest.digest)] = breakage
            self._report.ledger.broken_under[tag].add(breakage)
        await patiently(lambda: push_image(self._fleet.store, source_of(tag), image))
        self._tags[tag] = number

    async def _announce(self, tag: str, number: int) -> None:
        if self._tags[tag] != number:
            self._report.webhooks["that came after a newer push"] += 1
        image = image_of(number)
        if image.children:
            self._report.webhooks["of an index with two platforms"] += 1
        await self._post(tag, image.manifest.digest, breakage_of(number))

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
        ledger = self._report.ledger
        ledger.posts += 1
        for attempt, ingress in enumerate(itertools.islice(itertools.cycle(self._shuffled_ingresses()), 3)):
            url = ingress.health.replace("/health", "/conversion")
            try:
                async with self._fleet.http.post(url, json=body, headers={"Authorization": AUTH_HEADER}) as answer:
                    payload = await answer.read()
                    if answer.status == 202:
                        self._accept(tag, digest, breakage, orjson.loads(payload))
                        return
                    ledger.refused[answer.status] += 1
            except (ClientError, TimeoutError):
                ledger.refused[0] += 1
            await asyncio.sleep(0.5 * (attempt + 1))

    def _shuffled_ingresses(self) -> list[Service]:
        return self._rng.sample(self._fleet.ingresses, len(self._fleet.ingresses))

    def _accept(self, tag: str, digest: Digest, breakage: Breakage | None, answer: dict[str, Any]) -> None:
        for conversion in answer["conversions"]:
            identity = conversion["id"]
            target = str(parse_reference(conversion["target"]))
            self._report.ledger.accepted[identity] = Accepted(identity, tag, str(digest), target, breakage)
