"""Mount a bootstrap with its blobs in the kernel: mount(2) directly, file-backed, without a loop device."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from drivers.nydus.blob import toc
from drivers.nydus.blob.chunk_info import decode_chunk_infos
from drivers.nydus.compression import decompress
from drivers.nydus.rafs_v6.layout import BLOCK, DEVICE, DEVICES_OFFSET, Compressor

_MS_RDONLY = 1
_MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


def expand_blob(blob: bytes, compressor: Compressor, path: Path) -> None:
    """Write a blob's chunks at their uncompressed offsets, from ``blob.meta`` alone: what nydusd's cache file holds."""
    size = toc.toc_size(blob)
    entries = toc.decode_toc(blob[-512 - size : -512], len(blob))
    part = entries[toc.BLOB_META]
    packed = blob[part.offset : part.offset + part.compressed_size]
    end = 0
    with path.open("wb") as flat:
        for info in decode_chunk_infos(decompress(packed, part.compressor, part.size, "blob.meta")):
            data = blob[info.compressed_offset : info.compressed_offset + info.compressed_size]
            used = compressor if info.compressed_size != info.uncompressed_size else Compressor.NONE
            flat.seek(info.uncompressed_offset)
            flat.write(decompress(data, used, info.uncompressed_size, "chunk"))
            end = info.uncompressed_offset + info.uncompressed_size
        flat.truncate(-(-end // BLOCK) * BLOCK)


_OPTIONS_LIMIT = 4000
"""Bytes; mount(2) takes one page of options."""


@contextmanager
def mounted(bootstrap: Path, devices: Sequence[Path], target: Path) -> Iterator[Path]:
    """The bootstrap's tree, read-only; needs root. More devices than mount(2) can name become one disk with the bootstrap."""
    target.mkdir(exist_ok=True)
    options = ",".join(f"device={device}" for device in devices).encode()
    source = bootstrap
    if len(options) > _OPTIONS_LIMIT:
        source, options = _one_disk(bootstrap, devices), b""
    if _libc.mount(os.fsencode(source), os.fsencode(target), b"erofs", _MS_RDONLY, options):
        raise OSError(ctypes.get_errno(), f"mount: {os.strerror(ctypes.get_errno())}", str(bootstrap))
    try:
        yield target
    finally:
        if _libc.umount2(os.fsencode(target), _MNT_DETACH):
            raise OSError(ctypes.get_errno(), "umount", str(target))


def _one_disk(bootstrap: Path, devices: Sequence[Path]) -> Path:
    """Bootstrap and blobs at their ``mapped_blkaddr``: the other form that the device slots describe."""
    disk = bootstrap.with_suffix(".disk")
    data = bootstrap.read_bytes()
    with disk.open("wb") as file:
        file.write(data)
        for slot, device in enumerate(devices):
            mapped = DEVICE.unpack_from(data, DEVICES_OFFSET + DEVICE.size * slot)[2]
            file.seek(mapped * BLOCK)
            file.write(device.read_bytes())
    return disk


def check_with_fsck(bootstrap: Path, devices: Sequence[Path]) -> None:
    """Raises CalledProcessError with fsck.erofs's own words."""
    flags = [f"--device={device}" for device in devices]
    subprocess.run(["fsck.erofs", *flags, str(bootstrap)], check=True, capture_output=True, timeout=120)
