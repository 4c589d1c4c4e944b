"""Platforms: indexes in and out, what is left out of them, originals beside their Nydus images, Harbor's accessories."""

from __future__ import annotations

import orjson
import pytest

from drivers.api import ANNOTATION_SOURCE_DIGEST
from drivers.nydus.manifests import EMPTY_LAYER_DIFF_ID
from drivers.nydus.options import NydusOptions
from drivers.testing.content import MemoryContent, Repository
from drivers.testing.images import add_image, add_index
from shared.oci import media_types
from shared.oci.manifest import ImageManifest
from tests.images.accessory import is_nydus_accessory
from tests.unit.drivers.nydus.conversions import BASE, NYDUS, TOP, config_of, convert, image_of, index_of, two_platforms


async def test_an_index_keeps_its_shape() -> None:
    repository = Repository()
    source, images = two_platforms(repository)
    content = MemoryContent(repository)
    result = await convert(content, source)
    index = index_of(result)
    assert [str(child.platform) for child in index.manifests] == ["linux/amd64", "linux/arm64"]
    assert index.annotations[ANNOTATION_SOURCE_DIGEST] == source.digest
    for child, original in zip(index.manifests, images.values(), strict=True):
        image = content.target_repository.manifests[child.digest]
        assert image.annotations[NYDUS + "source-digest"] == original.digest
    assert result.platforms == ["linux/amd64", "linux/arm64"]


async def test_a_single_selected_platform_replaces_the_index() -> None:
    repository = Repository()
    source, _ = two_platforms(repository)
    result = await convert(MemoryContent(repository), source, platforms=["linux/arm64"])
    image = image_of(result)
    assert image.annotations[ANNOTATION_SOURCE_DIGEST] == source.digest
    assert result.platforms == ["linux/arm64"]
    assert len(result.left_out) == 1


async def test_attestations_are_left_out_and_said_so() -> None:
    repository = Repository()
    image = add_image(repository, [BASE])
    attestation = add_image(repository, [TOP])
    source = add_index(repository, [("linux/amd64", image), ("unknown/unknown", attestation)])
    result = await convert(MemoryContent(repository), source)
    assert image_of(result)
    assert any("unknown/unknown" in line for line in result.left_out)


async def test_an_index_with_the_originals_beside_the_nydus_images() -> None:
    repository = Repository()
    source, images = two_platforms(repository)
    content = MemoryContent(repository)
    index = index_of(await convert(content, source, NydusOptions(multi_platform=True)))
    assert index.media_type == media_types.OCI_INDEX
    originals, nydus = index.manifests[:2], index.manifests[2:]
    assert [str(child.platform) for child in index.manifests] == ["linux/amd64", "linux/arm64"] * 2
    for descriptor, original in zip(originals, images.values(), strict=True):
        assert dict(descriptor.annotations) == {NYDUS + "source-digest": original.digest}
        assert descriptor.artifact_type is None
        kept = content.target_repository.manifests[descriptor.digest]
        assert isinstance(kept, ImageManifest)
        assert kept.layers[1:] == original.layers
        assert kept.layers[0].annotations == {NYDUS + "empty-layer": "true"}
        config = config_of(content, kept)
        assert config["rootfs"]["diff_ids"][0] == EMPTY_LAYER_DIFF_ID
        assert config["history"][0] == {"created_by": "Nydus Converter", "comment": "Nydus Empty Layer"}
        assert len(config["history"]) == len(kept.layers)
        for layer in kept.layers:
            assert layer.digest in content.target_repository.blobs
    for descriptor in nydus:
        assert descriptor.artifact_type == "application/vnd.nydus.image.manifest.v1+json"
        image = content.target_repository.manifests[descriptor.digest]
        assert isinstance(image, ImageManifest)
        assert image.config.media_type == "application/vnd.nydus.image.config.v1+json"


async def test_a_single_image_becomes_an_index_of_two() -> None:
    repository = Repository()
    source = add_image(repository, [BASE], docker=True)
    index = index_of(await convert(MemoryContent(repository), source, NydusOptions(multi_platform=True)))
    assert [child["platform"] for child in index.data["manifests"]] == [{"architecture": "amd64", "os": "linux"}] * 2


async def test_harbor_takes_every_platforms_image_for_an_accessory_of_its_source() -> None:
    repository = Repository()
    source, images = two_platforms(repository)
    content = MemoryContent(repository, same_repository=True)
    index = index_of(await convert(content, source, NydusOptions(with_referrer=True)))
    assert index.subject is None
    for child, original in zip(index.manifests, images.values(), strict=True):
        image = content.target_repository.manifests[child.digest]
        assert is_nydus_accessory(image.data)
        assert image.data["subject"] == {
            "mediaType": original.media_type,
            "digest": original.digest,
            "size": len(original.raw),
        }


@pytest.mark.parametrize("missing", ["subject", "config", "artifactType", "bootstrap"])
async def test_each_of_harbors_conditions_counts(missing: str) -> None:
    repository = Repository()
    content = MemoryContent(repository, same_repository=True)
    image = image_of(await convert(content, add_image(repository, [BASE]), NydusOptions(with_referrer=True)))
    data = orjson.loads(image.raw)
    assert is_nydus_accessory(data)
    if missing == "subject":
        del data["subject"]
    elif missing == "config":
        data["config"]["mediaType"] = media_types.OCI_EMPTY
    elif missing == "artifactType":
        data["artifactType"] = "application/x"
    else:
        data["layers"].reverse()
    assert not is_nydus_accessory(data)


async def test_a_subject_in_another_repository_would_hide_the_image() -> None:
    repository = Repository()
    content = MemoryContent(repository)
    image = image_of(await convert(content, add_image(repository, [BASE]), NydusOptions(with_referrer=True)))
    assert image.subject is None
