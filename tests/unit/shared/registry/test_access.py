from __future__ import annotations

import base64
import ssl
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from yarl import URL

from shared.errors import PermanentError
from shared.registry.access import AccessList, decode_basic
from shared.settings.model import Auth, Settings


def encoded(text: str) -> SecretStr:
    return SecretStr(base64.b64encode(text.encode()).decode())


def access(endpoints: dict[str, str] | None = None, **auths: Auth) -> AccessList:
    named = {name.replace("_", "."): auth for name, auth in auths.items()}
    return AccessList.from_settings(Settings(auths=named, endpoints=endpoints or {}))


def test_docker_hub_is_reached_at_its_endpoint_under_any_of_its_names() -> None:
    for name in ("docker.io", "index.docker.io", "https://index.docker.io/v1/", "registry-1.docker.io"):
        hub = AccessList.from_settings(Settings(auths={name: Auth()})).of("docker.io")
        assert str(hub.base) == "https://registry-1.docker.io"
        assert not hub.insecure


def test_docker_hubs_realm_and_storage_are_known() -> None:
    allowed = AccessList.from_settings(Settings(auths={"docker.io": Auth()}))
    hub = allowed.of("docker.io")
    realm = allowed.destination(hub, URL("https://auth.docker.io/token"), token=True)
    assert realm.trusted
    storage = allowed.destination(hub, URL("https://production.cloudflare.docker.com/x"))
    assert not storage.trusted


def test_tls_is_at_least_1_2_and_verified() -> None:
    entry = access(h_io=Auth()).of("h.io")
    for context in (entry.tls, entry.foreign_tls):
        assert context is not None
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert context.check_hostname


def test_plain_http_is_for_one_host_only() -> None:
    allowed = access(a_io=Auth(insecure=True), b_io=Auth())
    assert allowed.of("a.io").base == URL("http://a.io")
    assert allowed.of("a.io").tls is None
    assert allowed.of("b.io").base == URL("https://b.io")
    with pytest.raises(PermanentError) as caught:
        allowed.destination(allowed.of("a.io"), URL("http://b.io/x"))
    assert caught.value.code == "plain_http_refused"


@pytest.mark.parametrize("host", ["other.io", "h.io:5000", "h.io.evil.com", "", "127.0.0.1"])
def test_only_what_is_listed_is_allowed(host: str) -> None:
    with pytest.raises(PermanentError) as caught:
        access(h_io=Auth()).of(host)
    assert caught.value.code == "host_not_allowed"


def test_names_are_compared_without_case() -> None:
    assert access(H_io=Auth()).of("h.IO").registry == "h.io"


@pytest.mark.parametrize(
    ("url", "trusted"),
    [
        ("https://h.io/x?y=%2F", True),
        ("https://h.io:443/x", True),
        ("https://auth.h.io/x", False),
        ("https://cdn.io:8443/x", False),
        ("https://other.io/x", False),
    ],
)
def test_destinations_that_are_allowed(url: str, trusted: bool) -> None:
    allowed = access(h_io=Auth(token_hosts=("*.h.io", "cdn.io:8443")), other_io=Auth(auth=encoded("a:b")))
    found = allowed.destination(allowed.of("h.io"), URL(url, encoded=True))
    assert found.trusted is trusted
    assert found.url.raw_path_qs == URL(url, encoded=True).raw_path_qs


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("https://evil.io/x", "host_not_allowed"),
        ("https://h.io.evil.io/x", "host_not_allowed"),
        ("https://cdn.io/x", "host_not_allowed"),
        ("http://auth.h.io/x", "plain_http_refused"),
        ("ftp://h.io/x", "host_not_allowed"),
        ("https://user@h.io/x", "host_not_allowed"),
        ("https://h.io:99999/x", "host_not_allowed"),
    ],
)
def test_destinations_that_are_not(url: str, code: str) -> None:
    allowed = access(h_io=Auth(token_hosts=("*.h.io", "cdn.io:8443")))
    with pytest.raises(PermanentError) as caught:
        allowed.destination(allowed.of("h.io"), URL(url, encoded=True))
    assert caught.value.code == code


def test_an_external_name_goes_to_its_endpoint_whatever_its_scheme() -> None:
    allowed = access({"harbor.io": "core:8080"}, harbor_io=Auth(insecure=True))
    entry = allowed.of("harbor.io")
    assert str(entry.base) == "http://core:8080"
    realm = allowed.destination(entry, URL("https://harbor.io/service/token?a=b"), token=True)
    assert str(realm.url) == "http://core:8080/service/token?a=b"
    assert realm.trusted


@pytest.mark.parametrize(
    "text", ["", "no base64!", base64.b64encode(b"nocolon").decode(), base64.b64encode(b":x").decode(), "/w=="]
)
def test_a_credential_that_is_none_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(PermanentError) as caught:
        decode_basic(text, "auths.h.io.auth")
    assert caught.value.code == "invalid_credential"
    assert "auths.h.io.auth" in caught.value.message
    assert not text or text not in caught.value.message


def test_a_password_may_hold_colons() -> None:
    credential = decode_basic(encoded("u:a:b").get_secret_value(), "x")
    assert (credential.user, credential.secret) == ("u", "a:b")
    assert "a:b" not in repr(credential)


@pytest.mark.parametrize(
    ("auth", "code"),
    [
        ({"auth_file": Path("/nonexistent/file")}, "invalid_credential"),
        ({"ca": Path("/nonexistent/ca.pem")}, "invalid_certificate"),
        ({"client_certificate": Path("/nonexistent/c.pem")}, "invalid_certificate"),
    ],
)
def test_what_cannot_be_read_is_refused_at_start(auth: dict[str, Any], code: str) -> None:
    with pytest.raises(PermanentError) as caught:
        access(h_io=Auth(**auth))
    assert caught.value.code == code


@pytest.mark.parametrize("host", ["h.io:99999", "h io", "h.io:x"])
def test_a_host_that_is_none_is_refused_at_start(host: str) -> None:
    with pytest.raises(PermanentError) as caught:
        AccessList.from_settings(Settings(auths={host: Auth()}))
    assert caught.value.code == "invalid_host"
