"""Ports for servers that are started later, stopped and started again: nobody else gets them meanwhile."""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_BLOCK = 50
_FIRST = 10_000
_claims: list[BinaryIO] = []
"""Locks on blocks of ports, held for as long as this process lives."""


def free_port() -> int:
    """A port of 127.0.0.1 that no other call gets, in any process of this user, while this process lives.

    Below the range from which the kernel takes ports for outgoing connections: a port that it gave out itself and that is free
    for a moment, as of a server that a test stops and starts again, may be anybody's in the next.
    """
    while True:
        port = next(_ports)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def _claimed() -> Iterator[int]:
    end = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    folder = Path(tempfile.gettempdir()) / f"ics-test-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for start in range(_FIRST, end - _BLOCK, _BLOCK):
        claim = (folder / str(start)).open("wb")
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            claim.close()
            continue
        _claims.append(claim)
        yield from range(start, start + _BLOCK)
    raise RuntimeError(f"all ports from {_FIRST} to {end} are claimed by tests that run")


_ports = _claimed()
