"""Gzip members of data whose matches are known."""

from __future__ import annotations

from array import array
from queue import Empty, SimpleQueue

from isal import isal_zlib

from drivers.reencoding.gzip_stream import Matches
from drivers.reencoding.native import Encoder


class MemberEncoder:
    """Safe to use from several threads."""

    def __init__(self) -> None:
        self._idle: SimpleQueue[Encoder] = SimpleQueue()

    def members(self, data: bytes, starts: array[int], matches: Matches) -> tuple[array[int], bytes]:
        """Make a member from each of ``starts`` to the next. They inflate to ``data`` whatever the matches say.

        Args:
            data: whole members, uncompressed.
            starts: where each begins (u32); the first at 0.
            matches: as they were asked for from the first byte of ``data`` on.

        Returns:
            Size of each member (u32), the joined members.
        """
        view = memoryview(data)
        ends = (*starts[1:], len(data))
        crc32 = isal_zlib.crc32
        checksums = array(starts.typecode, [crc32(view[start:end]) for start, end in zip(starts, ends, strict=True)])
        try:
            encoder = self._idle.get_nowait()
        except Empty:
            encoder = Encoder()
        try:
            return encoder.members(data, starts, matches.records, matches.skip, checksums=checksums)
        finally:
            self._idle.put(encoder)
