"""Images on disk: what is written is read back, and what is damaged is refused by name."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import tarfile
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.stores.archive import ArchiveWriter, DockerArchive
from cli.stores.layout import OciLayout
from cli.stores.local import LocalImages
from cli.stores.location import parse_location
from shared.errors import IcsError, PermanentError
from shared.oci import media_types
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest
from shared.oci.manifest import ImageManifest, encode_manifest
from shared.oci.reference import Reference
from shared.registry.api import ImageStore

LAYER = b"a layer of bytes" * 10_000
CONFIG = b'{"os":"linux"}'


async def put_image(
    store: ImageStore, reference: Reference, layer_type: str = media_types.OCI_LAYER, **annotations: str
) -> ImageManifest:
    async def blob(data: bytes, media_type: str) -> dict[str, Any]:
        async with store.upload(reference) as upload:
            for start in range(0, len(data), 1000):
                await upload.write(memoryview(data)[start : start + 1000])
            return (await upload.commit(media_type)).to_json()

    manifest = encode_manifest(
        {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_MANIFEST,
            "config": await blob(CONFIG, media_types.OCI_CONFIG),
            "layers": [await blob(LAYER, layer_type)],
            "annotations": {"kept": "yes", **annotations},
        }
    )
    assert isinstance(manifest, ImageManifest)
    await store.put_manifest(reference, manifest)
    return manifest


async def content(store: ImageStore, reference: Reference, blob: Descriptor) -> bytes:
    async with store.open_blob(reference, blob) as pieces:
        return b"".join([piece async for piece in pieces])


async def assert_holds(store: LocalImages, manifest: ImageManifest) -> None:
    where = store.location.reference
    found = await store.resolve(where)
    assert found is not None
    assert found.digest == manifest.digest
    assert (await store.manifest(where)).raw == manifest.raw
    assert (await store.manifest(where.with_digest(manifest.digest))).raw == manifest.raw
    assert await content(store, where, manifest.layers[0]) == LAYER
    assert await store.read_range(where, manifest.config.digest, 2, 4) == CONFIG[2:6]
    assert await store.has_blob(where, manifest.config.digest)
    assert not await store.has_blob(where, Digest.of(b"nowhere"))


@pytest.mark.parametrize("name", ["", ":v1", ":registry.example.com/app:v1"])
async def test_a_layout_gives_back_what_was_put_in(tmp_path: Path, name: str) -> None:
    location = parse_location(f"oci:{tmp_path / 'layout'}{name}")
    manifest = await put_image(OciLayout.create(location), location.reference)
    await assert_holds(OciLayout.open(location), manifest)
    assert not list((tmp_path / "layout" / "blobs").glob(".upload-*"))


async def test_a_tag_moves_and_others_stay(tmp_path: Path) -> None:
    one, two = (parse_location(f"oci:{tmp_path / 'layout'}:{tag}") for tag in ("one", "two"))
    await put_image(OciLayout.create(one), one.reference)
    second = await put_image(OciLayout.create(two), two.reference, media_types.OCI_LAYER_GZIP)
    third = await put_image(OciLayout.create(one), one.reference, media_types.OCI_LAYER_ZSTD)
    assert (await OciLayout.open(one).manifest(one.reference)).digest == third.digest
    assert (await OciLayout.open(two).manifest(two.reference)).digest == second.digest


async def test_an_unknown_tag_names_those_that_are_there(tmp_path: Path) -> None:
    location = parse_location(f"oci:{tmp_path}:v1")
    await put_image(OciLayout.create(location), location.reference)
    other = parse_location(f"oci:{tmp_path}:v2")
    assert await OciLayout.open(other).resolve(other.reference) is None
    with pytest.raises(PermanentError, match="there are: v1") as error:
        await OciLayout.open(other).manifest(other.reference)
    assert error.value.code == "manifest_unknown"


async def test_leaving_an_upload_leaves_nothing(tmp_path: Path) -> None:
    location = parse_location(f"oci:{tmp_path / 'layout'}")
    store = OciLayout.create(location)
    async with store.upload(location.reference) as upload:
        await upload.write(b"half")
    assert [path for path in (tmp_path / "layout" / "blobs").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("damage", ["flip", "cut"])
async def test_a_damaged_blob_is_refused(tmp_path: Path, damage: str) -> None:
    location = parse_location(f"oci:{tmp_path}")
    manifest = await put_image(OciLayout.create(location), location.reference)
    path = tmp_path / "blobs" / "sha256" / manifest.layers[0].digest.hex
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[77_777] ^= 1
    else:
        del data[-1:]
    path.write_bytes(data)
    with pytest.raises(PermanentError) as error:
        await content(OciLayout.open(location), location.reference, manifest.layers[0])
    assert error.value.code == "corrupt_layer"


@pytest.mark.parametrize(
    ("index", "code"),
    [
        (b"{", "invalid_layout"),
        (b"[]", "invalid_layout"),
        (b'{"manifests": [{"mediaType": "x", "digest": "sha256:../../etc/passwd", "size": 1}]}', "invalid_digest"),
    ],
)
async def test_a_damaged_index_is_refused(tmp_path: Path, index: bytes, code: str) -> None:
    (tmp_path / "index.json").write_bytes(index)
    location = parse_location(f"oci:{tmp_path}")
    with pytest.raises(PermanentError) as error:
        await OciLayout.open(location).manifest(location.reference)
    assert error.value.code == code


def test_a_folder_without_an_index_is_no_layout(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="no OCI layout"):
        OciLayout.open(parse_location(f"oci:{tmp_path}"))


async def archive(path: Path, name: str = "registry.example.com/app:v1") -> ImageManifest:
    location = parse_location(f"docker-archive:{path}:{name}")
    writer = ArchiveWriter(location)
    manifest = await put_image(writer.store, location.reference, media_types.OCI_LAYER_GZIP)
    await writer.finish()
    writer.close()
    return manifest


async def test_an_archive_gives_back_what_was_put_in_to_the_bit(tmp_path: Path) -> None:
    manifest = await archive(tmp_path / "app.tar")
    for name in ("", ":registry.example.com/app:v1", ":v1"):
        location = parse_location(f"docker-archive:{tmp_path / 'app.tar'}{name}")
        await assert_holds(DockerArchive.open(location), manifest)
    assert [path.name for path in tmp_path.iterdir()] == ["app.tar"]


async def test_the_same_image_is_the_same_archive(tmp_path: Path) -> None:
    await archive(tmp_path / "one.tar")
    await archive(tmp_path / "two.tar")
    one, two = ((tmp_path / name).read_bytes() for name in ("one.tar", "two.tar"))
    assert hashlib.sha256(one).digest() == hashlib.sha256(two).digest()


async def test_docker_reads_it_by_manifest_json(tmp_path: Path) -> None:
    manifest = await archive(tmp_path / "app.tar")
    with tarfile.open(tmp_path / "app.tar") as opened:
        (document,) = orjson.loads(opened.extractfile("manifest.json").read())  # type: ignore[union-attr]
        assert document["RepoTags"] == ["registry.example.com/app:v1"]
        assert opened.extractfile(document["Config"]).read() == CONFIG  # type: ignore[union-attr]
        assert document["Layers"] == [f"blobs/sha256/{manifest.layers[0].digest.hex}"]


def test_an_archive_takes_no_device_and_no_links_place(tmp_path: Path) -> None:
    fifo, link = tmp_path / "fifo", tmp_path / "link.tar"
    os.mkfifo(fifo)
    link.symlink_to(tmp_path / "real.tar")
    with pytest.raises(PermanentError, match="no regular file"):
        ArchiveWriter(parse_location(f"docker-archive:{fifo}"))
    writer = ArchiveWriter(parse_location(f"docker-archive:{link}"))
    asyncio.run(writer.finish())
    writer.close()
    assert link.is_symlink()
    assert (tmp_path / "real.tar").is_file()


async def test_what_docker_cannot_load_is_refused_and_nothing_appears(tmp_path: Path) -> None:
    location = parse_location(f"docker-archive:{tmp_path / 'app.tar'}")
    writer = ArchiveWriter(location)
    await put_image(writer.store, location.reference, "application/vnd.oci.image.layer.nydus.blob.v1")
    with pytest.raises(PermanentError, match="write an oci: layout"):
        await writer.finish()
    writer.close()
    assert list(tmp_path.iterdir()) == []


def legacy(path: Path, *, leave_out: str = "", document: bytes | None = None, link: bool = False) -> None:
    """What docker before 25 and skopeo write."""
    listed = ["layer.tar", "again/layer.tar"] if link else ["layer.tar"]
    manifest = [{"Config": "config.json", "RepoTags": ["app:v1"], "Layers": listed}]
    files = {"manifest.json": document or orjson.dumps(manifest), "config.json": CONFIG, "layer.tar": LAYER}
    with tarfile.open(path, "w") as opened:
        for name, data in files.items():
            if name != leave_out:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                opened.addfile(info, io.BytesIO(data))
        if link:
            info = tarfile.TarInfo("again/layer.tar")
            info.type, info.linkname = tarfile.SYMTYPE, "../layer.tar"
            opened.addfile(info)


@pytest.mark.parametrize("link", [False, True])
async def test_an_older_archive_is_read_through_its_manifest_json(tmp_path: Path, link: bool) -> None:
    legacy(tmp_path / "app.tar", link=link)
    location = parse_location(f"docker-archive:{tmp_path / 'app.tar'}:app:v1")
    store = DockerArchive.open(location)
    manifest = await store.manifest(location.reference)
    assert isinstance(manifest, ImageManifest)
    assert [layer.digest for layer in manifest.layers] == [Digest.of(LAYER)] * (2 if link else 1)
    assert await content(store, location.reference, manifest.layers[-1]) == LAYER
    found = await store.resolve(Reference("localhost", "image", None, manifest.digest))
    assert found is not None


@pytest.mark.parametrize(
    ("leave_out", "document", "code"),
    [
        ("layer.tar", None, "invalid_archive"),
        ("config.json", None, "invalid_archive"),
        ("manifest.json", None, "no_archive"),
        ("", b"{", "invalid_archive"),
        ("", b"{}", "invalid_archive"),
        ("", b'[{"Config": 1}]', "invalid_archive"),
    ],
)
def test_a_damaged_archive_is_refused(tmp_path: Path, leave_out: str, document: bytes | None, code: str) -> None:
    legacy(tmp_path / "app.tar", leave_out=leave_out, document=document)
    with pytest.raises(PermanentError) as error:
        DockerArchive.open(parse_location(f"docker-archive:{tmp_path / 'app.tar'}"))
    assert error.value.code == code


def test_an_archive_that_is_not_there_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(PermanentError) as error:
        DockerArchive.open(parse_location(f"docker-archive:{tmp_path / 'app.tar'}"))
    assert error.value.message == f"cannot read {tmp_path / 'app.tar'}: No such file or directory"


@given(st.binary(max_size=2000))
def test_no_bytes_make_an_archive_by_chance(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("archive") / "app.tar"
    path.write_bytes(data)
    with pytest.raises(PermanentError):
        DockerArchive.open(parse_location(f"docker-archive:{path}"))


@pytest.mark.parametrize("text", ["oci:", "docker-archive:", "docker://x/y", "dir:/x", "a b"])
def test_what_is_no_location_is_refused(text: str) -> None:
    with pytest.raises(IcsError) as error:
        parse_location(text)
    assert error.value.code == "invalid_reference"


def test_locations_are_told_as_they_were_written() -> None:
    for text in ("oci:some/path", "oci:path:tag", "docker-archive:file.tar:name:tag", "harbor.example.com/a/b:1"):
        assert str(parse_location(text)) == text


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("team/app:1", "team/app:1"),
        ("team/group/app", "team/group/app:latest"),
        ("other/app:1", "docker.io/other/app:1"),
        ("team", "docker.io/library/team:latest"),
        ("docker.io/team/app:1", "docker.io/team/app:1"),
        ("harbor.example.com/app:1", "harbor.example.com/app:1"),
    ],
)
def test_a_name_without_a_dot_is_docker_hubs_unless_a_registry_is_known_by_it(text: str, meant: str) -> None:
    asked: list[str] = []

    def known(name: str) -> bool:
        asked.append(name)
        return name == "team"

    assert str(parse_location(text, known)) == meant
    assert set(asked) <= {"team", "other"}
    assert str(parse_location("team/app:1")) == "docker.io/team/app:1"
