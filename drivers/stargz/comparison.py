"""What a layer's tar, its table of contents and its source layer say of each path, field by field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from typing import Any, Final

from drivers.stargz.reader import Toc, TocEntry
from drivers.tar import entry as kinds
from drivers.tar.entry import TarEntry, clean

FIELDS: Final = ("type", "mode", "owner", "mtime", "link", "device", "xattrs", "size", "content")
_TYPES: Final = {
    "reg": kinds.REGULAR,
    "hardlink": kinds.HARD_LINK,
    "symlink": kinds.SYMLINK,
    "char": kinds.CHARACTER,
    "block": kinds.BLOCK,
    "dir": kinds.DIRECTORY,
    "fifo": kinds.FIFO,
}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

Attributes = tuple[Any, ...]
"""What entries of one path are compared by, in the order of :data:`FIELDS`."""


def attributes(entry: TarEntry, content: str) -> Attributes:
    """Of a tar entry; ``content`` is the payload's sha256 in hex."""
    link = clean(entry.link) if entry.type == kinds.HARD_LINK else entry.link if entry.type == kinds.SYMLINK else ""
    return (
        entry.type,
        entry.mode & 0o7777,
        (entry.uid, entry.gid, entry.user, entry.group),
        (entry.mtime, entry.mtime_nsec),
        link,
        (entry.major, entry.minor),
        dict(entry.xattrs),
        entry.size,
        content,
    )


def differences(expected: Mapping[str, Attributes], found: Mapping[str, Attributes]) -> Iterator[tuple[str, str]]:
    """Path and message of everything in which a converted layer is not its source."""
    for path, theirs in expected.items():
        mine = found.get(path)
        if mine is None:
            yield path, "is missing"
            continue
        for field, one, other in zip(FIELDS, mine, theirs, strict=True):
            if one != other:
                yield path, f"{field} is {str(one)[:200]}, the source has {str(other)[:200]}"
    for path in found.keys() - expected.keys():
        yield path, "is not in the source"


def against_table(
    entries: Mapping[str, Attributes], toc: Toc, reserved: AbstractSet[str] = frozenset()
) -> Iterator[tuple[str, str]]:
    """What the tar has and the table of contents, which lazy readers go by, tells otherwise.

    Args:
        entries: of the tar, without those of ``reserved`` names.
        toc: the table.
        reserved: names that are the format's own.
    """
    names = dict(_owners_names(toc))
    for path, in_tar in entries.items():
        row = toc.entries.get(path)
        if row is None:
            if path:
                yield path, "is in the tar and not in the table of contents"
            continue
        try:
            in_table = _of_row(row, in_tar, names[path])
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            yield path, f"its row in the table of contents is malformed: {error}"
            continue
        for field, one, other in zip(FIELDS, in_table, in_tar, strict=True):
            if one != other:
                yield path, f"{field} is {str(one)[:200]} in the table of contents, the tar has {str(other)[:200]}"
    for path in toc.entries.keys() - entries.keys() - reserved:
        if toc.entries[path].type != "dir":  # parents that the tar only implies
            yield path, "is in the table of contents and not in the tar"


def _of_row(row: TocEntry, in_tar: Attributes, names: tuple[str, str]) -> Attributes:
    """A row's attributes; what the table cannot say as finely as the tar is given as in the tar, if it agrees.

    Raises:
        TypeError, ValueError, AttributeError, OverflowError: a field is not what it has to be.
    """
    raw = row.raw
    kind = _TYPES[row.type]
    _, _, owner, time, _, _, _, _, content = in_tar
    seconds = _seconds(raw.get("modtime"))
    return (
        kind,
        raw.get("mode", 0) & 0o7777,
        (raw.get("uid", 0), raw.get("gid", 0), *(_name(*pair) for pair in zip(names, owner[2:], strict=True))),
        time if seconds == time[0] + (time[1] >= 500_000_000) else (seconds, 0),
        clean(row.link) if kind == kinds.HARD_LINK else row.link if kind == kinds.SYMLINK else "",
        (raw.get("devMajor", 0), raw.get("devMinor", 0)),
        row.xattrs,
        row.size,
        row.digest.removeprefix("sha256:") if row.size else content,
    )


def _seconds(text: str | None) -> int:
    """RFC 3339; without it, the epoch."""
    if not text:
        return 0
    return round((datetime.fromisoformat(text) - _EPOCH).total_seconds())


def _name(in_table: str, in_tar: str) -> str:
    """Names are for display: where the tar has none, readers show what they know; bytes that are not UTF-8 are U+FFFD."""
    printable = in_tar.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return in_tar if not in_tar or in_table == printable else in_table


def _owners_names(toc: Toc) -> Iterator[tuple[str, tuple[str, str]]]:
    """Path and names: a row without one means the last that was given for the same id."""
    users: dict[object, str] = {}
    groups: dict[object, str] = {}
    for path, row in toc.entries.items():
        names = []
        for known, name, number in ((users, "userName", "uid"), (groups, "groupName", "gid")):
            owner = str(row.raw.get(number, 0))
            if given := row.raw.get(name):
                known[owner] = given
            names.append(known.get(owner, ""))
        yield path, (names[0], names[1])
