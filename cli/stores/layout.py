"""OCI image layouts (OCI image spec, image-layout.md): a folder with ``oci-layout``, ``index.json`` and ``blobs/``."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from cli.stores.local import REF_NAME, LocalImages, Region
from cli.stores.location import Location
from shared.errors import PermanentError
from shared.oci import media_types
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest
from shared.oci.manifest import ImageManifest, Index
from shared.oci.reference import Reference
from shared.registry.hashing import ThreadedHash

_MARKER = b'{"imageLayoutVersion":"1.0.0"}'
_MAXIMUM_INDEX = 16 << 20


class OciLayout(LocalImages):
    """A layout to read, and to write when opened with :meth:`create`. Files appear whole or not at all."""

    @classmethod
    def open(cls, location: Location) -> OciLayout:
        """Raises ``PermanentError`` (``no_layout``) if there is none."""
        store = cls(location)
        if not (store.path / "index.json").is_file():
            raise PermanentError(
                f"{store.path} is no OCI layout: it has no index.json"
                + (" (an archive? unpack it, or use docker-archive:)" if store.path.is_file() else ""),
                code="no_layout",
            )
        return store

    @classmethod
    def create(cls, location: Location) -> OciLayout:
        """Open, or make an empty one."""
        store = cls(location)
        try:
            (store.path / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
            if not (store.path / "oci-layout").exists():
                _write(store.path / "oci-layout", _MARKER)
            if not (store.path / "index.json").exists():
                store._write_index({"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": []})
        except OSError as error:
            raise _cannot_write(store.path, error) from error
        return store

    def region(self, digest: Digest) -> Region | None:
        path = self._blob(digest)
        try:
            return Region(path, 0, path.stat().st_size)
        except OSError:
            return None

    def named(self) -> Sequence[Descriptor]:
        return [Descriptor.from_json(entry) for entry in self._index()["manifests"]]

    async def put_manifest(self, reference: Reference, manifest: ImageManifest | Index) -> Descriptor:
        await asyncio.to_thread(_write, self._blob(manifest.digest), manifest.raw)
        if reference.tag is None:
            return manifest.descriptor
        name = reference.tag
        if reference.tag == self.location.reference.tag:
            name = self.location.name or reference.tag
        index = self._index()
        entry = manifest.descriptor.with_annotations(**{REF_NAME: name}).to_json()
        kept = [each for each in index["manifests"] if (each.get("annotations") or {}).get(REF_NAME) != name]
        self._write_index({**index, "manifests": [*kept, entry]})
        return manifest.descriptor

    @contextlib.asynccontextmanager
    async def upload(self, repository: Reference) -> AsyncIterator[LayoutUpload]:
        del repository
        upload = LayoutUpload(self)
        try:
            yield upload
        finally:
            upload.close()

    def keep(self, temporary: Path, digest: Digest) -> None:
        """Give a finished file its place."""
        temporary.replace(self._blob(digest))

    def _blob(self, digest: Digest) -> Path:
        return self.path / "blobs" / digest.algorithm / digest.hex

    def _index(self) -> dict[str, Any]:
        path = self.path / "index.json"
        try:
            if path.stat().st_size > _MAXIMUM_INDEX:
                raise PermanentError(f"{path} is larger than {_MAXIMUM_INDEX} bytes", code="invalid_layout")
            index = orjson.loads(path.read_bytes())
        except (OSError, orjson.JSONDecodeError) as error:
            raise PermanentError(f"{path} cannot be read: {error}", code="invalid_layout") from error
        if not isinstance(index, dict) or not isinstance(index.get("manifests"), list):
            raise PermanentError(f"{path} has no list of manifests", code="invalid_layout")
        return index

    def _write_index(self, index: Mapping[str, Any]) -> None:
        _write(self.path / "index.json", orjson.dumps(index))


class LayoutUpload:
    """One blob under way: a temporary file in the layout, hashed as it is written."""

    def __init__(self, layout: OciLayout) -> None:
        self._layout = layout
        self._hash = ThreadedHash()
        self._size = 0
        try:
            handle, name = tempfile.mkstemp(dir=layout.path / "blobs", prefix=".upload-")
        except OSError as error:
            raise _cannot_write(layout.path, error) from error
        self._temporary = Path(name)
        self._file = os.fdopen(handle, "wb")

    async def write(self, data: bytes | memoryview) -> None:
        # The hash reads later and the caller may use its buffer again.
        piece = bytes(data)
        await self._hash.update(piece)
        try:
            await asyncio.to_thread(self._file.write, piece)
        except OSError as error:
            raise _cannot_write(self._layout.path, error) from error
        self._size += len(piece)

    async def commit(self, media_type: str, annotations: Mapping[str, str] | None = None) -> Descriptor:
        digest = await self._hash.digest()
        try:
            await asyncio.to_thread(self._file.close)
            self._layout.keep(self._temporary, digest)
        except OSError as error:
            raise _cannot_write(self._layout.path, error) from error
        return Descriptor(media_type, digest, self._size, dict(annotations or {}))

    def close(self) -> None:
        """Without a commit nothing stays."""
        with contextlib.suppress(OSError):
            self._file.close()
        self._temporary.unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _cannot_write(path: Path, error: OSError) -> PermanentError:
    return PermanentError(f"cannot write to {path}: {error.strerror or error}", code="cannot_write")
