"""Hashing and compressing a batch of members: the loop that costs, here or in a child process.

As a program (run by its path, so that it imports nothing but this) it reads batches from standard input and writes the results
to standard output until its input ends, which is also how it learns that its parent has died.

Frames, little endian: count, bytes of data, level (``<IIi``), ``count`` starts and ``count`` payload sizes (u32), data →
bytes of members (``<I``), ``count`` sizes (u32), 64 hex digits a member, members.
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

REQUEST = Struct("<IIi")
RESPONSE = Struct("<I")
ADAPTIVE = -1
"""The level that is no larger than the Go builder's 9 at the least cost: on small members, which are mostly text, libdeflate
needs its 7 for that; on large ones, which are mostly machine code and data, 6 is 1 to 3 % smaller already."""
SMALL_MEMBER = 256 << 10
"""Bytes up to which :data:`ADAPTIVE` means 7."""
NUMBERS = "I"
DIGEST_SIZE = 64
"""Hex digits."""


def pack(
    data: bytes | bytearray, starts: Sequence[int], payloads: Sequence[int], level: int
) -> tuple[array[int], bytes, bytes]:
    """Make a gzip member of each piece of ``data``.

    Args:
        data: whole members, uncompressed.
        starts: where each begins.
        payloads: how many bytes of file data each begins with.
        level: libdeflate's, or :data:`ADAPTIVE`.

    Returns:
        Size of each member, the joined hex sha256 of each payload, the joined members.
    """
    view = memoryview(data)
    sizes = array(NUMBERS)
    digests: list[str] = []
    members: list[bytes | bytearray] = []
    ends = [*starts[1:], len(data)]
    for start, payload, end in zip(starts, payloads, ends, strict=True):
        digests.append(sha256(view[start : start + payload]).hexdigest())
        if level == ADAPTIVE:
            member = gzip_compress(view[start:end], 7 if end - start <= SMALL_MEMBER else 6)
        else:
            member = gzip_compress(view[start:end], level)
        members.append(member)
        sizes.append(len(member))
    return sizes, "".join(digests).encode("ascii"), b"".join(members)


def serve(source: BinaryIO, target: BinaryIO) -> None:
    """Until ``source`` ends."""
    while len(head := source.read(REQUEST.size)) == REQUEST.size:
        count, size, level = REQUEST.unpack(head)
        starts, payloads = array(NUMBERS), array(NUMBERS)
        starts.frombytes(source.read(count * starts.itemsize))
        payloads.frombytes(source.read(count * payloads.itemsize))
        sizes, digests, members = pack(source.read(size), starts, payloads, level)
        target.writelines((RESPONSE.pack(len(members)), sizes.tobytes(), digests, members))
        target.flush()


if __name__ == "__main__":
    # Its parent decides when it ends, also when a terminal or a supervisor signals the whole group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    serve(sys.stdin.buffer, sys.stdout.buffer)
