"""Upload sessions: chunks are appended as they come, hashed in a thread, and kept when a connection is cut."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterable
from pathlib import Path

from cli.devregistry.problems import Problem
from cli.devregistry.storage import Storage
from shared.errors import PermanentError
from shared.oci.digest import Digest
from shared.registry.hashing import ThreadedHash

_BATCH = 1 << 20
"""Bytes written by one call in a thread."""


class Uploads:
    """The sessions of one registry."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._hashes: dict[str, ThreadedHash] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    def start(self) -> str:
        identity = self._storage.new_upload()
        self._hashes[identity] = ThreadedHash()
        self._locks[identity] = asyncio.Lock()
        return identity

    def size(self, identity: str) -> int:
        return self._path(identity).stat().st_size

    async def append(self, identity: str, body: AsyncIterable[bytes], content_range: str = "") -> None:
        """Append ``body``; ``content_range`` (``begin-end``, if given) has to begin where the upload stands."""
        path = self._path(identity)
        async with self._lock(identity):
            begin = path.stat().st_size
            if content_range and content_range.partition("-")[0].removeprefix("bytes ") != str(begin):
                raise Problem(416, "BLOB_UPLOAD_INVALID", f"the upload stands at {begin}", {"Range": f"0-{begin - 1}"})
            await self._write(path, body, await self._hash(identity, path))

    async def _write(self, path: Path, body: AsyncIterable[bytes], hashing: ThreadedHash) -> None:
        batch: list[bytes] = []
        size = 0
        with await asyncio.to_thread(path.open, "ab", buffering=0) as file:

            async def flush() -> None:
                data = b"".join(batch)
                batch.clear()
                await hashing.update(data)
                await asyncio.to_thread(file.write, data)

            try:
                async for data in body:
                    batch.append(data)
                    size += len(data)
                    if size >= _BATCH:
                        await flush()
                        size = 0
            finally:  # what came before a cut counts: the client asks, and goes on from there
                await flush()

    async def commit(self, identity: str, repository: str, text: str) -> Digest:
        """Compare with the digest that the client computed, and make it a blob."""
        path = self._path(identity)
        try:
            wanted = Digest(text)
        except PermanentError as error:
            raise Problem(400, "DIGEST_INVALID", error.message) from error
        async with self._lock(identity):
            if wanted.algorithm == "sha256":
                actual = await (await self._hash(identity, path)).digest()
            else:
                actual = await asyncio.to_thread(_digest_of_file, path, wanted.algorithm)
            if actual != wanted:
                raise Problem(400, "DIGEST_INVALID", "the content has another digest")
            await asyncio.to_thread(self._storage.finish_upload, identity, repository, wanted)
            self._forget(identity)
        return wanted

    def cancel(self, identity: str) -> None:
        self._path(identity)
        self._storage.cancel_upload(identity)
        self._forget(identity)

    def _forget(self, identity: str) -> None:
        self._hashes.pop(identity, None)
        self._locks.pop(identity, None)

    def _path(self, identity: str) -> Path:
        path = self._storage.upload(identity)
        if path is None:
            raise Problem(404, "BLOB_UPLOAD_UNKNOWN")
        return path

    def _lock(self, identity: str) -> asyncio.Lock:
        return self._locks.setdefault(identity, asyncio.Lock())

    async def _hash(self, identity: str, path: Path) -> ThreadedHash:
        """The running hash; after a restart of the registry, from the file."""
        if identity not in self._hashes:
            hashing = self._hashes[identity] = ThreadedHash()
            with contextlib.closing(await asyncio.to_thread(path.open, "rb")) as file:
                while data := await asyncio.to_thread(file.read, _BATCH):
                    await hashing.update(data)
        return self._hashes[identity]


def _digest_of_file(path: Path, algorithm: str) -> Digest:
    with path.open("rb") as file:
        return Digest(f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}")
