"""TOC lines of single entries: everything but what compression tells."""

from __future__ import annotations

from base64 import b64encode
from datetime import datetime, timedelta
from typing import Final

import orjson

from drivers.api import UnconvertibleLayerError
from drivers.tar import entry as kinds
from drivers.tar.entry import TarEntry

_TYPES: Final = {
    kinds.REGULAR: b',"type":"reg"',
    kinds.HARD_LINK: b',"type":"hardlink"',
    kinds.SYMLINK: b',"type":"symlink"',
    kinds.CHARACTER: b',"type":"char"',
    kinds.BLOCK: b',"type":"block"',
    kinds.DIRECTORY: b',"type":"dir"',
    kinds.FIFO: b',"type":"fifo"',
}
EMPTY_DIGEST: Final = b',"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"'
_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001  UTC throughout; the text gets its Z below
_CACHE: Final = 8192


class LineWriter:
    """Writes the fields in the reference builder's order; remembers repeated times and owners' names."""

    def __init__(self) -> None:
        self._times: dict[int, bytes] = {}
        self._owners: dict[tuple[int, int, int], bytes] = {}
        self._users: dict[int, str] = {}
        self._groups: dict[int, str] = {}

    def head(self, entry: TarEntry) -> bytes:
        """An object without its closing brace. Regular files with payload still lack offset and digests.

        Raises:
            UnconvertibleLayerError: the table cannot say what the entry says.
        """
        kind = _TYPES.get(entry.type)
        if kind is None or entry.sparse:
            what = "a sparse file" if entry.sparse else f"an entry of type {entry.type!r}"
            raise UnconvertibleLayerError(f"{entry.name[:200]!r} is {what}")
        try:
            name = orjson.dumps(entry.name)
            link = b',"linkName":' + orjson.dumps(entry.link) if entry.link and entry.type in b"12" else b""
        except TypeError:
            raise UnconvertibleLayerError(f"the name {entry.name[:200]!r} is not UTF-8") from None
        seconds = entry.mtime + 1 if entry.mtime_nsec >= 500_000_000 else entry.mtime
        return b"".join(
            (
                b'{"name":',
                name,
                kind,
                b',"size":%d' % entry.size if entry.size else b"",
                self._times.get(seconds) or self._time(seconds, entry),
                link,
                self._owners.get((entry.mode, entry.uid, entry.gid)) or self._owner(entry),
                self._names(entry) if entry.user or entry.group else b"",
                self._device(entry) if entry.type in b"34" else b"",
                self._xattrs(entry) if entry.xattrs else b"",
            )
        )

    def _time(self, seconds: int, entry: TarEntry) -> bytes:
        try:
            text = (_EPOCH + timedelta(seconds=seconds)).isoformat()
        except OverflowError:
            raise UnconvertibleLayerError(f"{entry.name[:200]!r} has a time outside the years 1 to 9999") from None
        if len(self._times) >= _CACHE:
            self._times.clear()
        line = self._times[seconds] = b',"modtime":"%bZ"' % text.encode("ascii")
        return line

    def _owner(self, entry: TarEntry) -> bytes:
        parts = [
            b',"%b":%d' % (key, value)
            for key, value in ((b"mode", entry.mode), (b"uid", entry.uid), (b"gid", entry.gid))
            if value
        ]
        if len(self._owners) >= _CACHE:
            self._owners.clear()
        line = self._owners[entry.mode, entry.uid, entry.gid] = b"".join(parts)
        return line

    def _names(self, entry: TarEntry) -> bytes:
        """Only what readers do not know yet of these ids."""
        out = b""
        if entry.user and self._users.get(entry.uid) != entry.user:
            if len(self._users) >= _CACHE:
                self._users.clear()
            self._users[entry.uid] = entry.user
            out = b',"userName":' + _printable(entry.user)
        if entry.group and self._groups.get(entry.gid) != entry.group:
            if len(self._groups) >= _CACHE:
                self._groups.clear()
            self._groups[entry.gid] = entry.group
            out += b',"groupName":' + _printable(entry.group)
        return out

    @staticmethod
    def _device(entry: TarEntry) -> bytes:
        major = b',"devMajor":%d' % entry.major if entry.major else b""
        return major + (b',"devMinor":%d' % entry.minor if entry.minor else b"")

    @staticmethod
    def _xattrs(entry: TarEntry) -> bytes:
        try:
            return b',"xattrs":' + orjson.dumps({key: b64encode(value).decode() for key, value in entry.xattrs.items()})
        except TypeError:
            message = f"{entry.name[:200]!r} has an extended attribute whose name is not UTF-8"
            raise UnconvertibleLayerError(message) from None


def _printable(text: str) -> bytes:
    """Owners' names are for display: bytes that are not UTF-8 become U+FFFD, as in the reference builder."""
    return orjson.dumps(text.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
