"""Rules that hold between the parts of a Nydus image: manifest, merged bootstrap and the layers' own tables.

Run on every image before it is published, and by the checker on what it reads back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from drivers.nydus import media
from drivers.nydus.blob.parts import DIGEST_SIZE
from drivers.nydus.errors import InvalidNydusError, require
from drivers.nydus.layer_source import Layer
from drivers.nydus.rafs_v6.layout import BlobFeatures
from drivers.nydus.tree import Blob, Chunk
from shared.oci import media_types
from shared.oci.manifest import ImageManifest

_SAME: Final = (
    "chunk_count",
    "compressor",
    "digester",
    "compressed_size",
    "uncompressed_size",
    "ci_compressor",
    "ci_offset",
    "ci_compressed_size",
    "ci_uncompressed_size",
    "meta_digest",
    "meta_size",
    "toc_digest",
)
"""Fields of a blob's record that the merge takes over as they are."""


def check_manifest(manifest: ImageManifest) -> None:
    """What snapshotters and ``nydusify check`` go by.

    Raises:
        InvalidNydusError: fields ``manifest.*``.
    """
    layers = manifest.layers
    require(bool(layers), "manifest.layers", "is empty")
    last = layers[-1]
    require(last.annotations.get(media.NYDUS_BOOTSTRAP) == "true", "manifest.layers", "the last one is no bootstrap")
    require(
        last.media_type in {media_types.OCI_LAYER_GZIP, media_types.DOCKER_LAYER_GZIP},
        "manifest.layers",
        f"the bootstrap layer has media type {last.media_type!r}",
    )
    for layer in layers[:-1]:
        require(
            layer.media_type == media.BLOB_LAYER and layer.annotations.get(media.NYDUS_BLOB) == "true",
            "manifest.layers",
            f"{layer.digest} is no Nydus blob",
        )


def check_blobs(blobs: Sequence[Blob], chunks: Iterable[Chunk], layers: Sequence[Layer]) -> None:
    """A merged bootstrap's blob table and chunks against the layers' own.

    Raises:
        InvalidNydusError: fields ``blob[i].*`` and ``chunk``.
    """
    known = {layer.blob_id: layer for layer in layers}
    own = {blob.id: blob for layer in layers if (blob := layer.own) is not None}
    for index, blob in enumerate(blobs):
        require(blob.id in known, f"blob[{index}].id", f"{blob.id} is no layer of the image")
        record = own.get(blob.id)
        if record is None:
            raise InvalidNydusError(f"blob[{index}].id", f"the layer {blob.id} has no data")
        for name in _SAME:
            mine, theirs = getattr(blob, name), getattr(record, name)
            require(mine == theirs, f"blob[{index}].{name}", f"is {mine}, the layer says {theirs}")
        inlined = BlobFeatures.INLINED_FS_META
        require(
            blob.features == record.features & ~inlined,
            f"blob[{index}].features",
            f"are {blob.features:#x}, the layer says {record.features:#x}",
        )
    tables = {name: (known[name].chunk_infos(blob), known[name].chunk_digests) for name, blob in own.items()}
    for chunk in chunks:
        index = chunk.index
        infos, digests = tables[chunk.blob.id]
        if infos[index] != (
            chunk.compressed_offset,
            chunk.compressed_size,
            chunk.uncompressed_offset,
            chunk.uncompressed_size,
        ):
            raise InvalidNydusError("chunk", f"{index} of {chunk.blob.id} differs from the blob's own table")
        if digests and digests[DIGEST_SIZE * index : DIGEST_SIZE * (index + 1)] != chunk.digest:
            raise InvalidNydusError("chunk.digest", f"{index} of {chunk.blob.id} differs from the blob's own list")
