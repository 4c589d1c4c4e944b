"""The 512-byte header block: v7, ustar, star and GNU, with octal and base-256 numbers.

Formats as POSIX.1-2001 pax and GNU tar's manual give them; where they leave a choice, Go's archive/tar decides, since that is
what container runtimes unpack layers with.
"""

from __future__ import annotations

from struct import Struct
from typing import Final
from zlib import adler32

from drivers.tar.entry import DIRECTORY, HEADER_ONLY, NO_XATTRS, REGULAR, TarEntry
from shared.errors import CorruptLayerError

BLOCK_SIZE: Final = 512
ZERO_BLOCK: Final = bytes(BLOCK_SIZE)

_FIELDS = Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12s").unpack
_USTAR: Final = b"ustar\x0000"
_STAR_TRAILER: Final = b"tar\x00"
_ADLER_BASE: Final = 65521
_NUMBER_CACHE: Final = 4096


class HeaderReader:
    """Parses header blocks; remembers the number fields that repeat (owners, modes)."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}

    def read(self, block: bytes, offset: int) -> TarEntry:
        """The entry of one block, without extension records.

        Raises:
            CorruptLayerError: the checksum or a number is wrong.
        """
        (name, mode, uid, gid, size, mtime, checksum, kind, link, magic, user, group, major, minor, prefix, pad) = (
            _FIELDS(block)
        )
        self._check(block, checksum, offset)
        numbers = self._numbers
        try:
            mode_number = numbers[mode]
            uid_number = numbers[uid]
            gid_number = numbers[gid]
        except KeyError:
            if len(numbers) > _NUMBER_CACHE:
                numbers.clear()
            mode_number = numbers[mode] = self._number(mode, "mode", offset)
            uid_number = numbers[uid] = self._number(uid, "uid", offset)
            gid_number = numbers[gid] = self._number(gid, "gid", offset)
        name_text = _text(name)
        user_text = group_text = ""
        major_number = minor_number = 0
        if magic[:5] == b"ustar":
            user_text = _text(user)
            group_text = _text(group)
            if kind in b"34":
                major_number = self._number(major, "device major", offset)
                minor_number = self._number(minor, "device minor", offset)
            if prefix[0] and magic == _USTAR:
                # star keeps times in the last 24 bytes of the prefix and marks the block's end.
                head = _text(prefix[:131] if pad[8:] == _STAR_TRAILER else prefix)
                if head:
                    name_text = f"{head}/{name_text}"
        if kind == b"\0":
            kind = DIRECTORY if name_text.endswith("/") else REGULAR
        payload = self._number(size, "size", offset)
        if payload < 0:
            raise CorruptLayerError(f"the tar header at byte {offset} has a negative size", offset=offset)
        return TarEntry(
            kind,
            name_text,
            _text(link) if link[0] else "",
            0 if kind in HEADER_ONLY else payload,
            mode_number,
            uid_number,
            gid_number,
            user_text,
            group_text,
            self._number(mtime, "mtime", offset),
            0,
            major_number,
            minor_number,
            NO_XATTRS,
            kind == b"S",
            block,
            offset,
        )

    @staticmethod
    def _check(block: bytes, field: bytes, offset: int) -> None:
        """The sum of the block's bytes, its own field counted as spaces.

        Adler-32's low half is that sum modulo 65521, computed in C.
        """
        try:
            stored = int(field.strip(b"\0 ") or b"0", 8)
        except ValueError:
            stored = -1
        blank = 256 - sum(field)
        if stored >= 0 and (stored - blank + 1) % _ADLER_BASE == adler32(block) & 0xFFFF:
            return
        # Some old writers summed signed bytes.
        signed = sum(block) - 256 * sum(byte > 127 for byte in block) + blank + 256 * sum(byte > 127 for byte in field)
        if stored != signed:
            raise CorruptLayerError(f"no tar header at byte {offset}: its checksum is wrong", offset=offset)

    @staticmethod
    def _number(field: bytes, what: str, offset: int) -> int:
        """Octal text, or base-256 when the first bit is set (two's complement)."""
        first = field[0]
        if first & 0x80:
            value = int.from_bytes(field, "big")
            bits = 8 * len(field)
            if first & 0x40:
                value -= 1 << bits
            else:
                value &= (1 << (bits - 1)) - 1
            if not -(1 << 63) <= value < 1 << 63:
                raise CorruptLayerError(f"the tar header at byte {offset} has a {what} beyond 64 bits", offset=offset)
            return value
        try:
            return int(field.strip(b" \0") or b"0", 8)
        except ValueError:
            pass
        try:
            return int(field.strip(b" \0").split(b"\0", 1)[0] or b"0", 8)
        except ValueError:
            message = f"the tar header at byte {offset} has a {what} that is no number"
            raise CorruptLayerError(message, offset=offset) from None


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
