"""The OCI side: manifests, configs, indexes, annotations, caches, and what is refused."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from drivers.api import (
    ANNOTATION_DRIVER_VERSION,
    ANNOTATION_FINGERPRINT,
    ANNOTATION_SOURCE_DIGEST,
    BlobWriter,
    Result,
)
from drivers.image import MAXIMUM_CONFIG_SIZE
from drivers.limits import LayerLimits
from drivers.nydus import NydusDriver
from drivers.nydus.manifests import EMPTY_LAYER, EMPTY_LAYER_DIFF_ID
from drivers.nydus.options import NydusOptions
from drivers.nydus.rafs_v6.decode import validate_bootstrap
from drivers.testing.content import MemoryContent, Repository
from drivers.testing.images import Tar, add_image, add_index, as_source
from shared.errors import CorruptLayerError, LimitExceededError, SkippedError, TransientError, UnsupportedError
from shared.oci import media_types
from shared.oci.converted import ANNOTATION_DRIVER_NAME
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest
from shared.oci.manifest import ImageManifest, Index, encode_manifest
from tests.images.accessory import is_nydus_accessory
from tests.unit.drivers.nydus.bootstraps import bootstrap_of
from tests.waiting import PATIENCE

BASE = Tar().folder("d").file("d/a", b"a" * 100_000).bytes()
TOP = Tar().file("b", b"b").bytes()
NYDUS = "containerd.io/snapshot/nydus-"


async def convert(
    content: MemoryContent, manifest: ImageManifest | Index, option: NydusOptions | None = None, **source: Any
) -> Result:
    return await NydusDriver().convert(as_source(manifest, **source), content, option or NydusOptions())


def image_of(result: Result) -> ImageManifest:
    assert isinstance(result.root, ImageManifest)
    return result.root


def index_of(result: Result) -> Index:
    assert isinstance(result.root, Index)
    return result.root


def config_of(content: MemoryContent, image: ImageManifest) -> dict[str, Any]:
    config: dict[str, Any] = orjson.loads(content.target_repository.blobs[image.config.digest])
    return config


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


async def test_a_layer_that_comes_again_puts_back_what_the_one_between_removed() -> None:
    repository = Repository()
    layer = Tar().folder("./", mode=0o700, uid=7).file("x", b"x" * 50).bytes()
    content = MemoryContent(repository)
    image = await convert(
        content, add_image(repository, [layer, Tar().file(".wh.x").bytes(), layer, Tar().bytes(), Tar().bytes()])
    )
    root = validate_bootstrap(bootstrap_of(content.target_repository, image_of(image))).root
    assert (list(root.children or {}), root.mode & 0o7777, root.uid) == ([b"x"], 0o700, 7)


async def test_equal_layers_are_converted_once_and_named_twice() -> None:
    repository = Repository()
    content = MemoryContent(repository)
    image = image_of(await convert(content, add_image(repository, [BASE, BASE])))
    assert len(content.opened) == 1
    assert image.layers[0].digest == image.layers[1].digest
    assert len(image.layers) == 3


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


def two_platforms(repository: Repository) -> tuple[Index, dict[str, ImageManifest]]:
    images = {name: add_image(repository, [BASE, TOP], architecture=name) for name in ("amd64", "arm64")}
    return add_index(repository, [(f"linux/{name}", image) for name, image in images.items()]), images


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
    assert [str(child.platform) for child in index.manifests] == ["linux/amd64"] * 2


def test_the_empty_layer_is_the_reference_converters() -> None:
    assert Digest.of(EMPTY_LAYER) == "sha256:4f4fb700ef54461cfa02571ae0db9a0dc1e0cdb5577484a6d75e68dc38e8acc1"


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


class StuckWriter(MemoryContent):
    """An upload that accepts one piece and then hangs."""

    def __init__(self, source: Repository) -> None:
        super().__init__(source)
        self.reached = asyncio.Event()

    @asynccontextmanager
    async def create(self) -> AsyncIterator[BlobWriter]:  # type: ignore[override]
        content = self

        class Writer:
            async def write(self, data: bytes | memoryview) -> None:
                content.reached.set()
                await asyncio.Event().wait()

            async def commit(self, media_type: str, annotations: Mapping[str, str] | None = None) -> Descriptor:
                raise AssertionError

        try:
            yield Writer()
        finally:
            self.abandoned += 1


async def test_cancellation_ends_a_conversion_whose_upload_hangs() -> None:
    repository = Repository()
    content = StuckWriter(repository)
    noise = b"".join(hashlib.sha512(b"%d" % number).digest() for number in range(400_000))
    source = add_image(repository, [Tar().file("a", noise).bytes()], compression="none")
    task = asyncio.create_task(convert(content, source))
    await content.reached.wait()
    task.cancel()
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert content.abandoned == 1


class StuckSource(MemoryContent):
    """A source that gives its first piece and then hangs."""

    def __init__(self, source: Repository) -> None:
        super().__init__(source)
        self.reached = asyncio.Event()

    async def _stream(self, descriptor: Descriptor) -> AsyncIterator[bytes]:
        yield self.source_repository.blobs[descriptor.digest][:600]
        self.reached.set()
        await asyncio.Event().wait()


async def test_cancellation_ends_a_conversion_whose_download_hangs() -> None:
    repository = Repository()
    content = StuckSource(repository)
    task = asyncio.create_task(convert(content, add_image(repository, [BASE], compression="none")))
    await content.reached.wait()
    task.cancel()
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert content.abandoned == 1


async def test_many_layers_at_once_need_no_more_than_one_shared_thread() -> None:
    """Uploads hash in the loop's shared threads; walkers that held those while they wait for uploads would wait for ever."""

    class Hashing(MemoryContent):
        @asynccontextmanager
        async def create(self) -> AsyncIterator[BlobWriter]:  # type: ignore[override]
            async with super().create() as writer:

                class Writer:
                    async def write(self, data: bytes | memoryview) -> None:
                        await asyncio.to_thread(hashlib.sha256, data)
                        await writer.write(data)

                    async def commit(self, media_type: str, annotations: Mapping[str, str] | None = None) -> Descriptor:
                        return await writer.commit(media_type, annotations)

                yield Writer()

    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    repository = Repository()
    noise = b"".join(hashlib.sha512(b"%d" % number).digest() for number in range(200_000))
    layers = [Tar().file(f"{number}", noise[number:]).bytes() for number in range(4)]
    image = add_image(repository, layers, compression="none")
    async with asyncio.timeout(60):
        assert len(image_of(await convert(Hashing(repository), image)).layers) == 5


async def test_an_error_of_the_upload_is_the_conversions_error() -> None:
    class Failing(MemoryContent):
        @asynccontextmanager
        async def create(self) -> AsyncIterator[BlobWriter]:  # type: ignore[override]
            class Writer:
                async def write(self, data: bytes | memoryview) -> None:
                    raise TransientError("connection lost", code="connection")

                async def commit(self, media_type: str, annotations: Mapping[str, str] | None = None) -> Descriptor:
                    raise AssertionError

            yield Writer()

    repository = Repository()
    noise = b"".join(hashlib.sha512(b"%d" % number).digest() for number in range(400_000))
    with pytest.raises(TransientError, match="connection lost"):
        await convert(Failing(repository), add_image(repository, [Tar().file("a", noise).bytes()], compression="none"))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"fs_version": "5"}, "fs_version 5"),
        ({"fs_version": 5}, "fs_version 5"),
        ({"oci_ref": True, "chunk_size": 0x10000}, "chunk_size has no meaning with oci_ref"),
        ({"oci_ref": True, "compressor": "none"}, "compressor has no meaning with oci_ref"),
        ({"oci_ref": True, "builder_path": "/x"}, "builder_path has no meaning with oci_ref"),
        ({"chunk_size": 5000}, "power of two"),
        ({"chunk_size": 1 << 25}, "power of two"),
        ({"prefetch_patterns": ["etc"]}, "absolute path"),
        ({"compressor": "gzip"}, "compressor"),
        ({"builder_path": "/x", "digester": "sha256"}, "digester"),
        ({"with_referrer": True, "multi_platform": True}, "exclude each other"),
        ({"build_cache_tag": "a/b"}, "build_cache_tag"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_options_that_cannot_be_met_are_refused_with_the_reason(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        NydusOptions.model_validate(option)


def test_the_fingerprint_changes_with_what_changes_the_bytes() -> None:
    driver = NydusDriver()
    base = driver.fingerprint(NydusOptions())
    assert driver.fingerprint(NydusOptions(work_dir="/var/tmp", build_cache_tag="x", oci_ref=False)) == base
    for option in (
        NydusOptions(compressor="none"),
        NydusOptions(chunk_size=0x10000),
        NydusOptions(digester="sha256"),
        NydusOptions(compression_level=5),
        NydusOptions(multi_platform=True),
        NydusOptions(with_referrer=True),
        NydusOptions(share_chunks=False),
        NydusOptions(oci_ref=True),
        NydusOptions(prefetch_patterns=["/etc"]),
        NydusOptions(builder_path="/usr/bin/nydus-image"),
    ):
        assert driver.fingerprint(option) != base


def test_another_version_of_the_merge_leaves_the_layer_cache() -> None:
    class Later(NydusDriver):
        version = "later"

    option = NydusOptions()
    assert Later().fingerprint(option) != NydusDriver().fingerprint(option)
    assert Later().layer_fingerprint(option) == NydusDriver().layer_fingerprint(option)


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


async def test_the_native_builder_is_always_healthy() -> None:
    await NydusDriver().check_health()
    await NydusDriver().check_health(NydusOptions())


async def test_a_missing_external_builder_is_not() -> None:
    with pytest.raises(TransientError) as caught:
        await NydusDriver().check_health(NydusOptions(builder_path="/nowhere/nydus-image"))
    assert caught.value.code == "builder_unavailable"
    with pytest.raises(TransientError) as caught:
        await NydusDriver().check_health(NydusOptions(builder_path="/bin/false"))
    assert caught.value.code == "builder_unavailable"
    with pytest.raises(TransientError) as caught:
        await NydusDriver().check_health(NydusOptions(builder_path="/bin/true", work_dir="/nowhere"))
    assert caught.value.code == "work_dir_unwritable"
