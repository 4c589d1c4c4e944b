"""Why a server cannot be reached, in the words of somebody who looks for the cause, whichever library said it."""

from __future__ import annotations

import errno
import os
import socket
import ssl


def why(error: BaseException) -> str:
    """What was wrong with a connection; holds no URL."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS failed: {error.verify_message}. Check the server's certificate, and the `ca` that it is trusted by"
    if isinstance(error, ssl.SSLError):
        reason = getattr(error, "reason", None) or type(error).__name__
        return f"TLS failed: {reason}. Check that the port speaks TLS, and the certificate"
    if isinstance(error, socket.gaierror):
        return "the name does not resolve"
    if isinstance(error, OSError) and error.errno is not None and error.errno in errno.errorcode:
        return os.strerror(error.errno)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return type(error).__name__
