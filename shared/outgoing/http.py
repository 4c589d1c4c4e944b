"""Requests to servers that an operator configured (notification targets, Harbor's API): no redirects, bounded, classified."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import aiohttp
import orjson
from yarl import URL

from shared.errors import PermanentError, TransientError
from shared.unreachable import why

TIMEOUT = 10.0
_ANSWER = 4 << 20
"""Bytes of an answer that are read; one that is longer is no JSON any more."""
_AGAIN = frozenset({408, 425, 429})


def create_session() -> aiohttp.ClientSession:
    """One session for all: no cookies, no proxy of the environment, ``TIMEOUT`` seconds for a request."""
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=TIMEOUT),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": "image-conversion-service"},
    )


async def call(
    session: aiohttp.ClientSession,
    method: str,
    url: URL,
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    expected: frozenset[int] = frozenset(),
    tls: ssl.SSLContext | None = None,
    proxy: str | None = None,
) -> tuple[int, Any]:
    """Status and parsed JSON (None without any) of an answer that is 2xx or ``expected``; ``tls`` instead of the system's trust.

    ``proxy`` is the URL of one that leads there; it may hold a password.

    Raises:
        TransientError: ``peer_unavailable``: no answer, a certificate that is not trusted (until it is renewed), 5xx, 429; with
            ``retry_after`` where one was named.
        PermanentError: ``peer_refused``: every other status, redirects too. Messages name the host only: a path may be a secret.
    """
    where = f"{method} {url.origin()}"
    try:
        async with session.request(
            method,
            url,
            data=body,
            headers=headers,
            allow_redirects=False,
            ssl=True if tls is None else tls,
            proxy=proxy,
        ) as answer:
            status = answer.status
            content = await _body(answer)
            retry_after = answer.headers.get("Retry-After", "")
    except aiohttp.ClientConnectorCertificateError as error:
        reason = getattr(error.certificate_error, "verify_message", "") or "certificate verify failed"
        raise TransientError(
            f"{where}: its certificate is not trusted ({reason}); name its authority with `ca`", code="peer_unavailable"
        ) from error
    except aiohttp.ClientHttpProxyError as error:
        raise TransientError(f"{where}: its proxy answered {error.status}", code="peer_unavailable") from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        through = "" if proxy is None else " through its proxy"
        raise TransientError(f"{where}{through}: {why(cause)}", code="peer_unavailable") from error
    if status in expected or 200 <= status < 300:
        with suppress(orjson.JSONDecodeError):
            return status, orjson.loads(content)
        return status, None
    if status >= 500 or status in _AGAIN:
        wait = float(retry_after) if retry_after.isdecimal() else None
        raise TransientError(f"{where}: answered {status}", code="peer_unavailable", retry_after=wait, status=status)
    raise PermanentError(f"{where}: answered {status}", code="peer_refused", status=status)


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    """One ``read`` gives no more than what has arrived."""
    body = bytearray()
    while len(body) < _ANSWER and (piece := await answer.content.read(_ANSWER - len(body))):
        body += piece
    return bytes(body)
