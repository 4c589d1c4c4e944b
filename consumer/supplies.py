"""What this machine must give to a conversion, asked of the system itself: room on disks, open files, memory, threads.

Asking takes a little of it and gives it back at once.
"""

from __future__ import annotations

import asyncio
import errno
import mmap
import os
import resource as limits
import tempfile
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from shared.exhausted import Resource, exhausted, refusal

_MIB = 1 << 20
LITTLE: dict[Resource, int] = {"disk": 16 * _MIB, "files": 16, "memory": 64 * _MIB, "threads": 4}
"""Without which no conversion is tried. Bytes, or how many."""
PLENTY: dict[Resource, int] = {"disk": 1024 * _MIB, "files": 256, "memory": 1024 * _MIB, "threads": 64}
"""An image that fails although there is so much wants too much itself."""
SMALL_DISK = 0.1
"""This part of a disk is as good, if that is less."""
_WRITTEN = 4096
"""Bytes that are written in earnest: some disks promise what they do not keep."""


class Supplies(Protocol):
    async def lacking(self, resource: Resource) -> str:
        """Why there is too little of it to try a conversion; empty if there is enough, or nobody can tell."""
        ...

    async def plenty(self, resource: Resource) -> bool:
        """Whether there is so much that whoever fails for want of it wants too much."""
        ...

    async def state(self, resource: Resource) -> str:
        """For people: where, and how much there is."""
        ...


class MachineSupplies:
    """Of this process.

    Args:
        folders: where conversions put files.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(dict.fromkeys(folders))

    async def lacking(self, resource: Resource) -> str:
        return await self._asked(resource, LITTLE[resource])

    async def plenty(self, resource: Resource) -> bool:
        return not (await self.lacking(resource) or await self._asked(resource, PLENTY[resource]))

    async def state(self, resource: Resource) -> str:
        if resource == "disk":
            try:
                return await asyncio.to_thread(lambda: "; ".join(map(_room, self._folders)))
            except RuntimeError:
                return ", ".join(map(str, self._folders))
        if resource == "files":
            return f"{limits.getrlimit(limits.RLIMIT_NOFILE)[0]} may be open in this process (ulimit -n)"
        if resource == "threads":
            return f"{threading.active_count()} in this process"
        return f"this process has used {limits.getrusage(limits.RUSAGE_SELF).ru_maxrss >> 10} MiB at its most"

    async def _asked(self, resource: Resource, amount: int) -> str:
        """In a thread: a disk may hang. Where none can be started, that is what is lacking."""
        try:
            await asyncio.to_thread(self._take, resource, amount)
        except (OSError, MemoryError, RuntimeError) as error:
            # Whatever else is wrong (a folder that is gone, say) is told by the conversion that meets it.
            return refusal(error) if exhausted(error) is not None else ""
        return ""

    def _take(self, resource: Resource, amount: int) -> None:
        if resource == "disk":
            for folder in self._folders:
                _take_room(folder, amount)
        elif resource == "files":
            _open_files(amount)
        elif resource == "memory":
            mmap.mmap(-1, amount).close()
        else:
            _start_threads(amount)


def _take_room(folder: Path, amount: int) -> None:
    disk = os.statvfs(folder)
    amount = min(amount, int(disk.f_blocks * disk.f_frsize * SMALL_DISK))
    if disk.f_bavail * disk.f_frsize < amount:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    # What is free in numbers may be refused all the same: a quota, a disk that has become read-only or fails.
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        try:
            os.posix_fallocate(file.fileno(), 0, max(_WRITTEN, min(amount, LITTLE["disk"])))
        except OSError as error:
            if exhausted(error) is not None:
                raise  # else the file system cannot reserve
        file.write(bytes(_WRITTEN))
        os.fsync(file.fileno())


def _room(folder: Path) -> str:
    try:
        disk = os.statvfs(folder)
    except OSError as error:
        return f"{folder}: {refusal(error)}"
    read_only = ", read-only" if disk.f_flag & os.ST_RDONLY else ""
    free, size = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    return f"{folder}: {free} bytes free of {size}, {disk.f_favail} files{read_only}"


def _open_files(count: int) -> None:
    with ExitStack() as stack:
        for _ in range(count):
            stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))


def _start_threads(count: int) -> None:
    end = threading.Event()
    started: list[threading.Thread] = []
    try:
        for _ in range(count):
            thread = threading.Thread(target=end.wait, name="asking for threads", daemon=True)
            thread.start()
            started.append(thread)
    finally:
        end.set()
        for thread in started:
            thread.join()
