"""Bytes changed anywhere in an image, with every digest around them made to match: refused with a field named, or harmless."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.limits import LayerLimits
from drivers.nydus import NydusDriver, media
from drivers.nydus.blob import toc
from drivers.nydus.bootstrap_layer import build_bootstrap_layer
from drivers.nydus.check import check_image
from drivers.nydus.errors import InvalidNydusError
from drivers.nydus.image_reader import ImageReader
from drivers.nydus.layer_source import read_layer
from drivers.nydus.options import NydusOptions
from drivers.nydus.rafs_v6.decode import decode_bootstrap
from drivers.testing.content import MemoryContent, Repository
from drivers.testing.images import Tar, add_image, as_source
from drivers.testing.store import MemoryStore
from shared.errors import LimitExceededError
from shared.oci.descriptor import Descriptor
from shared.oci.manifest import ImageManifest, encode_manifest
from shared.oci.reference import parse_reference
from tests.unit.drivers.nydus.bootstraps import bootstrap_of
from tests.unit.drivers.nydus.trees import facts

TARGET = parse_reference("registry.test/target:1")
NOISE = bytes(range(256)) * 700
LAYER = (
    Tar()
    .folder("d", uid=3)
    .file("d/a", NOISE, xattrs={"user.k": "v"})
    .file("d/text", b"text\n" * 9000, mode=0o4755)
    .hardlink("d/b", "d/a")
    .symlink("l", "d" * 300)
    .entry("dev", b"3", devmajor=1, devminor=3)
    .bytes()
)
OPTION = NydusOptions(chunk_size=0x10000)
flips = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=3)


def damaged(data: bytes, changes: list[tuple[float, int]], start: int = 0) -> bytes:
    """``changes``: position as a share of what lies behind ``start``, and the bits to flip there."""
    changed = bytearray(data)
    for share, bits in changes:
        changed[start + int(share * (len(data) - start))] ^= bits
    return bytes(changed)


@cache
def source() -> tuple[Repository, ImageManifest]:
    repository = Repository()
    return repository, add_image(repository, [LAYER])


async def converted() -> tuple[MemoryContent, ImageManifest]:
    repository, image = source()
    content = MemoryContent(repository)
    result = await NydusDriver().convert(as_source(image), content, OPTION)
    assert isinstance(result.root, ImageManifest)
    return content, result.root


async def what_a_blob_says(blob: bytes, blob_id: str) -> tuple[list[tuple[Any, ...]], bytes, bytes]:
    """Tree and tables, under the name that the sound blob has; every chunk has been read."""
    repository = Repository()
    descriptor = Descriptor(media.BLOB_LAYER, repository.add(blob, media.BLOB_LAYER).digest, len(blob))
    store = MemoryStore({"registry.test/target": repository})

    async def read_range(layer: Descriptor, start: int, length: int) -> bytes:
        return await store.read_range(TARGET, layer.digest, start, length)

    layer = await read_layer(descriptor, read_range)
    await ImageReader(store, TARGET, LayerLimits()).check_data(descriptor, layer)
    for own in layer.bootstrap.blobs:
        own.id = blob_id
    return facts(layer.bootstrap.root), layer.meta, layer.chunk_digests


async def test_a_blob_of_the_reference_builder_is_read_whole() -> None:
    blob = (Path(__file__).parents[3] / "data" / "nydus" / "layer.blob").read_bytes()
    tree, meta, digests = await what_a_blob_says(blob, "x" * 64)
    entries = {entry[0]: entry for entry in tree}
    assert sorted(entries) == [b"", b"copy", b"empty", b"hard", b"large", b"text"]
    assert entries[b"hard"][1] == entries[b"text"][1] == b"hard"
    assert entries[b"copy"][-2] == entries[b"text"][-2]
    (_, first, digest, size), second = entries[b"large"][-2]
    assert (first, size, second[1]) == (1, 0x10000, 2)
    assert digest == blake3("".join(f"{number}\n" for number in range(1, 20001)).encode()[:size]).digest()
    assert (len(meta), len(digests)) == (2 * 4096, 3 * 32)


@given(flips, st.sampled_from(["anywhere", "behind the data"]))
@settings(max_examples=150, deadline=None)
async def test_a_blob_with_changed_bytes_is_refused_or_says_the_same(
    changes: list[tuple[float, int]], where: str
) -> None:
    content, image = await converted()
    digest = image.layers[0].digest
    blob = content.target_repository.blobs[digest]
    start = 0 if where == "anywhere" else len(blob) - 3000
    with contextlib.suppress(InvalidNydusError):  # it names a field; anything else fails the test
        try:
            found = await what_a_blob_says(damaged(blob, changes, start), digest.hex)
        except LimitExceededError as error:  # no damage to a reader: a table may tell of a part that is only too large
            if not error.message.startswith((toc.BOOTSTRAP, toc.BLOB_META, toc.CHUNK_DIGESTS)):
                raise
        else:
            assert found == await what_a_blob_says(blob, digest.hex)


async def test_a_part_of_a_size_that_only_its_table_tells_is_refused_with_the_limit_named() -> None:
    content, image = await converted()
    blob = bytearray(content.target_repository.blobs[image.layers[0].digest])
    size = blob.rindex(toc.BOOTSTRAP.encode().ljust(16, b"\0")) + 16 + 32 + 16
    blob[size + 5] ^= 1  # 1 TiB more
    with pytest.raises(LimitExceededError, match=rf"image\.boot of 1099\d{{9}} bytes .* {1 << 30}") as caught:
        await what_a_blob_says(bytes(blob), image.layers[0].digest.hex)
    assert caught.value.details["limit"] == toc.BOOTSTRAP


def with_bootstrap(content: MemoryContent, image: ImageManifest, bootstrap: bytes) -> ImageManifest:
    """The image with another merged bootstrap; its layer's digest and diff ID are made to match."""
    repository = content.target_repository
    layer = build_bootstrap_layer(bootstrap, {})
    described = orjson.loads(repository.blobs[image.config.digest])
    described["rootfs"]["diff_ids"][-1] = layer.diff_id
    config = repository.add(orjson.dumps(described), image.config.media_type)
    last = replace(image.layers[-1], digest=repository.add(layer.data, "").digest, size=len(layer.data))
    changed = {
        **image.data,
        "config": config.to_json(),
        "layers": [*(each.to_json() for each in image.layers[:-1]), last.to_json()],
    }
    manifest = encode_manifest(changed)
    assert isinstance(manifest, ImageManifest)
    repository.tags["1"] = repository.add_manifest(manifest).digest
    return manifest


@given(flips)
@settings(max_examples=150, deadline=None)
async def test_a_merged_bootstrap_with_changed_bytes_is_refused_or_says_the_same(
    changes: list[tuple[float, int]],
) -> None:
    content, image = await converted()
    sound = bootstrap_of(content.target_repository, image)
    bootstrap = damaged(sound, changes)
    with_bootstrap(content, image, bootstrap)
    store = MemoryStore({"registry.test/source": source()[0], "registry.test/target": content.target_repository})
    report = await check_image(store, TARGET)
    assert report.compared
    if report.ok:
        assert facts(decode_bootstrap(bootstrap).root) == facts(decode_bootstrap(sound).root)
    for finding in report.findings:
        assert finding.where not in {"", "blob"}


async def test_the_same_bootstrap_in_a_layer_of_its_own_is_sound() -> None:
    """What the property above changes is nothing but the bootstrap's bytes."""
    content, image = await converted()
    with_bootstrap(content, image, bootstrap_of(content.target_repository, image))
    store = MemoryStore({"registry.test/source": source()[0], "registry.test/target": content.target_repository})
    report = await check_image(store, TARGET)
    assert (report.findings, report.compared) == ([], True)


@pytest.mark.parametrize("behind", ["blob.meta", "blob.digest", "image.boot"])
async def test_a_tar_header_in_the_middle_of_a_blob_is_looked_at(behind: str) -> None:
    """Readers that walk from the end would lose their way."""
    content, image = await converted()
    digest = image.layers[0].digest
    blob = bytearray(content.target_repository.blobs[digest])
    entries = toc.decode_toc(bytes(blob[-512 - toc.toc_size(bytes(blob)) : -512]), len(blob))
    blob[entries[behind].offset - 512 + 130] ^= 1  # the size of the part before
    with pytest.raises(InvalidNydusError) as caught:
        await what_a_blob_says(bytes(blob), digest.hex)
    assert caught.value.field == "tar_header.checksum"


@pytest.mark.parametrize("cut", [1, 511, 512, 513, 4096, 9000])
async def test_a_blob_that_was_cut_is_refused(cut: int) -> None:
    content, image = await converted()
    digest = image.layers[0].digest
    with pytest.raises(InvalidNydusError):
        await what_a_blob_says(content.target_repository.blobs[digest][:-cut], digest.hex)
