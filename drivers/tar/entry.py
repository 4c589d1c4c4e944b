"""One entry of a tar stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from posixpath import normpath
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from drivers.tar.sparse import SparseMap

REGULAR: Final = b"0"
HARD_LINK: Final = b"1"
SYMLINK: Final = b"2"
CHARACTER: Final = b"3"
BLOCK: Final = b"4"
DIRECTORY: Final = b"5"
FIFO: Final = b"6"
CONTIGUOUS: Final = b"7"
SPARSE: Final = b"S"
GLOBAL_PAX: Final = b"g"

HEADER_ONLY: Final = frozenset((HARD_LINK, SYMLINK, CHARACTER, BLOCK, DIRECTORY, FIFO))
"""Types that no payload follows, whatever their size field says (as Go's archive/tar, which runtimes unpack with)."""

NO_XATTRS: Final[Mapping[str, bytes]] = {}


@dataclass(slots=True)
class TarEntry:
    """What a header and the records in front of it say, PAX over GNU over ustar. Text is UTF-8 with ``surrogateescape``."""

    type: bytes
    """The type flag; the old ``\\0`` is given as ``0``, or ``5`` when the name ends in a slash."""
    name: str
    """As stored: ``./a``, ``a/``."""
    link: str
    """Target of a symbolic or hard link, as stored."""
    size: int
    """Bytes of payload that follow (0 for types without any)."""
    mode: int
    """The stored number, unchanged."""
    uid: int
    gid: int
    user: str
    group: str
    mtime: int
    """Seconds since 1970, rounded down."""
    mtime_nsec: int
    major: int
    minor: int
    xattrs: Mapping[str, bytes]
    """PAX ``SCHILY.xattr.*``."""
    sparse: SparseMap | None
    """Of a GNU sparse file in any of its encodings: ``size`` is not the file's size."""
    raw: bytes
    """Extension records, header and a sparse file's map, in whole blocks, as they came."""
    offset: int
    """Of ``raw`` in the uncompressed stream."""


def clean(name: str) -> str:
    """The path that a stored name means: relative to the root, no ``.``, ``..`` or doubled slash; the root is ``""``.

    Go's ``path.Clean("/" + name)`` without the leading slash, which is how eStargz readers compare names.
    """
    name = name.removeprefix("./")
    if "//" not in name and not name.startswith(".") and "/." not in name:
        return name.strip("/")
    if "//" not in name and "./" not in name and not name.endswith(("/.", "/..")) and name not in (".", ".."):
        return name.strip("/")
    return normpath("/" + name.lstrip("/"))[1:]
