"""A run of members that crosses to a worker at once."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

BATCH_SIZE: Final = 1 << 20
"""Bytes of tar at which a batch is handed over: many small files a hand-over. Fixed: the table's segments follow batches."""
HEADERS_SIZE: Final = 1 << 20
"""Bytes of headers without any file data between after which a member of headers begins: memory stays bounded."""
NUMBERS: Final = "I"
DIGEST_SIZE: Final = 64
"""Hex digits."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """One of several chunks of a file."""

    name: bytes
    """JSON string."""
    position: int
    """In the file."""
    last: bool


def _numbers() -> array[int]:
    return array(NUMBERS)


@dataclass(slots=True)
class Batch:
    """Members, contiguous in the uncompressed layer.

    What every member needs is in parallel lists of numbers and bytes, which the garbage collector does not look through.
    """

    parts: list[bytes | memoryview] = field(default_factory=list)
    size: int = 0
    starts: array[int] = field(default_factory=_numbers)
    """Where each member begins in the batch."""
    payloads: array[int] = field(default_factory=_numbers)
    """Bytes of file data that each begins with; 0 for a member of headers only."""
    heads: list[bytes] = field(default_factory=list)
    """The file's line so far where a file begins with the member, else empty."""
    chunks: dict[int, Chunk] = field(default_factory=dict)
    """Members that hold one of several chunks."""
    lines: dict[int, list[bytes]] = field(default_factory=dict)
    """Complete lines of the entries whose headers follow a member's file data."""
    data: bytes = b""
    sizes: array[int] = field(default_factory=_numbers)
    """Bytes of each compressed member."""
    digests: bytes = b""
    """Hex sha256 of each member's file data, joined."""
    members: bytes = b""

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

    def close(self) -> None:
        """No more members."""
        self.data = b"".join(self.parts)
        self.parts = []

    @property
    def footprint(self) -> int:
        """Bytes that it takes until it is written, with its members."""
        return 2 * self.size

    def pieces(self) -> Iterator[tuple[memoryview, int]]:
        """Each member, uncompressed, and how many bytes of file data it begins with. Of a closed batch."""
        ranges = map(slice, self.starts, (*self.starts[1:], self.size))
        return zip(map(memoryview(self.data).__getitem__, ranges), self.payloads, strict=True)

    def digest(self, index: int) -> bytes:
        """Hex sha256 of one member's file data."""
        return self.digests[index * DIGEST_SIZE : (index + 1) * DIGEST_SIZE]
