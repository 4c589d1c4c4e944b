"""Listening sockets, bound before anything is started on them, so that an occupied port is one clear line."""

from __future__ import annotations

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
        raise PermanentError(f"{key}: cannot listen on {host}:{port}: {reason}", code="address_unavailable") from None
