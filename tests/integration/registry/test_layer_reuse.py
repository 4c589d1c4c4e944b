"""A layer is converted once: for tags, repositories, consumers and restarts, as a real registry keeps what is remembered."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from consumer.conversion import Converter
from consumer.layer_cache import record_tag
from drivers.api import BlobWriter, ConvertedLayer, DriverOptions, OpenBlob
from drivers.catalogue import create_drivers
from drivers.estargz import EstargzDriver, EstargzOptions
from shared.messages import ConversionRequest, DriverChoice
from shared.oci.descriptor import Descriptor
from shared.oci.manifest import ImageManifest
from shared.oci.reference import Reference, parse_reference
from shared.registry.client import RegistryClient
from shared.settings.model import Cache, Limits
from shared.telemetry.metrics import Metrics
from tests.images.small import push_image, small_image
from tests.integration.registry.conftest import OpenClient
from tests.servers.registry import BINARY, RegistryServer, docker_registry
from tests.unit.consumer.support import progress


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RegistryServer]:
    with docker_registry(tmp_path / "registry") as started:
        yield started


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> list[Descriptor]:
    """Source layers that were really converted, in order."""
    layers: list[Descriptor] = []
    convert = EstargzDriver.convert_layer

    async def noted(
        self: EstargzDriver, layer: Descriptor, open_blob: OpenBlob, writer: BlobWriter, option: DriverOptions
    ) -> ConvertedLayer:
        layers.append(layer)
        return await convert(self, layer, open_blob, writer, option)

    monkeypatch.setattr(EstargzDriver, "convert_layer", noted)
    return layers


def consumer(client: RegistryClient, repository: str = "", *, limits: Limits | None = None) -> Converter:
    """What a new consumer process has: nothing in memory."""
    limits = limits or Limits()
    cache = Cache(repository=repository)
    return Converter(
        create_drivers(limits), client, client, limits=limits, cache=cache, metrics=Metrics(process_metrics=False)
    )


def job(source: Reference, **changes: Reference) -> ConversionRequest:
    target = changes.get("target", source.with_tag(f"{source.tag}_esgz"))
    return ConversionRequest(id="0" * 32, source=source, target=target, driver=DriverChoice(type="estargz", config={}))


def image(server: RegistryServer, name: str) -> Reference:
    return parse_reference(f"{server.host}/{name}")


async def test_tags_repositories_consumers_and_restarts_share_what_was_converted(
    server: RegistryServer, open_client: OpenClient, converted: list[Descriptor]
) -> None:
    client = await open_client(server.host)
    first, second, other = (image(server, name) for name in ("library/app:1", "library/app:2", "library/other:1"))
    for reference, number in ((first, 1), (second, 2), (other, 2)):
        await push_image(client, reference, small_image(number))
    await consumer(client).convert(job(first), progress())
    assert len(converted) == 2
    result = (await consumer(client).convert(job(second), progress())).result
    assert (len(converted), result.layers_reused) == (3, 1)  # the base is known, the rest is new
    await consumer(client).convert(job(other), progress())
    assert len(converted) == 3
    server.stop()
    server.start()
    client = await open_client(server.host)
    third = await consumer(client).convert(job(other, target=image(server, "elsewhere/app:1")), progress())
    assert third.result.layers_reused == 0  # another project has a cache of its own ...
    assert len(converted) == 5
    shared = f"{server.host}/library/ics-cache"
    fourth = await consumer(client, shared).convert(job(other, target=image(server, "third/app:1")), progress())
    assert fourth.result.layers_reused == 2  # ... unless the configuration names one for all
    assert len(converted) == 5


async def test_conversions_at_once_convert_a_common_layer_once_with_room_for_one_layer(
    server: RegistryServer, open_client: OpenClient, converted: list[Descriptor]
) -> None:
    client = await open_client(server.host)
    references = [image(server, f"library/app-{number}:1") for number in range(4)]
    for number, reference in enumerate(references):
        await push_image(client, reference, small_image(number))
    one = consumer(client, limits=Limits(memory=1 << 26))
    await asyncio.gather(*(one.convert(job(reference), progress()) for reference in references))
    assert len(converted) == len({layer.digest for layer in converted}) == 5


async def test_the_registrys_garbage_collection_keeps_what_is_remembered(
    server: RegistryServer, open_client: OpenClient, converted: list[Descriptor]
) -> None:
    client = await open_client(server.host)
    source = image(server, "library/app:1")
    await push_image(client, source, small_image(1))
    await consumer(client).convert(job(source), progress())
    server.stop()
    # The converted image is deleted, as a retention rule does it; its layers are in the record only.
    shutil.rmtree(server.root / "storage/docker/registry/v2/repositories/library/app/_manifests/tags/1_esgz")
    binary = shutil.which(BINARY)
    assert binary is not None
    command = [binary, "garbage-collect", "--delete-untagged", str(server.root / "config.yml")]
    subprocess.run(command, check=True, capture_output=True)
    server.start()
    client = await open_client(server.host)
    assert await client.resolve(job(source).target) is None
    assert (await consumer(client).convert(job(source), progress())).result.layers_reused == 2
    assert len(converted) == 2


@pytest.mark.parametrize("damage", ["lost blob", "foreign manifest", "stale record", "no repository"])
async def test_a_damaged_cache_costs_a_conversion_and_fails_none(
    server: RegistryServer, open_client: OpenClient, converted: list[Descriptor], damage: str
) -> None:
    client = await open_client(server.host)
    source = image(server, "library/app:1")
    await push_image(client, source, small_image(1))
    await consumer(client).convert(job(source), progress())
    cache = image(server, "library/ics-cache:any")
    layer = small_image(1).manifest.layers[0]
    record = cache.with_tag(record_tag(layer.digest, EstargzDriver().fingerprint(EstargzOptions())))
    remembered = await client.manifest(record)
    assert isinstance(remembered, ImageManifest)
    storage = server.root / "storage/docker/registry/v2"
    if damage == "lost blob":
        digest = remembered.layers[0].digest.hex
        shutil.rmtree(storage / "blobs/sha256" / digest[:2] / digest)
    elif damage == "foreign manifest":
        await push_image(client, record, small_image(7))
    elif damage == "stale record":
        wrong = small_image(1).manifest.layers[1]
        await client.put_manifest(
            record,
            await client.manifest(
                cache.with_tag(record_tag(wrong.digest, EstargzDriver().fingerprint(EstargzOptions())))
            ),
        )
    else:
        shutil.rmtree(storage / "repositories/library/ics-cache")
    again = replace(source, tag="2")
    await push_image(client, again, small_image(1))
    result = (await consumer(client).convert(job(again), progress())).result
    expected = 2 if damage == "no repository" else 1
    assert len(converted) == 2 + expected
    assert result.layers_reused == 2 - expected
    # What it cost is remembered again.
    third = image(server, "library/third:1")
    await push_image(client, third, small_image(1))
    assert (await consumer(client).convert(job(third), progress())).result.layers_reused == 2
