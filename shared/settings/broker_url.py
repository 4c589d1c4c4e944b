"""``broker.url`` may name several servers of one cluster."""

from __future__ import annotations

import re

_NEXT = re.compile(r",\s*(?=[a-z]+://)")


def server_urls(url: str) -> list[str]:
    """One URL a server, in order of preference; a comma that no ``SCHEME://`` follows is part of its URL."""
    return _NEXT.split(url)


def without_credentials(url: str) -> str:
    """The same servers, users, passwords, tokens and queries masked: for people to see which broker is meant."""
    return ",".join(_masked(server) for server in server_urls(url))


def _masked(server: str) -> str:
    """Whatever stands before the last @: a password may hold what should have been written as %2F."""
    scheme, separator, rest = server.partition("://")
    _, at, place = rest.rpartition("@")
    place, query, _ = place.partition("?")
    return f"{scheme}{separator}{'***@' if at else ''}{place}{'?***' if query else ''}"
