"""The Go reference library opens our zstd:chunked layers, verifies their tables and reads every chunk."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from drivers.api import ConvertedLayer
from drivers.stargz.layout import ANNOTATION_TOC_DIGEST
from drivers.zstdchunked import ZstdChunkedOptions
from drivers.zstdchunked.layout import ANNOTATION_MANIFEST_CHECKSUM, ANNOTATION_MANIFEST_POSITION
from drivers.zstdchunked.reader import read_toc
from tests.integration.estargz.crafted import crafted
from tests.integration.estargz.oracle import ask
from tests.unit.drivers.layer_blobs import gz, ranges, tar, zst
from tests.unit.drivers.zstdchunked.blobs import convert


async def judged(made: ConvertedLayer, blob: bytes, tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "layer"
    path.write_bytes(blob)
    report = ask("check", path, made.descriptor.annotations[ANNOTATION_TOC_DIGEST])
    assert report["diffID"] == made.diff_id
    return report


@pytest.mark.parametrize("chunk_size", [4 << 20, 64 << 10])
async def test_a_layer_of_everything(tmp_path: Path, chunk_size: int) -> None:
    source = crafted() + b"behind the end"
    made, blob = await convert(gz(source), ZstdChunkedOptions(chunk_size=chunk_size))
    report = await judged(made, blob, tmp_path)
    assert report["diffID"] == f"sha256:{hashlib.sha256(source).hexdigest()}"
    files = {file["name"]: file for file in report["files"]}
    with tarfile.open(fileobj=io.BytesIO(source)) as archive:
        infos = archive.getmembers()
        assert report["tarNames"] == [
            info.name + "/" * (info.isdir() and not info.name.endswith("/")) for info in infos
        ]
        last = {info.name.removeprefix("./").replace("escaped/../normal//", "normal/"): info for info in infos}
        for name, info in last.items():
            file = files["" if name == "." else "dir/big" if info.islnk() else name]
            assert file["mode"] == info.mode, name
            assert info.islnk() or (file["uid"], file["gid"]) == (info.uid, info.gid), name
            assert file["mtime"] == int(info.mtime + 0.5), name
            if info.isreg():
                data = archive.extractfile(info).read()  # type: ignore[union-attr]
                assert file["digest"] == f"sha256:{hashlib.sha256(data).hexdigest()}", name
    assert files["dir/hard"]["digest"] == files["dir/big"]["digest"]
    assert files["dir/attrs"]["xattrs"] == {"user.k": "dmFsdWU="}
    assert files["dir/changes"]["type"] == "dir"
    assert files["dir/big"]["chunks"] == (3 if chunk_size == 4 << 20 else 144)


@pytest.mark.parametrize("source", [b"", tar([])], ids=["nothing", "no entry"])
async def test_layers_without_entries(tmp_path: Path, source: bytes) -> None:
    made, blob = await convert(source)
    (root,) = (await judged(made, blob, tmp_path))["files"]
    assert (root["name"], root["type"], root["mode"]) == ("", "dir", 0o755)


async def test_the_judge_refuses_a_wrong_digest(tmp_path: Path) -> None:
    _, blob = await convert(zst(crafted()))
    path = tmp_path / "layer"
    path.write_bytes(blob)
    with pytest.raises(AssertionError, match="invalid TOC JSON"):
        ask("check", path, "sha256:" + "0" * 64)


async def test_what_the_go_builder_makes_is_read_and_converted(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(crafted())
    built = ask("build-zstd", tmp_path / "source", tmp_path / "go", "3", "0")
    theirs = (tmp_path / "go").read_bytes()
    toc = await read_toc(ranges(theirs), len(theirs), built["tocDigest"])
    assert toc.entries["dir/big"].size == 9 << 20
    assert built["metadata"].keys() == {ANNOTATION_MANIFEST_CHECKSUM, ANNOTATION_MANIFEST_POSITION}
    made, blob = await convert(theirs)
    assert (await judged(made, blob, tmp_path))["diffID"] == built["diffID"]
