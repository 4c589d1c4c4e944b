"""Docker archives: what ``docker save`` and ``skopeo copy ... docker-archive:`` write, and ``docker load`` reads.

Two shapes in one file. ``manifest.json`` lists images by their config and layer files; since Docker 25 the same file is also an
OCI layout (``index.json``, ``blobs/``), which keeps manifests, media types and annotations as they are. The second is read where
it is there, and both are written: other tools read ours by ``manifest.json``, and our own reader loses nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import orjson

from cli.stores.layout import OciLayout
from cli.stores.local import REF_NAME, LocalImages, Region
from cli.stores.location import Location
from shared.errors import PermanentError
from shared.oci import media_types
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest
from shared.oci.manifest import ImageManifest, Index, encode_manifest
from shared.oci.reference import Reference

_MAXIMUM_DOCUMENT = 16 << 20
_MAGICS = {b"\x1f\x8b": media_types.DOCKER_LAYER_GZIP, b"\x28\xb5": media_types.DOCKER_LAYER_ZSTD}


class DockerArchive(LocalImages):
    """An archive to read. Nothing is unpacked: blobs are regions of the archive."""

    def __init__(self, location: Location) -> None:
        super().__init__(location)
        self._members: dict[str, tarfile.TarInfo] = {}
        self._regions: dict[Digest, Region] = {}
        self._manifests: dict[Digest, ImageManifest | Index] = {}
        self._named: list[Descriptor] = []

    @classmethod
    def open(cls, location: Location) -> DockerArchive:
        """Read the tables of ``location``'s archive.

        Raises:
            PermanentError: ``no_archive`` (missing, compressed, no archive), ``invalid_archive``.
        """
        store = cls(location)
        try:
            with tarfile.open(store.path, "r:") as archive:
                store._members = {_plain(member.name): member for member in archive if member.isreg()}
                links = {_plain(m.name): _plain(_target(m)) for m in archive if m.issym() or m.islnk()}
            for name, target in links.items():  # skopeo and docker write repeated layers as links
                if target in store._members:
                    store._members.setdefault(name, store._members[target])
        except OSError as error:
            raise PermanentError(f"cannot read {store.path}: {error.strerror or error}", code="no_archive") from error
        except (tarfile.TarError, EOFError) as error:
            raise PermanentError(
                f"{store.path} is no (uncompressed) docker archive: {error}", code="no_archive"
            ) from error
        with store.path.open("rb") as file:
            if "index.json" in store._members:
                store._read_layout(file)
            elif "manifest.json" in store._members:
                store._read_docker(file)
            else:
                raise PermanentError(f"{store.path} has neither manifest.json nor index.json", code="no_archive")
        return store

    def region(self, digest: Digest) -> Region | None:
        return self._regions.get(digest)

    def named(self) -> Sequence[Descriptor]:
        return self._named

    async def manifest(self, reference: Reference) -> ImageManifest | Index:
        digest = reference.digest
        if digest is None and (found := self.find(reference)) is not None:
            digest = found.digest
        if digest is not None and digest in self._manifests:
            return self._manifests[digest]
        return await super().manifest(reference)

    async def resolve(self, reference: Reference) -> Descriptor | None:
        if reference.tag is None and reference.digest in self._manifests:
            return self._manifests[reference.digest].descriptor
        return await super().resolve(reference)

    def _read_layout(self, file: IO[bytes]) -> None:
        for name, member in self._members.items():
            folder, _, hexadecimal = name.rpartition("/")
            if folder in {"blobs/sha256", "blobs/sha512"}:
                digest = Digest(f"{folder[6:]}:{hexadecimal}")
                self._regions[digest] = Region(self.path, member.offset_data, member.size)
        index = self._document(file, "index.json")
        if not isinstance(index, dict) or not isinstance(index.get("manifests"), list):
            raise self._invalid("its index.json has no list of manifests")
        for entry in index["manifests"]:
            descriptor = Descriptor.from_json(entry)
            name = descriptor.annotations.get("io.containerd.image.name") or descriptor.annotations.get(REF_NAME, "")
            self._named.append(descriptor.with_annotations(**{REF_NAME: name}))

    def _read_docker(self, file: IO[bytes]) -> None:
        images = self._document(file, "manifest.json")
        if not isinstance(images, list):
            raise self._invalid("its manifest.json is no list")
        for image in images:
            manifest = self._image(file, image if isinstance(image, dict) else {})
            self._manifests[manifest.digest] = manifest
            for name in image.get("RepoTags") or [""]:
                self._named.append(manifest.descriptor.with_annotations(**{REF_NAME: str(name)}))

    def _image(self, file: IO[bytes], image: Mapping[str, Any]) -> ImageManifest:
        """The manifest that the files amount to; registries would get the same."""
        layers, config_name = image.get("Layers"), image.get("Config")
        if not isinstance(layers, list) or not isinstance(config_name, str):
            raise self._invalid("an image in its manifest.json has no Config or no Layers")
        config = self._add(file, config_name)
        manifest = encode_manifest(
            {
                "schemaVersion": 2,
                "mediaType": media_types.DOCKER_MANIFEST,
                "config": replace(config, media_type=media_types.DOCKER_CONFIG).to_json(),
                "layers": [self._add(file, str(name)).to_json() for name in layers],
            }
        )
        if not isinstance(manifest, ImageManifest):
            raise TypeError("a manifest with layers is an image's")
        return manifest

    def _add(self, file: IO[bytes], name: str) -> Descriptor:
        member = self._members.get(_plain(name))
        if member is None:
            raise self._invalid(f"{name!r}, which its manifest.json names, is missing")
        file.seek(member.offset_data)
        magic = file.read(2) if member.size else b""
        file.seek(member.offset_data)
        hashing, left = hashlib.sha256(), member.size
        while left:
            piece = file.read(min(1 << 20, left))
            if not piece:
                raise self._invalid(f"{name!r} is cut")
            hashing.update(piece)
            left -= len(piece)
        digest = Digest(f"sha256:{hashing.hexdigest()}")
        self._regions[digest] = Region(self.path, member.offset_data, member.size)
        return Descriptor(_MAGICS.get(magic, media_types.DOCKER_LAYER), digest, member.size)

    def _document(self, file: IO[bytes], name: str) -> Any:
        member = self._members[name]
        if member.size > _MAXIMUM_DOCUMENT:
            raise self._invalid(f"its {name} is larger than {_MAXIMUM_DOCUMENT} bytes")
        file.seek(member.offset_data)
        try:
            return orjson.loads(file.read(member.size))
        except orjson.JSONDecodeError as error:
            raise self._invalid(f"its {name} is not JSON: {error}") from error

    def _invalid(self, what: str) -> PermanentError:
        return PermanentError(f"{self.path} is a damaged docker archive: {what}", code="invalid_archive")


class ArchiveWriter:
    """A target: a layout beside the archive-to-be, packed into it at the end."""

    def __init__(self, location: Location) -> None:
        self._location = location
        self._path = location.path.resolve()  # a link stays one
        if (
            self._path.exists() and not self._path.is_file()
        ):  # a device, say, which the finished archive would take the place of
            raise PermanentError(f"cannot write {self._path}: it is no regular file", code="cannot_write")
        try:
            self._folder = Path(tempfile.mkdtemp(dir=self._path.parent, prefix=f".{self._path.name}-"))
        except OSError as error:
            raise PermanentError(f"cannot write beside {self._path}: {error.strerror}", code="cannot_write") from error
        self.store = OciLayout.create(replace(location, path=self._folder / "layout"))

    async def finish(self) -> None:
        """Write the archive, replacing an older one only when it is whole.

        Raises:
            PermanentError: ``unsupported``: what was converted does not fit an archive.
        """
        document = [await self._image(descriptor) for descriptor in self.store.named()]
        await asyncio.to_thread(self._pack, orjson.dumps(document))

    def close(self) -> None:
        """Remove the layout."""
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _image(self, root: Descriptor) -> dict[str, Any]:
        manifest = await self.store.manifest(Reference("localhost", "image", None, root.digest))
        if isinstance(manifest, Index):
            images = [child for child in manifest.manifests if child.media_type == media_types.OCI_MANIFEST]
            if len(images) != 1:
                raise PermanentError(
                    f"a docker archive holds images of one platform, not {len(images)}:"
                    " choose one with --platform, or write an oci: layout",
                    code="unsupported",
                )
            return {**await self._image(images[0]), "RepoTags": self._tags(root)}
        foreign = [layer.media_type for layer in manifest.layers if layer.media_type not in media_types.LAYERS]
        if foreign:
            raise PermanentError(
                f"a docker archive holds layers that docker can load, not {foreign[0]}: write an oci: layout",
                code="unsupported",
            )
        return {
            "Config": f"blobs/sha256/{manifest.config.digest.hex}",
            "RepoTags": self._tags(root),
            "Layers": [f"blobs/{layer.digest.algorithm}/{layer.digest.hex}" for layer in manifest.layers],
        }

    @staticmethod
    def _tags(root: Descriptor) -> list[str]:
        name = root.annotations.get(REF_NAME, "")
        return [name] if ":" in name else []

    def _pack(self, document: bytes) -> None:
        temporary = self._folder / "archive.tar"
        layout = self.store.path
        (layout / "manifest.json").write_bytes(document)
        with tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as archive:
            for path in sorted(layout.rglob("*")):
                member = _anonymous(archive.gettarinfo(path, str(path.relative_to(layout))))
                if member.isreg():
                    with path.open("rb") as file:
                        archive.addfile(member, file)
                else:
                    archive.addfile(member)
        temporary.replace(self._path)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """The same bytes on every machine."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = 0
    member.mode = 0o755 if member.isdir() else 0o644
    return member


def _plain(name: str) -> str:
    return name.removeprefix("./").strip("/")


def _target(link: tarfile.TarInfo) -> str:
    if link.islnk() or not link.linkname.startswith("../"):
        return link.linkname
    return link.linkname.removeprefix("../")
