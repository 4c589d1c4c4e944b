"""``builder_path``: an external builder is run as nydus-snapshotter runs it, and gives images of the same shape."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from typing import NoReturn

import pytest

from drivers.nydus import NydusDriver
from drivers.nydus.options import NydusOptions
from drivers.testing.content import MemoryContent, Repository
from drivers.testing.images import Tar, add_image, as_source
from shared.errors import PermanentError, TransientError, UnsupportedError
from shared.oci.manifest import ImageManifest
from tests.images.sparse import GNU_TAR, sparse_tar, write_files
from tests.integration.nydus.stand_in_builder import install
from tests.unit.drivers.nydus.bootstraps import bootstrap_of

BASE = Tar().folder("d").file("d/a", b"a" * 100_000).bytes()
TOP = Tar().folder("d").file("d/.wh.a").file("d/b", b"b").bytes()


def option(folder: Path, behaviour: str = "", **more: object) -> NydusOptions:
    work = folder / "work"
    work.mkdir(exist_ok=True)
    builder = str(install(folder, behaviour))
    return NydusOptions.model_validate({"builder_path": builder, "work_dir": str(work), **more})


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
async def test_an_external_builder_gives_the_same_image(compression: str, tmp_path: Path) -> None:
    repository = Repository()
    source = as_source(add_image(repository, [BASE, TOP], compression=compression))
    native, external = MemoryContent(repository), MemoryContent(repository)
    chosen = option(tmp_path, compressor="none", prefetch_patterns=["/d"])
    first = await NydusDriver().convert(
        source, native, NydusOptions(compressor="none", prefetch_patterns=["/d"], share_chunks=False)
    )
    second = await NydusDriver().convert(source, external, chosen)
    assert isinstance(first.root, ImageManifest)
    assert isinstance(second.root, ImageManifest)
    assert second.root.layers == first.root.layers
    assert second.root.config == first.root.config
    assert second.root.annotations["containerd.io/snapshot/nydus-builder-version"] == "v2.4.4"
    assert bootstrap_of(external.target_repository, second.root) == bootstrap_of(native.target_repository, first.root)
    assert list((tmp_path / "work").iterdir()) == []


async def test_a_healthy_external_builder(tmp_path: Path) -> None:
    await NydusDriver().check_health(option(tmp_path))


async def test_what_the_builder_says_is_the_error(tmp_path: Path) -> None:
    repository = Repository()
    source = as_source(add_image(repository, [BASE]))
    with pytest.raises(PermanentError, match="Error: build failed") as caught:
        await NydusDriver().convert(source, MemoryContent(repository), option(tmp_path, "fail"))
    assert caught.value.code == "builder_failed"
    assert list((tmp_path / "work").iterdir()) == []


async def test_a_sparse_file_is_refused_because_the_builder_would_take_its_map_for_content(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    write_files(files)
    repository = Repository()
    source = as_source(add_image(repository, [sparse_tar(files, GNU_TAR["pax-1.0"])]))
    with pytest.raises(UnsupportedError, match=r"'hole only' .*without builder_path"):
        await NydusDriver().convert(source, MemoryContent(repository), option(tmp_path))
    assert list((tmp_path / "work").iterdir()) == []


async def test_a_builder_that_was_killed_is_worth_a_retry(tmp_path: Path) -> None:
    repository = Repository()
    source = as_source(add_image(repository, [BASE]))
    with pytest.raises(TransientError) as caught:
        await NydusDriver().convert(source, MemoryContent(repository), option(tmp_path, "die"))
    assert caught.value.code == "builder_killed"


async def test_a_builder_that_finds_the_disk_full_says_so_of_the_machine(tmp_path: Path) -> None:
    repository = Repository()
    source = as_source(add_image(repository, [BASE]))
    with pytest.raises(TransientError, match="No space left") as caught:
        await NydusDriver().convert(source, MemoryContent(repository), option(tmp_path, "full"))
    assert (caught.value.code, caught.value.details["resource"]) == ("local_resource", "disk")
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize(
    ("refused", "number", "resource"),
    [
        ("tempfile.mkdtemp", errno.ENOSPC, "disk"),
        ("asyncio.create_subprocess_exec", errno.EMFILE, "files"),
        ("asyncio.create_subprocess_exec", errno.ENOMEM, "memory"),
    ],
)
async def test_what_the_machine_refuses_a_builder_is_no_fault_of_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str, number: int, resource: str
) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    repository = Repository()
    source = as_source(add_image(repository, [BASE]))
    chosen = option(tmp_path)
    monkeypatch.setattr(refused, refuse)
    with pytest.raises(TransientError) as caught:
        await NydusDriver().convert(source, MemoryContent(repository), chosen)
    assert (caught.value.code, caught.value.details["resource"]) == ("local_resource", resource)


async def test_a_disk_that_has_become_read_only_is_the_machines_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = option(tmp_path)
    found = os.statvfs(tmp_path)
    read_only = os.statvfs_result([*found[:8], found.f_flag | os.ST_RDONLY, found[9], found.f_fsid])
    monkeypatch.setattr(os, "access", lambda *_: False)  # what the system says of such a disk
    with pytest.raises(TransientError) as caught:
        await NydusDriver().check_health(chosen)
    assert caught.value.code == "work_dir_unwritable"
    monkeypatch.setattr(os, "statvfs", lambda _: read_only)
    with pytest.raises(TransientError) as caught:
        await NydusDriver().check_health(chosen)
    assert (caught.value.code, caught.value.details["resource"]) == ("local_resource", "disk")


async def test_a_cancelled_conversion_ends_its_builder_and_leaves_no_file(tmp_path: Path) -> None:
    repository = Repository()
    source = as_source(add_image(repository, [BASE]))
    task = asyncio.create_task(NydusDriver().convert(source, MemoryContent(repository), option(tmp_path, "hang")))
    pid = tmp_path / "pid"
    while not (pid.exists() and pid.read_text()):
        await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not Path(f"/proc/{pid.read_text()}").exists()
    assert list((tmp_path / "work").iterdir()) == []
