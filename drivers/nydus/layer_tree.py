"""The tree of one layer, built entry by entry in tar order.

Whiteouts stay as plain files under their own names, as the reference builder keeps them; the overlay interprets them.
"""

from __future__ import annotations

import stat

from drivers.nydus.paths import components, find, resolve_directory
from drivers.nydus.rafs_v6.layout import MAXIMUM_NAME
from drivers.nydus.tree import Inode, Mark, directory
from shared.errors import CorruptLayerError

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
_SPECIAL = b".wh..wh."
_DOTS = {b"", b".", b".."}


def whiteout_target(name: bytes) -> bytes | None:
    """The name that a whiteout hides; None for every other name, AUFS's own files included."""
    if name.startswith(WHITEOUT) and not name.startswith(_SPECIAL) and len(name) > len(WHITEOUT):
        return name[len(WHITEOUT) :]
    return None


class LayerTree:
    """Later entries win; a directory entry over a directory changes its attributes only (as tar extraction does)."""

    def __init__(self) -> None:
        self.root = directory(mark=Mark.IMPLIED)
        self._head: bytes | None = None
        self._siblings: dict[bytes, Inode] = {}

    def add(self, path: bytes, inode: Inode) -> None:
        """Put an inode at a path.

        Raises:
            CorruptLayerError: not a path inside the layer, or a file used as a directory.
        """
        head, _, name = path.removesuffix(b"/").rpartition(b"/")
        if head == self._head and name not in _DOTS and len(name) <= MAXIMUM_NAME and b"\0" not in name:
            children = self._siblings  # of the same directory as the entry before, as most are
        else:
            parts = components(path)
            if not parts:
                if inode.children is None:
                    raise CorruptLayerError("the layer's root is not a directory")
                copy_attributes(inode, self.root)
                return
            children = self._children(parts)
            self._head, self._siblings = None if name in _DOTS else head, children
            name = parts[-1]
        old = children.get(name)
        if old is not None:
            self._head = None  # what is replaced may be a directory on the way here
        if inode.children is None or old is None:
            children[name] = inode
        elif old.children is not None:
            copy_attributes(inode, old)
        else:
            # The file that the tar put here first had already replaced what lower layers have at this path.
            inode.children[OPAQUE] = Inode(stat.S_IFREG | 0o600)
            children[name] = inode

    def link(self, path: bytes, target: bytes) -> None:
        """A hard link; to a path of a lower layer if this layer has none there (yet).

        Raises:
            CorruptLayerError: not paths inside the layer, or the target is a directory.
        """
        parts = components(path)
        target_parts = components(target)
        if not parts or not target_parts:
            raise CorruptLayerError(f"a hard link from {path[:200]!r} to {target[:200]!r}")
        found = find(self.root, target_parts)
        if found is None:
            found = Inode(stat.S_IFLNK | 0o777, target=b"/".join(target_parts), mark=Mark.LOWER_LINK)
        elif found.children is not None:
            raise CorruptLayerError(f"{path[:200]!r} is a hard link to a directory")
        self._head = None
        self._children(parts)[parts[-1]] = found

    def _children(self, parts: list[bytes]) -> dict[bytes, Inode]:
        parent = resolve_directory(self.root, parts[:-1], create=Mark.IMPLIED)
        if parent is None or parent.children is None:
            raise CorruptLayerError(f"the directory of {parts[-1][:200]!r} is none")
        return parent.children


def copy_attributes(source: Inode, to: Inode) -> None:
    """Mode, owner, time and attributes of a directory; ``to`` is then a directory of its own right."""
    to.mode = source.mode
    to.uid = source.uid
    to.gid = source.gid
    to.mtime = source.mtime
    to.mtime_ns = source.mtime_ns
    to.xattrs = source.xattrs
    to.mark = Mark.NONE
