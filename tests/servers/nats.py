"""nats-server, as the wheel brings it, with JetStream in a folder of the test, which keeps its data over a kill."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shared.broker.embedded import server_binary
from tests.servers.ports import free_port

_START = 60.0


@dataclass(slots=True)
class NatsServer:
    """One server. ``url`` is what ``broker.url`` takes."""

    root: Path
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None)
    more: Sequence[str] = ()
    """Arguments beside the usual ones."""

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start (again) on the same port with the same data."""
        place = ("-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(self.root / "data"))
        command = [str(server_binary()), *place, *self.more]
        with (self.root / "nats.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + _START
        while True:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection,
            ):
                if connection.recv(4) == b"INFO":
                    return
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"nats-server does not start: {(self.root / 'nats.log').read_text()[-2000:]}")
            time.sleep(0.02)

    def kill(self, sign: signal.Signals = signal.SIGKILL) -> None:
        """End the server and wait until it is gone."""
        if self.process is not None:
            self.process.send_signal(sign)
            self.process.wait(20)
            self.process = None


@contextlib.contextmanager
def nats(root: Path) -> Iterator[NatsServer]:
    """A server on a free port of 127.0.0.1, stopped at the end."""
    root.mkdir(parents=True, exist_ok=True)
    server = NatsServer(root, free_port())
    try:
        server.start()
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def nats_cluster(root: Path, size: int = 3) -> Iterator[list[NatsServer]]:
    """Servers of one JetStream cluster; stopped at the end."""
    ports = [free_port() for _ in range(size)]
    routes = ",".join(f"nats://127.0.0.1:{port}" for port in ports)
    nodes: list[NatsServer] = []
    for number, port in enumerate(ports):
        folder = root / f"node-{number}"
        folder.mkdir(parents=True)
        own = ("-n", f"node-{number}", "--cluster_name", "tests", "--cluster", f"nats://127.0.0.1:{port}")
        nodes.append(NatsServer(folder, free_port(), more=(*own, "--routes", routes)))
    try:
        for node in nodes:
            node.start()
        yield nodes
    finally:
        for node in nodes:
            node.kill()
