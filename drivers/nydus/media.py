"""Media types and annotations of Nydus images (nydus-snapshotter ``pkg/converter/constant.go``)."""

from __future__ import annotations

from typing import Final

BLOB_LAYER: Final = "application/vnd.oci.image.layer.nydus.blob.v1"
ARTIFACT_TYPE: Final = "application/vnd.nydus.image.manifest.v1+json"
"""On the index descriptor of a Nydus manifest that stands beside its original."""
INDEXED_CONFIG: Final = "application/vnd.nydus.image.config.v1+json"
"""Of a Nydus manifest in such an index: plain containerd passes it over."""

NYDUS_BLOB: Final = "containerd.io/snapshot/nydus-blob"
NYDUS_REF: Final = "containerd.io/snapshot/nydus-ref"
"""Digest of the gzip layer that a blob refers to."""
NYDUS_BOOTSTRAP: Final = "containerd.io/snapshot/nydus-bootstrap"
NYDUS_FS_VERSION: Final = "containerd.io/snapshot/nydus-fs-version"
NYDUS_SOURCE_DIGEST: Final = "containerd.io/snapshot/nydus-source-digest"
NYDUS_SOURCE_REFERENCE: Final = "containerd.io/snapshot/nydus-source-reference"
NYDUS_BUILDER_VERSION: Final = "containerd.io/snapshot/nydus-builder-version"
NYDUS_EMPTY_LAYER: Final = "containerd.io/snapshot/nydus-empty-layer"

BOOTSTRAP_FILE: Final = "image/image.boot"
"""Inside the bootstrap layer's tar."""
