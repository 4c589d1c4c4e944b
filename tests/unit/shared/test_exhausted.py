"""What counts as want of something on this machine, and what does not."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import zlib

import pytest

from shared.errors import TransientError
from shared.exhausted import Resource, exhausted, local_resource, resource_of


@pytest.mark.parametrize(
    ("error", "resource"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk"),
        (OSError(errno.EROFS, "Read-only file system"), "disk"),
        (OSError(errno.EIO, "Input/output error"), "disk"),
        (OSError(errno.EMFILE, "Too many open files"), "files"),
        (OSError(errno.ENFILE, "Too many open files in system"), "files"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory"),
        (OSError(errno.ENOBUFS, "No buffer space available"), "memory"),
        (MemoryError(), "memory"),
        (RuntimeError("can't start new thread"), "threads"),
    ],
)
def test_what_the_machine_lacks_is_known_by_what_the_system_says(error: Exception, resource: Resource) -> None:
    assert exhausted(error) == resource
    known = local_resource(error)
    assert known is not None
    assert (known.code, known.details["resource"], resource_of(known)) == ("local_resource", resource, resource)
    assert known.message.startswith("this machine refused: ")


@pytest.mark.parametrize(
    "error",
    [
        *(
            OSError(errno.__dict__[name], name)
            for name in ("EACCES", "ENOENT", "EPIPE", "ECONNRESET", "EPERM", "EFBIG")
        ),
        OSError("without a number"),
        TimeoutError(),
        socket.gaierror(errno.ENOSPC, "a resolver's own number"),
        ssl.SSLError(errno.EIO, "OpenSSL's own number"),
        RuntimeError("another"),
        zlib.error("Error -3"),
        TransientError("classified", code="registry_unavailable"),
    ],
)
def test_nothing_else_counts(error: Exception) -> None:
    assert exhausted(error) is None
    assert local_resource(error) is None


def test_it_says_of_which_file() -> None:
    known = local_resource(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/spool/layer.tar"))
    assert known is not None
    assert known.message == "this machine refused: No space left on device (/spool/layer.tar)"
