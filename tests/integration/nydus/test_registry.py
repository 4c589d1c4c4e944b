"""From registry to registry, and read back by the checker, with the service's own client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from consumer.budget import KeyedLocks, MemoryBudget
from consumer.content import StoreContent
from drivers.api import Source
from drivers.nydus import NydusDriver
from drivers.nydus.check import check_image
from drivers.nydus.options import NydusOptions
from drivers.testing.content import NoProgress, Repository
from drivers.testing.images import Tar, add_image, add_index
from shared.oci.descriptor import Descriptor
from shared.oci.manifest import ImageManifest, Index
from shared.oci.reference import Reference, parse_reference
from shared.registry.client import RegistryClient
from shared.settings.model import Auth, Settings
from shared.telemetry.metrics import Metrics
from tests.images.real_layers import RealLayers
from tests.servers.registry import running_docker_registry


@pytest.fixture
async def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[RegistryClient, str]]:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "none"))
    async with running_docker_registry(tmp_path / "registry") as server:
        settings = Settings(auths={server.host: Auth(insecure=True)})
        async with RegistryClient.from_settings(settings) as opened:
            yield opened, server.host


async def upload(client: RegistryClient, repository: Repository, root: ImageManifest | Index, where: Reference) -> None:
    for data in repository.blobs.values():
        async with client.upload(where) as writer:
            await writer.write(data)
            await writer.commit("application/octet-stream")
    for manifest in repository.manifests.values():
        if manifest is not root:
            await client.put_manifest(Reference(where.registry, where.repository, None, manifest.digest), manifest)
    await client.put_manifest(where, root)


async def convert(client: RegistryClient, source: Reference, target: Reference, option: NydusOptions) -> Descriptor:
    content = StoreContent(
        source,
        target,
        source_store=client,
        target_store=client,
        progress=NoProgress(),
        metrics=Metrics(process_metrics=False),
        cache=None,
        locks=KeyedLocks(),
        budget=MemoryBudget(1 << 30),
    )
    manifest = await client.manifest(source)
    result = await NydusDriver().convert(Source(source, manifest), content, option)
    return await client.put_manifest(target, result.root)


async def test_a_real_image_goes_through_a_registry_and_is_as_its_source(
    client: tuple[RegistryClient, str], real_layers: RealLayers
) -> None:
    registry, host = client
    source, target = parse_reference(f"{host}/library/app:1"), parse_reference(f"{host}/lazy/app:1")
    repository = Repository()
    top = Tar().file("usr/share/.wh.doc").file("etc/hostname", b"x").bytes()
    layers = [real_layers.python().read_bytes(), top]
    images = [
        (f"linux/{name}", add_image(repository, layers, architecture=name, compression=compression))
        for name, compression in (("amd64", "gzip"), ("arm64", "zstd"))
    ]
    await upload(registry, repository, add_index(repository, images), source)
    await convert(registry, source, target, NydusOptions(build_cache_tag="nydus-cache"))
    report = await check_image(registry, target)
    assert report.findings == []
    assert report.compared
    assert report.images == 2
    assert report.entries > 1000
    assert report.chunks > 1000


async def test_referrers_of_the_source_name_its_nydus_image(client: tuple[RegistryClient, str]) -> None:
    registry, host = client
    source, target = parse_reference(f"{host}/library/app:1"), parse_reference(f"{host}/library/app:1_nydus")
    repository = Repository()
    image = add_image(repository, [Tar().file("a", b"a").bytes()])
    await upload(registry, repository, image, source)
    await convert(registry, source, target, NydusOptions(with_referrer=True))
    converted = await registry.manifest(target)
    assert converted.subject == Descriptor(image.media_type, image.digest, len(image.raw))
    assert (await check_image(registry, target)).ok


async def test_the_index_with_originals_is_accepted_by_the_registry(client: tuple[RegistryClient, str]) -> None:
    registry, host = client
    source, target = parse_reference(f"{host}/library/app:1"), parse_reference(f"{host}/lazy/app:1")
    repository = Repository()
    image = add_image(repository, [Tar().file("a", b"a").bytes()], docker=True)
    await upload(registry, repository, image, source)
    await convert(registry, source, target, NydusOptions(multi_platform=True))
    index = await registry.manifest(target)
    assert isinstance(index, Index)
    for child in index.manifests:
        assert await registry.resolve(target.with_digest(child.digest)) is not None
    assert (await check_image(registry, target)).ok
