"""How a regular file's inode refers to its chunks: a chunk format, and an 8-byte index for each chunk behind the inode."""

from __future__ import annotations

from collections.abc import Mapping

from drivers.nydus.errors import InvalidNydusError, require
from drivers.nydus.rafs_v6.layout import CHUNK_FORMAT_BITS, CHUNK_FORMAT_INDEXES
from drivers.nydus.tree import Chunk, Inode


def chunk_format(chunk_size: int) -> int:
    """``chunk_size`` in bytes, a power of two."""
    return CHUNK_FORMAT_INDEXES | (chunk_size.bit_length() - 13)


def joined_format(chunk_size: int, inode: Inode) -> int:
    """Of a file of several chunks: contiguous ones are one large chunk to the kernel, which then shares page cache and reads one
    index.
    """
    first = inode.chunks[0]
    expected = first.uncompressed_offset
    for chunk in inode.chunks:
        if chunk.uncompressed_offset != expected or chunk.blob is not first.blob:
            return chunk_format(chunk_size)
        expected += chunk_size
    return chunk_format(1 << (inode.size - 1).bit_length())


def decode_file_chunks(
    data: bytes, start: int, form: int, *, nid: int, size: int, chunk_size: int, known: Mapping[int, Chunk]
) -> tuple[Chunk, ...]:
    """The chunks of a file.

    Args:
        data: the whole bootstrap.
        start: where the indexes begin.
        form: the inode's chunk format.
        nid: of the inode, for errors.
        size: of the file, in bytes.
        chunk_size: of the image, in bytes.
        known: the chunk table, by index.

    Raises:
        InvalidNydusError: fields ``inode[nid].*``.
    """
    bits = form & CHUNK_FORMAT_BITS
    if form & ~CHUNK_FORMAT_BITS != CHUNK_FORMAT_INDEXES or 1 << (bits + 12) < chunk_size:
        raise InvalidNydusError(f"inode[{nid}].u", f"chunk format {form:#x}")
    if not size:
        return ()
    if size <= chunk_size and start + 8 <= len(data):
        chunk = known.get(int.from_bytes(data[start : start + 8], "little"))
        if chunk is None or chunk.uncompressed_size != size:
            raise _chunk_error(nid, chunk, 0)
        return (chunk,)
    count = -(-size // chunk_size)
    end = start + 8 * count
    if end > len(data):
        raise InvalidNydusError(f"inode[{nid}].size", f"{count} chunk indexes lie outside the file")
    found = []
    last = size - chunk_size * (count - 1)
    for number, at in enumerate(range(start, end, 8)):
        chunk = known.get(int.from_bytes(data[at : at + 8], "little"))
        expected = chunk_size if number < count - 1 else last
        if chunk is None or chunk.uncompressed_size != expected:
            raise _chunk_error(nid, chunk, number)
        found.append(chunk)
    if 1 << (bits + 12) > chunk_size:
        for number, chunk in enumerate(found):
            require(
                chunk.blob is found[0].blob
                and chunk.uncompressed_offset == found[0].uncompressed_offset + number * chunk_size,
                f"inode[{nid}].u",
                "one large chunk for the kernel, but the chunks are not contiguous",
            )
    return tuple(found)


def _chunk_error(nid: int, chunk: Chunk | None, number: int) -> InvalidNydusError:
    field = f"inode[{nid}].chunks[{number}]"
    if chunk is None:
        return InvalidNydusError(field, "has no record in the chunk table")
    return InvalidNydusError(field, f"{chunk.uncompressed_size} bytes do not fit the file's size")
