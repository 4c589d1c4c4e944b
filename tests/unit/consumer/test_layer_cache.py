"""Records of converted layers: none is lost to another writer, and none that lies is used."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from consumer.layer_cache import record_tag
from shared.oci.digest import Digest
from shared.oci.manifest import ImageManifest, encode_manifest
from tests.images.comparing import differences
from tests.unit.consumer.support import REGISTRY, converter, progress, pushed, request, source, target
from tests.watched_store import WatchedStore

CACHE = f"{REGISTRY}/library/ics-cache"


async def test_writers_at_the_same_time_lose_no_record() -> None:
    """Six consumers, each with an image of its own over one base: every layer has its record in the end."""
    store = WatchedStore()
    wanted = []
    for number in range(6):
        where = source("v1", f"library/app{number}")
        image = await pushed(store, number, where)
        wanted.append((image, where))
    await asyncio.gather(
        *(
            converter(store, cache=True).convert(
                request(source=where.with_digest(image.manifest.digest), target=where.with_tag("v1_esgz")), progress()
            )
            for image, where in wanted
        )
    )
    layers = {layer.digest for image, _ in wanted for layer in image.manifest.layers}
    records = [store.repositories[CACHE].manifests[digest] for digest in store.repositories[CACHE].tags.values()]
    assert {each.annotations["io.goharbor.ics.layer.source"] for each in records} == layers
    assert len(records) == len(layers) > 6


def _size(record: dict[str, Any]) -> None:
    record["layers"][0]["size"] += 1


def _smaller(record: dict[str, Any]) -> None:
    record["layers"][0]["size"] = 1


def _two_layers(record: dict[str, Any]) -> None:
    record["layers"] *= 2


def _no_diff_id(record: dict[str, Any]) -> None:
    del record["annotations"]["io.goharbor.ics.layer.diff-id"]


def _bad_diff_id(record: dict[str, Any]) -> None:
    record["annotations"]["io.goharbor.ics.layer.diff-id"] = "sha256:short"


@pytest.mark.parametrize("damage", [_size, _smaller, _two_layers, _no_diff_id, _bad_diff_id])
async def test_a_record_that_lies_is_not_used_and_is_written_anew(damage: Any) -> None:
    store = WatchedStore()
    await converter(store, cache=True).convert(request(await pushed(store)), progress())
    sound = dict(store.repositories[CACHE].tags)
    for tag, digest in sound.items():
        data = orjson.loads(store.repositories[CACHE].manifests[digest].raw)
        damage(data)
        record = encode_manifest(data)
        store.repositories[CACHE].manifests[record.digest] = record
        store.repositories[CACHE].tags[tag] = record.digest
    elsewhere = source("v1", "library/second")
    image = await pushed(store, 1, elsewhere)
    wanted = request(source=elsewhere.with_digest(image.manifest.digest), target=target(repository="library/second"))
    result = (await converter(store, cache=True).convert(wanted, progress())).result
    assert result.layers_reused == 0
    assert isinstance(result.root, ImageManifest)
    blobs = store.repositories[f"{REGISTRY}/library/second"].blobs
    assert [layer.size for layer in result.root.layers] == [len(blobs[layer.digest]) for layer in result.root.layers]
    assert await differences(store, elsewhere, target(repository="library/second")) == []
    assert store.repositories[CACHE].tags == sound


def test_a_records_tag_is_of_layer_and_fingerprint() -> None:
    one, other = Digest.of(b"one"), Digest.of(b"other")
    assert len({record_tag(one, "a"), record_tag(one, "b"), record_tag(other, "a")}) == 3
