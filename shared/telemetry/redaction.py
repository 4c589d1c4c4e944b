"""The last defence against credentials in logs and spans; the first is that nobody writes them there."""

from __future__ import annotations

import re
from collections.abc import Iterable

MASK = "[redacted]"
_PATTERNS = (
    re.compile(r"(?P<keep>[a-z][a-z0-9+.-]*://)[^\s/@:]*:[^\s/@]+(?=@)", re.IGNORECASE),  # user:password@ of a URL
    re.compile(r"(?P<keep>\b(?:basic|bearer|negotiate)\s+)[A-Za-z0-9+/._~-]{6,}=*", re.IGNORECASE),
    re.compile(
        r"""(?P<keep>["']?\b(?:password|passwd|secret|token|access_token|refresh_token|authorization|auth_header|api_key|auth)"""
        r"""["']?\s*[:=]\s*["']?)(?!\s)(?:(?!\[redacted])[^\s"',;&}])+""",
        re.IGNORECASE,
    ),
)


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """``text`` with URL user infos, authorization values, ``password=...`` and the given literal ``secrets`` masked."""
    for secret in secrets:
        if len(secret) >= 6 and secret in text:  # a shorter one would mask ordinary words
            text = text.replace(secret, MASK)
    for pattern in _PATTERNS:
        text = pattern.sub(rf"\g<keep>{MASK}", text)
    return text
