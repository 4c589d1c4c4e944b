"""Do the credentials work? Asked at start, since some registries say yes to anything until it matters."""

from __future__ import annotations

from typing import Literal

from shared.registry.errors import Operation
from shared.registry.transport import Request, Transport

_PING = "/v2/"


async def check_credentials(transport: Transport, registry: str) -> Literal["accepted", "anonymous"]:
    """Ask ``/v2/`` with the credentials themselves.

    Harbor's token realm answers wrong credentials with an anonymous token, so a token proves nothing there; but it judges Basic
    on every call. A registry that knows Bearer only (Docker Hub) refuses Basic, and its realm refuses wrong credentials.
    """
    operation = Operation("check_credentials", registry)
    credential = await transport.credential(registry)
    if credential is None:
        return "anonymous"
    anonymous = await transport.send(Request(operation, "GET", _PING, frozenset({200, 401}), fixed_authorization=True))
    if anonymous.status == 200:
        return "anonymous"
    if not credential.identity_token:
        basic = await transport.send(
            Request(
                operation,
                "GET",
                _PING,
                frozenset({200, 401}),
                fixed_authorization=True,
                authorization=credential.basic,
            )
        )
        if basic.status == 200:
            return "accepted"
    await transport.send(Request(operation, "GET", _PING, frozenset({200})))
    return "accepted"
