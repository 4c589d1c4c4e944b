"""A run of gzip members that crosses to a worker thread at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from deflate import gzip_compress

BATCH_SIZE: Final = 1 << 20
"""Bytes of tar at which a batch is handed over: many small files a hand-over. Has no influence on the output."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """One of several chunks of a file."""

    name: bytes
    """JSON string."""
    position: int
    """In the file."""
    last: bool


@dataclass(slots=True)
class Batch:
    """Members, contiguous in the uncompressed layer.

    What every member needs is in parallel lists of numbers and bytes, which the garbage collector does not look through.
    """

    parts: list[bytes | memoryview] = field(default_factory=list)
    size: int = 0
    starts: list[int] = field(default_factory=list)
    """Where each member begins in the batch."""
    payloads: list[int] = field(default_factory=list)
    """Bytes of file data that each begins with; 0 for a member of headers only."""
    heads: list[bytes] = field(default_factory=list)
    """The file's line so far where a file begins with the member, else empty."""
    chunks: dict[int, Chunk] = field(default_factory=dict)
    """Members that hold one of several chunks."""
    lines: dict[int, list[bytes]] = field(default_factory=dict)
    """Complete lines of the entries whose headers follow a member's file data."""
    data: bytes = b""
    digests: list[str] = field(default_factory=list)
    """Hex sha256 of each member's file data."""
    members: list[bytes | bytearray] = field(default_factory=list)

    def begin(self, payload: int, head: bytes = b"") -> None:
        """The next part begins a member."""
        self.starts.append(self.size)
        self.payloads.append(payload)
        self.heads.append(head)

    def line(self, line: bytes) -> None:
        """An entry of the current member's headers."""
        self.lines.setdefault(len(self.starts) - 1, []).append(line)

    def append(self, part: bytes | memoryview) -> None:
        self.parts.append(part)
        self.size += len(part)

    def compress(self, level: int) -> Batch:
        """Hash and compress every member. Runs in a worker thread; all that takes long is C code without Python's lock."""
        data = self.data = b"".join(self.parts)
        self.parts = []
        view = memoryview(data)
        digest = self.digests.append
        member = self.members.append
        ends = self.starts[1:]
        ends.append(len(data))
        for start, payload, end in zip(self.starts, self.payloads, ends, strict=True):
            digest(sha256(view[start : start + payload]).hexdigest())
            member(gzip_compress(view[start:end], level))
        return self
