"""Blobs, manifests, tags and uploads as files below one folder.

::

    blobs/sha256/<hex>                         every blob and manifest, once
    repositories/<name>/_layers/<digest>       the repository has the blob
    repositories/<name>/_manifests/<digest>    the repository has the manifest; holds its media type
    repositories/<name>/_tags/<tag>            holds the digest
    repositories/<name>/_referrers/<digest>/<digest>   subject / referrer
    uploads/<id>                               bytes so far

Names of files are digests, tags and repositories that were checked against the grammar. Calls block for as long as a local
disk does; hashing is the server's, in a thread.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shared.oci.digest import Digest

_MARKS = frozenset({"_layers", "_manifests", "_tags", "_referrers"})


@dataclass(frozen=True, slots=True)
class Storage:
    root: Path

    def prepare(self) -> None:
        for name in ("blobs", "repositories", "uploads"):
            (self.root / name).mkdir(parents=True, exist_ok=True)

    # Blobs

    def blob_path(self, digest: Digest) -> Path:
        return self.root / "blobs" / digest.algorithm / digest.hex

    def blob(self, repository: str, digest: Digest) -> Path | None:
        """The blob's file, if the repository has it."""
        return self.blob_path(digest) if self._mark(repository, "_layers", str(digest)).exists() else None

    def link_blob(self, repository: str, digest: Digest) -> bool:
        """Give the repository a blob that is there already."""
        if not self.blob_path(digest).exists():
            return False
        _write(self._mark(repository, "_layers", str(digest)), b"")
        return True

    def unlink_blob(self, repository: str, digest: Digest) -> bool:
        return _remove(self._mark(repository, "_layers", str(digest)))

    # Uploads

    def new_upload(self) -> str:
        identity = uuid.uuid4().hex
        (self.root / "uploads" / identity).touch()
        return identity

    def upload(self, identity: str) -> Path | None:
        """The file of an upload under way."""
        path = self.root / "uploads" / identity
        return path if identity.isalnum() and path.exists() else None

    def uploads(self) -> list[str]:
        """Uploads neither committed nor cancelled."""
        return sorted(path.name for path in (self.root / "uploads").iterdir())

    def finish_upload(self, identity: str, repository: str, digest: Digest) -> None:
        path = self.blob_path(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        (self.root / "uploads" / identity).replace(path)
        self.link_blob(repository, digest)

    def cancel_upload(self, identity: str) -> None:
        (self.root / "uploads" / identity).unlink(missing_ok=True)

    # Manifests and tags

    def put_manifest(self, repository: str, raw: bytes, media_type: str, digest: Digest, tag: str | None) -> None:
        _write(self.blob_path(digest), raw)
        _write(self._mark(repository, "_manifests", str(digest)), media_type.encode())
        if tag is not None:
            _write(self._mark(repository, "_tags", tag), str(digest).encode())

    def resolve(self, repository: str, subject: str) -> Digest | None:
        """A tag or a digest to the digest of a manifest that the repository has."""
        if ":" in subject:
            digest = Digest(subject)
        else:
            text = _read(self._mark(repository, "_tags", subject))
            if text is None:
                return None
            digest = Digest(text.decode())
        return digest if self._mark(repository, "_manifests", str(digest)).exists() else None

    def manifest(self, repository: str, digest: Digest) -> tuple[bytes, str]:
        """Bytes and media type of one that :meth:`resolve` found."""
        return (
            self.blob_path(digest).read_bytes(),
            self._mark(repository, "_manifests", str(digest)).read_bytes().decode(),
        )

    def delete_manifest(self, repository: str, digest: Digest) -> bool:
        for tag in self.tags(repository):
            if _read(self._mark(repository, "_tags", tag)) == str(digest).encode():
                self.delete_tag(repository, tag)
        return _remove(self._mark(repository, "_manifests", str(digest)))

    def delete_tag(self, repository: str, tag: str) -> bool:
        return _remove(self._mark(repository, "_tags", tag))

    def tags(self, repository: str) -> list[str]:
        return _names(self._folder(repository) / "_tags")

    def add_referrer(self, repository: str, subject: Digest, referrer: Digest) -> None:
        _write(self._folder(repository) / "_referrers" / str(subject) / str(referrer), b"")

    def referrers(self, repository: str, subject: Digest) -> list[Digest]:
        """Digests of manifests that name ``subject`` and are still there."""
        names = _names(self._folder(repository) / "_referrers" / str(subject))
        return [Digest(name) for name in names if self._mark(repository, "_manifests", name).exists()]

    def has_repository(self, repository: str) -> bool:
        return any((self._folder(repository) / mark).is_dir() for mark in _MARKS)

    def repositories(self) -> list[str]:
        """Every repository with a manifest, sorted."""
        return sorted(self._walk(self.root / "repositories", ""))

    def _walk(self, folder: Path, prefix: str) -> Iterator[str]:
        for path in folder.iterdir():
            if path.name == "_manifests":
                yield prefix
            elif path.name not in _MARKS:
                yield from self._walk(path, f"{prefix}/{path.name}" if prefix else path.name)

    def _folder(self, repository: str) -> Path:
        return self.root / "repositories" / repository

    def _mark(self, repository: str, kind: str, name: str) -> Path:
        return self._folder(repository) / kind / name


def _names(folder: Path) -> list[str]:
    """Entries of a folder; those that are being written begin with a dot."""
    return sorted(path.name for path in folder.iterdir() if path.name[0] != ".") if folder.is_dir() else []


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all: a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{uuid.uuid4().hex}")
    part.write_bytes(data)
    part.replace(path)


def _remove(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True
