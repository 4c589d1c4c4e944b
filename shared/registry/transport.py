"""One HTTP exchange with a registry: allowed host, credentials, redirects, time-outs, and classified errors."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import urlencode

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from shared.errors import PermanentError
from shared.registry.access import AccessList, Credential, Destination, RegistryAccess
from shared.registry.addresses import GuardedResolver
from shared.registry.auth import Authenticator
from shared.registry.errors import MAXIMUM_ERROR_BODY, Operation, from_exception, from_proxy, from_status
from shared.registry.limits import read_limited, read_start
from shared.registry.observer import Observer
from shared.registry.retry import RetryPolicy, repeated

_READ_BUFFER = 1 << 20
_PIECE = 256 << 10
_MAXIMUM_RENEWALS = 2
"""Of one attempt's token: a second, since the first new one may be refused by a replica that has not heard of it."""
_MAXIMUM_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_USER_AGENT = "image-conversion-service"

_SAFE_PATH = re.compile(r"/v2/[A-Za-z0-9._/:-]*")
"""What our own paths are made of; references are parsed strictly, and this holds should one ever not be."""

Pieces = Callable[[], AsyncIterator[bytes | memoryview]]


@dataclass(frozen=True, slots=True)
class Body:
    """A request body that can be sent again; ``pieces`` gives a new iterator each time."""

    pieces: Pieces
    length: int
    """Bytes."""

    @classmethod
    def of(cls, data: bytes | bytearray | memoryview) -> Body:
        """``data`` without a copy; it must not change while it is sent."""
        view = memoryview(data)

        async def pieces() -> AsyncIterator[bytes | memoryview]:
            for at in range(0, len(view), _PIECE):
                yield view[at : at + _PIECE]

        return cls(pieces, len(view))


@dataclass(frozen=True, slots=True)
class Request:
    """What to ask of a registry."""

    operation: Operation
    method: str
    target: str | URL
    """A path below the registry's base, or a URL that the registry gave us."""
    expect: frozenset[int]
    """Statuses that are wanted; any other is an error."""
    scopes: tuple[str, ...] = ()
    query: Mapping[str, str] = field(default_factory=dict)
    """Of a path."""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Body = b""
    fixed_authorization: bool = False
    """Send ``authorization`` and answer no challenge."""
    authorization: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """A small answer, read whole."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes
    url: URL
    """Where it came from, for relative locations."""


class Transport:
    """Owns the connections; an async context manager."""

    def __init__(
        self,
        access: AccessList,
        authenticator: Authenticator,
        observer: Observer,
        retry: RetryPolicy,
        *,
        connect_timeout: float,
        read_timeout: float,
    ) -> None:
        self.access = access
        self.observer = observer
        self.retry = retry
        self.read_timeout = read_timeout
        self._authenticator = authenticator
        self._connect_timeout = connect_timeout
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,  # bounded by the conversions in flight; a waiting pool would look like a slow registry
                resolver=GuardedResolver(),
                keepalive_timeout=30,
                ttl_dns_cache=30,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(
                total=None,
                connect=self._connect_timeout,
                sock_connect=self._connect_timeout,
                sock_read=self.read_timeout,
            ),
            headers={"User-Agent": _USER_AGENT, "Accept-Encoding": "identity"},
            auto_decompress=False,  # digests are of what the registry holds
            read_bufsize=_READ_BUFFER,
            max_line_size=16384,  # signed locations are long
            max_field_size=16384,
        )
        await self._session.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    async def credential(self, registry: str) -> Credential | None:
        """What would be used for a registry."""
        return await self._authenticator.credential(self.access.of(registry))

    async def send(
        self, request: Request, *, limit: int = MAXIMUM_ERROR_BODY, limit_name: str = "answer_size", repeat: bool = True
    ) -> Answer:
        """An operation with a small answer: bounded in time and in the answer's size, repeated if ``repeat``.

        A request with a :class:`Body` may take long as long as it moves; any other has a time-out in all.

        Raises:
            IcsError: as :func:`shared.registry.errors.from_status` and ``from_exception`` classify.
        """
        total = None if isinstance(request.body, Body) else self._connect_timeout + self.read_timeout

        async def attempt() -> Answer:
            try:
                async with (
                    asyncio.timeout(total),
                    self.exchange(request) as response,
                ):
                    body = await read_limited(response, limit, request.operation, limit_name)
                    return Answer(response.status, response.headers, body, response.url)
            except TimeoutError as error:
                raise from_exception(request.operation, error) from error

        if not repeat:
            return await attempt()
        return await repeated(self.retry, request.operation, self.observer, attempt)

    @contextlib.asynccontextmanager
    async def exchange(self, request: Request) -> AsyncIterator[aiohttp.ClientResponse]:
        """One attempt, renewing a refused token; the answer's status is one of ``request.expect``.

        Everything that aiohttp raises inside the block is classified too.
        """
        operation = request.operation
        access = self.access.of(operation.registry)
        try:
            authorization = request.authorization
            if not request.fixed_authorization:
                authorization = await self._authenticator.authorization(self, access, request.scopes)
            response = await self._follow(request, access, authorization)
            renewals = 0 if request.fixed_authorization else _MAXIMUM_RENEWALS
            # The storage that a registry redirects to must not say where the registry's credentials go.
            while response.status == 401 and renewals and access.is_own(response.url):
                renewals -= 1
                challenges = response.headers.getall("WWW-Authenticate", [])
                response.close()
                authorization = await self._authenticator.renewed(
                    self, access, request.scopes, challenges, refused=authorization
                )
                if authorization is None:
                    break
                response = await self._follow(request, access, authorization)
            try:
                if response.status not in request.expect:
                    await self._raise_status(operation, response, authorization)
                yield response
            finally:
                # Only a response that was read to its end gives its connection back; any other is cut.
                response.release() if response.content.at_eof() else response.close()
        except (aiohttp.ClientError, OSError) as error:
            raise from_exception(operation, error) from error

    async def _raise_status(
        self, operation: Operation, response: aiohttp.ClientResponse, authorization: str | None
    ) -> None:
        try:
            async with asyncio.timeout(self.read_timeout):
                body = b"" if response.method == "HEAD" else await read_start(response, MAXIMUM_ERROR_BODY)
        except (aiohttp.ClientError, OSError):  # the status says enough
            body = b""
        secrets = _words_of(authorization) if authorization else []
        raise from_status(operation, response.status, response.headers, body, secrets=secrets)

    async def _follow(
        self, request: Request, access: RegistryAccess, authorization: str | None
    ) -> aiohttp.ClientResponse:
        if isinstance(request.target, URL):
            destination = self.access.destination(access, request.target)
        else:
            if not _SAFE_PATH.fullmatch(request.target) or ".." in request.target:
                raise request.operation.permanent("not a reference that can be requested", code="invalid_reference")
            query = f"?{urlencode(request.query)}" if request.query else ""
            url = URL(f"{access.base}{request.target}{query}", encoded=True)
            destination = Destination(url, access.tls, trusted=True, proxy=access.proxy)
        for _ in range(_MAXIMUM_REDIRECTS + 1):
            response = await self.once(
                request.operation,
                request.method,
                destination,
                headers=request.headers,
                authorization=authorization if destination.trusted else None,
                body=request.body,
            )
            if response.status not in _REDIRECTS:
                return response
            location = response.headers.get("Location", "")
            response.close()
            repeats_body = response.status in {307, 308}
            if not location or (request.method not in {"GET", "HEAD"} and not repeats_body):
                raise request.operation.permanent(
                    f"a redirect ({response.status}) that cannot be followed",
                    code="unexpected_answer",
                    status=response.status,
                )
            url = joined(response.url, location, request.operation)
            try:
                destination = self.access.destination(access, url)
            except PermanentError as error:  # names the place, which may be called like what the registry was sent
                raise _without(_words_of(authorization or ""), error) from None
        raise request.operation.permanent(f"more than {_MAXIMUM_REDIRECTS} redirects", code="unexpected_answer")

    async def once(
        self,
        operation: Operation,
        method: str,
        destination: Destination,
        *,
        headers: Mapping[str, str] | None = None,
        authorization: str | None = None,
        body: bytes | Body = b"",
    ) -> aiohttp.ClientResponse:
        """One request without any policy; the caller closes the response. A body that stops moving is a time-out."""
        if self._session is None:
            raise RuntimeError("the registry client is used outside its `async with`")
        sent = CIMultiDict(headers or {})
        if authorization is not None:
            sent["Authorization"] = authorization
        started = time.perf_counter()
        status = 0
        try:
            async with asyncio.timeout(None) as stall:
                response = await self._session.request(
                    method,
                    destination.url,
                    headers=sent,
                    data=self._payload(body, sent, stall),
                    ssl=destination.tls or True,
                    proxy=destination.proxy,
                    allow_redirects=False,
                )
            status = response.status
        except TimeoutError as error:
            raise from_exception(operation, error) from error
        except (aiohttp.ClientHttpProxyError, aiohttp.ClientConnectorError) as error:
            if destination.proxy is None or isinstance(error, aiohttp.ClientSSLError):
                raise
            raise from_proxy(operation, error) from error
        finally:
            self.observer.request(operation.name, operation.registry, status, time.perf_counter() - started)
        return response

    def _payload(
        self, body: bytes | Body, headers: CIMultiDict[str], stall: asyncio.Timeout
    ) -> bytes | AsyncIterator[bytes | memoryview] | None:
        if isinstance(body, bytes):
            if len(body) <= _PIECE:
                return body or None
            body = Body.of(body)
        headers["Content-Length"] = str(body.length)
        loop = asyncio.get_running_loop()

        async def guarded() -> AsyncIterator[bytes | memoryview]:
            async for piece in body.pieces():
                stall.reschedule(loop.time() + self.read_timeout)
                yield piece
            # aiohttp's own read time-out counts from here, but only once the last piece has left.
            stall.reschedule(loop.time() + 2 * self.read_timeout)

        return guarded()


def _words_of(authorization: str) -> list[str]:
    """All that a registry could repeat of what it was sent: the value, and the user and password in it, longest first."""
    scheme, _, value = authorization.partition(" ")
    words = [value]
    if scheme.lower() == "basic":
        with contextlib.suppress(ValueError):
            told = base64.b64decode(value).decode("utf-8", "replace")
            words += [told, told.partition(":")[2]]
    return words


def _without(secrets: Sequence[str], error: PermanentError) -> PermanentError:
    """The same error, secrets masked in whatever case a URL writes them."""

    def masked(text: str) -> str:
        for secret in filter(None, secrets):
            text = re.sub(re.escape(secret), "***", text, flags=re.IGNORECASE)
        return text

    details = {
        key: masked(value) if isinstance(value, str) and key != "registry" else value
        for key, value in error.details.items()
    }
    return PermanentError(masked(error.message), code=error.code, **details)


def joined(base: URL, location: str, operation: Operation) -> URL:
    """``Location``, absolute or relative to ``base``.

    Raises:
        TransientError: it is no URL at all (code ``registry_unavailable``: a broken answer, not a broken request).
    """
    broken = operation.transient("the registry answered with a location that is no URL", code="registry_unavailable")
    if not location.isascii() or not location.isprintable() or " " in location:
        raise broken
    try:
        return base.join(URL(location, encoded=True))
    except ValueError as error:
        raise broken from error
