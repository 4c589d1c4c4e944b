"""``ics check`` finds a table of contents that tells lazy readers something else than the tar, and a source that is another."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest

from drivers.api import ANNOTATION_SOURCE_REPOSITORY
from drivers.checking import CheckReport, Original
from drivers.estargz import EstargzDriver
from drivers.estargz.check import ESTARGZ
from drivers.estargz.layout import FOOTER_SIZE, TOC_NAME, footer, parse_footer
from drivers.estargz.options import EstargzOptions
from drivers.stargz.check import check_image
from drivers.stargz.layout import ANNOTATION_TOC_DIGEST
from drivers.testing.content import MemoryContent, Repository
from drivers.testing.images import Tar, add_image, add_index, as_source
from drivers.testing.store import MemoryStore
from shared.errors import PermanentError
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest
from shared.oci.manifest import ImageManifest, Index, encode_manifest
from shared.oci.reference import Reference, parse_reference

LAYER = (
    Tar()
    .folder("d", uid=3, gid=4, uname="three", gname="four")
    .file("d/file", b"content " * 9000, mode=0o640, uid=3, xattrs={"user.k": "v"})
    .file("d/precise", b"x", mtime=1_700_000_000.75)
    .hardlink("d/hard", "d/file")
    .folder("d/.wh.gone")
    .file("d/.wh.gone/in")
    .symlink("d/soft", "../elsewhere")
    .entry("d/null", tarfile.CHRTYPE, devmajor=1, devminor=3)
    .bytes()
)
SOURCE, TARGET = parse_reference("registry.test/source:1"), parse_reference("registry.test/target:1")


async def converted(*layers: bytes, uncompress: bool = False) -> tuple[Repository, Repository, ImageManifest]:
    source = Repository()
    content = MemoryContent(source)
    manifest = add_image(source, layers or (LAYER,))
    result = await EstargzDriver().convert(as_source(manifest), content, EstargzOptions(uncompress=uncompress))
    assert isinstance(result.root, ImageManifest)
    return source, content.target_repository, result.root


async def check(
    source: Repository, target: Repository, root: ImageManifest | Index, original: Original | None = None
) -> CheckReport:
    target.tags["1"] = target.add_manifest(root).digest
    return await check_image(ESTARGZ, store_of(source, target), TARGET, original=original)


def store_of(source: Repository, target: Repository) -> MemoryStore:
    return MemoryStore({"registry.test/source": source, "registry.test/target": target})


def with_table(
    target: Repository, root: ImageManifest, change: Callable[[dict[str, dict[str, Any]]], None]
) -> ImageManifest:
    """The image with another table of contents in its only layer, and every digest right."""
    blob = target.blobs[root.layers[0].digest]
    offset = parse_footer(blob[-FOOTER_SIZE:])
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(blob[offset:-FOOTER_SIZE]))) as archive:
        member = archive.extractfile(TOC_NAME)
        assert member is not None
        table = orjson.loads(member.read())
    change({entry["name"]: entry for entry in table["entries"] if entry["type"] != "chunk"})
    text = orjson.dumps(table)
    packed = gzip.compress(Tar().file(TOC_NAME, text).bytes(), mtime=0)
    changed = blob[:offset] + packed + footer(offset)
    layer = target.add(changed, root.layers[0].media_type)
    annotations = {**root.layers[0].annotations, ANNOTATION_TOC_DIGEST: str(Digest.of(text))}
    config = orjson.loads(target.blobs[root.config.digest])
    config["rootfs"]["diff_ids"] = [str(Digest.of(gzip.decompress(changed)))]
    manifest = encode_manifest(
        {
            **root.data,
            "config": target.add(orjson.dumps(config), root.config.media_type).to_json(),
            "layers": [replace(layer, annotations=annotations).to_json()],
        }
    )
    assert isinstance(manifest, ImageManifest)
    return manifest


async def test_a_faithful_table_has_no_findings() -> None:
    source, target, root = await converted()
    unchanged = with_table(target, root, lambda _rows: None)
    assert unchanged.layers[0].digest != root.layers[0].digest
    report = await check(source, target, unchanged)
    assert report.findings == []
    assert report.compared


LIES: dict[str, tuple[str, str, Any, str]] = {
    "mode": ("d/file", "mode", 0o777, "mode is"),
    "owner": ("d/file", "uid", 0, "owner is"),
    "owner's name": ("d/", "userName", "mallory", "owner is"),
    "group": ("d/", "gid", 77, "owner is"),
    "time": ("d/precise", "modtime", "2001-01-01T00:00:00Z", "mtime is"),
    "attributes": ("d/file", "xattrs", {"user.k": "dw=="}, "xattrs is"),
    "attribute that is no base64": ("d/file", "xattrs", {"user.k": "A"}, "malformed"),
    "hard link": ("d/hard", "linkName", "d/precise", "link is"),
    "symbolic link": ("d/soft", "linkName", "/etc/shadow", "link is"),
    "device": ("d/null", "devMinor", 8, "device is"),
    "type": ("d/soft", "type", "fifo", "type is"),
    "time that is none": ("d/file", "modtime", "yesterday", "malformed"),
    "mode that is none": ("d/file", "mode", "rw", "malformed"),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_table_that_lies_is_found(lie: str) -> None:
    name, field, value, said = LIES[lie]
    source, target, root = await converted()

    def change(rows: dict[str, dict[str, Any]]) -> None:
        assert rows[name].get(field) != value
        rows[name][field] = value

    report = await check(source, target, with_table(target, root, change))
    assert any(said in finding.message and name.strip("/") in str(finding) for finding in report.findings), (
        report.findings
    )


async def test_a_table_of_other_paths_is_found() -> None:
    source, target, root = await converted()

    def change(rows: dict[str, dict[str, Any]]) -> None:
        rows["d/null"]["name"] = "d/zero"

    messages = {str(each.message) for each in (await check(source, target, with_table(target, root, change))).findings}
    assert messages == {
        "is in the tar and not in the table of contents",
        "is in the table of contents and not in the tar",
    }


async def test_the_source_that_is_named_has_to_be_the_one() -> None:
    source, target, root = await converted()
    store = store_of(source, target)
    other = add_image(source, (Tar().file("other").bytes(),))
    source.tags["2"] = other.digest
    for named, code in (("registry.test/source:2", "source_differs"), ("registry.test/source:3", "manifest_unknown")):
        with pytest.raises(PermanentError) as caught:
            await check(source, target, root, Original(store, parse_reference(named)))
        assert caught.value.code == code


async def test_a_source_in_an_index_is_found_by_tag_and_by_its_own_record() -> None:
    source = Repository()
    images = [(f"linux/{name}", add_image(source, (LAYER,), architecture=name)) for name in ("amd64", "arm64")]
    index = add_index(source, images)
    source.tags["1"] = index.digest
    content = MemoryContent(source)
    result = await EstargzDriver().convert(as_source(index), content, EstargzDriver.options())
    target = content.target_repository
    for original in (None, Original(store_of(source, target), SOURCE)):
        report = await check(source, target, result.root, original)
        assert (report.findings, report.compared, report.images) == ([], True, 2)


async def test_without_its_source_the_reason_is_told() -> None:
    _, target, root = await converted()
    report = await check(Repository(), target, root)
    assert report.ok
    assert not report.compared
    assert "neither in registry.test/source nor beside it" in report.not_compared[0]


async def test_an_annotation_makes_nobody_contact_a_registry_that_is_not_allowed() -> None:
    class Guarded(MemoryStore):
        async def resolve(self, reference: Reference) -> Descriptor | None:
            if reference.registry == "elsewhere.example.com":
                raise PermanentError("elsewhere.example.com is not allowed", code="host_not_allowed")
            return await super().resolve(reference)

    source, target, root = await converted()
    for recorded, said in (("elsewhere.example.com/a", "not allowed"), ("No Reference", "not an image reference")):
        marks = {**root.annotations, ANNOTATION_SOURCE_REPOSITORY: recorded}
        changed = encode_manifest({**root.data, "annotations": marks})
        target.tags["1"] = target.add_manifest(changed).digest
        report = await check_image(
            ESTARGZ, Guarded({"registry.test/source": source, "registry.test/target": target}), TARGET
        )
        assert report.ok
        assert not report.compared
        assert said in report.not_compared[0]


def with_layer(target: Repository, root: ImageManifest, tar: bytes, diff_id: Digest | None = None) -> ImageManifest:
    """The image with the plain ``tar`` for its only layer."""
    layer = target.add(tar, root.layers[0].media_type)
    config = orjson.loads(target.blobs[root.config.digest])
    config["rootfs"]["diff_ids"] = [str(diff_id or layer.digest)]
    pushed = target.add(orjson.dumps(config), root.config.media_type)
    manifest = encode_manifest({**root.data, "config": pushed.to_json(), "layers": [layer.to_json()]})
    assert isinstance(manifest, ImageManifest)
    return manifest


async def test_inflated_layers_are_held_against_the_source_and_the_config() -> None:
    source, target, root = await converted(uncompress=True)
    report = await check(source, target, root)
    assert (report.findings, report.compared, report.blobs, report.entries) == ([], True, 1, 8)
    changed = LAYER.replace(b"content content", b"another content", 1)
    for tar, diff_id, said in (
        (changed, None, "/d/file: content is"),
        (Tar().file("more").bytes(), None, "/more: is not in the source"),
        (changed, root.layers[0].digest, "layers[0].diff_id: is"),
        (LAYER[:1000], None, "is cut at byte 1000"),
    ):
        report = await check(source, target, with_layer(target, root, tar, diff_id))
        assert any(said in str(finding) for finding in report.findings), report.findings


async def test_inflated_layers_are_held_against_the_config_alone_without_their_source() -> None:
    _, target, root = await converted(uncompress=True)
    assert (await check(Repository(), target, root)).ok
    wrong = with_layer(target, root, LAYER, Digest.of(b""))
    assert ["diff_id" in str(finding) for finding in (await check(Repository(), target, wrong)).findings] == [True]
