"""Manifests: HEAD, GET and PUT, verified against the digest asked for or announced (distribution spec, Pulling manifests)."""

from __future__ import annotations

import hashlib

from shared.errors import PermanentError
from shared.oci import media_types
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest
from shared.oci.manifest import MAXIMUM_MANIFEST_SIZE, SCHEMA_1_REFUSED, ImageManifest, Index, parse_manifest
from shared.oci.reference import Reference
from shared.registry.errors import Operation
from shared.registry.retry import repeated
from shared.registry.transport import Answer, Request, Transport

_ACCEPT = ", ".join(sorted(media_types.MANIFESTS))


def _path(reference: Reference, subject: str) -> str:
    return f"/v2/{reference.repository}/manifests/{subject}"


def _pull(reference: Reference) -> tuple[str, ...]:
    return (f"repository:{reference.repository}:pull",)


async def resolve(transport: Transport, reference: Reference) -> Descriptor | None:
    """What the reference points at now; None if there is no such manifest."""
    subject = str(reference.digest or reference.tag or "latest")
    operation = Operation("head_manifest", reference.registry, reference.repository, subject)
    answer = await transport.send(
        Request(
            operation,
            "HEAD",
            _path(reference, subject),
            frozenset({200, 404}),
            _pull(reference),
            headers={"Accept": _ACCEPT},
        )
    )
    if answer.status == 404:
        return None
    announced = reference.digest or _announced(answer)
    length = answer.headers.get("Content-Length", "")
    kind = _kind(answer)
    if announced is None or not length.isdigit() or not kind:
        try:
            return (await get(transport, reference)).descriptor
        except PermanentError as error:
            if error.code in {"manifest_unknown", "name_unknown"}:
                return None
            raise
    return Descriptor(kind, announced, int(length))


async def get(transport: Transport, reference: Reference) -> ImageManifest | Index:
    """The manifest, its bytes hashed and compared.

    Raises:
        LimitExceededError: larger than 4 MiB.
        PermanentError: ``manifest_unknown``, ``digest_mismatch``, ``invalid_manifest``, ``unsupported_media_type``.
    """
    subject = str(reference.digest or reference.tag or "latest")
    operation = Operation("get_manifest", reference.registry, reference.repository, subject)
    request = Request(
        operation, "GET", _path(reference, subject), frozenset({200}), _pull(reference), headers={"Accept": _ACCEPT}
    )
    for last in (False, True):
        answer = await transport.send(request, limit=MAXIMUM_MANIFEST_SIZE, limit_name="manifest_size")
        expected = reference.digest or _announced(answer)
        actual = _digest_of(answer.body, expected)
        if expected is None or actual == expected:
            break
        if _kind(answer) in media_types.SCHEMA_1:  # whose digest leaves its signatures out
            raise operation.permanent(SCHEMA_1_REFUSED, code="unsupported_media_type")
        if last:  # twice the same way: it is the registry's content, not the way here, that is damaged
            raise operation.permanent(f"the content's digest is {actual}, not {expected}", code="digest_mismatch")
    return parsed(operation, answer.body, answer.headers.get("Content-Type"), actual)


def parsed(
    operation: Operation, raw: bytes, media_type: str | None, digest: Digest | None = None
) -> ImageManifest | Index:
    """``parse_manifest`` whose errors say which registry's manifest it is."""
    try:
        return parse_manifest(raw, media_type, digest)
    except PermanentError as error:
        raise operation.permanent(error.message, code=error.code) from error


async def put(transport: Transport, reference: Reference, manifest: ImageManifest | Index) -> Descriptor:
    """Push under the tag, or by digest if the reference has no tag.

    Raises:
        PermanentError: ``manifest_too_large``, ``manifest_refused``, ``immutable_tag``, ``digest_mismatch`` (the registry
            stored something else) ...
        TransientError: ``manifest_blob_unknown``: what the manifest names was pushed before, and is not there any more.
    """
    subject = reference.tag or str(manifest.digest)
    operation = Operation("put_manifest", reference.registry, reference.repository, subject)
    if len(manifest.raw) > MAXIMUM_MANIFEST_SIZE:
        raise operation.permanent(
            f"the manifest has {len(manifest.raw)} bytes; registries take {MAXIMUM_MANIFEST_SIZE}",
            code="manifest_too_large",
        )
    request = Request(
        operation,
        "PUT",
        _path(reference, subject),
        frozenset({200, 201, 202}),
        (f"repository:{reference.repository}:pull,push",),
        headers={"Content-Type": manifest.media_type},
        body=manifest.raw,
    )

    async def attempt() -> Answer:
        try:
            return await transport.send(request, repeat=False)
        except PermanentError as error:
            # What we sent has the digest that we say: it was damaged on its way or in the store, or CNCF distribution read
            # the link of a blob in the instant in which another upload of the same blob wrote it. And a blob that was pushed
            # and is missing was collected as garbage before its manifest came, or a replica has not heard of it yet.
            if error.code in {"digest_refused", "manifest_blob_unknown", "blob_unknown"}:
                raise operation.transient(
                    error.message.removeprefix(f"{operation}: "),
                    code=error.code,
                    status=error.details.get("status"),
                    registry_code=error.details.get("registry_code"),
                ) from error
            raise

    answer = await repeated(transport.retry, operation, transport.observer, attempt)
    stored = _announced(answer)
    if stored is not None and stored.algorithm == manifest.digest.algorithm and stored != manifest.digest:
        raise operation.permanent(f"the registry stored {stored} instead of {manifest.digest}", code="digest_mismatch")
    return manifest.descriptor


def _announced(answer: Answer) -> Digest | None:
    header = answer.headers.get("Docker-Content-Digest")
    try:
        return None if header is None else Digest(header)
    except PermanentError:
        return None


def _kind(answer: Answer) -> str:
    return answer.headers.get("Content-Type", "").partition(";")[0].strip()


def _digest_of(body: bytes, expected: Digest | None) -> Digest:
    algorithm = "sha256" if expected is None else expected.algorithm
    return Digest(f"{algorithm}:{hashlib.new(algorithm, body).hexdigest()}")
