"""Rules that hold between the parts of a Nydus image: manifest, merged bootstrap and the layers' own tables.

Run on every image before it is published, and by the checker on what it reads back.
"""

from __future__ import annotations

from collections.abc import Sequence

from drivers.nydus import media
from drivers.nydus.blob.chunk_info import ENTRY_SIZE, decode_chunk_infos
from drivers.nydus.errors import InvalidNydusError, require
from drivers.nydus.layer_source import Layer
from drivers.nydus.rafs_v6.bootstrap import Bootstrap
from drivers.nydus.tree import walk
from shared.oci import media_types
from shared.oci.manifest import ImageManifest


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


def check_blobs(bootstrap: Bootstrap, layers: Sequence[Layer]) -> None:
    """The merged blob table and chunk table against those of the layers.

    Raises:
        InvalidNydusError: fields ``blob[i].*`` and ``chunk``.
    """
    known = {layer.digest.hex: layer for layer in layers}
    own = {blob.id: blob for layer in layers for blob in layer.bootstrap.blobs if blob.id == layer.digest.hex}
    for index, blob in enumerate(bootstrap.blobs):
        require(blob.id in known, f"blob[{index}].id", f"{blob.id} is no layer of the image")
        record = own.get(blob.id)
        if record is None:
            raise InvalidNydusError(f"blob[{index}].id", f"the layer {blob.id} has no data")
        for name in ("chunk_count", "compressor", "digester", "uncompressed_size", "ci_offset", "ci_compressed_size"):
            mine, theirs = getattr(blob, name), getattr(record, name)
            require(mine == theirs, f"blob[{index}].{name}", f"is {mine}, the layer says {theirs}")
    infos = {name: decode_chunk_infos(known[name].meta[: ENTRY_SIZE * blob.chunk_count]) for name, blob in own.items()}
    for path, inode in walk(bootstrap.root):
        for chunk in inode.chunks:
            if infos[chunk.blob.id][chunk.index] != (
                chunk.compressed_offset,
                chunk.compressed_size,
                chunk.uncompressed_offset,
                chunk.uncompressed_size,
            ):
                raise InvalidNydusError("chunk", f"{chunk.index} of {path!r} differs from the blob's own table")
