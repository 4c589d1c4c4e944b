"""zlib, as far as Python's own module does not reach: stop at block boundaries, and begin in the middle of a stream.

Every call into the library leaves the interpreter free for other threads.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from drivers.nydus.errors import InvalidNydusError
from shared.errors import CorruptLayerError, UnsupportedError

WINDOW: Final = 32 << 10
"""Bytes that a deflate stream may refer back to."""

_NO_FLUSH: Final = 0
_BLOCK: Final = 5
_OK: Final = 0
_STREAM_END: Final = 1
_BUFFER_ERROR: Final = -5
_GZIP: Final = 31
_RAW: Final = -15
_AT_BOUNDARY: Final = 0x80
_IN_LAST_BLOCK: Final = 0x40
_UNUSED_BITS: Final = 7
_TRAILER: Final = 8
_PIECE: Final = 512 << 10


class _Stream(ctypes.Structure):
    """``z_stream``."""

    _fields_ = (
        ("next_in", ctypes.c_void_p),
        ("avail_in", ctypes.c_uint),
        ("total_in", ctypes.c_ulong),
        ("next_out", ctypes.c_void_p),
        ("avail_out", ctypes.c_uint),
        ("total_out", ctypes.c_ulong),
        ("msg", ctypes.c_char_p),
        ("state", ctypes.c_void_p),
        ("zalloc", ctypes.c_void_p),
        ("zfree", ctypes.c_void_p),
        ("opaque", ctypes.c_void_p),
        ("data_type", ctypes.c_int),
        ("adler", ctypes.c_ulong),
        ("reserved", ctypes.c_ulong),
    )


@functools.cache
def _libz() -> ctypes.CDLL:
    """The system's zlib, loaded when it is needed: everything but references works without it."""
    try:
        libz = ctypes.CDLL("libz.so.1")
    except OSError as error:
        raise UnsupportedError("oci_ref needs the system's zlib (libz.so.1), which is not installed") from error
    libz.zlibVersion.restype = ctypes.c_char_p
    libz.inflateInit2_.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_int)
    libz.inflate.argtypes = (ctypes.c_void_p, ctypes.c_int)
    libz.inflateEnd.argtypes = (ctypes.c_void_p,)
    libz.inflateReset.argtypes = (ctypes.c_void_p,)
    libz.inflateReset2.argtypes = (ctypes.c_void_p, ctypes.c_int)
    libz.inflatePrime.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_int)
    libz.inflateSetDictionary.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint)
    libz.inflateGetDictionary.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    return libz


def _address(data: bytes) -> int:
    return ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0


class _Inflate:
    """A ``z_stream`` with its state."""

    def __init__(self, window_bits: int) -> None:
        self._ready = False
        self.libz = libz = _libz()
        self.stream = _Stream()
        self.at = ctypes.addressof(self.stream)
        if libz.inflateInit2_(self.at, window_bits, libz.zlibVersion(), ctypes.sizeof(_Stream)) != _OK:
            raise MemoryError("zlib has no memory for a window")
        self._ready = True

    def __del__(self) -> None:
        if self._ready:
            self.libz.inflateEnd(self.at)


class Boundary(NamedTuple):
    """Between two deflate blocks. Positions in bytes."""

    compressed: int
    """Of the first byte not yet used at all."""
    uncompressed: int
    bits: int
    """Still unused, of the byte in front of it: 0 to 7."""
    byte: int
    """That byte; 0 if all of it is used."""
    member: int
    """Number of the gzip member."""
    first: bool
    """In front of the member's first block."""
    last: bool
    """Behind its last one."""
    window: bytes
    """What the stream may refer back to: up to 32 KiB."""


_EVERY_COMPRESSED: Final = 8 << 10
_EVERY_UNCOMPRESSED: Final = 32 << 10
"""Boundaries closer than both to the one before are passed over, so that windows take no more memory than the data."""


class GzipBlocks:
    """RFC 1952, any number of members, zero bytes after the last one; ``found`` gets the boundaries as they are passed.

    Which boundaries it gets depends on the stream alone, not on how the stream is cut into pieces.
    """

    def __init__(self, found: Callable[[Boundary], None]) -> None:
        self._found = found
        self._inflate = _Inflate(_GZIP)
        self._piece = ctypes.create_string_buffer(_PIECE)
        self._window = ctypes.create_string_buffer(WINDOW)
        self._compressed = 0  # before the present member
        self._uncompressed = 0
        self._byte = 0  # the last one of the piece before
        self._inside = False
        self._padding = False
        self._member = 0
        self._begins = False
        self._last = (0, 0)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Raises CorruptLayerError."""
        stream = self._inflate.stream
        stream.next_in, stream.avail_in = _address(data), len(data)
        start = ctypes.addressof(self._piece)
        stream.next_out, stream.avail_out = start, _PIECE
        while self._inside or self._enter(data):
            code = self._inflate.libz.inflate(self._inflate.at, _BLOCK)
            if code == _STREAM_END:
                self._leave()
            elif code == _OK:
                if stream.data_type & _AT_BOUNDARY:
                    self._boundary(data)
            elif code != _BUFFER_ERROR:
                offset = self._compressed + stream.total_in
                reason = (stream.msg or b"no memory").decode("ascii", "replace")
                raise CorruptLayerError(f"the layer's gzip data is damaged near byte {offset}: {reason}", offset=offset)
            elif stream.avail_out:
                break
            if not stream.avail_out:
                yield self._piece.raw
                stream.next_out, stream.avail_out = start, _PIECE
        size = _PIECE - stream.avail_out
        if size:
            yield ctypes.string_at(start, size)
        if data:
            self._byte = data[-1]

    def _enter(self, data: bytes) -> bool:
        """Whether a member begins in what is left."""
        stream = self._inflate.stream
        if not stream.avail_in:
            return False
        at = len(data) - stream.avail_in
        if self._padding or data[at] == 0:
            self._padding = True
            rest = data[at:]
            if rest.count(0) == len(rest):
                return False
            raise CorruptLayerError(
                f"bytes that are not gzip follow a gzip member near byte {self._compressed}", offset=self._compressed
            )
        self._inside = self._begins = True
        return True

    def _leave(self) -> None:
        stream = self._inflate.stream
        self._compressed += stream.total_in
        self._uncompressed += stream.total_out
        self._inflate.libz.inflateReset(self._inflate.at)
        self._inside = False
        self._member += 1

    def _boundary(self, data: bytes) -> None:
        stream = self._inflate.stream
        compressed, uncompressed = self._compressed + stream.total_in, self._uncompressed + stream.total_out
        ends = bool(stream.data_type & _IN_LAST_BLOCK)
        before, after = self._last
        near = compressed - before < _EVERY_COMPRESSED and uncompressed - after < _EVERY_UNCOMPRESSED
        if near and not ends and not self._begins:
            return
        self._last = compressed, uncompressed
        bits = stream.data_type & _UNUSED_BITS
        byte = 0
        if bits:
            used = len(data) - stream.avail_in
            byte = data[used - 1] if used else self._byte
        self._found(
            Boundary(compressed, uncompressed, bits, byte, self._member, self._begins, ends, self._dictionary())
        )
        self._begins = False

    def _dictionary(self) -> bytes:
        size = ctypes.c_uint()
        self._inflate.libz.inflateGetDictionary(self._inflate.at, self._window, ctypes.byref(size))
        return ctypes.string_at(self._window, size.value)

    def finish(self) -> Iterable[bytes]:
        """Raises CorruptLayerError: the stream ends inside a member."""
        if self._inside:
            offset = self._compressed + self._inflate.stream.total_in
            message = f"the layer's gzip data ends in the middle of a member, at byte {offset}"
            raise CorruptLayerError(message, offset=offset)
        return ()


def inflate_range(data: bytes, *, bits: int, byte: int, window: bytes, size: int, field: str) -> bytes:
    """``size`` bytes from a boundary on, as ``nydusd`` inflates them: gzip members may end and begin on the way.

    Args:
        data: the stream from the boundary's first unused byte on.
        bits: unused ones of the byte in front.
        byte: that byte.
        window: what the blocks may refer back to.
        size: of the answer, in bytes.
        field: for errors.

    Raises:
        InvalidNydusError: the data does not inflate to that, or ``nydusd`` would not.
    """
    inflate = _Inflate(_RAW)
    stream = inflate.stream
    if bits:
        inflate.libz.inflatePrime(inflate.at, bits, byte >> (8 - bits))
    inflate.libz.inflateSetDictionary(inflate.at, window, len(window))
    out = ctypes.create_string_buffer(max(size, 1))
    start = ctypes.addressof(out)
    begin = _address(data)
    stream.next_in, stream.avail_in = begin, len(data)
    stream.next_out, stream.avail_out = start, size
    code = inflate.libz.inflate(inflate.at, _NO_FLUSH)
    while code == _STREAM_END:
        if stream.avail_in < _TRAILER:
            raise InvalidNydusError(field, "ends behind a gzip member and without its trailer")
        stream.next_in, stream.avail_in = begin + len(data) - stream.avail_in + _TRAILER, stream.avail_in - _TRAILER
        got = size - stream.avail_out
        inflate.libz.inflateReset2(inflate.at, _GZIP)
        code = inflate.libz.inflate(inflate.at, _BLOCK)
        if code != _OK or not stream.data_type & _AT_BOUNDARY:
            raise InvalidNydusError(field, "no gzip member follows")
        inflate.libz.inflateReset2(inflate.at, _RAW)
        stream.next_out, stream.avail_out = start + got, size - got
        code = inflate.libz.inflate(inflate.at, _NO_FLUSH)
    if code != _OK or stream.avail_out:
        raise InvalidNydusError(field, f"inflates to {size - stream.avail_out} bytes, must be {size}")
    return out.raw[:size]
