"""The machine is asked by taking a little of what it should give, and giving it back."""

from __future__ import annotations

import errno
import mmap
import os
import threading
from pathlib import Path
from typing import Any, NoReturn, get_args

import pytest

from consumer.supplies import LITTLE, PLENTY, MachineSupplies
from shared.exhausted import Resource


def refusing(number: int) -> Any:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return refuse


def disk(free: int, size: int) -> Any:
    """A file system of so many bytes."""
    found = os.statvfs("/")
    values = [1, 1, size, free, free, *found[5:10], found.f_fsid]
    return lambda _folder: os.statvfs_result(values)


@pytest.fixture
def supplies(tmp_path: Path) -> MachineSupplies:
    return MachineSupplies([tmp_path])


async def test_a_machine_that_lacks_nothing_gives_everything_and_is_left_as_it_was(
    supplies: MachineSupplies, tmp_path: Path
) -> None:
    before = {thread.name for thread in threading.enumerate()}
    for resource in get_args(Resource):
        assert await supplies.lacking(resource) == ""
        assert await supplies.state(resource)
    assert list(tmp_path.iterdir()) == []
    assert "asking for threads" not in {thread.name for thread in threading.enumerate()} - before


async def test_a_disk_is_asked_for_its_free_bytes(supplies: MachineSupplies, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", disk(free=LITTLE["disk"] - 1, size=PLENTY["disk"] * 100))
    assert await supplies.lacking("disk") == "No space left on device"
    monkeypatch.setattr(os, "statvfs", disk(free=PLENTY["disk"] - 1, size=PLENTY["disk"] * 100))
    assert (await supplies.lacking("disk"), await supplies.plenty("disk")) == ("", False)
    monkeypatch.setattr(os, "statvfs", disk(free=PLENTY["disk"], size=PLENTY["disk"] * 100))
    assert await supplies.plenty("disk")


async def test_of_a_small_disk_a_tenth_is_plenty(supplies: MachineSupplies, monkeypatch: pytest.MonkeyPatch) -> None:
    size = LITTLE["disk"]
    monkeypatch.setattr(os, "statvfs", disk(free=size // 10 - 1, size=size))
    assert await supplies.lacking("disk")
    monkeypatch.setattr(os, "statvfs", disk(free=size // 10, size=size))
    assert (await supplies.lacking("disk"), await supplies.plenty("disk")) == ("", True)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("refused", ["posix_fallocate", "fsync"])
async def test_a_disk_that_refuses_a_file_has_none_whatever_it_says(
    supplies: MachineSupplies, monkeypatch: pytest.MonkeyPatch, number: int, refused: str
) -> None:
    monkeypatch.setattr(os, refused, refusing(number))
    assert await supplies.lacking("disk") == os.strerror(number)
    assert not await supplies.plenty("disk")


async def test_what_else_is_wrong_with_a_folder_is_for_the_conversion_to_tell(tmp_path: Path) -> None:
    supplies = MachineSupplies([tmp_path / "gone"])
    assert await supplies.lacking("disk") == ""
    assert await supplies.state("disk") == f"{tmp_path / 'gone'}: No such file or directory"


async def test_its_state_is_the_path_and_the_free_bytes(
    supplies: MachineSupplies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", disk(free=7, size=100))
    assert (await supplies.state("disk")).startswith(f"{tmp_path}: 7 bytes free of 100, ")


async def test_a_file_system_that_cannot_reserve_is_written_to(
    supplies: MachineSupplies, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", refusing(errno.EOPNOTSUPP))
    assert await supplies.lacking("disk") == ""
    monkeypatch.setattr(os, "fsync", refusing(errno.EDQUOT))
    assert await supplies.lacking("disk") == "Disk quota exceeded"


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
async def test_open_files_are_opened(supplies: MachineSupplies, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    opened = os.open
    left = LITTLE["files"]

    def few(path: str, flags: int) -> int:
        nonlocal left
        if not left:
            refusing(number)()
        left -= 1
        return opened(path, flags)

    monkeypatch.setattr(os, "open", few)
    assert await supplies.lacking("files") == ""
    assert await supplies.lacking("files") == os.strerror(number)


async def test_memory_is_mapped(supplies: MachineSupplies, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmap, "mmap", refusing(errno.ENOMEM))
    assert await supplies.lacking("memory") == "Cannot allocate memory"


async def test_threads_are_started(supplies: MachineSupplies, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await supplies.lacking("disk") == ""  # the loop has a thread for the question itself

    def none_left(_thread: threading.Thread) -> NoReturn:
        raise RuntimeError("can't start new thread")

    start = threading.Thread.start
    with monkeypatch.context() as patched:
        patched.setattr(
            threading.Thread,
            "start",
            lambda thread: none_left(thread) if thread.name == "asking for threads" else start(thread),
        )
        assert await supplies.lacking("threads") == "can't start new thread"
        patched.setattr(threading.Thread, "start", none_left)
        assert await supplies.lacking("threads") == "can't start new thread"
