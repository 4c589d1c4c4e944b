"""Decompression as a push stream with bounded steps: gzip, zstd or plain, told by content and not by media type.

No step gives more than :data:`PIECE` bytes of gzip or plain data (16 MiB of zstd, whose library has no output bound: its
input goes in slices of :data:`ZSTD_SLICE` bytes instead), so that a decompression bomb meets the limits with flat memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, Protocol, cast

import zstandard
from isal import igzip_lib

from drivers.limits import RATIO_GRACE, LayerLimits
from shared.errors import CorruptLayerError, LimitExceededError, UnsupportedError

Compression = Literal["gzip", "zstd", "plain"]

PIECE = 1 << 20
ZSTD_SLICE = 512
"""A zstd block of 4 bytes may stand for 128 KiB."""
ZSTD_WINDOW = 128 << 20
"""Largest window accepted (``zstd --long=27``): it is held in memory."""

_IGZIP_ERROR = cast("type[Exception]", igzip_lib.error)  # the stub calls it an instance
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE_TAIL = b"\x2a\x4d\x18"
_SNIFF = 4
_OTHERS = {b"BZh": "bzip2", b"\xfd7z": "xz"}


class Stream(Protocol):
    """One compression's format; both calls raise CorruptLayerError."""

    def feed(self, data: bytes) -> Iterator[bytes]: ...
    def finish(self) -> Iterable[bytes]: ...


class _Plain:
    def feed(self, data: bytes) -> Iterator[bytes]:
        if len(data) <= PIECE:
            yield data
            return
        for start in range(0, len(data), PIECE):
            yield data[start : start + PIECE]

    def finish(self) -> Iterable[bytes]:
        """Any length is a whole plain stream; the tar reader knows better."""
        return ()


class _Gzip:
    """RFC 1952, any number of members; zero bytes may follow the last one."""

    _SLICE = 64 << 10
    """Compressed bytes a time: what follows a member is copied to the next one, so small members want small slices."""

    def __init__(self) -> None:
        self._member: igzip_lib.IgzipDecompressor | None = None
        self._between = b""
        self._padding = False
        self._offset = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), self._SLICE):
            piece = data[start : start + self._SLICE]
            yield from self._slice(piece)
            self._offset += len(piece)

    def _slice(self, data: bytes) -> Iterator[bytes]:
        while data:
            member = self._member
            if member is None:
                data = self._start(data)
                if not data:
                    return
                member = self._member = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP)
            try:
                out = member.decompress(data, PIECE)
                if out:
                    yield out
                while not (member.eof or member.needs_input):
                    out = member.decompress(b"", PIECE)
                    if out:
                        yield out
            except _IGZIP_ERROR as error:
                message = f"the layer's gzip data is damaged near byte {self._offset}: {error}"
                raise CorruptLayerError(message, offset=self._offset) from error
            if not member.eof:
                return
            data = member.unused_data
            self._member = None

    def _start(self, data: bytes) -> bytes:
        """What begins a member (empty: nothing yet), after the zero padding that some writers leave."""
        data = self._between + data
        self._between = b""
        if self._padding or data[0] == 0:
            self._padding = True
            if data.count(0) == len(data):
                return b""
        elif len(data) < len(_GZIP_MAGIC):
            self._between = data
            return b""
        elif data.startswith(_GZIP_MAGIC):
            return data
        message = f"bytes that are not gzip follow a gzip member near byte {self._offset}"
        raise CorruptLayerError(message, offset=self._offset)

    def finish(self) -> Iterable[bytes]:
        if self._member is not None or self._between:
            message = f"the layer's gzip data ends in the middle of a member, at byte {self._offset}"
            raise CorruptLayerError(message, offset=self._offset)
        return ()


class _Zstd:
    """RFC 8878, any number of frames, skippable ones passed over."""

    def __init__(self) -> None:
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._between = b""
        self._skip = 0
        self._offset = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), ZSTD_SLICE):
            piece = data[start : start + ZSTD_SLICE]
            yield from self._slice(piece)
            self._offset += len(piece)

    def _slice(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._skip:
                skipped = min(self._skip, len(data))
                self._skip -= skipped
                data = data[skipped:]
                continue
            if self._frame is None:
                data = self._start(data)
                if self._frame is None:
                    continue
            try:
                out = self._frame.decompress(data)
            except zstandard.ZstdError as error:
                message = f"the layer's zstd data is damaged near byte {self._offset}: {error}"
                raise CorruptLayerError(message, offset=self._offset) from error
            if out:
                yield out
            if not self._frame.eof:
                return
            data = self._frame.unused_data
            self._frame = None

    def _start(self, data: bytes) -> bytes:
        """Open the next frame or skip; gives what is left of ``data``."""
        data = self._between + data
        self._between = b""
        if data.startswith(_ZSTD_MAGIC):
            self._frame = self._decompressor.decompressobj()
            return data
        if len(data) < 8:
            self._between = data
            return b""
        if data[0] & 0xF0 == 0x50 and data[1:4] == _ZSTD_SKIPPABLE_TAIL:
            self._skip = int.from_bytes(data[4:8], "little")
            return data[8:]
        message = f"bytes that are not zstd follow a zstd frame near byte {self._offset}"
        raise CorruptLayerError(message, offset=self._offset)

    def finish(self) -> Iterable[bytes]:
        if self._frame is not None or self._between or self._skip:
            message = f"the layer's zstd data ends in the middle of a frame, at byte {self._offset}"
            raise CorruptLayerError(message, offset=self._offset)
        return ()


class Inflater:
    """Compressed bytes in, uncompressed pieces out.

    Args:
        limits: ``layer_size`` and ``compression_ratio`` are watched here.
        gzip: inflates gzip content in place of the fastest way, and learns more of it.

    Attributes:
        compression: what the content is; None until the first four bytes have come.
        compressed: bytes taken so far.
        uncompressed: bytes given so far.
    """

    def __init__(self, limits: LayerLimits, *, gzip: Stream | None = None) -> None:
        self.compression: Compression | None = None
        self.compressed = 0
        self.uncompressed = 0
        self._limits = limits
        self._gzip = gzip
        self._stream: Stream | None = None
        self._head = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Pieces of the uncompressed stream; exhaust it before the next call.

        Raises:
            CorruptLayerError: the data is damaged.
            LimitExceededError: it grows beyond what is allowed.
            UnsupportedError: xz or bzip2, which no OCI layer may be.
        """
        self.compressed += len(data)
        if self._stream is None:
            data = self._head + data
            if len(data) < _SNIFF:
                self._head = data
                return
            self._head = b""
            self._stream = self._sniff(data)
        yield from self._counted(self._stream.feed(data))

    def finish(self) -> Iterator[bytes]:
        """After the last byte: what is left, and whether the stream is whole."""
        if self._stream is None:
            self._stream = self._sniff(self._head)
            yield from self._counted(self._stream.feed(self._head))
        yield from self._counted(self._stream.finish())

    def _counted(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self._count(len(piece))
            yield piece

    def _count(self, size: int) -> None:
        limits = self._limits
        total = self.uncompressed = self.uncompressed + size
        if total > limits.layer_size:
            message = f"the layer is larger than {limits.layer_size} bytes uncompressed (limits.layer_size)"
            raise LimitExceededError(message, limit="layer_size")
        if total > RATIO_GRACE and total > self.compressed * limits.compression_ratio:
            message = f"the layer inflates more than {limits.compression_ratio} times (limits.compression_ratio)"
            raise LimitExceededError(message, limit="compression_ratio")

    def _sniff(self, head: bytes) -> Stream:
        if head.startswith(_GZIP_MAGIC):
            self.compression = "gzip"
            return self._gzip or _Gzip()
        if head.startswith(_ZSTD_MAGIC) or (head[1:4] == _ZSTD_SKIPPABLE_TAIL and head[0] & 0xF0 == 0x50):
            self.compression = "zstd"
            return _Zstd()
        for magic, name in _OTHERS.items():
            if head.startswith(magic):
                raise UnsupportedError(f"the layer is compressed with {name}; OCI layers are gzip, zstd or plain tar")
        self.compression = "plain"
        return _Plain()
