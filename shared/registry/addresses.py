"""Addresses that no registry lives at: link-local ones and the metadata services of clouds (SSRF)."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from shared.registry.errors import RefusedAddressError

_REFUSED = tuple(
    ipaddress.ip_network(network)
    for network in (
        "169.254.0.0/16",  # link-local: AWS, Azure, GCP, OpenStack metadata
        "fe80::/10",
        "fd00:ec2::/32",  # AWS metadata over IPv6
        "fd20:ce::254/128",  # GCP metadata over IPv6
        "100.100.100.200/32",  # Alibaba metadata
        "192.0.0.192/32",  # Oracle metadata
        "168.63.129.16/32",  # Azure wire server
    )
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def refused(host: str) -> bool:
    """Whether ``host`` is a literal address that is never contacted; False for names, which the resolver judges."""
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return False
    candidates: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = [address]
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            candidates.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        candidates += [inner for inner in (address.ipv4_mapped, address.sixtofour) if inner is not None]
    return any(
        candidate.version == network.version and candidate in network
        for candidate in candidates
        for network in _REFUSED
    )


class GuardedResolver(AbstractResolver):
    """Resolves in a thread and refuses a name of which any address is a refused one (DNS rebinding included)."""

    def __init__(self, inner: AbstractResolver | None = None) -> None:
        self._inner = inner or ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET, **_: Any
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        for result in found:
            if refused(result["host"]):
                raise RefusedAddressError(f"{host} resolves to a link-local or metadata address, which is refused")
        return found

    async def close(self) -> None:
        await self._inner.close()
