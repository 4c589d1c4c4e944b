"""The 512-byte tar headers of a blob layer, which *follow* their data, byte for byte as the reference writes them."""

from __future__ import annotations

from typing import Final

from drivers.nydus.errors import InvalidNydusError, require

SIZE: Final = 512
_OCTAL_LIMIT: Final = 8**11


def encode_tar_header(name: str, size: int) -> bytes:
    """GNU magic; mode, uid and gid all NUL; base-256 for 8 GiB and more."""
    header = bytearray(SIZE)
    header[0 : len(name)] = name.encode()
    header[124:136] = b"%011o\0" % size if size < _OCTAL_LIMIT else b"\x80" + size.to_bytes(11, "big")
    header[136:148] = b"00000000000\0"
    header[148:156] = b" " * 8
    header[156] = ord("0")
    header[257:265] = b"ustar  \0"
    header[148:156] = b"%07o\0" % sum(header)
    return bytes(header)


def decode_tar_header(header: bytes) -> tuple[str, int]:
    """Name and size of the data in front of this header.

    Raises:
        InvalidNydusError: fields ``tar_header.*``.
    """
    require(len(header) == SIZE, "tar_header", f"{len(header)} bytes")
    require(header[257:262] == b"ustar", "tar_header.magic", "is not ustar")
    require(header[156] in {0, ord("0")}, "tar_header.typeflag", f"is {header[156]}, must be a regular file")
    expected = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    require(_octal(header[148:156], "tar_header.checksum") == expected, "tar_header.checksum", "is wrong")
    field = header[124:136]
    size = int.from_bytes(field[1:], "big") if field[0] == 0x80 else _octal(field, "tar_header.size")
    return header[:100].partition(b"\0")[0].decode("ascii", "replace"), size


def _octal(field: bytes, name: str) -> int:
    try:
        return int(field.strip(b"\0 ") or b"0", 8)
    except ValueError as error:
        raise InvalidNydusError(name, f"{field!r} is not octal") from error
