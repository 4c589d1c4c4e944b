"""Who we are to a registry: Basic, or a Bearer token of its realm (distribution's token authentication specification).

Tokens are kept by registry and scope until shortly before they expire. A token that is refused is renewed once; a registry
that refuses the new one too means it (``unauthorized``).
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
from yarl import URL

from shared.registry.access import Credential, RegistryAccess
from shared.registry.challenge import Challenge, parse_challenges
from shared.registry.errors import MAXIMUM_ERROR_BODY, Operation, from_exception, from_status
from shared.registry.retry import repeated

if TYPE_CHECKING:
    from shared.registry.transport import Transport

_DEFAULT_LIFETIME = 60.0
"""Seconds, when the realm names none (the specification's default)."""
_MAXIMUM_LIFETIME = 3600.0

Scopes = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Token:
    authorization: str
    expires: float
    """On the monotonic clock."""


class Authenticator:
    """Answers challenges; one for all registries."""

    def __init__(
        self,
        fallback: Callable[[str], Any] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fallback = fallback
        self._clock = clock
        self._challenges: dict[str, Challenge] = {}
        self._tokens: dict[tuple[str, Scopes], _Token] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def credential(self, access: RegistryAccess) -> Credential | None:
        """The settings' credential, else what Docker's configuration knows."""
        if access.credential is not None or self._fallback is None:
            return access.credential
        found: Credential | None = await self._fallback(access.registry)
        return found

    async def authorization(self, transport: Transport, access: RegistryAccess, scopes: Scopes) -> str | None:
        """The header for a request, as far as the registry's challenge is known; None to ask without."""
        challenge = self._challenges.get(access.registry)
        if challenge is None:
            return None
        return await self._answer(transport, access, scopes, challenge)

    async def renewed(
        self,
        transport: Transport,
        access: RegistryAccess,
        scopes: Scopes,
        challenges: Iterable[str],
        *,
        refused: str | None,
    ) -> str | None:
        """The header to try after a 401; None when nothing better than ``refused`` is to be had."""
        known = parse_challenges(challenges)
        bearer = next((c for c in known if c.scheme == "bearer" and c.parameters.get("realm")), None)
        challenge = bearer or next((c for c in known if c.scheme == "basic"), None)
        if challenge is None:
            return None
        self._challenges[access.registry] = challenge
        key = (access.registry, scopes)
        token = self._tokens.get(key)
        if token is not None and token.authorization == refused:
            del self._tokens[key]
        answer = await self._answer(transport, access, scopes, challenge)
        return None if answer == refused else answer

    async def _answer(
        self, transport: Transport, access: RegistryAccess, scopes: Scopes, challenge: Challenge
    ) -> str | None:
        if challenge.scheme == "basic":
            credential = await self.credential(access)
            return None if credential is None else credential.basic
        async with self._locks[access.registry]:  # one renewal for all that wait for it
            token = self._tokens.get((access.registry, scopes))
            if token is None or token.expires <= self._clock():
                token = await self._fetch(transport, access, scopes, challenge)
                self._tokens[(access.registry, scopes)] = token
            return token.authorization

    async def _fetch(
        self, transport: Transport, access: RegistryAccess, scopes: Scopes, challenge: Challenge
    ) -> _Token:
        operation = Operation("get_token", access.registry)
        try:
            realm = URL(challenge.parameters["realm"])
        except ValueError as error:
            raise operation.permanent("the realm is no URL", code="unexpected_answer") from error
        query = [(key, value) for key, value in realm.query.items() if key not in {"service", "scope"}]
        if service := challenge.parameters.get("service"):
            query.append(("service", service))
        query += [("scope", scope) for scope in scopes]
        credential = await self.credential(access)
        if credential is not None:
            query.append(("account", credential.user))
        destination = transport.access.destination(access, realm.with_query(query), token=True)
        authorization = None if credential is None else credential.basic

        async def attempt() -> bytes:
            try:
                async with asyncio.timeout(transport.read_timeout):
                    response = await transport.once(operation, "GET", destination, authorization=authorization)
                    try:
                        body = await response.content.read(MAXIMUM_ERROR_BODY)
                        while piece := await response.content.read(MAXIMUM_ERROR_BODY):
                            body += piece
                            if len(body) > MAXIMUM_ERROR_BODY:
                                raise operation.permanent(
                                    f"the answer is larger than {MAXIMUM_ERROR_BODY} bytes", code="answer_too_large"
                                )
                    finally:
                        response.close()
            except (aiohttp.ClientError, OSError) as error:
                raise from_exception(operation, error) from error
            if response.status != 200:
                secrets = [] if credential is None else [credential.secret, credential.basic.partition(" ")[2]]
                raise from_status(operation, response.status, response.headers, body, secrets=secrets)
            return body

        return self._parse(operation, await repeated(transport.retry, operation, transport.observer, attempt))

    def _parse(self, operation: Operation, body: bytes) -> _Token:
        try:
            data = orjson.loads(body)
        except orjson.JSONDecodeError:
            data = None
        text = (data.get("token") or data.get("access_token")) if isinstance(data, dict) else None
        if not isinstance(text, str) or not text.isascii() or not text.isprintable() or " " in text:
            raise operation.transient("the realm's answer holds no token", code="registry_unavailable")
        lifetime = data.get("expires_in")
        seconds = float(lifetime) if isinstance(lifetime, (int, float)) and lifetime > 0 else _DEFAULT_LIFETIME
        seconds = min(seconds, _MAXIMUM_LIFETIME)
        # Renewed early: a token must outlive the request that it opens, not the transfer that follows.
        return _Token(f"Bearer {text}", self._clock() + seconds - min(10.0, seconds / 4))
