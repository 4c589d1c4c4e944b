"""What a layer's descriptor says of its table of contents, whatever compresses the members (stargz-snapshotter)."""

from __future__ import annotations

from typing import Final

ANNOTATION_TOC_DIGEST: Final = "containerd.io/snapshot/stargz/toc.digest"
ANNOTATION_UNCOMPRESSED_SIZE: Final = "io.containers.estargz.uncompressed-size"
