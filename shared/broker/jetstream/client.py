"""nats-py's client, which must not fall back to plain text."""

from __future__ import annotations

from typing import Any

from nats.aio.client import Client


class StrictClient(Client):
    """Speaks TLS to every ``tls://`` server, whatever that server says of itself.

    nats-py begins TLS only where the server's greeting, which is plain text, asks for it: without this, whoever sits in between
    gets the password by leaving that word out.
    """

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        server = self._current_server
        if initial_connection and server is not None and server.uri.scheme == "tls":
            info["tls_required"] = True  # this very mapping is asked next
        await super()._process_info(info, initial_connection)
