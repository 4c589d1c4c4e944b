"""``broker.url`` may name several servers of one cluster."""

from __future__ import annotations

import re

_NEXT = re.compile(r",\s*(?=[a-z]+://)")


def server_urls(url: str) -> list[str]:
    """One URL a server, in order of preference; a comma that no ``SCHEME://`` follows is part of its URL."""
    return _NEXT.split(url)
