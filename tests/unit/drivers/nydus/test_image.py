"""What a converted image is: blobs, config, annotations, the same bytes each time."""

from __future__ import annotations

import os
from typing import Any

import orjson
import pytest

from drivers.api import ANNOTATION_DRIVER_VERSION, ANNOTATION_FINGERPRINT, ANNOTATION_SOURCE_DIGEST
from drivers.nydus import NydusDriver
from drivers.nydus.manifests import EMPTY_LAYER
from drivers.nydus.options import NydusOptions
from drivers.nydus.rafs_v6.decode import validate_bootstrap
from drivers.testing.content import MemoryContent, Repository
from drivers.testing.images import Tar, add_image
from shared.oci import media_types
from shared.oci.converted import ANNOTATION_DRIVER_NAME
from shared.oci.digest import Digest
from tests.unit.drivers.nydus.bootstraps import bootstrap_of
from tests.unit.drivers.nydus.conversions import BASE, NYDUS, TOP, config_of, convert, image_of


async def test_an_image_has_a_blob_for_every_layer_and_the_bootstrap_last() -> None:
    repository = Repository()
    content = MemoryContent(repository)
    source = add_image(repository, [BASE, Tar().bytes(), TOP])
    result = await convert(content, source)
    image = image_of(result)
    *blobs, last = image.layers
    assert [blob.media_type for blob in blobs] == ["application/vnd.oci.image.layer.nydus.blob.v1"] * 3
    assert [dict(blob.annotations) for blob in blobs] == [{NYDUS + "blob": "true"}] * 3
    assert last.media_type == media_types.OCI_LAYER_GZIP
    assert dict(last.annotations) == {NYDUS + "bootstrap": "true", NYDUS + "fs-version": "6"}
    for layer in image.layers:
        assert Digest.of(content.target_repository.blobs[layer.digest]) == layer.digest
        assert len(content.target_repository.blobs[layer.digest]) == layer.size
    assert image.subject is None
    assert image.artifact_type is None
    assert (result.layers_total, result.layers_reused, result.platforms) == (3, 0, ["linux/amd64"])
    assert result.source_size == sum(layer.size for layer in source.layers)
    assert result.target_size == sum(layer.size for layer in image.layers)


async def test_the_config_keeps_everything_and_describes_the_new_layers() -> None:
    repository = Repository()
    content = MemoryContent(repository)
    source = add_image(repository, [BASE, TOP])
    before = orjson.loads(repository.blobs[source.config.digest])
    image = image_of(await convert(content, source))
    after = config_of(content, image)
    assert image.config.media_type == media_types.OCI_CONFIG
    assert after["config"] == before["config"]
    assert after["x-unknown"] == before["x-unknown"]
    assert after["rootfs"]["diff_ids"][:-1] == [layer.digest for layer in image.layers[:-1]]
    assert len(after["rootfs"]["diff_ids"]) == len(image.layers)
    assert after["history"][:-1] == before["history"]
    assert after["history"][-1] == {"created_by": "Nydus Converter", "comment": "Nydus Bootstrap Layer"}


async def test_the_manifest_says_what_it_came_from() -> None:
    repository = Repository()
    content = MemoryContent(repository)
    source = add_image(repository, [BASE])
    option = NydusOptions()
    annotations = image_of(await convert(content, source, option)).annotations
    assert annotations[ANNOTATION_DRIVER_NAME] == "nydus"
    assert annotations[ANNOTATION_DRIVER_VERSION] == NydusDriver.version
    assert annotations[ANNOTATION_SOURCE_DIGEST] == source.digest
    assert annotations[ANNOTATION_FINGERPRINT] == NydusDriver().fingerprint(option)
    assert annotations[NYDUS + "source-digest"] == source.digest
    assert annotations[NYDUS + "source-reference"] == "registry.test/source:1"
    assert annotations[NYDUS + "fs-version"] == "6"


@pytest.mark.parametrize("option", [{}, {"compressor": "none"}, {"compressor": "lz4_block", "digester": "sha256"}])
async def test_equal_input_and_options_give_equal_bytes_on_any_number_of_cores(
    option: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tar = Tar()
    for number in range(2000):
        tar.file(f"f{number}", b"%d" % number * (number % 700))
    layers = [tar.bytes(), TOP]
    roots = set()
    for cores in (1, 2, 8):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        repository = Repository()
        result = await convert(MemoryContent(repository), add_image(repository, layers), NydusOptions(**option))
        roots.add(result.root.digest)
    assert len(roots) == 1


async def test_a_layer_that_comes_again_puts_back_what_the_one_between_removed() -> None:
    repository = Repository()
    layer = Tar().folder("./", mode=0o700, uid=7).file("x", b"x" * 50).bytes()
    content = MemoryContent(repository)
    image = await convert(
        content, add_image(repository, [layer, Tar().file(".wh.x").bytes(), layer, Tar().bytes(), Tar().bytes()])
    )
    root = validate_bootstrap(bootstrap_of(content.target_repository, image_of(image))).root
    assert (list(root.children or {}), root.mode & 0o7777, root.uid) == ([b"x"], 0o700, 7)


async def test_a_docker_image_stays_docker_where_the_rule_says_so() -> None:
    repository = Repository()
    source = add_image(repository, [BASE], docker=True)
    kept = image_of(await convert(MemoryContent(repository), source, oci=False))
    assert kept.media_type == media_types.DOCKER_MANIFEST
    assert kept.config.media_type == media_types.DOCKER_CONFIG
    assert kept.layers[-1].media_type == media_types.DOCKER_LAYER_GZIP
    changed = image_of(await convert(MemoryContent(repository), source))
    assert changed.media_type == media_types.OCI_MANIFEST
    assert changed.config.media_type == media_types.OCI_CONFIG
    assert changed.layers[-1].media_type == media_types.OCI_LAYER_GZIP


def test_the_empty_layer_is_the_reference_converters() -> None:
    assert Digest.of(EMPTY_LAYER) == "sha256:4f4fb700ef54461cfa02571ae0db9a0dc1e0cdb5577484a6d75e68dc38e8acc1"


async def test_prefetch_patterns_name_inodes_and_drop_what_matches_nothing_or_lies_below_another() -> None:
    repository = Repository()
    content = MemoryContent(repository)
    option = NydusOptions(prefetch_patterns=["/nowhere", "/d", "/d/a", "/b"])
    image = image_of(await convert(content, add_image(repository, [BASE, TOP]), option))
    bootstrap = validate_bootstrap(bootstrap_of(content.target_repository, image))
    children = bootstrap.root.children or {}
    assert bootstrap.prefetch == [children[b"d"], children[b"b"]]


@pytest.mark.parametrize("share", [True, False])
async def test_equal_content_of_two_layers_is_read_from_the_lower_one(share: bool) -> None:
    repository = Repository()
    content = MemoryContent(repository)
    top = Tar().file("copy", b"a" * 100_000).file("other", b"other").bytes()
    source = add_image(repository, [BASE, top])
    image = image_of(await convert(content, source, NydusOptions(share_chunks=share)))
    children = validate_bootstrap(bootstrap_of(content.target_repository, image)).root.children or {}
    lower, upper = (layer.digest.hex for layer in image.layers[:2])
    assert children[b"copy"].chunks[0].blob.id == (lower if share else upper)
    assert children[b"other"].chunks[0].blob.id == upper


async def test_a_layer_whose_content_lower_layers_have_needs_no_device() -> None:
    repository = Repository()
    content = MemoryContent(repository)
    source = add_image(repository, [BASE, Tar().file("copy", b"a" * 100_000).bytes()])
    image = image_of(await convert(content, source))
    bootstrap = validate_bootstrap(bootstrap_of(content.target_repository, image))
    assert [blob.id for blob in bootstrap.blobs] == [image.layers[0].digest.hex]
    assert len(image.layers) == 3
