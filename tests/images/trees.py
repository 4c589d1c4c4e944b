"""Compare two directory trees on disk, entry by entry, with everything that an image can say about a file."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

Facts = dict[bytes, tuple[object, ...]]
TIME = 3
"""Where the facts have the time, in nanoseconds."""


def tree_facts(root: Path) -> Facts:
    """Path → type, mode, owner, time, device, size, target, attributes, content hash, and the path it is a hard link of.

    The root's own time is left out: umoci sets it to now.
    """
    top = os.fsencode(root)
    found: Facts = {}
    first: dict[int, bytes] = {}
    for folder, directories, files in os.walk(top):
        directories.sort()
        for path in [
            folder,
            *(
                os.path.join(folder, name)  # noqa: PTH118 - bytes
                for name in sorted([*directories, *files])
            ),
        ]:
            relative = os.path.relpath(path, top)
            if relative in found:
                continue
            found[relative] = _facts(path, relative, first)
    return found


def _facts(path: bytes, relative: bytes, first: dict[int, bytes]) -> tuple[object, ...]:
    state = os.lstat(path)
    kind = stat.S_IFMT(state.st_mode)
    regular = kind == stat.S_IFREG
    linked: bytes | None = None
    if kind != stat.S_IFDIR and state.st_nlink > 1:
        linked = first.setdefault(state.st_ino, relative)
    return (
        stat.filemode(state.st_mode),
        state.st_uid,
        state.st_gid,
        0 if relative == b"." else state.st_mtime_ns,
        state.st_rdev if kind in {stat.S_IFCHR, stat.S_IFBLK} else 0,
        state.st_size if regular else 0,
        None if kind == stat.S_IFDIR else state.st_nlink,
        linked,
        os.readlink(path) if kind == stat.S_IFLNK else b"",  # noqa: PTH115 - bytes
        tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in sorted(_xattrs(path))),
        _sha256(path) if regular else "",
    )


def _xattrs(path: bytes) -> list[str]:
    return os.listxattr(path, follow_symlinks=False)


def _sha256(path: bytes) -> str:
    with open(path, "rb") as file:  # noqa: PTH123 - bytes
        return hashlib.file_digest(file, "sha256").hexdigest()


def differences(expected: Facts, found: Facts) -> list[str]:
    """One line per path that differs, at most 50."""
    lines = [f"missing {path!r}" for path in sorted(expected.keys() - found.keys())]
    lines += [f"extra {path!r}" for path in sorted(found.keys() - expected.keys())]
    lines += [
        f"{path!r}: {expected[path]} is {found[path]}"
        for path in sorted(expected.keys() & found.keys())
        if expected[path] != found[path]
    ]
    return lines[:50]
