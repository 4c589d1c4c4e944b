"""Where inodes, directory data and symlink targets go: the reference builder's allocation, byte for byte.

Positions are relative to the metadata area. Space left at the end of blocks that had to be closed is kept in queues by size
and given to later, smaller inodes.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from drivers.nydus.rafs_v6.layout import BLOCK, LAYOUT_INLINE, LAYOUT_PLAIN, SLOT, align


class Place(NamedTuple):
    """Of an inode with data behind it. ``data`` is where the full blocks begin."""

    inode: int
    data: int
    layout: int


class Allocator:
    def __init__(self) -> None:
        self.position = BLOCK  # the first block stays unused, so that no nid is 0
        self._available: list[deque[int]] = [deque() for _ in range(BLOCK // SLOT)]
        self._filled = 0  # a bit for each queue that is not empty

    def _take(self, size: int) -> int | None:
        if size >= BLOCK:
            return None
        slots = -(-size // SLOT)
        candidates = self._filled >> slots
        if not candidates:
            return None
        index = slots + (candidates & -candidates).bit_length() - 1
        queue = self._available[index]
        block = queue.popleft()
        if not queue:
            self._filled &= ~(1 << index)
        position = block + BLOCK - SLOT * index
        self._give(position + SLOT * slots)
        return position

    def _give(self, position: int) -> None:
        rest = position % BLOCK
        if rest:
            slots = (BLOCK - rest) // SLOT
            self._available[slots].append(position - rest)
            self._filled |= 1 << slots

    def _close_block(self) -> None:
        self._give(self.position)
        self.position = align(self.position, BLOCK)

    def with_data(self, inode_size: int, data_size: int) -> Place:
        """A directory or symlink: its last partial block inline behind the inode where that fits into one block."""
        tail = data_size % BLOCK
        if tail and inode_size + tail <= BLOCK:
            needed = inode_size + tail
            inode = self._take(needed)
            if inode is None:
                if BLOCK - self.position % BLOCK < needed:
                    self._close_block()
                inode = self.position
                self.position += needed
            if data_size != tail:
                self._close_block()
            data = self.position
            self.position += data_size - tail
            layout = LAYOUT_INLINE
        else:
            inode = self._take(inode_size)
            if inode is None:
                inode = self.position
                self.position += inode_size
            self._close_block()
            data = self.position
            self.position = align(data + data_size, BLOCK)
            layout = LAYOUT_PLAIN
        self.position = align(self.position, SLOT)
        return Place(inode, data, layout)

    def regular(self, inode_size: int, chunks: int) -> int:
        """An inode with its chunk indexes."""
        needed = (inode_size + 7 & -8) + 8 * chunks
        inode = self._take(needed) if self._filled else None
        if inode is None:
            inode = self.position
            self.position = inode + needed + SLOT - 1 & -SLOT
        return inode

    def special(self, inode_size: int) -> int:
        """A device, fifo or socket."""
        inode = self.position
        self.position = align(inode + inode_size, SLOT)
        return inode
