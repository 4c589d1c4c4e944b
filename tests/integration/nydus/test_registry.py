"""From registry to registry, and read back by the checker, with the service's own client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from drivers.checking import Original
from drivers.nydus.check import check_image
from drivers.nydus.options import NydusOptions
from drivers.testing.content import Repository
from drivers.testing.images import Tar, add_image, add_index
from shared.oci.manifest import ImageManifest, Index
from shared.oci.reference import parse_reference
from shared.registry.client import RegistryClient
from shared.settings.model import Auth, Settings
from tests.images.real_layers import RealLayers
from tests.integration.nydus.registries import convert, upload
from tests.servers.registry import running_docker_registry


@pytest.fixture
async def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[RegistryClient, str]]:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "none"))
    async with running_docker_registry(tmp_path / "registry") as server:
        settings = Settings(auths={server.host: Auth(insecure=True)})
        async with RegistryClient.from_settings(settings) as opened:
            yield opened, server.host


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


async def test_between_two_registries(client: tuple[RegistryClient, str], tmp_path: Path) -> None:
    """The target holds nothing of the source: every blob is made anew, or copied for the originals beside it."""
    _, host = client
    async with running_docker_registry(tmp_path / "other") as other:
        auths = {host: Auth(insecure=True), other.host: Auth(insecure=True)}
        async with RegistryClient.from_settings(Settings(auths=auths)) as registry:
            source, target = parse_reference(f"{host}/library/app:1"), parse_reference(f"{other.host}/lazy/app:1")
            repository = Repository()
            layers = [Tar().file("a", b"a" * 70000).bytes(), Tar().bytes(), Tar().hardlink("b", "a").bytes()]
            image = add_image(repository, layers)
            await upload(registry, repository, image, source)
            await convert(registry, source, target, NydusOptions(multi_platform=True))
            index = await registry.manifest(target)
            assert isinstance(index, Index)
            kept = await registry.manifest(target.with_digest(index.manifests[0].digest))
            assert isinstance(kept, ImageManifest)
            for layer in kept.layers:
                assert await registry.has_blob(target, layer.digest)
            report = await check_image(registry, target, original=Original(registry, source))
            assert (report.findings, report.compared) == ([], True)


async def test_a_reference_to_real_layers_is_read_back_at_random(
    client: tuple[RegistryClient, str], real_layers: RealLayers
) -> None:
    """The gzip layers are in the target's repository too, the image in both of its forms."""
    registry, host = client
    source, target = parse_reference(f"{host}/library/app:1"), parse_reference(f"{host}/lazy/app:1")
    repository = Repository()
    layers = [real_layers.python().read_bytes(), Tar().file("etc/hostname", b"x").bytes()]
    image = add_image(repository, layers)
    await upload(registry, repository, image, source)
    for more in ({}, {"multi_platform": True}):
        await convert(registry, source, target, NydusOptions.model_validate({"oci_ref": True, **more}))
        for layer in image.layers:
            assert await registry.has_blob(target, layer.digest)
        report = await check_image(registry, target)
        assert (report.findings, report.compared, report.images) == ([], True, 1)
        assert report.chunks > 500


async def test_the_build_cache_serves_references_and_keeps_them_apart_from_blobs(
    client: tuple[RegistryClient, str],
) -> None:
    """Both kinds of one layer stand in one record; each conversion takes its own, and a node reads it."""
    registry, host = client
    source = parse_reference(f"{host}/library/app:1")
    repository = Repository()
    layers = [Tar().file("a", b"a" * 70000).bytes(), Tar().bytes(), Tar().hardlink("b", "a").bytes()]
    image = add_image(repository, layers)
    await upload(registry, repository, image, source)
    roots = []
    for tag, reference, reused in (("1", True, 0), ("2", False, 0), ("3", True, 3), ("4", False, 3)):
        target = parse_reference(f"{host}/lazy/app:{tag}")
        result = await convert(registry, source, target, NydusOptions(build_cache_tag="cache", oci_ref=reference))
        assert (result.layers_total, result.layers_reused) == (3, reused)
        report = await check_image(registry, target)
        assert (report.findings, report.compared) == ([], True)
        roots.append(result.root.raw)
    assert roots[0] == roots[2]
    assert roots[1] == roots[3]
    record = await registry.manifest(parse_reference(f"{host}/lazy/app:cache"))
    assert isinstance(record, ImageManifest)
    assert len({layer.digest for layer in record.layers}) == len(record.layers) == 6


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
