"""The image's last layer: a gzipped tar with the merged bootstrap, and each blob's chunk information."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from dataclasses import dataclass

import deflate

from drivers.nydus.media import BOOTSTRAP_FILE
from shared.oci.digest import Digest

_GZIP_LEVEL = 6


@dataclass(frozen=True, slots=True)
class BootstrapLayer:
    data: bytes
    """The gzip stream: no name, mtime 0."""
    diff_id: Digest
    """sha256 of the tar."""


def build_bootstrap_layer(bootstrap: bytes, metas: Mapping[str, bytes]) -> BootstrapLayer:
    """``image/image.boot`` and an ``image/<hex>.blob.meta`` per blob digest, in that order, all times and owners 0."""
    parts = [_header("image", tarfile.DIRTYPE, 0o755, 0)]
    for name, data in ((BOOTSTRAP_FILE, bootstrap), *((f"image/{hexes}.blob.meta", metas[hexes]) for hexes in metas)):
        parts += (_header(name, tarfile.REGTYPE, 0o444, len(data)), data, bytes(-len(data) % tarfile.BLOCKSIZE))
    parts.append(bytes(2 * tarfile.BLOCKSIZE))
    tar = b"".join(parts)
    return BootstrapLayer(bytes(deflate.gzip_compress(tar, _GZIP_LEVEL)), Digest.of(tar))


def _header(name: str, kind: bytes, mode: int, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.mode = mode
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT)
