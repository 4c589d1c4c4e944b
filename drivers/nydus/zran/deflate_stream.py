"""zlib, as far as Python's own module does not reach: begin in the middle of a stream.

Every call into the library leaves the interpreter free for other threads.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Final

from drivers.nydus.errors import InvalidNydusError
from shared.errors import UnsupportedError

_NO_FLUSH: Final = 0
_BLOCK: Final = 5
_OK: Final = 0
_STREAM_END: Final = 1
_GZIP: Final = 31
_RAW: Final = -15
_AT_BOUNDARY: Final = 0x80
_TRAILER: Final = 8


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
    """The system's zlib, loaded when it is needed: everything but reading references works without it."""
    try:
        libz = ctypes.CDLL("libz.so.1")
    except OSError as error:
        raise UnsupportedError(
            "reading what oci_ref refers to needs the system's zlib (libz.so.1), which is not installed"
        ) from error
    libz.zlibVersion.restype = ctypes.c_char_p
    libz.inflateInit2_.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_int)
    libz.inflate.argtypes = (ctypes.c_void_p, ctypes.c_int)
    libz.inflateEnd.argtypes = (ctypes.c_void_p,)
    libz.inflateReset2.argtypes = (ctypes.c_void_p, ctypes.c_int)
    libz.inflatePrime.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_int)
    libz.inflateSetDictionary.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint)
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
