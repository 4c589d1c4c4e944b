"""``oci_ref``: images that refer to their source's gzip layers."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from drivers.checking import CheckReport
from drivers.nydus import NydusDriver
from drivers.nydus.check import check_image
from drivers.nydus.errors import InvalidNydusError
from drivers.nydus.layer_source import read_layer
from drivers.nydus.options import NydusOptions
from drivers.nydus.rafs_v6.decode import validate_bootstrap
from drivers.nydus.tree import inodes
from drivers.nydus.zran.builder import reference_marks
from drivers.nydus.zran.random_access import check_reference
from drivers.testing.content import MemoryContent, Repository
from drivers.testing.images import Tar, add_image, as_source
from drivers.testing.store import MemoryStore
from shared.errors import CorruptLayerError, UnsupportedError
from shared.oci import media_types
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest
from shared.oci.manifest import ImageManifest, Index, encode_manifest
from shared.oci.reference import parse_reference
from tests.images.sparse import GNU_TAR, sparse_tar, write_files
from tests.unit.drivers.nydus.bootstraps import bootstrap_of

TARGET = parse_reference("registry.test/target:1")
REF = "containerd.io/snapshot/nydus-ref"
GOLDEN = Path(__file__).parents[3] / "data" / "nydus"
LARGE = bytes(range(256)) * 12_000
BASE = Tar().folder("d", uid=3).file("d/a", LARGE).file("d/same", LARGE).file("d/gone").symlink("l", "d").bytes()
TOP = Tar().file("d/.wh.gone").hardlink("d/b", "d/a").file("new", b"new").file("again", LARGE).bytes()
EMPTY = Tar().bytes()


async def convert(
    repository: Repository, source: ImageManifest, content: MemoryContent | None = None, **options: Any
) -> tuple[Repository, ImageManifest | Index]:
    content = content or MemoryContent(repository)
    result = await NydusDriver().convert(as_source(source), content, NydusOptions(oci_ref=True, **options))
    target = content.target_repository
    target.tags["1"] = target.add_manifest(result.root).digest
    return target, result.root


async def converted(**options: Any) -> tuple[Repository, ImageManifest, Repository, ImageManifest]:
    repository = Repository()
    source = add_image(repository, [BASE, EMPTY, TOP])
    target, image = await convert(repository, source, **options)
    assert isinstance(image, ImageManifest)
    return repository, source, target, image


async def check(repository: Repository, target: Repository) -> CheckReport:
    store = MemoryStore({"registry.test/source": repository, "registry.test/target": target})
    return await check_image(store, TARGET)


@pytest.mark.parametrize("share_chunks", [True, False])
async def test_the_image_is_as_its_source_and_holds_no_data(share_chunks: bool) -> None:
    repository, source, target, image = await converted(share_chunks=share_chunks)
    report = await check(repository, target)
    assert (report.findings, report.compared, report.images, report.blobs) == ([], True, 1, 3)
    *blobs, last = image.layers
    assert [blob.annotations[REF] for blob in blobs] == [str(layer.digest) for layer in source.layers]
    assert {blob.media_type for blob in blobs} == {"application/vnd.oci.image.layer.nydus.blob.v1"}
    assert REF not in last.annotations
    for layer in source.layers:
        assert target.blobs[layer.digest] == repository.blobs[layer.digest]
    merged = validate_bootstrap(bootstrap_of(target, image))
    assert {blob.id for blob in merged.blobs} == {source.layers[0].digest.hex, source.layers[2].digest.hex}
    assert [blob.features for blob in merged.blobs] == [0x7000003D] * 2
    assert {blob.meta_digest.hex() for blob in merged.blobs} == {blobs[0].digest.hex, blobs[2].digest.hex}


async def test_equal_input_gives_equal_bytes_from_the_layer_cache_too() -> None:
    repository = Repository()
    source = add_image(repository, [BASE, TOP])
    content = MemoryContent(repository)
    _, first = await convert(repository, source, content)
    target, second = await convert(repository, source, content)
    assert first.raw == second.raw
    assert (await check(repository, target)).ok
    _, third = await convert(repository, source)
    assert third.raw == first.raw


async def test_a_docker_image_becomes_an_oci_image() -> None:
    repository = Repository()
    _, image = await convert(repository, add_image(repository, [BASE], docker=True))
    assert isinstance(image, ImageManifest)
    assert (image.media_type, image.config.media_type) == (media_types.OCI_MANIFEST, media_types.OCI_CONFIG)


async def test_what_garbage_collection_may_remove_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    repository = Repository()
    await convert(repository, add_image(repository, [BASE]))
    assert "garbage collection" in caplog.text


async def test_beside_its_original_in_an_index(caplog: pytest.LogCaptureFixture) -> None:
    repository = Repository()
    target, index = await convert(repository, add_image(repository, [BASE, TOP]), multi_platform=True)
    assert isinstance(index, Index)
    assert (await check(repository, target)).ok
    assert "garbage collection" not in caplog.text


async def test_with_a_referrer() -> None:
    repository = Repository()
    source = add_image(repository, [BASE])
    content = MemoryContent(repository)
    content.target = content.source
    _, image = await convert(repository, source, content, with_referrer=True)
    assert isinstance(image, ImageManifest)
    assert image.subject is not None
    assert image.subject.digest == source.digest


@pytest.mark.parametrize(("compression", "name"), [("zstd", "zstd"), ("none", "plain")])
async def test_a_layer_that_is_no_gzip_is_refused_by_name(compression: str, name: str) -> None:
    repository = Repository()
    source = add_image(repository, [BASE], compression=compression)
    with pytest.raises(UnsupportedError, match=f"{source.layers[0].digest} is {name}.*without oci_ref"):
        await convert(repository, source)


async def test_a_sparse_file_is_refused_by_name_because_its_holes_are_nowhere_in_the_layer(tmp_path: Path) -> None:
    write_files(tmp_path)
    repository = Repository()
    source = add_image(repository, [sparse_tar(tmp_path, GNU_TAR["pax-1.0"])])
    with pytest.raises(UnsupportedError, match="'hole only' is stored as a sparse file"):
        await convert(repository, source)


@pytest.mark.parametrize(
    "packed",
    [
        gzip.compress(BASE, 1, mtime=0)[:-30],
        gzip.compress(BASE, 1, mtime=0) + b"garbage",
        gzip.compress(BASE[:-2048], 1, mtime=0)[:-4000],
    ],
    ids=["truncated", "trailing garbage", "half"],
)
async def test_a_damaged_layer_is_refused(packed: bytes) -> None:
    repository = Repository()
    with pytest.raises(CorruptLayerError):
        await convert(repository, add_image(repository, [packed], compression="none"))


async def test_a_layer_of_several_members_is_referred_to() -> None:
    repository = Repository()
    packed = b"".join(gzip.compress(BASE[at : at + 65_280], mtime=0) for at in range(0, len(BASE), 65_280))
    target, _ = await convert(repository, add_image(repository, [packed + bytes(100)], compression="none"))
    # The config names the gzip as plain, which the comparison does not look at.
    report = await check(repository, target)
    assert (report.findings, report.compared) == ([], True)


async def test_data_that_changed_behind_the_index_is_found() -> None:
    repository, source, target, _ = await converted()
    digest = source.layers[0].digest
    other = gzip.compress(BASE.replace(b"\x07\x08", b"\x08\x07"), 1, mtime=0)
    target.blobs[digest] = other.ljust(len(repository.blobs[digest]), b"\0")[: len(repository.blobs[digest])]
    report = await check(repository, target)
    assert next(finding.where for finding in report.findings).startswith(("chunk[", "zran["))


async def test_a_blob_without_its_reference_is_refused() -> None:
    repository, _, target, image = await converted()
    data = {**image.data, "layers": [layer.to_json() for layer in image.layers]}
    del data["layers"][0]["annotations"][REF]
    target.tags["1"] = target.add_manifest(encode_manifest(data)).digest
    report = await check(repository, target)
    assert [finding.where for finding in report.findings] == ["toc"]


async def test_a_reference_that_is_no_digest_is_refused() -> None:
    repository, _, target, image = await converted()
    data = {**image.data, "layers": [layer.to_json() for layer in image.layers]}
    data["layers"][0]["annotations"][REF] = "sha256:x"
    target.tags["1"] = target.add_manifest(encode_manifest(data)).digest
    report = await check(repository, target)
    assert [finding.where for finding in report.findings] == [f"manifest.layers[{REF}]"]


async def test_a_reference_by_nydus_image_is_read_at_random() -> None:
    """Its chunks may take no byte of the compressed stream at all, as those of zeros do."""
    blob, packed = (GOLDEN / "reference.blob").read_bytes(), (GOLDEN / "reference.tar.gz").read_bytes()
    original = Descriptor(media_types.OCI_LAYER_GZIP, Digest.of(packed), len(packed))
    data = {Digest.of(blob): blob, original.digest: packed}

    async def read_range(descriptor: Descriptor, start: int, length: int) -> bytes:
        return data[descriptor.digest][start : start + length]

    described = Descriptor("", Digest.of(blob), len(blob), reference_marks(original))
    layer = await read_layer(described, read_range)
    assert layer.own is not None
    chunks = {chunk.index: chunk for inode in inodes(layer.bootstrap.root) for chunk in inode.chunks}
    assert 0 in {chunk.compressed_size for chunk in chunks.values()}
    digests = {index: chunk.digest for index, chunk in chunks.items()}
    await check_reference(original, layer.index(layer.own), digests, read_range)
    with pytest.raises(InvalidNydusError, match=r"chunk\[1\].digest"):
        await check_reference(original, layer.index(layer.own), {**digests, 1: bytes(32)}, read_range)
