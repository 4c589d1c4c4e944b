"""The fixed parts of an eStargz blob (stargz-snapshotter, ``docs/estargz.md``)."""

from __future__ import annotations

import re
from typing import Final

from shared.errors import CorruptLayerError

TOC_NAME: Final = "stargz.index.json"
PREFETCH_LANDMARK: Final = ".prefetch.landmark"
NO_PREFETCH_LANDMARK: Final = ".no.prefetch.landmark"
RESERVED_NAMES: Final = frozenset((TOC_NAME, PREFETCH_LANDMARK, NO_PREFETCH_LANDMARK))
"""Dropped from a source: converting twice must not nest them."""
LANDMARK_CONTENT: Final = b"\x0f"

FOOTER_SIZE: Final = 51
_FOOTER_HEAD: Final = bytes.fromhex("1f8b08040000000000ff 1a00 5347 1600")
_FOOTER_TAIL: Final = b"STARGZ" + bytes.fromhex("010000ffff 0000000000000000")
_HEX_OFFSET: Final = re.compile(rb"[0-9a-f]{16}")

GZIP_HEADER: Final = bytes.fromhex("1f8b08000000000000ff")
"""Deflate, no name, no time, unknown system."""


def footer(toc_offset: int) -> bytes:
    """An empty gzip member whose extra field names the TOC member's offset in the blob."""
    return _FOOTER_HEAD + b"%016x" % toc_offset + _FOOTER_TAIL


def parse_footer(data: bytes) -> int:
    """The TOC member's offset.

    Raises:
        CorruptLayerError: ``data`` is no eStargz footer.
    """
    digits = data[len(_FOOTER_HEAD) : len(_FOOTER_HEAD) + 16]
    sound = len(data) == FOOTER_SIZE and data.startswith(_FOOTER_HEAD) and data.endswith(_FOOTER_TAIL)
    if not sound or _HEX_OFFSET.fullmatch(digits) is None:
        raise CorruptLayerError("the blob does not end in an eStargz footer")
    return int(digits, 16)


def regular_header(name: str, size: int) -> bytes:
    """A ustar header of a regular file with no owner, mode or time."""
    if size >= 1 << 33:
        raise CorruptLayerError(f"{name} of {size} bytes does not fit a ustar header")
    block = bytearray(512)
    block[0 : len(name)] = name.encode("ascii")
    for start, width in ((100, 7), (108, 7), (116, 7), (136, 11), (329, 7), (337, 7)):
        block[start : start + width] = b"0" * width
    block[124:135] = b"%011o" % size
    block[148:156] = b" " * 8
    block[156:157] = b"0"
    block[257:265] = b"ustar\x0000"
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)
