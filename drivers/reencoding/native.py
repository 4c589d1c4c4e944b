"""The C library that is built of this folder's sources; ``reencoding.h`` says what its functions do.

Every call leaves the interpreter free for other threads.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from struct import Struct
from typing import Final

NEEDS_INPUT: Final = 0
OUTPUT_FULL: Final = 1
END: Final = 2
ERRORS: Final = {
    -1: "invalid block type",
    -2: "invalid length of a stored block",
    -3: "invalid code lengths",
    -4: "invalid symbol",
    -5: "a match reaches back too far",
    -6: "it ends in the middle of a block",
}
KEPT_OUTPUT: Final = 8 << 20
"""Bytes of the largest buffer that an encoder keeps for its next call."""
MATCH_SIZE: Final = 8
"""Bytes of a match's record."""
_BLOCK_END: Final = Struct("=QIHH")

_Size = ctypes.c_size_t
_Pointer = ctypes.c_void_p
_FUNCTIONS: Final[Mapping[str, tuple[type | None, Sequence[type]]]] = {
    "inflater_new": (_Pointer, ()),
    "inflater_free": (None, (_Pointer,)),
    "inflater_restart": (None, (_Pointer,)),
    "inflate": (ctypes.c_int, (_Pointer, _Pointer, _Size, ctypes.c_int, ctypes.POINTER(_Size))),
    "piece": (_Pointer, (_Pointer, ctypes.POINTER(_Size))),
    "matches": (_Pointer, (_Pointer, ctypes.POINTER(_Size))),
    "block_ends": (_Pointer, (_Pointer, ctypes.POINTER(_Size))),
    "encoder_new": (_Pointer, ()),
    "encoder_free": (None, (_Pointer,)),
    "bound": (_Size, (_Size, _Size)),
    "members": (
        _Size,
        (
            _Pointer, ctypes.c_char_p, _Size, _Pointer, _Size, ctypes.c_char_p, _Size, ctypes.c_int64, _Pointer, _Pointer,
            _Pointer,
        ),
    ),
}  # fmt: skip


def load(path: Path) -> ctypes.CDLL:
    """The library, its functions declared.

    Raises:
        ImportError: it is not there, or was built of other sources or for another machine.
    """
    try:
        library = ctypes.CDLL(str(path))
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(library, f"reencoding_{name}")
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        message = f"{error}: build it anew with scripts/setup.sh, or install ICS (pip install .)"
        raise ImportError(message, path=str(path)) from error
    return library


_LIBRARY = load(Path(__file__).with_name("_native.so"))


class Inflater:
    """One raw deflate stream after another (RFC 1951)."""

    def __init__(self) -> None:
        self._free = _LIBRARY.reencoding_inflater_free
        self._state = _LIBRARY.reencoding_inflater_new()
        if not self._state:
            raise MemoryError("no memory for a window")
        self._size = _Size()

    def __del__(self) -> None:
        self._free(self._state)

    def restart(self) -> None:
        """Begin another stream."""
        _LIBRARY.reencoding_inflater_restart(self._state)

    def inflate(self, data: bytes, start: int, *, last: bool) -> tuple[int, int]:
        """Take ``data[start:]``; ``last`` says that nothing follows.

        Returns:
            Status (:data:`NEEDS_INPUT`, :data:`OUTPUT_FULL`, :data:`END` or a key of :data:`ERRORS`), and where in ``data``
            to go on.
        """
        address = (ctypes.cast(ctypes.c_char_p(data), _Pointer).value or 0) + start
        size = self._size
        status = _LIBRARY.reencoding_inflate(self._state, address, len(data) - start, last, size)
        return status, start + size.value

    def piece(self) -> bytes:
        """What the last call gave: up to 1 MiB."""
        size = self._size
        at = _LIBRARY.reencoding_piece(self._state, size)
        return ctypes.string_at(at, size.value)

    def matches(self) -> bytes:
        """Records of :data:`MATCH_SIZE` bytes, which describe that piece from end to end."""
        size = self._size
        at = _LIBRARY.reencoding_matches(self._state, size)
        return ctypes.string_at(at, size.value * MATCH_SIZE)

    def block_ends(self) -> Iterator[tuple[int, int, int, int]]:
        """Of every block that ended in the last call: bytes of its input up to there, bytes of its piece, bits of the last byte
        of input that belong to what follows, and whether the stream ends, too.
        """
        size = self._size
        at = _LIBRARY.reencoding_block_ends(self._state, size)
        return _BLOCK_END.iter_unpack(ctypes.string_at(at, size.value * _BLOCK_END.size))


class Encoder:
    """Makes gzip members; of any number of streams, but one call at a time."""

    def __init__(self) -> None:
        self._free = _LIBRARY.reencoding_encoder_free
        self._state = _LIBRARY.reencoding_encoder_new()
        if not self._state:
            raise MemoryError("no memory for an encoder")
        self._output = ctypes.create_string_buffer(0)

    def __del__(self) -> None:
        self._free(self._state)

    def members(
        self, data: bytes, starts: array[int], matches: bytes, skip: int, *, checksums: array[int]
    ) -> tuple[array[int], bytes]:
        """Make a member from each of ``starts`` to the next.

        Args:
            data: whole members, uncompressed.
            starts: where each begins (u32); the first at 0.
            matches: records that describe a stream of which ``data`` begins at byte ``skip``. They need not be right.
            skip: negative where ``data`` begins before it.
            checksums: CRC-32 of each member (u32).

        Returns:
            Size of each member (u32), the joined members.
        """
        count = len(starts)
        bound = _LIBRARY.reencoding_bound(len(data), count)
        output = self._output if len(self._output) >= bound else ctypes.create_string_buffer(bound)
        if bound <= KEPT_OUTPUT:
            self._output = output
        sizes = array(starts.typecode, starts)
        written = _LIBRARY.reencoding_members(
            self._state, data, len(data), starts.buffer_info()[0], count, matches, len(matches) // MATCH_SIZE,
            skip, checksums.buffer_info()[0], output, sizes.buffer_info()[0],
        )  # fmt: skip
        return sizes, ctypes.string_at(output, written)
