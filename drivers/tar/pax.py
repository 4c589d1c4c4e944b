"""PAX extended header records (POSIX.1-2001 pax, "pax Extended Header")."""

from __future__ import annotations

import re
from typing import Final

from drivers.tar.entry import HEADER_ONLY, TarEntry
from shared.errors import CorruptLayerError

_XATTR: Final = b"SCHILY.xattr."
_TIME: Final = re.compile(rb"(-?)(\d*)(?:\.(\d*))?")
_NUMBER: Final = re.compile(rb"-?\d{1,19}")
_TEXT_KEYS: Final = frozenset((b"path", b"linkpath", b"uname", b"gname", b"GNU.sparse.name"))
_SPARSE_PAIR: Final = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
"""What PAX 0.0 repeats for each piece of a sparse file, in turn; from 0.1 on :data:`_SPARSE_MAP` has them all."""
_SPARSE_MAP: Final = b"GNU.sparse.map"


def parse_records(data: bytes, offset: int) -> dict[bytes, bytes]:
    """Records of length, space, key, equals sign, value and line feed; of equal keys the last one holds.

    A sparse file's pieces in PAX 0.0 (the one case of records that are repeated) are given as PAX 0.1's map.

    Raises:
        CorruptLayerError: a length, separator or line end is missing, or a path holds a NUL.
    """
    records: dict[bytes, bytes] = {}
    sparse: list[bytes] = []
    position, end = 0, len(data)
    while position < end:
        space = data.find(b" ", position, position + 21)
        digits = data[position:space]
        if space < 0 or not digits.isdigit():
            raise _damaged(offset, "a record has no length")
        stop = position + int(digits)
        key, equals, value = data[space + 1 : stop - 1].partition(b"=")
        if stop > end or stop <= space + 1 or data[stop - 1] != 0x0A or not equals or not key:
            raise _damaged(offset, "a record is cut or has no '='")
        if b"\0" in key or (key in _TEXT_KEYS and b"\0" in value):
            raise _damaged(offset, f"the record {key!r} holds a NUL")
        if key in _SPARSE_PAIR:
            if key != _SPARSE_PAIR[len(sparse) % 2]:
                raise _damaged(offset, f"the record {key!r} is out of turn")
            sparse.append(value)
        records[key] = value
        position = stop
    if sparse:
        records[_SPARSE_MAP] = b",".join(sparse)
    return records


def apply_records(entry: TarEntry, records: dict[bytes, bytes], *, sparse: bool) -> None:
    """Let records override the header. An empty value leaves the header's.

    Args:
        entry: it.
        records: in front of it.
        sparse: whether they are those of a sparse file, whose ``path`` is made up.
    """
    xattrs: dict[str, bytes] = {}
    for key, value in records.items():
        if key.startswith(_XATTR):
            xattrs[_text(key[len(_XATTR) :])] = value
        elif not value:
            continue
        elif key == b"path":
            entry.name = _text(value)
        elif key == b"linkpath":
            entry.link = _text(value)
        elif key == b"size":
            size = _integer(entry, key, value)
            if size < 0:
                raise _damaged(entry.offset, "a negative size")
            entry.size = 0 if entry.type in HEADER_ONLY else size
        elif key == b"uid":
            entry.uid = _integer(entry, key, value)
        elif key == b"gid":
            entry.gid = _integer(entry, key, value)
        elif key == b"uname":
            entry.user = _text(value)
        elif key == b"gname":
            entry.group = _text(value)
        elif key == b"mtime":
            entry.mtime, entry.mtime_nsec = _time(entry, value)
    if sparse and (name := records.get(b"GNU.sparse.name")):
        entry.name = _text(name)
    if xattrs:
        entry.xattrs = xattrs


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def _integer(entry: TarEntry, key: bytes, value: bytes) -> int:
    if _NUMBER.fullmatch(value) is None:
        raise _damaged(entry.offset, f"the record {key!r} is no number")
    return int(value)


def _time(entry: TarEntry, value: bytes) -> tuple[int, int]:
    """Seconds rounded down and nanoseconds; digits beyond nine are cut."""
    match = _TIME.fullmatch(value)
    if match is None or not (match[2] or match[3]) or len(match[2]) > 18:
        raise _damaged(entry.offset, "the record b'mtime' is no time")
    seconds = int(match[2] or b"0")
    nanoseconds = int((match[3] or b"")[:9].ljust(9, b"0"))
    if match[1]:
        seconds, nanoseconds = -seconds, -nanoseconds
        if nanoseconds:
            seconds, nanoseconds = seconds - 1, nanoseconds + 1_000_000_000
    return seconds, nanoseconds


def _damaged(offset: int, what: str) -> CorruptLayerError:
    return CorruptLayerError(f"the PAX header at byte {offset} is damaged: {what}", offset=offset)
