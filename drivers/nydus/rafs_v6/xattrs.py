"""EROFS inline extended attributes: a 12-byte header, then entries padded to 4 bytes."""

from __future__ import annotations

from typing import Final

from drivers.nydus.errors import require
from shared.errors import UnsupportedError

HEADER: Final = 12
MAXIMUM_VALUE: Final = 0xFFFF
MAXIMUM_AREA: Final = HEADER + 4 * (0xFFFF - 1)
"""Bytes; the inode counts it in 16 bits."""

# Longest prefix first where one could hide another.
_PREFIXES: Final = (
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (1, b"user."),
    (4, b"trusted."),
    (6, b"security."),
)
_PREFIX_OF_INDEX: Final = dict(_PREFIXES)


def split_key(key: bytes) -> tuple[int, bytes] | None:
    """``user.foo`` → ``(1, b"foo")``; None for a key that EROFS has no prefix for or cannot hold."""
    for index, prefix in _PREFIXES:
        if index in {2, 3}:
            if key == prefix:
                return index, b""
        elif key.startswith(prefix) and 0 < len(key) - len(prefix) <= 255 and len(key) <= 255:
            return index, key[len(prefix) :]
    return None


def is_storable(key: bytes, value: bytes) -> bool:
    return len(value) <= MAXIMUM_VALUE and split_key(key) is not None


def encode_xattrs(xattrs: tuple[tuple[bytes, bytes], ...]) -> bytes:
    """The whole area; nothing for no attributes. All must be storable.

    Raises:
        UnsupportedError: together they are more than an inode can have.
    """
    if not xattrs:
        return b""
    area = bytearray(HEADER)
    for key, value in xattrs:
        split = split_key(key)
        require(split is not None and len(value) <= MAXIMUM_VALUE, "xattr", f"{key!r} cannot be stored")
        index, name = split or (0, b"")
        area += bytes((len(name), index)) + len(value).to_bytes(2, "little") + name + value
        area += bytes(-len(area) % 4)
    if len(area) > MAXIMUM_AREA:
        raise UnsupportedError(f"{len(area)} bytes of attributes on one file; EROFS can hold {MAXIMUM_AREA}")
    return bytes(area)


def area_size(icount: int) -> int:
    """Bytes of the area that an inode's ``xattr_icount`` stands for."""
    return HEADER + 4 * (icount - 1) if icount else 0


def decode_xattrs(area: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """The attributes of an area, in its order.

    Raises:
        InvalidNydusError: fields ``xattr.*``.
    """
    if not area:
        return ()
    require(area[4] == 0, "xattr.shared_count", "shared attributes are not used by RAFS")
    position = HEADER
    found = []
    while position + 4 <= len(area):
        name_length, index = area[position], area[position + 1]
        value_length = int.from_bytes(area[position + 2 : position + 4], "little")
        end = position + 4 + name_length + value_length
        require(end <= len(area), "xattr.value_len", "an attribute runs over the area's end")
        prefix = _PREFIX_OF_INDEX.get(index)
        require(prefix is not None, "xattr.index", f"unknown name prefix {index}")
        name = area[position + 4 : position + 4 + name_length]
        found.append(((prefix or b"") + name, area[position + 4 + name_length : end]))
        position = end + (-end % 4)
    return tuple(found)
