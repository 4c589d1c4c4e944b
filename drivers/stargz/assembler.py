"""From compressed batches to the layer's bytes and the table's lines."""

from __future__ import annotations

import hashlib

from drivers.stargz.batch import DIGEST_SIZE, Batch, Chunk


class Assembler:
    """Takes the compressed batches in order; knows offsets, digests and the diff ID.

    Attributes:
        offset: bytes of the blob so far.
        uncompressed: bytes of the layer's tar so far.
        diff: sha256 of them.
    """

    def __init__(self) -> None:
        self.offset = 0
        self.uncompressed = 0
        self.diff = hashlib.sha256()
        self._file = hashlib.sha256()
        self._file_head = b""
        self._chunks: list[bytes] = []

    def take(self, batch: Batch) -> tuple[bytes, list[bytes]]:
        """The batch's part of the blob, and the table's lines that are complete with it."""
        data = batch.data
        self.diff.update(data)
        self.uncompressed += len(data)
        offset = self.offset
        lines: list[bytes] = []
        chunks, following, digests = batch.chunks, batch.lines, batch.digests
        for index, (head, size) in enumerate(zip(batch.heads, batch.sizes, strict=True)):
            if index in chunks:
                payload = memoryview(data)[batch.starts[index] :][: batch.payloads[index]]
                lines += self._chunk(chunks[index], head, batch.digest(index), payload, offset)
            elif head:
                hexed = digests[index * DIGEST_SIZE : (index + 1) * DIGEST_SIZE]
                lines.append(
                    b'%b,"offset":%d,"digest":"sha256:%b","chunkDigest":"sha256:%b"}' % (head, offset, hexed, hexed)
                )
            if index in following:
                lines += following[index]
            offset += size
        self.offset = offset
        return batch.members, lines

    def _chunk(self, chunk: Chunk, head: bytes, digest: bytes, payload: memoryview, offset: int) -> list[bytes]:
        """One of several chunks. The file's digest stands in its first line, so its lines come with the last chunk."""
        size = b"" if chunk.last else b',"chunkSize":%d' % len(payload)
        tail = b'%b,"chunkDigest":"sha256:%b"}' % (size, digest)
        if head:
            self._file = hashlib.sha256()
            self._file_head = b'%b,"offset":%d,"digest":"sha256:%%b"%b' % (head.replace(b"%", b"%%"), offset, tail)
            self._chunks = []
        else:
            self._chunks.append(
                b'{"type":"chunk","name":%b,"offset":%d,"chunkOffset":%d%b' % (chunk.name, offset, chunk.position, tail)
            )
        self._file.update(payload)
        return [self._file_head % self._file.hexdigest().encode("ascii"), *self._chunks] if chunk.last else []
