"""What a machine runs out of, told by what the system says: that is no fault of the image that was being converted.

Only what is listed here counts. Any other ``OSError`` (no such file, no permission) is the defect or the mistake that it is.
"""

from __future__ import annotations

import errno
import socket
import ssl
from typing import Literal, get_args

from shared.errors import TransientError

Resource = Literal["disk", "files", "memory", "threads"]
LOCAL_RESOURCE = "local_resource"
"""The code of what fails for want of one; its detail ``resource`` says of which."""
_RESOURCES: dict[int, Resource] = {
    errno.ENOSPC: "disk",
    errno.EDQUOT: "disk",
    errno.EROFS: "disk",
    errno.EIO: "disk",
    errno.EMFILE: "files",
    errno.ENFILE: "files",
    errno.ENOMEM: "memory",
    errno.ENOBUFS: "memory",
}
_NO_THREAD = "can't start new thread"
"""CPython has no class for it."""


def exhausted(error: BaseException) -> Resource | None:
    """What ``error`` itself says that there is no more of; None if it says nothing of the kind."""
    if isinstance(error, (ssl.SSLError, socket.gaierror)):  # whose numbers are their own: OpenSSL's 5 is no EIO
        return None
    if isinstance(error, OSError):
        return _RESOURCES.get(error.errno or 0)
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, RuntimeError) and str(error) == _NO_THREAD:
        return "threads"
    return None


def local_resource(error: BaseException) -> TransientError | None:
    """``error`` as a classified one (code ``local_resource``), if it says that this machine has run out of something."""
    resource = exhausted(error)
    if resource is None:
        return None
    number = error.errno if isinstance(error, OSError) else None
    path = error.filename if isinstance(error, OSError) and isinstance(error.filename, str) else None
    return TransientError(
        f"this machine refused: {refusal(error)}{f' ({path})' if path else ''}",
        code="local_resource",
        resource=resource,
        errno=number,
    )


def resource_of(error: TransientError) -> Resource:
    """What an error of code ``local_resource`` was for want of."""
    return next(each for each in get_args(Resource) if each == error.details["resource"])


def refusal(error: BaseException) -> str:
    """In the system's words."""
    if isinstance(error, OSError):
        return error.strerror or errno.errorcode.get(error.errno or 0, type(error).__name__)
    return str(error) or "out of memory"
