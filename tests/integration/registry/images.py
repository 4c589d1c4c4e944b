"""Small blobs and manifests to push, and blobs read whole."""

from __future__ import annotations

from typing import Any

from shared.oci import media_types
from shared.oci.descriptor import Descriptor
from shared.oci.manifest import ImageManifest, Index, encode_manifest
from shared.oci.reference import Reference
from shared.registry.client import RegistryClient

BINARY = "application/octet-stream"


async def push(client: RegistryClient, repository: Reference, data: bytes, media_type: str = BINARY) -> Descriptor:
    async with client.upload(repository) as upload:
        await upload.write(data)
        return await upload.commit(media_type)


async def pull(client: RegistryClient, repository: Reference, blob: Descriptor) -> bytes:
    async with client.open_blob(repository, blob) as stream:
        return b"".join([piece async for piece in stream])


async def push_image(
    client: RegistryClient, reference: Reference, layer: bytes = b"layer", **more: Any
) -> ImageManifest | Index:
    """A config, one layer and a manifest under the reference's tag."""
    config = await push(client, reference, b"{}", media_types.OCI_CONFIG)
    descriptor = await push(client, reference, layer, media_types.OCI_LAYER_GZIP)
    manifest = encode_manifest(
        {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_MANIFEST,
            "config": config.to_json(),
            "layers": [descriptor.to_json()],
            **more,
        }
    )
    await client.put_manifest(reference, manifest)
    return manifest
