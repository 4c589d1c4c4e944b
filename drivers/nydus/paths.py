"""Paths inside a tree: tar names to components, and resolution through symbolic links that never leaves the root."""

from __future__ import annotations

from collections.abc import Iterable

from drivers.nydus.rafs_v6.layout import MAXIMUM_NAME
from drivers.nydus.tree import Inode, Mark, directory
from shared.errors import CorruptLayerError

_MAXIMUM_HOPS = 255
"""Symbolic links followed in one path; containerd's own limit."""


def components(path: bytes) -> list[bytes]:
    """``./a//b/`` → ``[b"a", b"b"]``.

    Raises:
        CorruptLayerError: ``..`` in the path, a NUL byte, or a name of more than 255 bytes.
    """
    parts = [part for part in path.split(b"/") if part and part != b"."]
    for part in parts:
        if part == b"..":
            raise CorruptLayerError(f"the path {path[:200]!r} leaves its directory")
        if len(part) > MAXIMUM_NAME or b"\0" in part:
            raise CorruptLayerError(f"not a file name: {part[:200]!r}")
    return parts


def resolve_directory(root: Inode, parts: Iterable[bytes], *, create: bool) -> Inode | None:
    """The directory that ``parts`` lead to, following symbolic links inside ``root``.

    Missing ones are made, marked as implied, if ``create``; else the answer is None, as it is for a file in the way.

    Raises:
        CorruptLayerError: with ``create``, a file stands where a directory is needed, or links go round.
    """
    trail = [root]
    pending = list(parts)[::-1]
    hops = 0
    while pending:
        name = pending.pop()
        if name == b"..":
            if len(trail) > 1:
                trail.pop()
            continue
        children = trail[-1].children
        if children is None:
            return None
        child = children.get(name)
        if child is None:
            if not create:
                return None
            child = children[name] = directory(mark=Mark.IMPLIED)
        if child.children is not None:
            trail.append(child)
        elif child.is_symlink and child.mark is not Mark.LOWER_LINK and hops < _MAXIMUM_HOPS:
            hops += 1
            if child.target.startswith(b"/"):
                trail = [root]
            pending.extend(part for part in reversed(child.target.split(b"/")) if part and part != b".")
        elif create:
            raise CorruptLayerError(f"{name[:200]!r} is used as a directory and is none")
        else:
            return None
    return trail[-1]


def find(root: Inode, parts: list[bytes]) -> Inode | None:
    """What is at a path; its parents may be symbolic links, the last component is not followed."""
    if not parts:
        return root
    parent = resolve_directory(root, parts[:-1], create=False)
    return None if parent is None or parent.children is None else parent.children.get(parts[-1])
