"""Cross-repository mounts (distribution spec, section Mounting a blob from another repository)."""

from __future__ import annotations

import contextlib

from shared.errors import IcsError, PermanentError
from shared.oci.digest import Digest
from shared.oci.reference import Reference
from shared.registry.errors import Operation
from shared.registry.transport import Request, Transport, joined
from shared.registry.uploads import cancel_session

_DECLINED = frozenset(
    {"denied", "unauthorized", "not_found", "blob_unknown", "name_unknown", "upload_unknown", "unsupported_by_registry"}
)


async def mount(transport: Transport, repository: Reference, digest: Digest, source: Reference) -> bool:
    """Whether the blob is in ``repository`` now; False when the registry declines, for whatever reason of its own.

    Raises:
        TransientError: the registry does not answer properly.
    """
    operation = Operation("mount_blob", repository.registry, repository.repository, str(digest))
    scopes = (f"repository:{repository.repository}:pull,push", f"repository:{source.repository}:pull")
    request = Request(
        operation,
        "POST",
        f"/v2/{repository.repository}/blobs/uploads/",
        frozenset({201, 202}),
        scopes,
        {"mount": digest, "from": source.repository},
    )
    try:
        answer = await transport.send(request)
    except PermanentError as error:
        if error.code in _DECLINED:
            return False
        raise
    if answer.status == 201:
        return True
    if location := answer.headers.get("Location"):  # an upload was opened instead: leave nothing behind
        with contextlib.suppress(IcsError):
            await cancel_session(transport, repository, joined(answer.url, location, operation))
    return False
