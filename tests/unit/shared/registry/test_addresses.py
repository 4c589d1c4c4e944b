from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.registry.addresses import refused


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "169.254.0.1",
        "fe80::1",
        "[fe80::1%eth0]",
        "fd00:ec2::254",
        "fd20:ce::254",
        "100.100.100.200",
        "192.0.0.192",
        "168.63.129.16",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
    ],
)
def test_link_local_and_metadata_addresses_are_refused(host: str) -> None:
    assert refused(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.1", "::1", "[::1]", "8.8.8.8", "fd00::1", "h.io", "", "a%b"])
def test_other_addresses_and_names_are_not(host: str) -> None:
    assert not refused(host)


@given(st.ip_addresses(network="169.254.0.0/16"))
def test_no_spelling_of_a_link_local_address_gets_through(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    for text in (f"{address}", f"::ffff:{address}", str(ipaddress.IPv6Address(0x64FF9B << 96 | number))):
        assert refused(text)
