"""The ``Host`` header as OpenTelemetry's HTTP conventions want it: ``server.address`` and ``server.port``."""

from __future__ import annotations


def server_of(host: str) -> tuple[str, int | None]:
    """Name or address, an IPv6 one without its brackets, and the port where one is named; ``("", None)`` of what is no host.

    RFC 9110, 7.2; RFC 3986, 3.2.2. A ``Host`` is what a client says: nothing may rely on it but a trace's reader.
    """
    if host.startswith("["):
        address, closed, rest = host[1:].partition("]")
        if not closed or rest[:1] not in {"", ":"}:
            return "", None
        port = rest[1:]
    else:
        address, _, port = host.partition(":")
        if ":" in port:
            return "", None
    number = int(port) if port.isascii() and port.isdecimal() and len(port) <= 5 else 0
    return address, number if 0 < number < 65536 else None
