"""Listening sockets, bound before anything is started on them, so that an occupied port is one clear line."""

from __future__ import annotations

import errno
import os
import socket

from shared.errors import PermanentError

BACKLOG = 4096


def listening_socket(host: str, port: int, key: str) -> socket.socket:
    """A TCP socket that listens.

    Args:
        host: an address or a name of this machine.
        port: 0 takes a free one.
        key: where the configuration says so, for people.

    Raises:
        PermanentError: ``address_unavailable``.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:
        number = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(number) if number and number > 0 else "no address of this machine"
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        raise PermanentError(
            f"{key}: cannot listen on {where}: {reason}; {_what_to_do(number, key)}", code="address_unavailable"
        ) from None


def _what_to_do(number: int | None, key: str) -> str:
    variable = f"ICS_{key.upper().replace('.', '__')}"
    if number == errno.EADDRINUSE:
        return f"another process listens there: end it, or set {key} ({variable}) to another port"
    if number == errno.EACCES:
        return f"this user may not take that port: set {key} ({variable}) to one from 1024 on"
    return "hostname (ICS_HOSTNAME) must be an address or a name of this machine"
