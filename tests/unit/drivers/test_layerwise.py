"""What a converted image keeps of its source, and what is left out, each with a reason."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import orjson
import pytest

from drivers.api import (
    ANNOTATION_FINGERPRINT,
    ANNOTATION_SOURCE_DIGEST,
    BlobWriter,
    ConvertedLayer,
    DriverOptions,
    OpenBlob,
    Result,
    UnconvertibleLayerError,
)
from drivers.estargz import EstargzDriver
from shared.errors import PermanentError, SkippedError, UnsupportedError
from shared.messages import DriverChoice
from shared.oci import media_types
from shared.oci.converted import ANNOTATION_DRIVER_NAME
from shared.oci.descriptor import Descriptor, Platform
from shared.oci.digest import Digest
from shared.oci.manifest import ImageManifest, Index, encode_manifest
from shared.oci.reference import Reference
from tests.images.small import SmallImage, push_image, small_image
from tests.unit.consumer.support import converter, progress, request, source, target
from tests.watched_store import WatchedStore

AMD, ARM = Platform("linux", "amd64"), Platform("linux", "arm64", "v8")


async def put(store: WatchedStore, data: dict[str, Any], reference: Reference | None = None) -> ImageManifest | Index:
    manifest = encode_manifest(data)
    await store.put_manifest(reference or source(), manifest)
    return manifest


async def convert(store: WatchedStore, **changes: Any) -> Result:
    return (await converter(store).convert(request(**changes), progress())).result


async def blob(store: WatchedStore, data: bytes) -> Digest:
    async with store.upload(source()) as upload:
        await upload.write(data)
        return (await upload.commit("x")).digest


def config_of(store: WatchedStore, manifest: ImageManifest) -> Any:
    return orjson.loads(store.repository(target()).blobs[manifest.config.digest])


def dockered(image: SmallImage) -> dict[str, Any]:
    data = orjson.loads(image.manifest.raw)
    data["mediaType"] = media_types.DOCKER_MANIFEST
    data["config"]["mediaType"] = media_types.DOCKER_CONFIG
    for layer in data["layers"]:
        layer["mediaType"] = media_types.DOCKER_LAYER_GZIP
    return dict(data)


async def variant(store: WatchedStore, number: int, platform: Platform) -> Descriptor:
    """A child image of an index, with its platform in the config."""
    image = small_image(number)
    await push_image(store, source("child"), image)
    config = orjson.loads(image.blobs[str(image.manifest.config.digest)])
    config |= {"architecture": platform.architecture, "os": platform.os}
    raw = orjson.dumps(config)
    digest = await blob(store, raw)
    changed = {**image.manifest.data, "config": Descriptor(media_types.OCI_CONFIG, digest, len(raw)).to_json()}
    return replace((await put(store, changed, source("child"))).descriptor, platform=platform)


async def test_unknown_keys_and_their_order_survive_in_manifest_config_and_layers() -> None:
    store = WatchedStore()
    image = small_image(1)
    await push_image(store, source(), image)
    config = {"zeta": {"b": 1, "a": 2}, **orjson.loads(image.blobs[str(image.manifest.config.digest)]), "moby.x": []}
    raw = orjson.dumps(config)
    layers = [
        {**layer.to_json(), "annotations": {"mine": "kept"}, "urls": ["https://x"]} for layer in image.manifest.layers
    ]
    await put(
        store,
        {
            **image.manifest.data,
            "config": Descriptor(media_types.OCI_CONFIG, await blob(store, raw), len(raw)).to_json(),
            "layers": layers,
            "annotations": {"org.example": "kept"},
            "x-vendor": [1],
        },
    )
    root = (await convert(store)).root
    assert isinstance(root, ImageManifest)
    made = config_of(store, root)
    assert {key: value for key, value in made.items() if key != "rootfs"} == {
        key: value for key, value in config.items() if key != "rootfs"
    }
    assert list(made) == list(config)
    assert root.data["x-vendor"] == [1]
    assert root.annotations["org.example"] == "kept"
    assert all(layer.annotations["mine"] == "kept" for layer in root.layers)


async def test_what_a_descriptor_embeds_goes_with_the_content_that_it_was() -> None:
    """A reader takes ``data`` for the blob: the old one beside the new digest makes the image unreadable."""
    store = WatchedStore()
    image = small_image(1)
    await push_image(store, source("child"), image)
    embedded = {"data": base64.b64encode(b"what was there").decode(), "urls": ["https://x"], "x-vendor": 1}
    changed = {**image.manifest.data, "config": {**image.manifest.config.to_json(), **embedded}}
    child = await put(store, changed, source("child"))
    listed = {**child.descriptor.to_json(), "platform": AMD.to_json(), **embedded}
    await put(store, {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": [listed]})
    root = (await convert(store)).root
    assert isinstance(root, Index)
    made = await store.manifest(target().with_digest(root.manifests[0].digest))
    assert isinstance(made, ImageManifest)
    assert [root.manifests[0].extra, made.config.extra] == [{"x-vendor": 1}] * 2


async def test_diff_ids_are_those_of_the_converted_layers() -> None:
    store = WatchedStore()
    await push_image(store, source(), small_image(1))
    root = (await convert(store)).root
    assert isinstance(root, ImageManifest)
    import gzip

    blobs = store.repository(target()).blobs
    expected = [str(Digest.of(gzip.decompress(blobs[layer.digest]))) for layer in root.layers]
    assert config_of(store, root)["rootfs"]["diff_ids"] == expected


async def test_the_marks_name_source_driver_and_fingerprint() -> None:
    store = WatchedStore()
    image = small_image(1)
    await push_image(store, source(), image)
    marks = (await convert(store)).root.annotations
    assert marks[ANNOTATION_SOURCE_DIGEST] == image.manifest.digest
    assert marks[ANNOTATION_DRIVER_NAME] == "estargz"
    assert len(marks[ANNOTATION_FINGERPRINT]) == 64


REFERRING = DriverChoice(type="estargz", config={"with_referrer": True})


@pytest.mark.parametrize(
    ("repository", "driver", "refers"),
    [
        ("library/app", REFERRING, True),
        ("library/app", DriverChoice(type="estargz"), False),
        ("lazy/app", REFERRING, False),
    ],
    ids=["asked for", "not asked for", "another repository"],
)
async def test_every_platforms_source_is_its_subject_where_that_is_asked_for(
    repository: str, driver: DriverChoice, refers: bool
) -> None:
    """Never the index's, and never one that is not in the target's repository, which would hide the image for good."""
    store = WatchedStore()
    amd, arm = await variant(store, 1, AMD), await variant(store, 2, ARM)
    index = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_INDEX,
        "manifests": [amd.to_json(), arm.to_json()],
        "subject": amd.to_json(),
    }
    await put(store, index)
    there = target(repository=repository)
    root = (await convert(store, target=there, driver=driver)).root
    assert isinstance(root, Index)
    made = [await store.manifest(there.with_digest(child.digest)) for child in root.manifests]
    wanted = [replace(child, platform=None) for child in (amd, arm)] if refers else [None, None]
    assert [manifest.subject for manifest in (*made, root)] == [*wanted, None]


async def test_a_subject_changes_the_image_and_none_of_its_layers() -> None:
    store = WatchedStore()
    await push_image(store, source(), small_image(1))
    by_cache = converter(store, cache=True)
    before = await by_cache.convert(request(), progress())
    after = await by_cache.convert(request(driver=REFERRING), progress())
    assert after.descriptor.digest != before.descriptor.digest
    assert after.result.layers_reused == after.result.layers_total > 0


async def test_docker_media_types_become_oci_ones() -> None:
    store = WatchedStore()
    image = small_image(1)
    await push_image(store, source(), image)
    await put(store, dockered(image))
    root = (await convert(store)).root
    assert isinstance(root, ImageManifest)
    assert root.media_type == media_types.OCI_MANIFEST
    assert root.config.media_type == media_types.OCI_CONFIG
    assert {layer.media_type for layer in root.layers} == {media_types.OCI_LAYER_GZIP}


async def test_keeping_docker_media_types_is_refused_with_the_reason() -> None:
    store = WatchedStore()
    image = small_image(1)
    await push_image(store, source(), image)
    await put(store, dockered(image))
    with pytest.raises(PermanentError, match="annotations") as error:
        await convert(store, oci=False)
    assert error.value.code == "oci_required"


async def test_an_index_is_rebuilt_in_order_with_the_selected_platforms() -> None:
    store = WatchedStore()
    amd, arm = await variant(store, 1, AMD), await variant(store, 2, ARM)
    windows = await variant(store, 3, Platform("windows", "amd64", "", {"os.version": "10"}))
    index = await put(
        store,
        {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_INDEX,
            "manifests": [arm.to_json(), windows.to_json(), amd.to_json()],
            "annotations": {"kept": "yes"},
        },
    )
    result = await convert(store, platforms=("linux/amd64", "linux/arm64"))
    assert isinstance(result.root, Index)
    assert [str(child.platform) for child in result.root.manifests] == ["linux/arm64/v8", "linux/amd64"]
    assert result.root.annotations["kept"] == "yes"
    assert result.root.annotations[ANNOTATION_SOURCE_DIGEST] == index.digest
    assert any("platform not selected" in reason for reason in result.left_out)
    for child, before in zip(result.root.manifests, (arm, amd), strict=True):
        made = await store.manifest(target().with_digest(child.digest))
        assert made.annotations[ANNOTATION_SOURCE_DIGEST] == before.digest


async def test_a_platform_selection_holds_for_a_single_image_too() -> None:
    store = WatchedStore()
    await push_image(store, source(), small_image(1))
    with pytest.raises(SkippedError, match="no selected platform"):
        await convert(store, platforms=("linux/riscv64",))
    assert (await convert(store, platforms=("linux/amd64",))).platforms == ("linux/amd64",)


async def test_an_artifact_with_an_images_media_types_and_an_empty_config_is_no_image() -> None:
    store = WatchedStore()
    image = small_image(1)
    await push_image(store, source(), image)
    empty = Descriptor(media_types.OCI_CONFIG, await blob(store, b"{}"), 2).to_json()
    await put(store, {**image.manifest.data, "config": empty})
    with pytest.raises(SkippedError, match="not a container image"):
        await convert(store)


async def test_an_index_without_an_image_says_what_it_is() -> None:
    store = WatchedStore()
    empty = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": []}
    inner = await put(store, empty)
    with pytest.raises(SkippedError, match="not a container image"):
        await convert(store)
    await put(store, {**empty, "manifests": [inner.descriptor.to_json()]})
    with pytest.raises(SkippedError, match="an index of indexes"):
        await convert(store)
    amd = await variant(store, 1, AMD)
    await put(store, {**empty, "manifests": [inner.descriptor.to_json(), amd.to_json()]})
    assert any("an index in an index" in reason for reason in (await convert(store)).left_out)


async def test_attestations_of_converted_images_are_left_out_with_the_reason() -> None:
    store = WatchedStore()
    amd = await variant(store, 1, AMD)
    attestation = replace(
        await variant(store, 2, AMD),
        platform=Platform("unknown", "unknown"),
        annotations={
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": str(amd.digest),
        },
    )
    manifests = [amd.to_json(), attestation.to_json()]
    await put(store, {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": manifests})
    result = await convert(store)
    assert isinstance(result.root, Index)
    assert len(result.root.manifests) == 1
    assert any("attestation" in reason for reason in result.left_out)


async def test_images_in_the_format_already_keep_their_digest_and_their_attestations() -> None:
    store = WatchedStore()
    amd, arm = await variant(store, 1, AMD), await variant(store, 2, ARM)
    single = source("single")
    await put(store, dict((await store.manifest(source("child").with_digest(arm.digest))).data), single)
    await converter(store).convert(request(source=single, target=target("single_esgz")), progress())
    done = replace((await store.manifest(target("single_esgz"))).descriptor, platform=ARM)
    attestation = replace(
        await variant(store, 3, AMD),
        platform=Platform("unknown", "unknown"),
        annotations={
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": str(done.digest),
        },
    )
    manifests = [each.to_json() for each in (amd, done, attestation)]
    await put(store, {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": manifests})
    root = (await convert(store)).root
    assert isinstance(root, Index)
    assert [child.digest for child in root.manifests[1:]] == [done.digest, attestation.digest]


async def test_an_image_in_the_format_already_is_nothing_to_do() -> None:
    store = WatchedStore()
    await push_image(store, source(), small_image(1))
    root = (await convert(store)).root
    unmarked = {key: value for key, value in root.data.items() if key != "annotations"}
    await put(store, unmarked, source("esgz"))
    with pytest.raises(SkippedError, match="already in the format"):
        await convert(store, source=source("esgz"), target=target("esgz_esgz"))


async def test_a_layer_that_stands_twice_is_converted_once() -> None:
    store = WatchedStore()
    image = small_image(1)
    await push_image(store, source(), image)
    config = orjson.loads(image.blobs[str(image.manifest.config.digest)])
    config["rootfs"]["diff_ids"] = [config["rootfs"]["diff_ids"][0]] * 3
    raw = orjson.dumps(config)
    layer = image.manifest.layers[0].to_json()
    await put(
        store,
        {
            **image.manifest.data,
            "config": Descriptor(media_types.OCI_CONFIG, await blob(store, raw), len(raw)).to_json(),
            "layers": [layer, layer, layer],
        },
    )
    store.calls.clear()
    root = (await convert(store)).root
    assert isinstance(root, ImageManifest)
    assert len(root.layers) == 3
    assert store.calls["open_blob"] == 2  # the config, and the layer once


async def test_foreign_layers_stay_as_they_are() -> None:
    store = WatchedStore()
    image = small_image(1)
    await push_image(store, source(), image)
    first, second = (layer.to_json() for layer in image.manifest.layers)
    first["mediaType"] = media_types.DOCKER_FOREIGN_LAYER
    await put(store, {**image.manifest.data, "layers": [first, second]})
    root = (await convert(store)).root
    assert isinstance(root, ImageManifest)
    assert root.layers[0].to_json() == first
    assert root.layers[1].digest != image.manifest.layers[1].digest


async def test_a_layer_of_no_known_type_is_refused() -> None:
    store = WatchedStore()
    image = small_image(1)
    await push_image(store, source(), image)
    first, second = (layer.to_json() for layer in image.manifest.layers)
    first["mediaType"] = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"
    await put(store, {**image.manifest.data, "layers": [first, second]})
    with pytest.raises(UnsupportedError, match="encrypted"):
        await convert(store)


@pytest.mark.parametrize(
    "config", [b'{"os": ', b"[1, 2]", b'{"os": 1}', b'{"rootfs": {"diff_ids": "x"}}', b'{"rootfs": {"diff_ids": []}}']
)
async def test_a_config_that_lies_is_permanent(config: bytes) -> None:
    store = WatchedStore()
    image = small_image(1)
    await push_image(store, source(), image)
    descriptor = Descriptor(media_types.OCI_CONFIG, await blob(store, config), len(config))
    await put(store, {**image.manifest.data, "config": descriptor.to_json()})
    with pytest.raises(PermanentError) as error:
        await convert(store)
    assert error.value.code == "invalid_config"


async def test_a_config_too_large_is_refused_before_it_is_read() -> None:
    store = WatchedStore()
    image = small_image(1)
    await push_image(store, source(), image)
    huge = replace(image.manifest.config, size=1 << 40)
    await put(store, {**image.manifest.data, "config": huge.to_json()})
    store.calls.clear()
    with pytest.raises(PermanentError) as error:
        await convert(store)
    assert error.value.code == "limit_exceeded"
    assert store.calls["open_blob"] == 0


class Picky(EstargzDriver):
    """Refuses some layers as a format may."""

    refused: frozenset[str] = frozenset()

    async def convert_layer(
        self, layer: Descriptor, open_blob: OpenBlob, writer: BlobWriter, option: DriverOptions
    ) -> ConvertedLayer:
        if layer.digest in self.refused:
            raise UnconvertibleLayerError("a hard link to nowhere")
        return await super().convert_layer(layer, open_blob, writer, option)


@pytest.mark.parametrize("count", [1, 2])
async def test_layers_that_the_format_cannot_hold_stay_and_are_reported(count: int) -> None:
    store = WatchedStore()
    image = small_image(1)
    await push_image(store, source(), image)
    picky = Picky()
    picky.refused = frozenset(layer.digest for layer in image.manifest.layers[:count])
    one = converter(store)
    one._drivers = {"estargz": picky}
    if count == 2:
        with pytest.raises(SkippedError, match="no layer can be converted"):
            await one.convert(request(image), progress())
        return
    result = (await one.convert(request(image), progress())).result
    assert isinstance(result.root, ImageManifest)
    assert result.root.layers[0].digest == image.manifest.layers[0].digest
    assert any("hard link to nowhere" in reason for reason in result.left_out)


async def test_the_same_source_gives_the_same_bytes() -> None:
    made = []
    for _ in range(2):
        store = WatchedStore()
        await push_image(store, source(), small_image(1))
        made.append((await convert(store)).root.raw)
    assert made[0] == made[1]
