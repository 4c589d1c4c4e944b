"""Results that go elsewhere: another repository, another registry, a registry that takes no pushes; all over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest

from consumer.conversion import Converted, Converter
from consumer.progress import ConversionProgress
from drivers.catalogue import create_drivers
from shared.errors import PermanentError
from shared.messages import ConversionRequest, DriverChoice
from shared.oci import media_types
from shared.oci.manifest import Index, encode_manifest
from shared.oci.reference import Reference, parse_reference
from shared.registry.client import RegistryClient
from shared.settings.model import Auth, Cache, Limits
from shared.telemetry.metrics import Metrics
from shared.telemetry.tracing import Tracing
from tests.images.comparing import differences
from tests.images.small import push_image, small_image
from tests.integration.registry.conftest import OpenClient
from tests.servers.devregistry import Fault, FaultyRegistry, serve_registry
from tests.servers.registry import RegistryServer


@dataclass
class Two:
    """A real registry that holds the sources, and another one."""

    source: str
    other: FaultyRegistry
    elsewhere: str
    client: RegistryClient

    async def convert(self, source: Reference, target: Reference, driver: str = "estargz") -> Converted:
        limits, metrics = Limits(), Metrics(10, process_metrics=False)
        converter = Converter(
            create_drivers(limits), self.client, self.client, limits=limits, cache=Cache(), metrics=metrics
        )
        request = ConversionRequest(id="0" * 32, source=source, target=target, driver=DriverChoice(type=driver))
        tracing = Tracing.from_environment("test", enabled=False)
        return await converter.convert(request, ConversionProgress(tracing, metrics))


@pytest.fixture
async def two(shared_docker_registry: RegistryServer, tmp_path: Path, open_client: OpenClient) -> AsyncIterator[Two]:
    other = FaultyRegistry(tmp_path / "other")
    async with serve_registry(other) as elsewhere:
        client = await open_client(shared_docker_registry.host, more={elsewhere: Auth(insecure=True)})
        yield Two(shared_docker_registry.host, other, elsewhere, client)


async def pushed(two: Two, name: str, number: int = 1) -> Reference:
    reference = parse_reference(f"{two.source}/elsewhere/{name}:v1")
    image = small_image(number)
    await push_image(two.client, reference, image)
    return reference.with_digest(image.manifest.digest)


@pytest.mark.parametrize("driver", ["estargz", "nydus"])
async def test_another_registry_gets_everything_and_a_cache_of_its_own(two: Two, driver: str) -> None:
    source = await pushed(two, f"first-{driver}")
    target = parse_reference(f"{two.elsewhere}/lazy/first:v1")
    converted = await two.convert(source, target, driver)
    assert (await two.client.manifest(target)).digest == converted.descriptor.digest
    assert converted.result.root.subject is None  # of a source that is not in that registry it would hide the image
    if driver == "estargz":
        assert await differences(two.client, source, target) == []
        second = await pushed(two, "second", 2)  # over the same base layer
        again = await two.convert(second, parse_reference(f"{two.elsewhere}/lazy/second:v1"))
        assert (again.result.layers_total, again.result.layers_reused) == (2, 1)
    assert two.other.storage.uploads() == []


async def test_an_index_goes_to_another_registry_child_by_child(two: Two) -> None:
    children = []
    for number, architecture in enumerate(("amd64", "arm64")):
        image = small_image(number)
        reference = parse_reference(f"{two.source}/elsewhere/index")
        await push_image(two.client, reference.with_tag(architecture), image)
        platform = {"os": "linux", "architecture": architecture}
        children.append({**image.manifest.descriptor.to_json(), "platform": platform})
    index = encode_manifest({"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": children})
    source = parse_reference(f"{two.source}/elsewhere/index:v1")
    await two.client.put_manifest(source, index)
    target = parse_reference(f"{two.elsewhere}/lazy/index:v1")
    await two.convert(source.with_digest(index.digest), target)
    made = await two.client.manifest(target)
    assert isinstance(made, Index)
    for before, after in zip(index.manifests if isinstance(index, Index) else (), made.manifests, strict=True):
        assert after.platform == before.platform
        place = Reference(target.registry, target.repository, None, after.digest)
        assert await differences(two.client, source.with_digest(before.digest), place) == []


async def test_a_project_that_takes_no_pushes_says_where_to_go_instead(two: Two) -> None:
    """Harbor's answer for a proxy cache."""
    source = await pushed(two, "proxied")
    said = {"errors": [{"code": "DENIED", "message": "can not push artifact to a proxy project"}]}
    two.other.faults.add(Fault("status", "POST", "/uploads/", times=0, status=403, body=orjson.dumps(said)))
    with pytest.raises(PermanentError) as caught:
        await two.convert(source, parse_reference(f"{two.elsewhere}/proxied/app:v1"))
    assert caught.value.code == "denied"
    assert "target_repository" in caught.value.message
    assert caught.value.details["registry"] == two.elsewhere
