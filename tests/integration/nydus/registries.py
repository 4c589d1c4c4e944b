"""Images into a registry, and from registry to registry, with the service's own client."""

from __future__ import annotations

from consumer.budget import MemoryBudget
from consumer.content import StoreContent
from consumer.keyed_locks import KeyedLocks
from drivers.api import Result, Source
from drivers.nydus import NydusDriver
from drivers.nydus.options import NydusOptions
from drivers.testing.content import NoProgress, Repository
from shared.oci.manifest import ImageManifest, Index
from shared.oci.reference import Reference
from shared.registry.client import RegistryClient
from shared.telemetry.metrics import Metrics


async def upload(client: RegistryClient, repository: Repository, root: ImageManifest | Index, where: Reference) -> None:
    for data in repository.blobs.values():
        async with client.upload(where) as writer:
            await writer.write(data)
            await writer.commit("application/octet-stream")
    for manifest in repository.manifests.values():
        if manifest is not root:
            await client.put_manifest(Reference(where.registry, where.repository, None, manifest.digest), manifest)
    await client.put_manifest(where, root)


async def convert(client: RegistryClient, source: Reference, target: Reference, option: NydusOptions) -> Result:
    content = StoreContent(
        source,
        target,
        source_store=client,
        target_store=client,
        progress=NoProgress(),
        metrics=Metrics(process_metrics=False),
        cache=None,
        locks=KeyedLocks(),
        budget=MemoryBudget(1 << 30),
    )
    manifest = await client.manifest(source)
    result = await NydusDriver().convert(Source(source, manifest), content, option)
    await client.put_manifest(target, result.root)
    return result
