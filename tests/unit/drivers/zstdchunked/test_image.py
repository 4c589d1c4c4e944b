"""Whole images: what stays of the source, what other formats' layers become, and what ``ics check`` finds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from drivers.checking import CheckReport
from drivers.estargz import EstargzDriver
from drivers.stargz.layout import ANNOTATION_TOC_DIGEST, ANNOTATION_UNCOMPRESSED_SIZE
from drivers.testing.content import MemoryContent, Repository
from drivers.testing.images import Tar, add_image, as_source
from drivers.testing.store import MemoryStore
from drivers.zstdchunked import ZstdChunkedDriver, ZstdChunkedOptions
from drivers.zstdchunked.layout import (
    ANNOTATION_MANIFEST_CHECKSUM,
    ANNOTATION_MANIFEST_POSITION,
    FOOTER_SIZE,
    footer,
    parse_footer,
)
from shared.errors import PermanentError
from shared.oci import media_types
from shared.oci.descriptor import Descriptor
from shared.oci.manifest import ImageManifest, encode_manifest
from shared.oci.reference import parse_reference
from tests.unit.drivers.layer_blobs import zst

LAYER = Tar().folder("d").file("d/file", b"content " * 9000).hardlink("d/hard", "d/file").bytes()
OWN = {ANNOTATION_TOC_DIGEST, ANNOTATION_UNCOMPRESSED_SIZE, ANNOTATION_MANIFEST_CHECKSUM, ANNOTATION_MANIFEST_POSITION}


async def converted(source: Repository, manifest: ImageManifest) -> tuple[MemoryContent, ImageManifest]:
    content = MemoryContent(source)
    result = await ZstdChunkedDriver().convert(as_source(manifest), content, ZstdChunkedOptions())
    assert isinstance(result.root, ImageManifest)
    return content, result.root


async def made() -> tuple[Repository, Repository, ImageManifest]:
    source = Repository()
    content, root = await converted(source, add_image(source, (LAYER,)))
    return source, content.target_repository, root


def changed(repository: Repository, manifest: ImageManifest, **keys: Any) -> ImageManifest:
    other = encode_manifest({**manifest.data, **keys})
    assert isinstance(other, ImageManifest)
    repository.add_manifest(other)
    return other


async def check(source: Repository, target: Repository, root: ImageManifest) -> CheckReport:
    target.tags["1"] = target.add_manifest(root).digest
    store = MemoryStore({"registry.test/source": source, "registry.test/target": target})
    return await ZstdChunkedDriver().check(store, parse_reference("registry.test/target:1"), None)


@pytest.mark.parametrize("docker", [False, True])
async def test_the_config_stays_byte_for_byte(docker: bool) -> None:
    source = Repository()
    image = add_image(source, (LAYER, Tar().bytes()), docker=docker)
    config = orjson.loads(source.blobs[image.config.digest])
    raw = orjson.dumps({**config, "author": "a & b"}, option=orjson.OPT_INDENT_2).replace(b"&", b"\\u0026")
    image = changed(source, image, config=source.add(raw, image.config.media_type).to_json())
    content, root = await converted(source, image)
    assert content.target_repository.blobs[root.config.digest] == raw
    assert root.config.media_type == media_types.OCI_CONFIG
    assert (await check(source, content.target_repository, root)).findings == []


async def test_estargz_and_zstdchunked_are_told_apart_and_become_each_other() -> None:
    source = Repository()
    image = add_image(source, (LAYER,))
    content = MemoryContent(source)
    lazy = (await EstargzDriver().convert(as_source(image), content, EstargzDriver.options())).root
    assert isinstance(lazy, ImageManifest)
    between = content.target_repository
    there, zstd = await converted(between, lazy)
    assert zstd.layers[0].annotations.keys() == OWN
    assert zstd.config.digest == lazy.config.digest
    estargz, zstdchunked = EstargzDriver(), ZstdChunkedDriver()
    assert (estargz.recognises(lazy), zstdchunked.recognises(lazy)) == (True, False)
    assert (estargz.recognises(zstd), zstdchunked.recognises(zstd)) == (False, True)

    again = MemoryContent(there.target_repository)
    back = (await EstargzDriver().convert(as_source(zstd), again, EstargzDriver.options())).root
    assert isinstance(back, ImageManifest)
    assert back.layers[0].digest == lazy.layers[0].digest
    assert back.layers[0].annotations.keys() == {ANNOTATION_TOC_DIGEST, ANNOTATION_UNCOMPRESSED_SIZE}


async def test_a_layer_of_the_other_flavour_is_converted_and_its_annotations_go() -> None:
    """Podman refuses layers that have the annotations of both."""
    source = Repository()
    image = add_image(source, (LAYER,), compression="zstd")
    theirs = {"io.github.containers.zstd-chunked.manifest-position": "1:2:3:1", "org.example.kept": "yes"}
    layer = replace(image.layers[0], annotations=theirs)
    image = changed(source, image, layers=[layer.to_json()])
    assert not ZstdChunkedDriver().recognises(image)
    _, root = await converted(source, image)
    assert root.layers[0].annotations.keys() == OWN | {"org.example.kept"}


async def found(target: Repository, source: Repository, root: ImageManifest, layer: Descriptor) -> list[str]:
    other = changed(target, root, layers=[layer.to_json()])
    return [str(finding) for finding in (await check(source, target, other)).findings]


@pytest.mark.parametrize("key", [ANNOTATION_MANIFEST_CHECKSUM, ANNOTATION_MANIFEST_POSITION])
@pytest.mark.parametrize("value", ["sha256:" + "0" * 64, "1:2:3:1", None])
async def test_annotations_that_say_something_else_are_found(key: str, value: str | None) -> None:
    source, target, root = await made()
    kept = {name: text for name, text in root.layers[0].annotations.items() if name != key}
    layer = replace(root.layers[0], annotations=kept | ({key: value} if value else {}))
    assert any(key in finding for finding in await found(target, source, root, layer))


async def test_a_footer_that_says_another_size_is_found() -> None:
    source, target, root = await made()
    blob = target.blobs[root.layers[0].digest]
    position = parse_footer(blob[-FOOTER_SIZE:])
    wrong = blob[:-FOOTER_SIZE] + footer(replace(position, text_size=position.text_size + 1))
    layer = target.add(wrong, media_types.OCI_LAYER_ZSTD)
    layer = replace(layer, annotations=root.layers[0].annotations)
    assert any("the footer says" in finding for finding in await found(target, source, root, layer))


async def test_another_config_than_the_sources_is_found() -> None:
    source, target, root = await made()
    config = target.add(target.blobs[root.config.digest] + b"\n", root.config.media_type)
    other = changed(target, root, config=config.to_json())
    assert any(": is sha256:" in str(finding) for finding in (await check(source, target, other)).findings)


async def test_a_layer_that_is_only_zstd_is_found() -> None:
    source, target, root = await made()
    layer = target.add(zst(LAYER), media_types.OCI_LAYER_ZSTD)
    assert any("is no zstd:chunked layer" in finding for finding in await found(target, source, root, layer))
    unmarked = changed(target, root, layers=[layer.to_json()], annotations={})
    with pytest.raises(PermanentError) as caught:
        await check(source, target, unmarked)
    assert caught.value.code == "not_zstdchunked"
