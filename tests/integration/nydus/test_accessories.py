"""What Harbor would show, read back from a registry that lists referrers: an accessory of every platform's source, no more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cli.devregistry import DevRegistry, serve_registry
from drivers.nydus.options import NydusOptions
from drivers.testing.content import Repository
from drivers.testing.images import Tar, add_image, add_index
from shared.oci.manifest import ImageManifest, Index
from shared.oci.reference import Reference, parse_reference
from shared.registry.client import RegistryClient
from shared.settings.model import Auth, Settings
from tests.images.accessory import is_nydus_accessory
from tests.integration.nydus.registries import convert, upload


@pytest.fixture
async def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[RegistryClient, str]]:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "none"))
    async with serve_registry(DevRegistry(tmp_path / "registry")) as host:
        settings = Settings(auths={host: Auth(insecure=True)})
        async with RegistryClient.from_settings(settings) as opened:
            yield opened, host


async def push_source(registry: RegistryClient, source: Reference) -> list[ImageManifest]:
    """An image for two platforms; gives their manifests."""
    repository = Repository()
    tars = {name: Tar().file("etc/arch", name.encode()).bytes() for name in ("amd64", "arm64")}
    images = {name: add_image(repository, [tar], architecture=name) for name, tar in tars.items()}
    index = add_index(repository, [(f"linux/{name}", image) for name, image in images.items()])
    await upload(registry, repository, index, source)
    return list(images.values())


async def test_every_platforms_source_has_its_nydus_image_as_accessory(client: tuple[RegistryClient, str]) -> None:
    registry, host = client
    source, target = parse_reference(f"{host}/library/app:1"), parse_reference(f"{host}/library/app:1_nydus")
    originals = await push_source(registry, source)
    await convert(registry, source, target, NydusOptions(with_referrer=True))
    index = await registry.manifest(target)
    assert isinstance(index, Index)
    assert "subject" not in index.data
    for original, child in zip(originals, index.manifests, strict=True):
        (accessory,) = await registry.referrers(source.with_digest(original.digest))
        assert accessory.digest == child.digest
        pushed = await registry.manifest(source.with_digest(accessory.digest))
        assert is_nydus_accessory(pushed.data)
        assert pushed.data["subject"]["digest"] == original.digest
    root = await registry.resolve(source)
    assert root is not None
    assert await registry.referrers(source.with_digest(root.digest)) == ()


@pytest.mark.parametrize(
    ("target", "option"),
    [
        ("lazy/app:1", NydusOptions(with_referrer=True)),
        ("library/app:1_nydus", NydusOptions()),
        ("library/app:1_nydus", NydusOptions(multi_platform=True)),
    ],
    ids=["another repository", "not asked for", "beside its original"],
)
async def test_nothing_is_hidden_as_an_accessory_otherwise(
    target: str, option: NydusOptions, client: tuple[RegistryClient, str]
) -> None:
    """Harbor lists no accessory in a repository of its own accord, and one whose subject is elsewhere it never shows."""
    registry, host = client
    source, there = parse_reference(f"{host}/library/app:1"), parse_reference(f"{host}/{target}")
    originals = await push_source(registry, source)
    await convert(registry, source, there, option)
    for original in originals:
        assert await registry.referrers(source.with_digest(original.digest)) == ()
        assert await registry.referrers(there.with_digest(original.digest)) == ()
    index = await registry.manifest(there)
    assert isinstance(index, Index)
    for child in index.manifests:
        assert not is_nydus_accessory((await registry.manifest(there.with_digest(child.digest))).data)
