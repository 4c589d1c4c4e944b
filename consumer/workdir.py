"""The work directory: every file in it has a living owner, a size that counts, and an end.

Each process claims a folder of its own and holds a lock on it for as long as it lives; a folder whose lock can be taken belongs
to a process that died, and is removed at the next start of any consumer, which inherits the records of its upload sessions.
While it runs, what the directory holds is measured; above the high watermark the owner removes its own oldest leftovers, down
to the low one. Conversions stream and put nothing but these records here; external builders and whatever uses Python's
temporary files do.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO

from shared.background import beside
from shared.errors import PermanentError

LOW_WATERMARK = 0.8
"""Of the limit: collecting goes on down to here."""
INTERVAL = 30.0
"""Seconds between two measurements."""
_LOCK = "owner.lock"
_UPLOADS = "uploads"
_PREFIX = "consumer-"
_UNCLAIMED = "new-"
_CLAIMING = 60.0
"""Seconds after which a folder that is not locked yet has lost its maker."""
_log = logging.getLogger(__name__)


class WorkDir:
    """One process's folder.

    Args:
        path: the claimed folder.
        limit: bytes that the whole directory may hold: the high watermark.
        in_use: seconds; what was written to more recently is not a leftover.
    """

    def __init__(self, path: Path, limit: int, in_use: float) -> None:
        self.path = path
        self._limit = limit
        self._in_use = in_use

    @classmethod
    @asynccontextmanager
    async def claim(cls, root: Path, limit: int, *, in_use: float = 3600) -> AsyncIterator[WorkDir]:
        """Collect what dead processes left, and own a folder in ``root`` until the end; temporary files go there meanwhile.

        Raises:
            PermanentError: ``work_dir_unwritable``.
        """
        try:
            await asyncio.to_thread(root.mkdir, parents=True, exist_ok=True)
            path, lock = await asyncio.to_thread(_claimed, root)
            await asyncio.to_thread(collect_abandoned, root, path)
        except OSError as error:
            raise PermanentError(
                f"work_dir {root} cannot be used: {error.strerror}", code="work_dir_unwritable"
            ) from error
        try:
            yield cls(path, limit, in_use)
        finally:
            await asyncio.to_thread(_give_up, path)
            lock.close()

    @property
    def uploads(self) -> Path:
        """The folder of records of open upload sessions."""
        return self.path / _UPLOADS

    @contextmanager
    def temporary_files(self) -> Iterator[None]:
        """Python's temporary files of this process land here meanwhile."""
        before = tempfile.tempdir
        tempfile.tempdir = str(self.path)
        try:
            yield
        finally:
            tempfile.tempdir = before

    @asynccontextmanager
    async def collecting(self) -> AsyncIterator[None]:
        """Measure and collect in the background."""

        async def watch() -> None:
            while True:
                await asyncio.sleep(INTERVAL)
                await asyncio.to_thread(self.collect)

        async with beside(watch(), "collecting in the work directory"):
            yield

    def collect(self) -> int:
        """Remove own leftovers, oldest first, if the directory is over its limit; bytes freed."""
        total = size_of(self.path.parent)
        if total <= self._limit:
            return 0
        freed = 0
        now = time.time()
        for entry in sorted(self._leftovers(now), key=_modified):
            if total - freed <= self._limit * LOW_WATERMARK:
                break
            size = size_of(entry)
            _remove(entry)
            freed += size
        _log.warning("work_dir held %d bytes, more than limits.work_dir (%d): freed %d", total, self._limit, freed)
        return freed

    def _leftovers(self, now: float) -> Iterator[Path]:
        for entry in self.path.iterdir():
            if entry.name not in {_LOCK, _UPLOADS} and now - _modified(entry) > self._in_use:
                yield entry


def _claimed(root: Path) -> tuple[Path, IO[bytes]]:
    """A new folder and the lock on it, which is held before the folder has a name that others collect."""
    made = Path(tempfile.mkdtemp(prefix=_UNCLAIMED, dir=root))
    (made / _UPLOADS).mkdir()
    lock = (made / _LOCK).open("wb")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return made.rename(root / made.name.replace(_UNCLAIMED, _PREFIX, 1)), lock


def _give_up(path: Path) -> None:
    """At the end of its owner; upload sessions that could not be cancelled are for the next one."""
    if not any((path / _UPLOADS).glob("*")):
        shutil.rmtree(path, ignore_errors=True)


def collect_abandoned(root: Path, heir: Path) -> int:
    """Remove the folders of processes that are gone, records of upload sessions moved to ``heir``; how many."""
    removed = 0
    lost = (folder for folder in root.glob(f"{_UNCLAIMED}*") if time.time() - _modified(folder) > _CLAIMING)
    for folder in (*root.glob(f"{_PREFIX}*"), *lost):
        with contextlib.suppress(FileNotFoundError), (folder / _LOCK).open("wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            for record in (folder / _UPLOADS).glob("*"):
                record.rename(heir / _UPLOADS / record.name)
            shutil.rmtree(folder, ignore_errors=True)
            removed += 1
    if removed:
        _log.info("removed %d work folders of consumers that are gone", removed)
    return removed


def size_of(path: Path) -> int:
    """Bytes of all files below ``path``; what vanishes meanwhile counts nothing."""
    if not path.is_dir():
        with contextlib.suppress(OSError):
            return path.stat(follow_symlinks=False).st_size
        return 0
    total = 0
    for folder, _, files in os.walk(path):
        for name in files:
            with contextlib.suppress(OSError):
                total += Path(folder, name).stat(follow_symlinks=False).st_size
    return total


def _modified(path: Path) -> float:
    """The newest change in ``path`` and what is directly in it."""
    newest = 0.0
    with contextlib.suppress(OSError):
        newest = path.stat(follow_symlinks=False).st_mtime
        if path.is_dir():
            newest = max([newest, *(child.stat(follow_symlinks=False).st_mtime for child in path.iterdir())])
    return newest


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
