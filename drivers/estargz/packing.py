"""Hashing and compressing a batch of members: the loop that costs, here or in a child process.

As a program (run by its path, so that it imports nothing but this) it reads batches from standard input and writes the results
to standard output until its input ends, which is also how it learns that its parent has died.

Frames, little endian: count, bytes of data (``<II``), ``count`` starts and ``count`` payload sizes (u32), ``count`` levels
(u8), data → bytes of members (``<I``), ``count`` sizes (u32), 64 hex digits a member, members.
"""

from __future__ import annotations

import signal
import sys
from array import array
from collections.abc import Sequence
from hashlib import sha256
from struct import Struct
from typing import BinaryIO

from deflate import gzip_compress

REQUEST = Struct("<II")
RESPONSE = Struct("<I")
NUMBERS = "I"
DIGEST_SIZE = 64
"""Hex digits."""


def pack(
    data: bytes | bytearray, starts: Sequence[int], payloads: Sequence[int], levels: bytes
) -> tuple[array[int], bytes, bytes]:
    """Make a gzip member of each piece of ``data``.

    Args:
        data: whole members, uncompressed.
        starts: where each begins.
        payloads: how many bytes of file data each begins with.
        levels: of libdeflate, one a member.

    Returns:
        Size of each member, the joined hex sha256 of each payload, the joined members.
    """
    view = memoryview(data)
    ends = [*starts[1:], len(data)]
    members = [gzip_compress(view[start:end], level) for start, end, level in zip(starts, ends, levels, strict=True)]
    return array(NUMBERS, map(len, members)), digests(data, starts, payloads), b"".join(members)


def digests(data: bytes | bytearray, starts: Sequence[int], payloads: Sequence[int]) -> bytes:
    """The joined hex sha256 of each payload; arguments as of :func:`pack`."""
    view = memoryview(data)
    each = [sha256(view[start : start + payload]).hexdigest() for start, payload in zip(starts, payloads, strict=True)]
    return "".join(each).encode("ascii")


def serve(source: BinaryIO, target: BinaryIO) -> None:
    """Until ``source`` ends."""
    while len(head := source.read(REQUEST.size)) == REQUEST.size:
        count, size = REQUEST.unpack(head)
        starts, payloads = array(NUMBERS), array(NUMBERS)
        starts.frombytes(source.read(count * starts.itemsize))
        payloads.frombytes(source.read(count * payloads.itemsize))
        levels = source.read(count)
        sizes, digests, members = pack(source.read(size), starts, payloads, levels)
        target.writelines((RESPONSE.pack(len(members)), sizes.tobytes(), digests, members))
        target.flush()


if __name__ == "__main__":
    # Its parent decides when it ends, also when a terminal or a supervisor signals the whole group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    serve(sys.stdin.buffer, sys.stdout.buffer)
