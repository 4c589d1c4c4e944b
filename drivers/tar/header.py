"""The 512-byte header block: v7, ustar, star and GNU, with octal and base-256 numbers.

Formats as POSIX.1-2001 pax and GNU tar's manual give them; where they leave a choice, Go's archive/tar decides, since that is
what container runtimes unpack layers with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from struct import Struct
from typing import Final, TypeVar
from zlib import adler32

from drivers.tar.entry import DIRECTORY, HEADER_ONLY, NO_XATTRS, REGULAR, TarEntry
from shared.errors import CorruptLayerError

BLOCK_SIZE: Final = 512
ZERO_BLOCK: Final = bytes(BLOCK_SIZE)

_FIELDS = Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12s").unpack
_USTAR: Final = b"ustar\0"
"""Whatever the version behind it: GNU's ends in a space."""
_STAR_TRAILER: Final = b"tar\x00"
_ADLER_BASE: Final = 65521
_CACHE_SIZE: Final = 8192

_Value = TypeVar("_Value")


class _Cache(dict[bytes, _Value]):
    """What fields mean, by their bytes: owners, modes, times and checksums repeat."""

    def __init__(self, meaning: Callable[[bytes], _Value]) -> None:
        super().__init__()
        self._meaning = meaning

    def __missing__(self, field: bytes) -> _Value:
        if len(self) >= _CACHE_SIZE:
            self.clear()
        value = self[field] = self._meaning(field)
        return value


class HeaderReader:
    """Parses header blocks; remembers the fields that repeat."""

    def __init__(self) -> None:
        self._numbers = _Cache(parse_number)
        self._sizes = _Cache(parse_number)
        self._names = _Cache(_text)
        self._checksums = _Cache(_adler_half)

    def read(self, block: bytes, offset: int) -> TarEntry:
        """The entry of one block, without extension records.

        Raises:
            CorruptLayerError: the checksum or a number is wrong.
        """
        (name, mode, uid, gid, size, mtime, checksum, kind, link, magic, user, group, major, minor, prefix, pad) = (
            _FIELDS(block)
        )
        if adler32(block) & 0xFFFF != self._checksums[checksum]:
            _check_signed(block, checksum, offset)
        numbers = self._numbers
        name_text = _text(name)
        user_text = group_text = ""
        major_number = minor_number = 0
        try:
            if magic[:5] == b"ustar":
                user_text = self._names[user]
                group_text = self._names[group]
                if kind in b"34":
                    major_number = numbers[major]
                    minor_number = numbers[minor]
                if prefix[0]:
                    head = _head(magic, prefix, pad)
                    if head:
                        name_text = f"{head}/{name_text}"
            if kind == b"\0":
                kind = DIRECTORY if name_text.endswith("/") else REGULAR
            payload = self._sizes[size]
            entry = TarEntry(
                kind,
                name_text,
                _text(link) if link[0] else "",
                0 if kind in HEADER_ONLY else payload,
                numbers[mode],
                numbers[uid],
                numbers[gid],
                user_text,
                group_text,
                numbers[mtime],
                0,
                major_number,
                minor_number,
                NO_XATTRS,
                None,
                block,
                offset,
            )
        except ValueError:
            fields = {
                "size": size,
                "mode": mode,
                "uid": uid,
                "gid": gid,
                "mtime": mtime,
                "device major": major,
                "device minor": minor,
            }
            raise _no_number(fields, offset) from None
        if payload < 0:
            raise CorruptLayerError(f"the tar header at byte {offset} has a negative size", offset=offset)
        return entry


def _head(magic: bytes, prefix: bytes, pad: bytes) -> str:
    """What comes before the name and a slash, if anything."""
    if magic[:6] == _USTAR:
        # star keeps times in the last 24 bytes of the prefix and marks the block's end.
        return _text(prefix[:131] if pad[8:] == _STAR_TRAILER else prefix)
    # GNU keeps times there. But Go, before 1.8, put a long name's beginning there where numbers needed GNU's form, as Docker's
    # layers of those years may have it: what is no time is that (as Go itself tells it).
    try:
        for time in (prefix[:12], prefix[12:24]):
            if time[0]:
                parse_number(time)
    except ValueError:
        head = _text(prefix)
        return head if head.isascii() else ""
    return ""


def _adler_half(field: bytes) -> int:
    """What the low half of Adler-32 must be over a block whose checksum field is ``field``.

    The checksum is the sum of the block's bytes, its own field counted as spaces; that half is one more than the sum of all
    bytes, modulo 65521, computed in C. -1, which it never is: the field is no number.
    """
    try:
        stored = int(field.strip(b"\0 ") or b"0", 8)
    except ValueError:
        return -1
    return -1 if stored < 0 else (stored - 256 + sum(field) + 1) % _ADLER_BASE


def _check_signed(block: bytes, field: bytes, offset: int) -> None:
    """Some old writers summed signed bytes.

    Raises:
        CorruptLayerError: that is not the sum either.
    """
    signed = sum(block) - 256 * sum(byte > 127 for byte in block)
    blank = 256 - sum(field) + 256 * sum(byte > 127 for byte in field)
    try:
        stored = int(field.strip(b"\0 ") or b"0", 8)
    except ValueError:
        stored = signed + blank + 1
    if stored != signed + blank:
        raise CorruptLayerError(f"no tar header at byte {offset}: its checksum is wrong", offset=offset)


def parse_number(field: bytes) -> int:
    """Octal text, or base-256 when the first bit is set (two's complement).

    Raises:
        ValueError: neither, or beyond 64 bits.
    """
    first = field[0]
    if first & 0x80:
        value = int.from_bytes(field, "big")
        bits = 8 * len(field)
        if first & 0x40:
            value -= 1 << bits
        else:
            value &= (1 << (bits - 1)) - 1
        if not -(1 << 63) <= value < 1 << 63:
            message = "beyond 64 bits"
            raise ValueError(message)
        return value
    digits = field.strip(b" \0").partition(b"\0")[0]
    if not digits:
        return 0
    if not digits.isdigit() or b"8" in digits or b"9" in digits:  # int() takes signs, "_" and "0o", too
        message = "that is no number"
        raise ValueError(message)
    return int(digits, 8)


def _no_number(fields: Mapping[str, bytes], offset: int) -> CorruptLayerError:
    """Names the first field that is none."""
    message = ""
    for what, field in fields.items():
        try:
            parse_number(field)
        except ValueError as error:
            message = f"the tar header at byte {offset} has a {what} {error}"
            break
    return CorruptLayerError(message, offset=offset)


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")
