"""A run of gzip members that crosses to a worker thread at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from deflate import gzip_compress

BATCH_SIZE: Final = 1 << 20
"""Bytes of tar at which a batch is handed over: many small files a hand-over. Has no influence on the output."""


@dataclass(slots=True)
class Piece:
    """What a member adds to the table: ``lines`` of entries before it is known, then its chunk's."""

    start: int
    """Offset of the member in the batch."""
    payload: int
    """Bytes of file data that it begins with; 0 for a member of headers only."""
    head: bytes = b""
    """The file's line so far when this is its first chunk; empty for further chunks."""
    name: bytes = b""
    """JSON string of a file of several chunks."""
    position: int = 0
    """Of the chunk in its file."""
    last: bool = True
    """Whether the file ends with this chunk."""
    lines: list[bytes] = field(default_factory=list)
    """Complete lines of the entries whose headers follow the payload."""


@dataclass(slots=True)
class Batch:
    """Members, contiguous in the uncompressed layer."""

    parts: list[bytes | memoryview] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    size: int = 0
    data: bytes = b""
    digests: list[str] = field(default_factory=list)
    """Hex sha256 of each piece's payload."""
    members: list[bytes | bytearray] = field(default_factory=list)

    def compress(self, level: int) -> Batch:
        """Hash and compress every member. Runs in a worker thread; all that takes long is C code without the GIL."""
        data = self.data = b"".join(self.parts)
        self.parts = []
        view = memoryview(data)
        digests, members = self.digests, self.members
        pieces = self.pieces
        ends = [piece.start for piece in pieces[1:]]
        ends.append(len(data))
        for piece, end in zip(pieces, ends, strict=True):
            start = piece.start
            if piece.payload:
                digests.append(sha256(view[start : start + piece.payload]).hexdigest())
            else:
                digests.append("")
            members.append(gzip_compress(view[start:end], level))
        return self
