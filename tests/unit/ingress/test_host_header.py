"""What a webhook's span says about the server that its sender named."""

from __future__ import annotations

import pytest

from ingress.host_header import server_of


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("ics.example.com", ("ics.example.com", None)),
        ("ics.example.com:8080", ("ics.example.com", 8080)),
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("[::1]:8080", ("::1", 8080)),
        ("[2001:db8::7]", ("2001:db8::7", None)),
        ("", ("", None)),
        ("::1", ("", None)),
        ("[::1", ("", None)),
        ("[::1]8080", ("", None)),
        ("ics:", ("ics", None)),
        ("ics:http", ("ics", None)),
        ("ics:70000", ("ics", None)),
        ("ics:²", ("ics", None)),
        ("ics:" + "9" * 5000, ("ics", None)),
    ],
)
def test_address_and_port_of_a_host_header(host: str, expected: tuple[str, int | None]) -> None:
    assert server_of(host) == expected
