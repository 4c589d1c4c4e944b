"""A token realm for docker-registry: JWTs signed by a key whose certificate the registry trusts."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import web

from tests.servers.certificates import certificate_authority
from tests.servers.scripted import scripted_server

_SCOPE = re.compile(r"([a-z]+):([^:]+):([a-z,*]+)")


class TokenRealm:
    """Gives one user every scope asked for, and nobody else anything."""

    def __init__(self, folder: Path, user: str, password: str) -> None:
        self._pair = certificate_authority(folder).ca
        self._basic = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self.scopes: list[str] = []
        """Every scope asked for."""

    def configuration(self, host: str) -> dict[str, str]:
        """The ``auth.token`` section of docker-registry's configuration."""
        return {
            "realm": f"http://{host}/token",
            "service": "tests",
            "issuer": "tests",
            "rootcertbundle": str(self._pair.certificate),
        }

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != self._basic:
            return web.Response(status=401)
        scopes = request.query.getall("scope", [])
        self.scopes += scopes
        access = [
            {"type": match[1], "name": match[2], "actions": match[3].split(",")}
            for match in map(_SCOPE.fullmatch, scopes)
            if match is not None
        ]
        token = await asyncio.to_thread(self._sign, {"access": access, "sub": "tests"})
        return web.json_response({"token": token, "expires_in": 60})

    def _sign(self, claims: dict[str, object]) -> str:
        now = int(time.time())
        certificate = self._pair.certificate.read_text().split("-----")[2].replace("\n", "")
        header = {"typ": "JWT", "alg": "RS256", "x5c": [certificate]}
        payload = {"iss": "tests", "aud": "tests", "iat": now, "nbf": now - 5, "exp": now + 60, "jti": "1", **claims}
        text = ".".join(_encoded(json.dumps(part).encode()) for part in (header, payload))
        done = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", str(self._pair.key)],
            input=text.encode(),
            capture_output=True,
            check=True,
        )
        return f"{text}.{_encoded(done.stdout)}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@contextlib.asynccontextmanager
async def serve_realm(realm: TokenRealm) -> AsyncIterator[str]:
    """Gives ``host:port``."""
    async with scripted_server(realm.answer) as host:
        yield host
