"""Images and layers that are skipped, or refused, and nothing is left behind."""

from __future__ import annotations

from dataclasses import replace

import pytest

from drivers.image import MAXIMUM_CONFIG_SIZE
from drivers.limits import LayerLimits
from drivers.nydus import NydusDriver
from drivers.nydus.options import NydusOptions
from drivers.testing.content import MemoryContent, Repository
from drivers.testing.images import Tar, add_image, as_source
from shared.errors import CorruptLayerError, LimitExceededError, SkippedError, UnsupportedError
from shared.oci import media_types
from shared.oci.manifest import encode_manifest
from tests.unit.drivers.nydus.conversions import BASE, convert, image_of, two_platforms


async def test_what_is_already_nydus_is_skipped() -> None:
    repository = Repository()
    content = MemoryContent(repository)
    image = image_of(await convert(content, add_image(repository, [BASE])))
    assert NydusDriver().recognises(image)
    with pytest.raises(SkippedError, match="already in the format"):
        await convert(MemoryContent(content.target_repository), image)


async def test_a_platform_that_is_not_there_is_skipped() -> None:
    repository = Repository()
    with pytest.raises(SkippedError, match="no selected platform"):
        await convert(MemoryContent(repository), two_platforms(repository)[0], platforms=["linux/s390x"])
    with pytest.raises(SkippedError, match="no selected platform"):
        await convert(MemoryContent(repository), add_image(repository, [BASE]), platforms=["linux/s390x"])


async def test_an_artifact_is_skipped() -> None:
    repository = Repository()
    image = add_image(repository, [BASE])
    artifact = encode_manifest({**image.data, "config": replace(image.config, media_type="application/x").to_json()})
    with pytest.raises(SkippedError, match="not a container image"):
        await convert(MemoryContent(repository), artifact)


@pytest.mark.parametrize("media_type", [media_types.DOCKER_FOREIGN_LAYER, "application/x"])
async def test_layers_that_are_no_tars_are_refused(media_type: str) -> None:
    repository = Repository()
    image = add_image(repository, [BASE])
    layers = [replace(image.layers[0], media_type=media_type).to_json()]
    with pytest.raises(UnsupportedError):
        await convert(MemoryContent(repository), encode_manifest({**image.data, "layers": layers}))


async def test_a_huge_config_is_refused() -> None:
    repository = Repository()
    image = add_image(repository, [BASE])
    config = repository.add(b" " * (MAXIMUM_CONFIG_SIZE + 1), media_types.OCI_CONFIG)
    with pytest.raises(LimitExceededError):
        await convert(MemoryContent(repository), encode_manifest({**image.data, "config": config.to_json()}))


async def converts_with(error: type[BaseException], layer: bytes, limits: LayerLimits | None = None) -> MemoryContent:
    repository = Repository()
    content = MemoryContent(repository)
    source = as_source(add_image(repository, [BASE, layer], compression="none"))
    with pytest.raises(error):
        await NydusDriver(limits).convert(source, content, NydusOptions())
    return content


BAD_LAYERS = {
    "no tar": b"no tar at all" * 100,
    "a cut tar": BASE[:1500],
    "a long name": Tar().file("a" * 256).bytes(),
    "a long path": Tar().file("a/" * 2047 + "ab").bytes(),
    "a long link": Tar().symlink("a", "b" * 4097).bytes(),
    "a link to nothing": Tar().symlink("a", "").bytes(),
    "a directory that is a file": Tar().file("a").file("a/b").bytes(),
    "a hard link to a directory below": Tar().hardlink("a", "d").bytes(),
    "a hard link to a directory": Tar().folder("x").hardlink("y", "x").bytes(),
    "a hard link to nothing": Tar().hardlink("a", "nowhere").bytes(),
    "no owner": Tar().file("a", uid=-1).bytes(),
}


@pytest.mark.parametrize("layer", BAD_LAYERS.values(), ids=BAD_LAYERS)
async def test_a_bad_layer_is_refused_and_its_upload_cancelled(layer: bytes) -> None:
    await converts_with(CorruptLayerError, layer)


async def test_a_source_that_is_not_its_digest_is_refused_before_the_commit() -> None:
    repository = Repository()
    content = MemoryContent(repository)
    image = add_image(repository, [BASE], compression="none")
    digest = image.layers[0].digest
    data = bytearray(repository.blobs[digest])
    data[600] ^= 1
    repository.blobs[digest] = bytes(data)
    with pytest.raises(CorruptLayerError):
        await convert(content, image)
    assert content.abandoned == 1
    assert content.target_repository.blobs == {}


async def test_limits_hold() -> None:
    many = Tar()
    for number in range(50):
        many.file(str(number))
    await converts_with(LimitExceededError, many.bytes(), LayerLimits(layer_entries=20))
    await converts_with(LimitExceededError, Tar().file("big", bytes(200_000)).bytes(), LayerLimits(layer_size=150_000))


async def test_more_attributes_than_an_inode_can_have_are_refused() -> None:
    attributes = {f"user.{number}": "v" * 60_000 for number in range(5)}
    await converts_with(UnsupportedError, Tar().file("a", xattrs=attributes).bytes())


async def test_a_way_through_links_to_endless_depth_is_refused() -> None:
    """Paths as deep as entries make them would fill the memory, a path a directory."""
    deep = "d/" * 1000
    tar = Tar().file(deep + "x")
    for number in range(3):
        tar.symlink(f"link-{number}", f"link-{number - 1}/{deep}" if number else deep).file(f"link-{number}/{deep}x")
    await converts_with(UnsupportedError, tar.bytes())


async def test_layers_that_make_each_others_paths_deeper_are_refused() -> None:
    deep = "d/" * 1500
    repository = Repository()
    layers = [
        Tar().file(deep + "x").symlink("l", deep).bytes(),
        Tar().file("l/" + deep + "x").bytes(),
    ]
    source = as_source(add_image(repository, layers))
    with pytest.raises(UnsupportedError, match="a directory with a path of"):
        await NydusDriver().convert(source, MemoryContent(repository), NydusOptions())


async def test_unknown_tar_types_are_refused() -> None:
    await converts_with(UnsupportedError, Tar().entry("x", b"Z").bytes())
