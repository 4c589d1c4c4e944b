"""What a RAFS v6 bootstrap file says, apart from where its bytes lie."""

from __future__ import annotations

from dataclasses import dataclass, field

from drivers.nydus.rafs_v6.layout import Compressor, Digester, Flags
from drivers.nydus.tree import Blob, Inode


@dataclass(slots=True)
class Bootstrap:
    """A file tree with the blobs that its chunks lie in, in blob-table order."""

    root: Inode
    blobs: list[Blob]
    chunk_size: int
    """Bytes; a power of two, the same for every blob."""
    compressor: Compressor
    digester: Digester
    prefetch: list[Inode] = field(default_factory=list)
    """In table order; the root stands for "everything"."""
    extra_flags: Flags = Flags.ENCRYPTION_NONE | Flags.HAS_XATTR
    """Superblock flags that neither the algorithms nor the blobs imply."""
