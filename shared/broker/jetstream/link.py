"""The connection to NATS: made and re-made in the background, its topology declared on each (re)connect."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.js.client import JetStreamContext

from shared.background import beside
from shared.broker.cancellation import cancellable
from shared.broker.jetstream.client import StrictClient
from shared.broker.jetstream.missing import missing
from shared.broker.jetstream.permissions import Permissions
from shared.broker.jetstream.topology import Names, Retention, declare
from shared.broker.transport import unavailable
from shared.errors import PermanentError, TransientError
from shared.settings.broker_url import server_urls
from shared.unreachable import why

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")

_NOT_PERMITTED = "permissions violation"
REST = 0.5
"""Seconds between two looks for what is missing, at least: where a cluster elects a leader, everything seems to be."""
_NUMBERED = (2, 10)
"""The first nats-server that lets a stream begin at a given sequence."""
_FAILURES = (nats.errors.Error, TimeoutError, OSError, asyncio.IncompleteReadError)


class NatsLink:
    """One connection; every operation is bounded by ``timeout`` seconds.

    Args:
        url: of one server or several, see :func:`shared.settings.broker_url.server_urls`; may hold credentials; never shown.
        ca: PEM bundle for ``tls://``.
    """

    def __init__(self, url: str, names: Names, retention: Retention, *, timeout: float, ca: Path | None = None) -> None:
        self._url = url
        self._ca = ca
        self.names = names
        self.retention = retention
        self.timeout = timeout
        self.client: Client = StrictClient()
        self.permissions = Permissions()
        self._ready = asyncio.Event()
        self._missed = asyncio.Event()
        self._declared = False
        """Once at least, so that what is not there was deleted."""
        self._problem = "not connected yet"
        self._refused: PermanentError | None = None
        self._closing = False
        self._logged: set[str] = set()
        """Problems since the last connection: four attempts a second say the same."""

    @property
    def _where(self) -> str:
        """Every server's ``host:port``, without credentials."""
        return ", ".join(urlsplit(url).netloc.rpartition("@")[2] for url in server_urls(self._url))

    @property
    def js(self) -> JetStreamContext:
        return self.client.jetstream(timeout=self.timeout)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Connect and stay connected. Raises ``PermanentError`` if the server refuses us; a server that is away is waited for
        up to the time-out, and from then on in the background.
        """
        try:
            async with (
                beside(self._connect(), "connecting to NATS"),
                beside(self._declare_missed(), "declaring again what NATS has lost"),
            ):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(self.timeout, 5)):
                        await self._ready.wait()
                if self._refused is not None:
                    raise self._refused
                yield
        finally:
            self._closing = True
            with contextlib.suppress(*_FAILURES):
                async with asyncio.timeout(2):
                    await self.client.close()

    async def call(self, operation: Callable[[JetStreamContext], Awaitable[_Result]]) -> _Result:
        """Run ``operation`` once connected, again where the server was not ready for it or a stream or consumer was missing,
        within the time-out.

        Raises:
            TransientError: ``broker_unavailable``.
        """
        try:
            async with asyncio.timeout(self.timeout):
                while True:
                    await self.connected()
                    try:
                        return await cancellable(operation(self.js))
                    except nats.errors.Error as error:
                        if missing(error):
                            self.missed()
                        elif not isinstance(error, nats.js.errors.ServiceUnavailableError):
                            raise
                    await asyncio.sleep(0.05)
        except nats.js.errors.APIError:
            raise
        except TimeoutError as error:
            raise self.late() from error
        except _FAILURES as error:
            raise unavailable(f"NATS at {self._where}: {why(error)}") from error

    async def connected(self) -> Client:
        """The client, once streams and consumers are there. Raises PermanentError if the server refuses us."""
        await self._ready.wait()
        if self._refused is not None:
            raise self._refused
        return self.client

    def missed(self) -> None:
        """Somebody may have deleted a stream or a consumer: all of them are declared again soon, once for all that miss one."""
        if self._ready.is_set() and not self._missed.is_set():  # each new connection declares them anyway
            self._problem = "nobody answers for a stream or consumer"
            self._missed.set()

    def late(self) -> TransientError:
        """What to raise when an operation took longer than the time-out."""
        reason = "no answer" if self._ready.is_set() and not self._missed.is_set() else self._problem
        return unavailable(f"NATS at {self._where}: {reason} within {self.timeout:g} s")

    async def check(self) -> None:
        if self._refused is not None:
            raise self._refused
        if not self._ready.is_set():
            raise unavailable(f"NATS at {self._where}: {self._problem}")

    async def _connect(self) -> None:
        servers = server_urls(self._url)
        context = None
        if any(urlsplit(url).scheme == "tls" for url in servers):
            context = ssl.create_default_context(cafile=self._ca)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            await self.client.connect(
                servers=servers,
                name="ics",
                tls=context,
                connect_timeout=5,
                reconnect_time_wait=0.25,  # type: ignore[arg-type]  # handed to asyncio.sleep
                max_reconnect_attempts=-1,
                ping_interval=10,
                max_outstanding_pings=2,
                error_cb=self._on_error,
                disconnected_cb=self._on_disconnect,
                reconnected_cb=self._on_reconnect,
            )
        except _FAILURES as error:
            self._problem = why(error)
            self._refused = PermanentError("NATS refuses the connection: check broker.url", code="broker_refused")
            self._ready.set()
            return
        self._connected_to()
        await self._declare_until_done()

    def _connected_to(self) -> None:
        self._logged.clear()
        _log.info("NATS: connected")
        version = self.client.connected_server_version
        if (0, 0) < (version.major, version.minor) < _NUMBERED:
            _log.warning(
                "NATS at %s: nats-server %s is older than 2.10; where a stream is deleted under running processes, an"
                " acknowledgement may hit another message: upgrade it",
                self._where,
                f"{version.major}.{version.minor}.{version.patch}",
            )

    async def _on_error(self, error: Exception) -> None:
        unauthorized = isinstance(error, nats.errors.AuthorizationError) or "authorization" in str(error).lower()
        self._problem = "the server refuses our credentials" if unauthorized else why(error)
        if _NOT_PERMITTED in str(error):  # not this connection's end
            self._problem = str(error).removeprefix("nats: ")
            if self.permissions.refused(self._problem):
                return
        self._warn_of_problem()
        if unauthorized and not self.client.is_connected and not self._ready.is_set():
            self._refused = PermanentError(
                "NATS refuses our credentials: check the user, password or token in broker.url",
                code="broker_refused",
            )
            self._ready.set()

    async def _on_disconnect(self) -> None:
        if self._closing:
            return
        self._ready.clear()
        self._problem = "disconnected"
        _log.warning("NATS at %s: disconnected", self._where)

    async def _on_reconnect(self) -> None:
        self._connected_to()
        self._refused = None
        await self._declare_until_done()

    async def _declare_until_done(self) -> None:
        while self.client.is_connected:
            try:
                await self._declare()
            except PermanentError as error:
                self._refused = error
                self._ready.set()
                return
            except TransientError as error:
                self._problem = error.message
                await asyncio.sleep(0.1)
            except _FAILURES as error:
                self._problem = f"JetStream is not ready ({type(error).__name__})"
                await asyncio.sleep(0.1)
            else:
                self._ready.set()
                return

    async def _declare_missed(self) -> None:
        """Operations try on meanwhile, within their own time-out: none of them waits for an answer that a lost leader owes us."""
        while True:
            await self._missed.wait()
            await self._ready.wait()
            try:
                await self._declare()
            except (PermanentError, TransientError) as error:
                self._problem = error.message
                self._warn_of_problem()
            except _FAILURES as error:
                self._problem = f"JetStream is not ready ({type(error).__name__})"
            else:
                self._missed.clear()
                self._logged.clear()
            await asyncio.sleep(REST)

    async def _declare(self) -> None:
        made = await cancellable(declare(self.js, self.names, self.retention))
        if made and self._declared:
            _log.warning(
                "NATS at %s: missing, and declared again without what they held: %s", self._where, ", ".join(made)
            )
        elif made:
            _log.info("NATS at %s: declared %s", self._where, ", ".join(made))
        self._declared = True

    def _warn_of_problem(self) -> None:
        if self._problem not in self._logged:
            self._logged.add(self._problem)
            _log.warning("NATS at %s: %s; trying on", self._where, self._problem)
