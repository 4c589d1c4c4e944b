"""Debian's RabbitMQ as a test server: a node of its own in a folder of the test, which keeps its data over a kill."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from tests.servers.ports import free_port

BINARY = "/usr/lib/rabbitmq/bin/rabbitmq-server"
CONTROL = "/usr/lib/rabbitmq/bin/rabbitmqctl"
_START_TIMEOUT = 120.0
_QUICK = "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none"
"""Two schedulers that do not spin: several nodes share the test machine."""
_ADVANCED = "[{rabbit, [{dead_letter_worker_publisher_confirm_timeout, 5000}]}]."
_CONFIGURATION = "log.file.level = warning\ndisk_free_limit.absolute = 50MB\nvm_memory_high_watermark.relative = 0.6\n"


@dataclass(slots=True)
class RabbitServer:
    """One node. ``url`` is what ``broker.url`` takes."""

    root: Path
    port: int
    distribution_port: int
    process: subprocess.Popen[bytes] | None = field(default=None)
    password: str = "guest"
    user: str = "guest"

    @property
    def url(self) -> str:
        return f"amqp://{self.user}:{quote(self.password, safe='')}@127.0.0.1:{self.port}/"

    @property
    def node(self) -> str:
        return f"ics-{self.port}@localhost"

    def control(self, *command: str) -> None:
        """``rabbitmqctl`` on this node."""
        environment = {**os.environ, "HOME": str(self.root)}
        subprocess.run(
            (CONTROL, "-q", "-n", self.node, *command), env=environment, check=True, capture_output=True, timeout=120
        )

    def start(self) -> None:
        """Start (again) on the same port with the same data."""
        if not Path(BINARY).exists():
            raise RuntimeError(f"{BINARY} is not installed (Debian package rabbitmq-server)")
        environment = {
            **os.environ,
            "HOME": str(self.root),
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self.distribution_port),
            "RABBITMQ_MNESIA_BASE": str(self.root / "data"),
            "RABBITMQ_LOG_BASE": str(self.root / "log"),
            "RABBITMQ_CONFIG_FILE": str(self.root / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.root / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.root / "enabled_plugins"),
            "RABBITMQ_PID_FILE": str(self.root / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _QUICK,
        }
        with (self.root / "output.log").open("ab") as log:
            self.process = subprocess.Popen([BINARY], stdout=log, stderr=log, env=environment, start_new_session=True)
        deadline = time.monotonic() + _START_TIMEOUT
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                text = (self.root / "output.log").read_text(errors="replace")[-3000:]
                raise RuntimeError(f"RabbitMQ does not start: {text}")
            time.sleep(0.1)

    def kill(self, sign: signal.Signals = signal.SIGKILL) -> None:
        """End the node and wait until it is gone."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, sign)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(60)
        with contextlib.suppress(ProcessLookupError):  # the shell that started it may end first
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process = None

    def _answers(self) -> bool:
        """AMQP's own greeting: the port is open before the node takes connections."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                return connection.recv(1) == b"\x01"
        except OSError:
            return False


@contextlib.contextmanager
def rabbitmq(
    root: Path,
    *,
    user: str = "guest",
    password: str = "guest",
    configuration: str = _CONFIGURATION,
    advanced: str = _ADVANCED,
    plugins: Sequence[str] = (),
) -> Iterator[RabbitServer]:
    """A node on free ports of 127.0.0.1, stopped at the end.

    Args:
        root: of this node alone.
        user: its only one.
        password: letters, digits, ``-``.
        configuration: ``rabbitmq.conf`` beside the user.
        advanced: ``advanced.config``.
        plugins: to enable.
    """
    server = _prepared(root, user, password, configuration, advanced, plugins)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def rabbitmq_cluster(root: Path, size: int = 3) -> Iterator[list[RabbitServer]]:
    """Nodes that found each other, the first one first; stopped at the end."""
    nodes = [
        _prepared(root / f"node-{number}", "guest", "guest", _CONFIGURATION, _ADVANCED, ()) for number in range(size)
    ]
    cookie = secrets.token_hex(16)
    for node in nodes:
        (node.root / ".erlang.cookie").write_text(cookie)
        (node.root / ".erlang.cookie").chmod(0o400)
        with (node.root / "rabbitmq.conf").open("a") as file:
            file.write("cluster_formation.peer_discovery_backend = classic_config\n")
            file.writelines(
                f"cluster_formation.classic_config.nodes.{number} = {each.node}\n"
                for number, each in enumerate(nodes, 1)
            )
    try:
        nodes[0].start()  # whoever is first forms the cluster, and the others join it
        with ThreadPoolExecutor() as threads:
            list(threads.map(RabbitServer.start, nodes[1:]))
        yield nodes
    finally:
        for node in nodes:
            node.kill()


def _prepared(
    root: Path, user: str, password: str, configuration: str, advanced: str, plugins: Sequence[str]
) -> RabbitServer:
    root.mkdir(parents=True, exist_ok=True)
    (root / "rabbitmq.conf").write_text(
        f"default_user = {user}\ndefault_pass = {password}\nloopback_users = none\n{configuration}"
    )
    (root / "advanced.config").write_text(advanced)
    (root / "enabled_plugins").write_text(f"[{','.join(plugins)}].\n")
    return RabbitServer(root, free_port(), free_port(), password=password, user=user)
