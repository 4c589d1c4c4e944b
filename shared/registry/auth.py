"""Who we are to a registry: Basic, or a Bearer token of its realm (distribution's token authentication specification).

Tokens are kept by registry and scope until shortly before they expire. A token that is refused is renewed once; a registry
that refuses the new one too means it (``unauthorized``). Whoever needs a token that is being fetched waits for it, and shares
its failure: a realm that hangs costs all of them one time-out, not one each in turn.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlencode

import aiohttp
import orjson
from yarl import URL

from shared.errors import IcsError, PermanentError
from shared.registry.access import Credential, Destination, RegistryAccess
from shared.registry.challenge import Challenge, parse_challenges
from shared.registry.errors import MAXIMUM_ERROR_BODY, Operation, from_exception, from_status
from shared.registry.limits import read_limited, read_start

if TYPE_CHECKING:
    from shared.registry.transport import Transport

_DEFAULT_LIFETIME = 60.0
"""Seconds, when the realm names none (the specification's default)."""
_MAXIMUM_LIFETIME = 3600.0
_MAXIMUM_TOKENS = 4096
"""Scopes kept; the oldest goes first."""
_CLIENT_ID = "image-conversion-service"

Scopes = tuple[str, ...]


class CredentialSource(Protocol):
    """Where credentials come from that the settings do not hold."""

    async def credential(self, registry: str, *, fresh: bool = False) -> Credential | None: ...


@dataclass(frozen=True, slots=True)
class _Token:
    authorization: str
    expires: float
    """On the authenticator's clock."""

    def __repr__(self) -> str:
        return f"_Token(expires={self.expires})"


@dataclass(slots=True)
class _Slot:
    """One scope's token, or how the last attempt to get one ended."""

    token: _Token | None = None
    error: IcsError | None = None
    fetches: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Authenticator:
    """Answers challenges; one for all registries."""

    def __init__(
        self, fallback: CredentialSource | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._fallback = fallback
        self._clock = clock
        self._challenges: dict[str, Challenge] = {}
        self._slots: dict[tuple[str, Scopes], _Slot] = {}

    async def credential(self, access: RegistryAccess, *, fresh: bool = False) -> Credential | None:
        """The settings' credential, else what Docker's configuration knows."""
        if access.credential is not None or self._fallback is None:
            return access.credential
        return await self._fallback.credential(access.registry, fresh=fresh)

    async def authorization(self, transport: Transport, access: RegistryAccess, scopes: Scopes) -> str | None:
        """The header for a request, as far as the registry's challenge is known; None to ask without."""
        challenge = self._challenges.get(access.registry)
        if challenge is None:
            return None
        try:
            return await self._answer(transport, access, scopes, challenge)
        except PermanentError:  # the realm may have moved: let the registry say where it is now
            self._challenges.pop(access.registry, None)
            return None

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
        slot = self._slot(access.registry, scopes)
        if slot.token is not None and slot.token.authorization == refused:
            slot.token = None
        answer = await self._answer(transport, access, scopes, challenge, fresh=refused is not None)
        # Only now: a challenge that cannot be answered, of a proxy's maintenance page say, must not outlast its minute.
        self._challenges[access.registry] = challenge
        return None if answer == refused else answer

    async def _answer(
        self,
        transport: Transport,
        access: RegistryAccess,
        scopes: Scopes,
        challenge: Challenge,
        *,
        fresh: bool = False,
    ) -> str | None:
        if challenge.scheme == "basic":
            credential = await self.credential(access, fresh=fresh)
            return None if credential is None else credential.basic
        slot = self._slot(access.registry, scopes)
        before = slot.fetches
        async with slot.lock:
            if slot.token is not None and slot.token.expires > self._clock():
                return slot.token.authorization
            if slot.error is not None and slot.fetches != before:
                raise slot.error
            slot.token = slot.error = None
            try:
                slot.token = await self._fetch(transport, access, scopes, challenge, fresh=fresh)
            except IcsError as error:
                slot.error = error
                raise
            finally:
                slot.fetches += 1
            return slot.token.authorization

    def _slot(self, registry: str, scopes: Scopes) -> _Slot:
        """Of the scopes used least recently, the first are forgotten."""
        slot = self._slots.pop((registry, scopes), None) or _Slot()
        self._slots[registry, scopes] = slot
        if len(self._slots) > _MAXIMUM_TOKENS:
            del self._slots[next(iter(self._slots))]
        return slot

    async def _fetch(
        self, transport: Transport, access: RegistryAccess, scopes: Scopes, challenge: Challenge, *, fresh: bool
    ) -> _Token:
        """One attempt: it is part of the request that needs the token, and repeated with that."""
        operation = Operation("get_token", access.registry)
        credential = await self.credential(access, fresh=fresh)
        ask = _token_request(transport, access, challenge, scopes, credential)

        try:
            async with asyncio.timeout(transport.read_timeout):
                response = await transport.once(
                    operation,
                    ask.method,
                    ask.destination,
                    headers=ask.headers,
                    authorization=ask.authorization,
                    body=ask.body,
                )
                try:
                    if response.status == 200:
                        body = await read_limited(response, MAXIMUM_ERROR_BODY, operation)
                    else:
                        body = await read_start(response, MAXIMUM_ERROR_BODY)
                finally:
                    response.close()
        except (aiohttp.ClientError, OSError) as error:
            raise from_exception(operation, error) from error
        if response.status != 200:
            secrets = () if credential is None else (credential.secret, credential.basic.partition(" ")[2])
            raise _refusal(operation, response, body, secrets)
        return self._parse(operation, body)

    def _parse(self, operation: Operation, body: bytes) -> _Token:
        try:
            data = orjson.loads(body)
        except orjson.JSONDecodeError:
            data = None
        fields = data if isinstance(data, dict) else {}
        text = fields.get("token") or fields.get("access_token")
        if not isinstance(text, str) or not text.isascii() or not text.isprintable() or " " in text:
            raise operation.transient("the realm's answer holds no token", code="registry_unavailable")
        lifetime = fields.get("expires_in")
        seconds = float(lifetime) if isinstance(lifetime, (int, float)) and lifetime > 0 else _DEFAULT_LIFETIME
        seconds = min(seconds, _MAXIMUM_LIFETIME)
        # Renewed early: a token must outlive the request that it opens, not the transfer that follows.
        return _Token(f"Bearer {text}", self._clock() + seconds - min(10.0, seconds / 4))


@dataclass(frozen=True, slots=True)
class _TokenRequest:
    method: str
    destination: Destination
    headers: dict[str, str]
    authorization: str | None
    body: bytes


def _token_request(
    transport: Transport,
    access: RegistryAccess,
    challenge: Challenge,
    scopes: Scopes,
    credential: Credential | None,
) -> _TokenRequest:
    """GET with Basic, the one that every realm knows; POST only for an identity token, which has no other way."""
    try:
        realm = URL(challenge.parameters["realm"])
    except ValueError as error:
        raise Operation("get_token", access.registry).permanent(
            "the challenge's realm is no URL", code="unexpected_answer"
        ) from error
    query = [(key, value) for key, value in realm.query.items() if key not in {"service", "scope", "account"}]
    service = challenge.parameters.get("service", "")
    if credential is not None and credential.identity_token:
        form = {
            "grant_type": "refresh_token",
            "service": service,
            "client_id": _CLIENT_ID,
            "scope": " ".join(scopes),
            "refresh_token": credential.secret,
        }
        destination = transport.access.destination(access, realm, token=True)
        return _TokenRequest(
            "POST", destination, {"Content-Type": "application/x-www-form-urlencoded"}, None, urlencode(form).encode()
        )
    if service:
        query.append(("service", service))
    query += [("scope", scope) for scope in scopes]
    if credential is not None:
        query.append(("account", credential.user))
    destination = transport.access.destination(access, realm.with_query(query), token=True)
    return _TokenRequest("GET", destination, {}, None if credential is None else credential.basic, b"")


def _refusal(operation: Operation, response: aiohttp.ClientResponse, body: bytes, secrets: Iterable[str]) -> IcsError:
    if response.status in {400, 401, 403}:
        return operation.permanent(
            f"the token realm refuses the credentials ({response.status}); check `auths`",
            code="unauthorized",
            status=response.status,
        )
    return from_status(operation, response.status, response.headers, body, secrets=secrets)
