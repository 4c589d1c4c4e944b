"""Debian's nginx with one site, filled in from a template as the official image does it."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

BINARY = "/usr/sbin/nginx"
_START = 60.0
_MAIN = """
daemon off;
{user}
worker_processes 1;
pid {root}/nginx.pid;
error_log {root}/error.log warn;
events {{ worker_connections 512; }}
http {{
    client_body_temp_path {root}/body;
    proxy_temp_path {root}/proxy;
    fastcgi_temp_path {root}/fastcgi;
    uwsgi_temp_path {root}/uwsgi;
    scgi_temp_path {root}/scgi;
    include {root}/site.conf;
}}
"""


@contextlib.contextmanager
def nginx(root: Path, template: Path, variables: Mapping[str, str], port: int) -> Iterator[None]:
    """Serve ``template`` with its ``${NAME}`` filled in, until the block ends; it has to listen on ``port``."""
    root.mkdir(parents=True)
    site = re.sub(r"\$\{([A-Z0-9_]+)\}", lambda found: variables[found[1]], template.read_text())
    (root / "site.conf").write_text(site)
    # Started by root, the workers would be another user, who cannot look into the tests' folders.
    user = "user root;" if os.geteuid() == 0 else ""
    (root / "nginx.conf").write_text(_MAIN.format(root=root, user=user))
    command = (BINARY, "-e", str(root / "error.log"), "-c", str(root / "nginx.conf"))
    with (root / "output.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            deadline = time.monotonic() + _START
            while not _listens(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"nginx does not start: {(root / 'output.log').read_text()}")
                time.sleep(0.05)
            yield
        finally:
            process.terminate()
            process.wait(60)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
