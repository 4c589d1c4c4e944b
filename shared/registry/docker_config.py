"""Docker's client configuration as a source of credentials: ``auths``, ``credHelpers``, ``credsStore``.

The file is ``$DOCKER_CONFIG/config.json``, else ``~/.docker/config.json``. Helpers are the programs ``docker-credential-NAME``
(docker-credential-helpers' protocol: the server on stdin, a JSON object on stdout).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from shared.errors import PermanentError, TransientError
from shared.oci.reference import DOCKER_HUB
from shared.registry.access import Credential, decode_basic, normal_host

_HUB_SERVER = "https://index.docker.io/v1/"
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_HELPER_TIMEOUT = 15.0
"""Seconds."""
_KEPT = 300.0
"""Seconds that an answer of a helper is used again; cloud registries' passwords last hours."""
_MAXIMUM_ANSWER = 1 << 20
_TOKEN_USER = "<token>"  # noqa: S105  the protocol's name for "the secret is an identity token"


@dataclass(slots=True)
class DockerConfig:
    """Looks credentials up; nothing is read before the first look-up."""

    path: Path
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    helper_timeout: float = _HELPER_TIMEOUT
    clock: Callable[[], float] = time.monotonic
    _kept: dict[str, tuple[float, Credential | None]] = field(default_factory=dict, repr=False)

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] | None = None) -> DockerConfig:
        environment = os.environ if environment is None else environment
        folder = environment.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")  # noqa: PTH111  "~" may be unknown
        return cls(Path(folder) / "config.json", environment)

    async def credential(self, registry: str, *, fresh: bool = False) -> Credential | None:
        """What Docker would log in with; ``fresh`` asks the helper again.

        Raises:
            PermanentError: ``invalid_docker_config``, ``credential_helper_failed``.
            TransientError: ``credential_helper_timeout``.
        """
        known = self._kept.get(registry)
        if known is not None and not fresh and self.clock() < known[0]:
            return known[1]
        found = await self._look_up(registry)
        self._kept[registry] = (self.clock() + _KEPT, found)
        return found

    def registries(self) -> frozenset[str]:
        """Those that it names.

        Raises:
            PermanentError: ``invalid_docker_config``.
        """
        config = self._read()
        return frozenset(normal_host(host) for key in ("auths", "credHelpers") for host in _object(config, key))

    async def _look_up(self, registry: str) -> Credential | None:
        config = await asyncio.to_thread(self._read)
        server = _HUB_SERVER if registry == DOCKER_HUB else registry
        helper = next(
            (name for host, name in _object(config, "credHelpers").items() if normal_host(host) == registry),
            config.get("credsStore"),
        )
        if helper:
            found = await self._ask(str(helper), server)
            if found is not None:
                return found
        for host, entry in _object(config, "auths").items():
            if normal_host(host) == registry and isinstance(entry, dict):
                return _of_entry(entry, f"{self.path}: auths.{registry}.auth")
        return None

    def _read(self) -> Mapping[str, Any]:
        try:
            data = orjson.loads(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, orjson.JSONDecodeError) as error:
            raise PermanentError(
                f"{self.path} cannot be read ({type(error).__name__})", code="invalid_docker_config"
            ) from None  # a parser's error quotes the text, and the text is secret
        if not isinstance(data, dict):
            raise PermanentError(f"{self.path} is not a JSON object", code="invalid_docker_config")
        return data

    async def _ask(self, name: str, server: str) -> Credential | None:
        if not _HELPER_NAME.fullmatch(name):
            raise PermanentError(f"{self.path}: not a credential helper's name", code="invalid_docker_config")
        program = f"docker-credential-{name}"
        try:
            process = await asyncio.create_subprocess_exec(
                program,
                "get",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=dict(self.environment),
            )
        except OSError as error:
            raise PermanentError(
                f"{program} cannot be started ({type(error).__name__})", code="credential_helper_failed"
            ) from error
        try:
            async with asyncio.timeout(self.helper_timeout):
                output, _ = await process.communicate(server.encode())
        except TimeoutError as error:
            raise TransientError(
                f"{program} gave no answer in {self.helper_timeout:g} s", code="credential_helper_timeout"
            ) from error
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if process.returncode != 0:
            if b"credentials not found" in output:
                return None
            raise PermanentError(
                f"{program} failed with exit status {process.returncode}", code="credential_helper_failed"
            )
        return _of_helper(output, program)


def _of_helper(output: bytes, program: str) -> Credential:
    try:
        data = orjson.loads(output) if len(output) <= _MAXIMUM_ANSWER else None
    except orjson.JSONDecodeError:
        data = None
    user, secret = (data.get("Username"), data.get("Secret")) if isinstance(data, dict) else (None, None)
    if not isinstance(user, str) or not isinstance(secret, str):
        raise PermanentError(f"{program} answered no credential", code="credential_helper_failed")
    return Credential(user, secret, identity_token=user == _TOKEN_USER)


def _of_entry(entry: Mapping[str, Any], where: str) -> Credential | None:
    token = entry.get("identitytoken")
    if isinstance(token, str) and token:
        return Credential(_TOKEN_USER, token, identity_token=True)
    auth = entry.get("auth")
    if isinstance(auth, str) and auth:
        return decode_basic(auth, where)
    user, secret = entry.get("username"), entry.get("password")
    if isinstance(user, str) and isinstance(secret, str) and user:
        return Credential(user, secret)
    return None


def _object(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = config.get(key)
    return value if isinstance(value, dict) else {}
