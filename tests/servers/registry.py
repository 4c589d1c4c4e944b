"""Debian's ``docker-registry`` as a test server, with its storage in a folder of the test."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import bcrypt

from tests.servers.ports import free_port

BINARY = "docker-registry"
_START_TIMEOUT = 60.0


@dataclass(slots=True)
class RegistryServer:
    """One process. ``host`` is what references name."""

    root: Path
    port: int
    environment: Mapping[str, str] = field(default_factory=dict)
    credential: tuple[str, str] | None = None
    process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def basic(self) -> str | None:
        """base64 of ``user:password``, as ``auths.*.auth`` takes it."""
        return None if self.credential is None else base64.b64encode(":".join(self.credential).encode()).decode()

    def start(self) -> None:
        """Start (again) on the same port with the same storage."""
        binary = shutil.which(BINARY)
        if binary is None:
            raise RuntimeError(f"{BINARY} is not installed (Debian package docker-registry)")
        with (self.root / "registry.log").open("ab") as log:
            self.process = subprocess.Popen(
                [binary, "serve", str(self.root / "config.yml")],
                stdout=log,
                stderr=log,
                env={**os.environ, "OTEL_TRACES_EXPORTER": "none", **self.environment},
            )
        deadline = time.monotonic() + _START_TIMEOUT
        while True:
            if self.process.poll() is not None:
                raise RuntimeError(
                    f"docker-registry ended at start: {(self.root / 'registry.log').read_text()[-2000:]}"
                )
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            if time.monotonic() > deadline:
                self.stop()
                raise RuntimeError("docker-registry does not listen in time")
            time.sleep(0.02)

    def stop(self, sign: signal.Signals = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(sign)
            self.process.wait(60)
            self.process = None

    def pause(self) -> None:
        """Hang: connections are taken, and nothing is answered."""
        if self.process is not None:
            self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)

    def blob_file(self, digest: str) -> Path:
        """Where the content of ``sha256:...`` lies."""
        hexadecimal = digest.removeprefix("sha256:")
        return self.root / "storage/docker/registry/v2/blobs/sha256" / hexadecimal[:2] / hexadecimal / "data"

    def link_file(self, repository: str, digest: str) -> Path:
        """What records that the repository has the blob ``sha256:...``."""
        layers = self.root / "storage/docker/registry/v2/repositories" / repository / "_layers/sha256"
        return layers / digest.removeprefix("sha256:") / "link"

    def remove_torn_links(self) -> int:
        """Of a stopped registry: what a kill in the middle of a write left empty, as a store with atomic writes never would."""
        links = self.root.glob("storage/docker/registry/v2/repositories/**/link")
        torn = [link for link in links if not link.stat().st_size]
        for link in torn:
            link.unlink()
        return len(torn)

    def uploads_of(self, repository: str) -> Path:
        """The folder of a repository's unfinished uploads."""
        return self.root / "storage/docker/registry/v2/repositories" / repository / "_uploads"

    def upload_sessions(self) -> list[Path]:
        """Folders of uploads neither committed nor cancelled (a cancelled one leaves an empty hash state behind)."""
        # os.walk, since folders vanish while we look.
        walk = os.walk(self.root / "storage/docker/registry/v2/repositories")
        return [Path(folder) for folder, _, files in walk if "startedat" in files]


@contextlib.contextmanager
def docker_registry(
    root: Path,
    *,
    credential: tuple[str, str] | None = None,
    token: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    certificate: tuple[Path, Path] | None = None,
    port: int | None = None,
) -> Iterator[RegistryServer]:
    """Start a registry on a free port of 127.0.0.1; stop it at the end.

    Args:
        root: an own, existing or new folder for configuration, log and storage.
        credential: user and password of HTTP Basic authentication (htpasswd).
        token: ``realm``, ``service``, ``issuer`` and ``rootcertbundle`` of token authentication.
        environment: more environment variables (``REGISTRY_...``).
        certificate: certificate and key files, to serve HTTPS.
        port: instead of a free one.
    """
    root.mkdir(parents=True, exist_ok=True)
    server = RegistryServer(root, port or free_port(), environment or {}, credential)
    http: dict[str, object] = {"addr": server.host, "secret": "tests"}
    if certificate is not None:
        http["tls"] = {"certificate": str(certificate[0]), "key": str(certificate[1])}
    config: dict[str, object] = {
        "version": "0.1",
        "log": {"level": "info", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(root / "storage")},
            "delete": {"enabled": True},
            "maintenance": {"uploadpurging": {"enabled": False}},
        },
        "http": http,
    }
    if credential is not None:
        (root / "htpasswd").write_text(
            f"{credential[0]}:{bcrypt.hashpw(credential[1].encode(), bcrypt.gensalt(rounds=4)).decode()}\n"
        )
        config["auth"] = {"htpasswd": {"realm": "tests", "path": str(root / "htpasswd")}}
    if token is not None:
        config["auth"] = {"token": dict(token)}
    (root / "config.yml").write_text(json.dumps(config))  # JSON is YAML
    try:
        server.start()
        yield server
    finally:
        server.stop()


@contextlib.asynccontextmanager
async def running_docker_registry(
    root: Path, *, credential: tuple[str, str] | None = None
) -> AsyncIterator[RegistryServer]:
    """The same for async code: starting does not block the loop."""
    with contextlib.ExitStack() as stack:
        yield await asyncio.to_thread(stack.enter_context, docker_registry(root, credential=credential))
