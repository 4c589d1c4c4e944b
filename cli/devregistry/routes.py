"""The endpoints of the distribution specification 1.1 (end-1 to end-13), and the catalogue."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from urllib.parse import quote

from aiohttp import web

from cli.devregistry.problems import Problem
from cli.devregistry.storage import Storage
from cli.devregistry.uploads import Uploads
from shared.errors import PermanentError
from shared.oci import media_types
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest
from shared.oci.manifest import MAXIMUM_MANIFEST_SIZE, ImageManifest, Index, parse_manifest
from shared.oci.reference import is_repository, is_tag

_ROUTE = re.compile(
    r"/v2/(?P<name>.+?)/(?:"
    r"blobs/uploads/(?P<upload>[0-9a-z]*)|blobs/(?P<blob>[^/]+)|manifests/(?P<manifest>[^/]+)|"
    r"tags/(?P<tags>list)|referrers/(?P<referrers>[^/]+))"
)
_PAGE = 10_000


class Routes:
    """Answers requests out of a storage."""

    def __init__(self, storage: Storage, uploads: Uploads) -> None:
        self._storage = storage
        self._uploads = uploads

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Any request. Raises :class:`Problem`."""
        path = request.path
        if path in {"/v2/", "/v2"}:
            return web.json_response({}, headers={"Docker-Distribution-Api-Version": "registry/2.0"})
        if path == "/v2/_catalog":
            return _page(request, "repositories", await asyncio.to_thread(self._storage.repositories), {})
        match = _ROUTE.fullmatch(path)
        if match is None:
            raise Problem(404, "NOT_FOUND")
        name = match["name"]
        if not is_repository(name):
            raise Problem(400, "NAME_INVALID")
        if match["upload"] is not None:
            return await self._upload(request, name, match["upload"])
        if match["blob"] is not None:
            return self._blob(request, name, _digest(match["blob"]))
        if match["manifest"] is not None:
            return await self._manifest(request, name, match["manifest"])
        if match["tags"] is not None:
            if not self._storage.has_repository(name):
                raise Problem(404, "NAME_UNKNOWN")
            return _page(request, "tags", self._storage.tags(name), {"name": name})
        return self._referrers(request, name, _digest(match["referrers"]))

    # Blobs

    def _blob(self, request: web.Request, name: str, digest: Digest) -> web.StreamResponse:
        if request.method == "DELETE":
            if not self._storage.unlink_blob(name, digest):
                raise Problem(404, "BLOB_UNKNOWN")
            return web.Response(status=202)
        _only(request, "GET", "HEAD")
        path = self._storage.blob(name, digest)
        if path is None:
            raise Problem(404, "BLOB_UNKNOWN")
        headers = {"Docker-Content-Digest": digest, "Content-Type": "application/octet-stream"}
        return web.FileResponse(path, chunk_size=1 << 20, headers=headers)

    async def _upload(self, request: web.Request, name: str, identity: str) -> web.Response:
        if not identity:
            _only(request, "POST")
            return await self._start(request, name)
        match request.method:
            case "GET":
                return self._standing(name, identity, 204)
            case "PATCH":
                await self._append(identity, request)
                return self._standing(name, identity, 202)
            case "PUT":
                await self._append(identity, request)
                digest = await self._uploads.commit(identity, name, request.query.get("digest", ""))
                return _created(name, digest)
            case "DELETE":
                self._uploads.cancel(identity)
                return web.Response(status=204)
        raise Problem(405, "UNSUPPORTED")

    async def _start(self, request: web.Request, name: str) -> web.Response:
        mount, source = request.query.get("mount"), request.query.get("from")
        if mount and source:
            digest = _digest(mount)
            if self._storage.blob(source, digest) is not None and self._storage.link_blob(name, digest):
                return _created(name, digest)
        identity = self._uploads.start()
        if text := request.query.get("digest"):
            await self._append(identity, request)
            return _created(name, await self._uploads.commit(identity, name, text))
        return self._standing(name, identity, 202)

    async def _append(self, identity: str, request: web.Request) -> None:
        content_range = request.headers.get("Content-Range", "")
        await self._uploads.append(identity, request.content.iter_any(), content_range)

    def _standing(self, name: str, identity: str, status: int) -> web.Response:
        size = self._uploads.size(identity)
        headers = {"Location": f"/v2/{name}/blobs/uploads/{identity}", "Range": f"0-{max(0, size - 1)}"}
        return web.Response(status=status, headers=headers)

    # Manifests

    async def _manifest(self, request: web.Request, name: str, subject: str) -> web.Response:
        if not is_tag(subject):
            _digest(subject)
        if request.method == "PUT":
            return await self._put_manifest(request, name, subject)
        digest = self._storage.resolve(name, subject)
        if digest is None:
            raise Problem(404, "MANIFEST_UNKNOWN" if self._storage.has_repository(name) else "NAME_UNKNOWN")
        if request.method == "DELETE":
            if is_tag(subject):
                self._storage.delete_tag(name, subject)
            else:
                self._storage.delete_manifest(name, digest)
            return web.Response(status=202)
        _only(request, "GET", "HEAD")
        raw, media_type = self._storage.manifest(name, digest)
        return web.Response(body=raw, headers={"Content-Type": media_type, "Docker-Content-Digest": digest})

    async def _put_manifest(self, request: web.Request, name: str, subject: str) -> web.Response:
        raw = await request.content.read(MAXIMUM_MANIFEST_SIZE + 1)
        while not request.content.at_eof() and len(raw) <= MAXIMUM_MANIFEST_SIZE:
            raw += await request.content.read(MAXIMUM_MANIFEST_SIZE)
        if len(raw) > MAXIMUM_MANIFEST_SIZE:
            raise Problem(413, "SIZE_INVALID", "the manifest is too large")
        try:
            manifest = parse_manifest(raw, request.headers.get("Content-Type"))
        except PermanentError as error:
            raise Problem(400, "MANIFEST_INVALID", error.message) from error
        tag = subject if is_tag(subject) else None
        if tag is None and subject != manifest.digest:
            raise Problem(400, "DIGEST_INVALID", "the manifest has another digest")
        self._check_content(name, manifest)
        self._storage.put_manifest(name, raw, manifest.media_type, manifest.digest, tag)
        headers = {"Location": f"/v2/{name}/manifests/{manifest.digest}", "Docker-Content-Digest": manifest.digest}
        if manifest.subject is not None:
            self._storage.add_referrer(name, manifest.subject.digest, manifest.digest)
            headers["OCI-Subject"] = manifest.subject.digest
        return web.Response(status=201, headers=headers)

    def _check_content(self, name: str, manifest: ImageManifest | Index) -> None:
        """What a manifest points at has to be there."""
        if isinstance(manifest, Index):
            missing = [item for item in manifest.manifests if self._storage.resolve(name, item.digest) is None]
        else:
            blobs = (manifest.config, *(i for i in manifest.layers if not media_types.is_foreign_layer(i.media_type)))
            missing = [item for item in blobs if self._storage.blob(name, item.digest) is None]
        if missing:
            raise Problem(400, "MANIFEST_BLOB_UNKNOWN", f"{missing[0].digest} is not there")

    def _referrers(self, request: web.Request, name: str, subject: Digest) -> web.Response:
        wanted = request.query.get("artifactType")
        found = []
        for digest in self._storage.referrers(name, subject):
            manifest = parse_manifest(*self._storage.manifest(name, digest), digest)
            kind = manifest.artifact_type
            if kind is None and isinstance(manifest, ImageManifest):
                kind = manifest.config.media_type
            if wanted is None or kind == wanted:
                descriptor = Descriptor(
                    manifest.media_type, digest, len(manifest.raw), manifest.annotations, artifact_type=kind
                )
                found.append(descriptor.to_json())
        body = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": found}
        headers = {"OCI-Filters-Applied": "artifactType"} if wanted else {}
        return web.Response(text=json.dumps(body), content_type=media_types.OCI_INDEX, headers=headers)


def _created(name: str, digest: Digest) -> web.Response:
    headers = {"Location": f"/v2/{name}/blobs/{digest}", "Docker-Content-Digest": digest}
    return web.Response(status=201, headers=headers)


def _digest(text: str) -> Digest:
    try:
        return Digest(text)
    except PermanentError as error:
        raise Problem(400, "DIGEST_INVALID", error.message) from error


def _only(request: web.Request, *methods: str) -> None:
    if request.method not in methods:
        raise Problem(405, "UNSUPPORTED")


def _page(request: web.Request, key: str, names: Sequence[str], more: dict[str, str]) -> web.Response:
    """``n`` names after ``last``, and a link to the next page."""
    text = request.query.get("n", "")
    size = int(text) if text.isdecimal() and len(text) < 8 else _PAGE
    last = request.query.get("last", "")
    rest = [name for name in names if name > last]
    page = rest[:size]
    headers = {}
    if page and len(rest) > len(page):
        headers["Link"] = f'<{request.path}?n={size}&last={quote(page[-1], safe="")}>; rel="next"'
    return web.json_response({**more, key: page}, headers=headers)
