"""Conversions that hang, are cancelled, or fail at their ends; threads that they share."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest

from drivers.api import BlobWriter
from drivers.testing.content import MemoryContent, Repository
from drivers.testing.images import Tar, add_image
from shared.errors import TransientError
from shared.oci.descriptor import Descriptor
from tests.unit.drivers.nydus.conversions import BASE, convert, image_of
from tests.waiting import PATIENCE


class StuckWriter(MemoryContent):
    """An upload that accepts one piece and then hangs."""

    def __init__(self, source: Repository) -> None:
        super().__init__(source)
        self.reached = asyncio.Event()

    @asynccontextmanager
    async def create(self) -> AsyncIterator[BlobWriter]:  # type: ignore[override]
        content = self

        class Writer:
            async def write(self, data: bytes | memoryview) -> None:
                content.reached.set()
                await asyncio.Event().wait()

            async def commit(self, media_type: str, annotations: Mapping[str, str] | None = None) -> Descriptor:
                raise AssertionError

        try:
            yield Writer()
        finally:
            self.abandoned += 1


async def test_cancellation_ends_a_conversion_whose_upload_hangs() -> None:
    repository = Repository()
    content = StuckWriter(repository)
    noise = b"".join(hashlib.sha512(b"%d" % number).digest() for number in range(400_000))
    source = add_image(repository, [Tar().file("a", noise).bytes()], compression="none")
    task = asyncio.create_task(convert(content, source))
    await content.reached.wait()
    task.cancel()
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert content.abandoned == 1


class StuckSource(MemoryContent):
    """A source that gives its first piece and then hangs."""

    def __init__(self, source: Repository) -> None:
        super().__init__(source)
        self.reached = asyncio.Event()

    async def _stream(self, descriptor: Descriptor) -> AsyncIterator[bytes]:
        yield self.source_repository.blobs[descriptor.digest][:600]
        self.reached.set()
        await asyncio.Event().wait()


async def test_cancellation_ends_a_conversion_whose_download_hangs() -> None:
    repository = Repository()
    content = StuckSource(repository)
    task = asyncio.create_task(convert(content, add_image(repository, [BASE], compression="none")))
    await content.reached.wait()
    task.cancel()
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert content.abandoned == 1


async def test_many_layers_at_once_need_no_more_than_one_shared_thread() -> None:
    """Uploads hash in the loop's shared threads; walkers that held those while they wait for uploads would wait for ever."""

    class Hashing(MemoryContent):
        @asynccontextmanager
        async def create(self) -> AsyncIterator[BlobWriter]:  # type: ignore[override]
            async with super().create() as writer:

                class Writer:
                    async def write(self, data: bytes | memoryview) -> None:
                        await asyncio.to_thread(hashlib.sha256, data)
                        await writer.write(data)

                    async def commit(self, media_type: str, annotations: Mapping[str, str] | None = None) -> Descriptor:
                        return await writer.commit(media_type, annotations)

                yield Writer()

    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    repository = Repository()
    noise = b"".join(hashlib.sha512(b"%d" % number).digest() for number in range(200_000))
    layers = [Tar().file(f"{number}", noise[number:]).bytes() for number in range(4)]
    image = add_image(repository, layers, compression="none")
    async with asyncio.timeout(60):
        assert len(image_of(await convert(Hashing(repository), image)).layers) == 5


async def test_an_error_of_the_upload_is_the_conversions_error() -> None:
    class Failing(MemoryContent):
        @asynccontextmanager
        async def create(self) -> AsyncIterator[BlobWriter]:  # type: ignore[override]
            class Writer:
                async def write(self, data: bytes | memoryview) -> None:
                    raise TransientError("connection lost", code="connection")

                async def commit(self, media_type: str, annotations: Mapping[str, str] | None = None) -> Descriptor:
                    raise AssertionError

            yield Writer()

    repository = Repository()
    noise = b"".join(hashlib.sha512(b"%d" % number).digest() for number in range(400_000))
    with pytest.raises(TransientError, match="connection lost"):
        await convert(Failing(repository), add_image(repository, [Tar().file("a", noise).bytes()], compression="none"))
