"""Child processes that pack batches of many small members.

A member of a kilobyte takes 15 µs of C code between two takings of Python's lock, for which it then waits behind the thread
that walks the tar: threads make such batches no faster than one core. A child has a lock of its own. Large members stay in
threads, where nothing need be copied.
"""

from __future__ import annotations

import contextlib
import fcntl
import subprocess
import sys
import weakref
from array import array
from queue import Empty, SimpleQueue
from typing import Final

from drivers.estargz import packing
from drivers.estargz.packing import DIGEST_SIZE, NUMBERS, REQUEST, RESPONSE, pack

SMALL_MEMBERS: Final = 32
"""Members from which on a batch (of a megabyte or more) goes to a child."""
START_AFTER: Final = 4
"""Such batches before the first child is started: a small image does not pay for it."""
_PIPE_SIZE: Final = 1 << 20


class Packer:
    """:func:`pack`, in a child where that is faster. The bytes are the same either way. Safe to use from several threads."""

    def __init__(self) -> None:
        self._idle: SimpleQueue[_Child] = SimpleQueue()
        self._seen = 0

    def pack(
        self, data: bytes, starts: array[int], payloads: array[int], levels: bytes
    ) -> tuple[array[int], bytes, bytes]:
        """See :func:`drivers.estargz.packing.pack`. A child that dies costs its speed and nothing else."""
        if len(starts) < SMALL_MEMBERS:
            return pack(data, starts, payloads, levels)
        self._seen += 1
        if self._seen <= START_AFTER:
            return pack(data, starts, payloads, levels)
        try:
            child = self._take()
            packed = child.pack(data, starts, payloads, levels)
        except OSError:
            return pack(data, starts, payloads, levels)
        self._idle.put(child)
        return packed

    def _take(self) -> _Child:
        with contextlib.suppress(Empty):
            return self._idle.get_nowait()
        return _Child()


class _Child:
    """One process; ends with this object, or with this process however that ends.

    Raises:
        OSError: it cannot be started, or is gone.
    """

    def __init__(self) -> None:
        command = [sys.executable, "-I", packing.__file__]
        self._process = subprocess.Popen(  # noqa: S603  our own interpreter and file
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._finalizer = weakref.finalize(self, _end, self._process)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # the user's pipe budget may be used up
                    fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)

    def pack(
        self, data: bytes, starts: array[int], payloads: array[int], levels: bytes
    ) -> tuple[array[int], bytes, bytes]:
        source, target = self._process.stdout, self._process.stdin
        if source is None or target is None:
            raise BrokenPipeError
        count = len(starts)
        for part in (REQUEST.pack(count, len(data)), starts, payloads, levels, data):
            target.write(part)
        target.flush()
        head = source.read(RESPONSE.size)
        if len(head) < RESPONSE.size:
            raise BrokenPipeError
        (size,) = RESPONSE.unpack(head)
        sizes = array(NUMBERS)
        raw = source.read(count * sizes.itemsize)
        digests = source.read(count * DIGEST_SIZE)
        members = source.read(size)
        if len(members) < size:
            raise BrokenPipeError
        sizes.frombytes(raw)
        return sizes, digests, members


def _end(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
