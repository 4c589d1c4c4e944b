"""From a location to an open store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cli.stores.archive import ArchiveWriter, DockerArchive
from cli.stores.layout import OciLayout
from cli.stores.location import Location
from shared.registry.api import ImageStore
from shared.registry.client import RegistryClient


async def open_for_reading(location: Location, registry: RegistryClient) -> ImageStore:
    """Raises what is wrong with a layout or archive; a registry is not contacted yet."""
    if location.kind == "oci":
        return await asyncio.to_thread(OciLayout.open, location)
    if location.kind == "docker-archive":
        return await asyncio.to_thread(DockerArchive.open, location)
    return registry


@asynccontextmanager
async def open_for_writing(location: Location, registry: RegistryClient) -> AsyncIterator[ImageStore]:
    """A store whose content is in place when this is left without an error."""
    if location.kind == "oci":
        yield await asyncio.to_thread(OciLayout.create, location)
    elif location.kind == "docker-archive":
        writer = await asyncio.to_thread(ArchiveWriter, location)
        try:
            yield writer.store
            await writer.finish()
        finally:
            await asyncio.to_thread(writer.close)
    else:
        yield registry
