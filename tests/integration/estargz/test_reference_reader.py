"""The Go reference library opens our layers, verifies their tables and reads every chunk."""

from __future__ import annotations

import hashlib
import io
import sysconfig
import tarfile
from pathlib import Path
from typing import Any

import pytest

from drivers.api import ConvertedLayer
from drivers.estargz import EstargzOptions
from drivers.stargz.layout import ANNOTATION_TOC_DIGEST
from tests.integration.estargz.crafted import crafted
from tests.integration.estargz.oracle import ask
from tests.unit.drivers.layer_blobs import convert, gz, member, tar, zst


async def judged(made: ConvertedLayer, blob: bytes, tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "layer"
    path.write_bytes(blob)
    report = ask("check", path, made.descriptor.annotations[ANNOTATION_TOC_DIGEST])
    assert report["diffID"] == made.diff_id
    report["files"] = {file["name"]: file for file in report["files"]}
    return report


@pytest.mark.parametrize("chunk_size", [0, 64 << 10])
async def test_a_layer_of_everything(tmp_path: Path, chunk_size: int) -> None:
    source = crafted()
    made, blob = await convert(gz(source), EstargzOptions(estargz_chunk_size=chunk_size))
    files = (await judged(made, blob, tmp_path))["files"]
    with tarfile.open(fileobj=io.BytesIO(source)) as archive:
        last = {info.name.removeprefix("./").replace("escaped/../normal//", "normal/"): info for info in archive}
        for name, info in last.items():
            file = files["" if name == "." else "dir/big" if info.islnk() else name]
            assert file["mode"] == info.mode, name
            assert info.islnk() or (file["uid"], file["gid"]) == (info.uid, info.gid), name
            assert file["mtime"] == int(info.mtime + 0.5), name
            if info.isreg():
                data = archive.extractfile(info).read()  # type: ignore[union-attr]
                assert file["digest"] == f"sha256:{hashlib.sha256(data).hexdigest()}", name
    # The library gives a hard link as the file it leads to.
    assert files["dir/hard"]["digest"] == files["dir/big"]["digest"]
    assert (files["dir/link"]["type"], files["dir/link"]["link"]) == ("symlink", "big")
    assert (files["dir/disk"]["major"], files["dir/disk"]["minor"]) == (259, 1_000_000)
    assert files["dir/attrs"]["xattrs"] == {"user.k": "dmFsdWU="}
    assert (files["dir"]["user"], files["dir"]["group"]) == ("root", "staff")
    assert files["dir/changes"]["type"] == "dir"
    assert files["dir/big"]["chunks"] == (3 if chunk_size == 0 else 144)


async def test_prioritised_files_lie_where_the_go_builder_puts_them(tmp_path: Path) -> None:
    source = tar(
        [
            member("d/", kind=tarfile.DIRTYPE),
            member("d/a", b"a" * 100),
            member("d/x", b"x" * 100),
            member("z", b"z" * 100),
            member("d/hard", kind=tarfile.LNKTYPE, linkname="d/a"),
        ]
    )
    wanted = ("/d/hard", "d/x", "/nonexistent")
    made, blob = await convert(source, EstargzOptions(prioritized_files=wanted))
    ours = (await judged(made, blob, tmp_path))["tarNames"]
    (tmp_path / "source").write_bytes(source)
    built = ask("build", tmp_path / "source", tmp_path / "go", "9", "0", *wanted)
    assert ask("check", tmp_path / "go", built["tocDigest"])["tarNames"] == ours


def whole_seconds(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """As image builders write layers; a fraction would cost a PAX record an entry, which we keep and Go's writer drops."""
    entry.mtime = int(entry.mtime)
    return entry


async def test_a_python_installation_is_no_larger_than_the_go_builder_makes_it(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        library = Path(sysconfig.get_path("stdlib"))
        for name in ("asyncio", "collections", "email", "encodings", "json", "lib2to3", "logging", "unittest", "xml"):
            archive.add(library / name, f"usr/lib/python3/{name}", filter=whole_seconds)
    source = zst(out.getvalue())
    made, blob = await convert(source)
    report = await judged(made, blob, tmp_path)
    assert len(report["files"]) > 200
    (tmp_path / "source").write_bytes(out.getvalue())
    built = ask("build", tmp_path / "source", tmp_path / "go", "9", "0")
    assert len(blob) <= built["size"]


async def test_a_go_built_layer_converts_and_reads(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(crafted())
    built = ask("build", tmp_path / "source", tmp_path / "go", "6", "0")
    made, blob = await convert((tmp_path / "go").read_bytes())
    assert (await judged(made, blob, tmp_path))["tarNames"].count("stargz.index.json") == 1
    assert made.diff_id != built["diffID"]


async def test_the_judge_refuses_a_wrong_digest(tmp_path: Path) -> None:
    made, blob = await convert(tar([member("a", b"1")]))
    path = tmp_path / "layer"
    path.write_bytes(blob)
    with pytest.raises(AssertionError, match="invalid TOC JSON"):
        ask("check", path, "sha256:" + "0" * 64)
    assert made.diff_id == ask("check", path, made.descriptor.annotations[ANNOTATION_TOC_DIGEST])["diffID"]
