"""The checker passes sound images and names what is wrong with others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from drivers.checking import CheckReport
from drivers.nydus import NydusDriver
from drivers.nydus.blob import toc
from drivers.nydus.check import check_image
from drivers.nydus.options import NydusOptions
from drivers.testing.content import MemoryContent, Repository
from drivers.testing.images import Tar, add_image, add_index, as_source
from drivers.testing.store import MemoryStore
from shared.errors import PermanentError
from shared.oci.digest import Digest
from shared.oci.manifest import ImageManifest, encode_manifest
from shared.oci.reference import parse_reference

TARGET = parse_reference("registry.test/target:1")
BASE = (
    Tar()
    .folder("d", uid=3)
    .file("d/a", b"a" * 300_000, xattrs={"user.k": "v"})
    .file("d/gone")
    .symlink("l", "d")
    .bytes()
)
TOP = Tar().folder("d/.wh.gone").file("d/.wh.gone/in").hardlink("d/b", "d/a").file("new", b"new").bytes()


async def converted(option: NydusOptions | None = None) -> tuple[Repository, Repository, ImageManifest]:
    source = Repository()
    content = MemoryContent(source)
    result = await NydusDriver().convert(as_source(add_image(source, [BASE, TOP])), content, option or NydusOptions())
    assert isinstance(result.root, ImageManifest)
    tag(content.target_repository, result.root)
    return source, content.target_repository, result.root


def tag(repository: Repository, manifest: ImageManifest) -> None:
    repository.tags["1"] = repository.add_manifest(manifest).digest


async def check(source: Repository, target: Repository) -> CheckReport:
    store = MemoryStore({"registry.test/source": source, "registry.test/target": target})
    return await check_image(store, TARGET)


@pytest.mark.parametrize("compressor", ["zstd", "lz4_block", "none"])
async def test_a_converted_image_is_as_its_source(compressor: str) -> None:
    source, target, _ = await converted(NydusOptions.model_validate({"compressor": compressor, "chunk_size": 0x10000}))
    report = await check(source, target)
    assert report.findings == []
    assert report.ok
    assert report.compared
    assert (report.images, report.entries, report.blobs, report.chunks) == (1, 5, 2, 3)


async def test_every_image_of_an_index_is_checked() -> None:
    source = Repository()
    images = [(f"linux/{name}", add_image(source, [BASE, TOP], architecture=name)) for name in ("amd64", "arm64")]
    content = MemoryContent(source)
    result = await NydusDriver().convert(as_source(add_index(source, images)), content, NydusOptions())
    target = content.target_repository
    target.tags["1"] = target.add_manifest(result.root).digest
    report = await check(source, target)
    assert (report.findings, report.images) == ([], 2)


async def test_without_its_source_an_image_is_validated_only() -> None:
    _, target, _ = await converted()
    report = await check(Repository(), target)
    assert report.ok
    assert not report.compared


async def test_an_ordinary_image_is_refused() -> None:
    target = Repository()
    tag(target, add_image(target, [BASE]))
    with pytest.raises(PermanentError) as caught:
        await check(Repository(), target)
    assert caught.value.code == "not_nydus"


SOURCES: dict[str, tuple[bytes, str]] = {
    "content": (
        Tar().folder("d", uid=3).file("d/a", b"b" * 300_000, xattrs={"user.k": "v"}).bytes(),
        "/d/a: the content",
    ),
    "mode": (Tar().folder("d", uid=3, mode=0o700).bytes(), "/d: mode is 0o40755"),
    "owner": (Tar().folder("d", uid=4).bytes(), "/d: uid is 3"),
    "time": (Tar().folder("d", uid=3, mtime=1).bytes(), "/d: mtime is"),
    "target": (Tar().symlink("l", "e").bytes(), "/l: target is b'd'"),
    "attribute": (Tar().file("d/a", b"a" * 300_000, xattrs={"user.k": "w"}).bytes(), "/d/a: xattrs"),
    "more": (Tar().file("more").bytes(), "/more: is missing"),
    "less": (Tar().file(".wh.l").bytes(), "/l: is not in the source"),
    "hard link": (Tar().file("d/b", b"a" * 300_000, xattrs={"user.k": "v"}).bytes(), "/d/b: is a hard link of another"),
}


@pytest.mark.parametrize("name", SOURCES)
async def test_a_tree_that_differs_from_the_source_is_found_by_path(name: str) -> None:
    layer, expected = SOURCES[name]
    source, target, image = await converted()
    other = add_image(source, [BASE, TOP, layer])
    annotations = {**image.annotations, "containerd.io/snapshot/nydus-source-digest": str(other.digest)}
    changed = encode_manifest({**image.data, "annotations": annotations})
    assert isinstance(changed, ImageManifest)
    tag(target, changed)
    report = await check(source, target)
    assert any(expected in str(finding) for finding in report.findings), [str(f) for f in report.findings]


def replace_layer(target: Repository, image: ImageManifest, position: int, change: Callable[[bytearray], None]) -> None:
    """Damage a layer, and let manifest and config refer to the damaged bytes."""
    old = image.layers[position]
    data = bytearray(target.blobs[old.digest])
    change(data)
    digest = Digest.of(bytes(data))
    target.blobs[digest] = bytes(data)
    layers = [
        (replace(layer, digest=digest, size=len(data)) if layer is old else layer).to_json() for layer in image.layers
    ]
    config = target.blobs[image.config.digest].replace(old.digest.encode(), digest.encode())
    described = target.add(config, image.config.media_type)
    manifest = encode_manifest({**image.data, "layers": layers, "config": described.to_json()})
    assert isinstance(manifest, ImageManifest)
    tag(target, manifest)


def part(data: bytes | bytearray, name: str) -> toc.TocEntry:
    size = toc.toc_size(bytes(data[-4096:]))
    return toc.decode_toc(bytes(data[-512 - size : -512]), len(data))[name]


def flip(offset: Callable[[bytearray], int]) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        data[offset(data)] ^= 0xFF

    return change


DAMAGE: list[tuple[str, Callable[[bytearray], None]]] = [
    ("tar_header.checksum", flip(lambda data: len(data) - 512 + 150)),
    ("toc.flags", flip(lambda data: len(data) - 1024)),
    ("toc[blob.meta]", flip(lambda data: part(data, "blob.meta").offset)),
    ("toc[blob.meta.header].digest", flip(lambda data: part(data, "blob.meta.header").offset + 100)),
    ("toc[blob.digest].digest", flip(lambda data: part(data, "blob.digest").offset)),
    ("toc[image.boot]", flip(lambda data: part(data, "image.boot").offset + 8)),
]


@pytest.mark.parametrize(("field", "change"), DAMAGE)
async def test_damage_to_a_blobs_tables_names_the_field(field: str, change: Callable[[bytearray], None]) -> None:
    source, target, image = await converted()
    replace_layer(target, image, 0, change)
    report = await check(source, target)
    assert [finding.where.startswith(field) for finding in report.findings] == [True], report.findings


async def test_damage_to_the_data_is_found_by_reading_it() -> None:
    source, target, image = await converted(NydusOptions(compressor="none"))
    digest = image.layers[0].digest
    data = bytearray(target.blobs[digest])
    data[10] ^= 0xFF
    target.blobs[digest] = bytes(data)
    report = await check(source, target)
    assert report.findings[0].where == "chunk[0].digest"


async def test_a_blob_that_is_not_its_digest_is_found() -> None:
    source, target, image = await converted()
    digest = image.layers[0].digest
    target.blobs[digest] = target.blobs[digest][:-1] + b"x"
    report = await check(source, target)
    assert not report.ok


async def test_a_blob_that_the_bootstrap_does_not_know_is_found() -> None:
    source, target, image = await converted()
    replace_layer(target, image, 0, lambda data: None)
    layers = [image.layers[1].to_json(), image.layers[0].to_json(), image.layers[2].to_json()]
    swapped = encode_manifest({**image.data, "layers": layers})
    assert isinstance(swapped, ImageManifest)
    tag(target, swapped)
    report = await check(source, target)
    assert report.findings[0].where == "config.rootfs.diff_ids"
