"""A port that cannot be had: which setting, which address, and what to do."""

from __future__ import annotations

import socket

import pytest

from shared.errors import PermanentError
from shared.listening import listening_socket


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_a_taken_port_names_its_setting_and_address(host: str, shown: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        taken = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip(f"this machine has no {host}")
    with taken:
        port = taken.getsockname()[1]
        with pytest.raises(PermanentError) as refused:
            listening_socket(host, port, "metric.port")
    assert refused.value.code == "address_unavailable"
    assert refused.value.message == (
        f"metric.port: cannot listen on {shown}:{port}: Address already in use; another process listens there: end it, or set"
        " metric.port (ICS_METRIC__PORT) to another port"
    )


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.name.invalid"])
def test_a_host_that_is_not_here_names_its_setting(host: str) -> None:
    with pytest.raises(PermanentError, match=rf"^http.port: cannot listen on {host}:0: .*ICS_HOSTNAME"):
        listening_socket(host, 0, "http.port")


def test_a_port_of_the_system_says_which_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> socket.socket:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket, "create_server", refused)
    with pytest.raises(PermanentError, match=r"http\.port .* from 1024 on"):
        listening_socket("127.0.0.1", 80, "http.port")
