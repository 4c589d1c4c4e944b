"""What must agree between manifest, merged bootstrap and layers, and which field is named when it does not."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import Any

import pytest

from drivers.nydus import NydusDriver
from drivers.nydus.consistency import check_blobs, check_manifest
from drivers.nydus.errors import InvalidNydusError
from drivers.nydus.layer_source import Layer, read_layer
from drivers.nydus.merge import merge
from drivers.nydus.options import NydusOptions
from drivers.nydus.rafs_v6.bootstrap import Bootstrap
from drivers.nydus.rafs_v6.layout import Compressor, Digester
from drivers.nydus.tree import file_chunks, walk
from drivers.testing.content import MemoryContent, Repository
from drivers.testing.images import Tar, add_image, as_source
from shared.oci.manifest import ImageManifest, encode_manifest


async def converted() -> tuple[ImageManifest, list[Layer], Bootstrap]:
    repository = Repository()
    content = MemoryContent(repository)
    layers = [Tar().file("a", b"a" * 5000).bytes(), Tar().file("b", b"b" * 70_000).bytes()]
    result = await NydusDriver().convert(as_source(add_image(repository, layers)), content, NydusOptions())
    assert isinstance(result.root, ImageManifest)
    read = [await read_layer(layer, content.read_back) for layer in result.root.layers[:-1]]
    again = [await read_layer(layer, content.read_back) for layer in result.root.layers[:-1]]
    merged = merge(
        [layer.bootstrap for layer in again],
        chunk_size=0x100000,
        compressor=Compressor.ZSTD,
        digester=Digester.BLAKE3,
        prefetch_patterns=["/"],
    )
    return result.root, read, merged


async def test_a_sound_image_agrees_with_itself() -> None:
    manifest, layers, merged = await converted()
    check_manifest(manifest)
    check_blobs(merged.blobs, file_chunks(merged.root), layers)


@pytest.mark.parametrize(
    "field", ["chunk_count", "compressor", "digester", "uncompressed_size", "ci_offset", "ci_compressed_size"]
)
async def test_a_blob_record_that_differs_from_the_layers_is_named(field: str) -> None:
    _, layers, merged = await converted()
    blob = copy(merged.blobs[1])
    setattr(blob, field, getattr(blob, field) + 1)
    merged.blobs[1] = blob
    with pytest.raises(InvalidNydusError) as caught:
        check_blobs(merged.blobs, file_chunks(merged.root), layers)
    assert caught.value.field == f"blob[1].{field}"


async def test_a_blob_that_is_no_layer_is_named() -> None:
    _, layers, merged = await converted()
    with pytest.raises(InvalidNydusError) as caught:
        check_blobs(merged.blobs, file_chunks(merged.root), layers[:1])
    assert caught.value.field == "blob[1].id"


@pytest.mark.parametrize("field", ["compressed_offset", "compressed_size", "uncompressed_size"])
async def test_a_chunk_that_lies_elsewhere_in_the_blob_is_named(field: str) -> None:
    _, layers, merged = await converted()
    chunk = next(inode.chunks[0] for _, inode in walk(merged.root) if inode.chunks)
    setattr(chunk, field, getattr(chunk, field) + 1)
    with pytest.raises(InvalidNydusError) as caught:
        check_blobs(merged.blobs, file_chunks(merged.root), layers)
    assert caught.value.field == "chunk"


@pytest.mark.parametrize(
    ("position", "change"),
    [
        (0, {"annotations": {}}),
        (0, {"media_type": "application/x"}),
        (-1, {"annotations": {}}),
        (-1, {"media_type": "application/x"}),
    ],
)
async def test_layers_without_their_marks_are_refused(position: int, change: dict[str, Any]) -> None:
    manifest, _, _ = await converted()
    layers = list(manifest.layers)
    layers[position] = replace(layers[position], **change)
    changed = encode_manifest({**manifest.data, "layers": [layer.to_json() for layer in layers]})
    assert isinstance(changed, ImageManifest)
    with pytest.raises(InvalidNydusError) as caught:
        check_manifest(changed)
    assert caught.value.field == "manifest.layers"


@pytest.mark.parametrize("chunk_size", [0x1000, 0x1000000])
async def test_the_smallest_and_the_largest_chunks(chunk_size: int) -> None:
    repository = Repository()
    content = MemoryContent(repository)
    data = b"".join(b"%08d" % number for number in range(3_000_000))
    image = add_image(repository, [Tar().file("a", data).bytes()], compression="none")
    result = await NydusDriver().convert(as_source(image), content, NydusOptions(chunk_size=chunk_size))
    assert isinstance(result.root, ImageManifest)
    layer = await read_layer(result.root.layers[0], content.read_back)
    assert layer.bootstrap.blobs[0].chunk_count == -(-len(data) // chunk_size)
