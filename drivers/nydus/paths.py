"""Paths inside a tree: tar names to components, and resolution through symbolic links that never leaves the root."""

from __future__ import annotations

from collections.abc import Iterable

from drivers.nydus.rafs_v6.layout import MAXIMUM_NAME
from drivers.nydus.tree import MAXIMUM_PATH, Inode, Mark, directory
from shared.errors import CorruptLayerError

_SAME = {b"", b"."}
_MAXIMUM_HOPS = 255
"""Symbolic links followed in one path; containerd's own limit."""


def components(path: bytes) -> list[bytes]:
    """``./a//b/`` → ``[b"a", b"b"]``; ``..`` takes back the name before it and never leaves the root, as in umoci and containerd.

    Raises:
        CorruptLayerError: a NUL byte, a name of more than 255 bytes, or more in all than a system call takes.
    """
    if len(path) > MAXIMUM_PATH:
        raise CorruptLayerError(f"a path of {len(path)} bytes")
    parts: list[bytes] = []
    for part in path.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif len(part) > MAXIMUM_NAME or b"\0" in part:
            raise CorruptLayerError(f"not a file name: {part[:200]!r}")
        elif part not in _SAME:
            parts.append(part)
    return parts


def resolve_directory(root: Inode, parts: Iterable[bytes], *, create: Mark | None) -> Inode | None:
    """The directory that ``parts`` lead to, following symbolic links inside ``root``.

    Missing ones are made, with the mark ``create``; if that is None, so is the answer, as it is for a file in the way.

    Raises:
        CorruptLayerError: with ``create``, a file stands where a directory is needed or links go round.
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
            if create is None:
                return None
            child = children[name] = directory(mark=create)
        if child.children is not None:
            trail.append(child)
        elif child.is_symlink and child.mark is not Mark.LOWER_LINK and hops < _MAXIMUM_HOPS:
            hops += 1
            if child.target.startswith(b"/"):
                trail = [root]
            pending.extend(part for part in reversed(child.target.split(b"/")) if part and part != b".")
        elif create is not None:
            raise CorruptLayerError(f"{name[:200]!r} is used as a directory and is none")
        else:
            return None
    return trail[-1]


def find(root: Inode, parts: list[bytes]) -> Inode | None:
    """What is at a path; its parents may be symbolic links, the last component is not followed."""
    if not parts:
        return root
    parent = resolve_directory(root, parts[:-1], create=None)
    return None if parent is None or parent.children is None else parent.children.get(parts[-1])
