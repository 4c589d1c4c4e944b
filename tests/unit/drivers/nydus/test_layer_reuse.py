"""Layers that were converted before: in the layer cache, under a build cache tag, twice in an image."""

from __future__ import annotations

from drivers.nydus.options import NydusOptions
from drivers.testing.content import MemoryContent, Repository
from drivers.testing.images import Tar, add_image
from shared.errors import TransientError
from shared.oci.descriptor import Descriptor
from shared.oci.manifest import ImageManifest, Index
from tests.unit.drivers.nydus.conversions import BASE, TOP, convert, image_of


async def test_cached_layers_give_the_same_image_as_fresh_ones() -> None:
    repository = Repository()
    top = Tar().hardlink("hard", "d/a").file("d/new", b"n").file("d/.wh.gone").bytes()
    source = add_image(repository, [BASE, top])
    fresh = MemoryContent(repository)
    first = await convert(fresh, source)
    again = MemoryContent(repository, fresh.target_repository)
    again.cache = fresh.cache
    second = await convert(again, source)
    assert second.root.raw == first.root.raw
    assert second.layers_reused == 2
    assert again.opened == []


async def test_a_damaged_cached_layer_is_converted_again() -> None:
    repository = Repository()
    source = add_image(repository, [BASE])
    fresh = MemoryContent(repository)
    first = await convert(fresh, source)
    digest = image_of(first).layers[0].digest
    data = fresh.target_repository.blobs[digest]
    fresh.target_repository.blobs[digest] = data[:-700] + bytes(700)
    again = MemoryContent(repository, fresh.target_repository)
    again.cache = fresh.cache
    second = await convert(again, source)
    assert second.root.raw == first.root.raw
    assert second.layers_reused == 0
    assert fresh.target_repository.blobs[digest] == data


async def test_equal_layers_are_converted_once_and_named_twice() -> None:
    repository = Repository()
    content = MemoryContent(repository)
    image = image_of(await convert(content, add_image(repository, [BASE, BASE])))
    assert len(content.opened) == 1
    assert image.layers[0].digest == image.layers[1].digest
    assert len(image.layers) == 3


async def test_the_build_cache_serves_another_conversion_and_drops_other_versions() -> None:
    repository = Repository()
    source = add_image(repository, [BASE, TOP])
    option = NydusOptions(build_cache_tag="nydus-cache", build_cache_version="v1")
    first = MemoryContent(repository)
    before = await convert(first, source, option)
    record = first.target_repository.manifests[first.target_repository.tags["nydus-cache"]]
    assert isinstance(record, ImageManifest)
    assert len(record.layers) == 2

    second = MemoryContent(repository, first.target_repository)  # another process: no layer cache of its own
    after = await convert(second, source, option)
    assert after.root.raw == before.root.raw
    assert (after.layers_reused, second.opened) == (2, [])

    third = MemoryContent(repository, first.target_repository)
    await convert(third, source, option.model_copy(update={"build_cache_version": "v2"}))
    assert len(third.opened) == 2
    renewed = first.target_repository.manifests[first.target_repository.tags["nydus-cache"]]
    assert renewed.annotations["io.goharbor.ics.nydus.cache.version"] == "v2"


async def test_the_build_cache_holds_the_newest_layers() -> None:
    repository = Repository()
    content = MemoryContent(repository)
    option = NydusOptions(build_cache_tag="cache", build_cache_size=3)
    for number in range(3):
        layers = [Tar().file(f"{number}-{layer}").bytes() for layer in range(2)]
        await convert(content, add_image(repository, layers), option)
    record = content.target_repository.manifests[content.target_repository.tags["cache"]]
    assert isinstance(record, ImageManifest)
    assert len(record.layers) == 3


async def test_a_tag_that_is_no_build_cache_is_not_overwritten() -> None:
    repository = Repository()
    source = add_image(repository, [BASE])
    content = MemoryContent(repository)
    content.target_repository.tags["latest"] = content.target_repository.add_manifest(source).digest
    await convert(content, source, NydusOptions(build_cache_tag="latest"))
    assert content.target_repository.tags["latest"] == source.digest


async def test_a_registry_that_refuses_the_build_cache_does_not_fail_the_conversion() -> None:
    class Refusing(MemoryContent):
        async def target_manifest(self, tag: str) -> ImageManifest | Index | None:
            raise TransientError("no", code="registry_unavailable")

        async def put_target_manifest(self, tag: str, manifest: ImageManifest | Index) -> Descriptor:
            raise TransientError("no", code="registry_unavailable")

    repository = Repository()
    result = await convert(Refusing(repository), add_image(repository, [BASE]), NydusOptions(build_cache_tag="c"))
    assert image_of(result).layers
