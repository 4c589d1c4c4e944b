"""Everything in the work directory has a living owner and an end."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from consumer.workdir import WorkDir, collect_abandoned, size_of
from shared.errors import PermanentError


async def test_a_claimed_folder_takes_temporary_files_and_goes_with_its_owner(tmp_path: Path) -> None:
    async with WorkDir.claim(tmp_path / "work", 1000) as work, work.collecting():
        with work.temporary_files(), tempfile.NamedTemporaryFile() as file:
            assert Path(file.name).is_relative_to(work.path)
    assert list((tmp_path / "work").iterdir()) == []


async def test_what_a_killed_consumer_left_is_collected_by_the_next(tmp_path: Path) -> None:
    script = (
        "import asyncio, os, signal, sys\n"
        "from pathlib import Path\n"
        "from consumer.workdir import WorkDir\n"
        "async def main():\n"
        "    async with WorkDir.claim(Path(sys.argv[1]), 1000) as work:\n"
        "        (work.path / 'blob').write_bytes(b'x' * 100)\n"
        "        (work.uploads / 'session').touch()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    (left,) = tmp_path.iterdir()
    assert size_of(left) == 100
    async with WorkDir.claim(tmp_path, 1000) as work:
        assert list(tmp_path.iterdir()) == [work.path]
        assert [record.name for record in work.uploads.iterdir()] == ["session"]
    async with WorkDir.claim(tmp_path, 1000) as work:  # nobody could cancel it meanwhile
        (work.uploads / "session").unlink()
    assert list(tmp_path.iterdir()) == []


async def test_a_living_owner_is_left_alone(tmp_path: Path) -> None:
    async with WorkDir.claim(tmp_path, 1000) as first:
        assert collect_abandoned(tmp_path, first.path) == 0
        async with WorkDir.claim(tmp_path, 1000) as second:
            assert first.path.exists()
            assert second.path.exists()


async def test_who_starts_at_the_same_instant_takes_nobodys_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another consumer collects between the making of a folder and the lock on it."""
    make = tempfile.mkdtemp

    def made_and_looked_at(*, prefix: str, dir: Path) -> str:  # noqa: A002  mkdtemp's own name
        made = make(prefix=prefix, dir=dir)
        collect_abandoned(tmp_path, Path(made))
        return made

    monkeypatch.setattr(tempfile, "mkdtemp", made_and_looked_at)
    async with WorkDir.claim(tmp_path, 1000) as first, WorkDir.claim(tmp_path, 1000) as second:
        assert {first.path, second.path} == set(tmp_path.iterdir())
        assert (first.path / "owner.lock").exists()


async def test_a_folder_whose_maker_died_before_it_was_locked_is_collected(tmp_path: Path) -> None:
    for name, age in (("new-old", 3600), ("new-fresh", 0)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    assert collect_abandoned(tmp_path, tmp_path) == 1
    assert [folder.name for folder in tmp_path.iterdir()] == ["new-fresh"]


async def test_above_the_high_watermark_the_oldest_leftovers_go_down_to_the_low_one(tmp_path: Path) -> None:
    async with WorkDir.claim(tmp_path, 1000, in_use=60) as work:
        for number in range(6):
            leftover = work.path / f"leftover-{number}"
            leftover.mkdir()
            (leftover / "blob").write_bytes(b"x" * 200)
            for path in (leftover / "blob", leftover):
                os.utime(path, (1000 + number, 1000 + number))
        (work.path / "fresh").write_bytes(b"x" * 100)
        assert work.collect() == 600
        assert sorted(path.name for path in work.path.iterdir()) == [
            "fresh", "leftover-3", "leftover-4", "leftover-5", "owner.lock", "uploads",
        ]  # fmt: skip
        assert work.collect() == 0


async def test_what_is_in_use_is_never_collected(tmp_path: Path) -> None:
    async with WorkDir.claim(tmp_path, 10) as work:
        (work.path / "busy").write_bytes(b"x" * 100)
        assert work.collect() == 0
        assert (work.path / "busy").exists()


async def test_a_folder_that_cannot_be_used_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PermanentError) as error:
        async with WorkDir.claim(tmp_path / "file", 10):
            pass
    assert error.value.code == "work_dir_unwritable"
