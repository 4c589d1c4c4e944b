"""Only hosts that the settings allow, credentials only to whom they are for, nothing secret in what is written."""

from __future__ import annotations

import base64
import logging
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from pydantic import SecretStr

from shared.errors import IcsError, PermanentError
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest
from shared.oci.reference import Reference, parse_reference
from shared.registry.addresses import GuardedResolver
from shared.registry.client import RegistryClient
from shared.registry.errors import RefusedAddressError
from shared.settings.model import Auth, Settings
from tests.integration.registry.conftest import OpenClient
from tests.integration.registry.images import pull, push
from tests.servers.devregistry import Fault, FaultyRegistry
from tests.servers.devregistry.tokens import Gate
from tests.servers.scripted import scripted_server

CONTENT = b"content of a blob"
BLOB = Descriptor("application/octet-stream", Digest.of(CONTENT), len(CONTENT))
SECRET = "canary-password"
BASIC = SecretStr(base64.b64encode(f"user:{SECRET}".encode()).decode())


class Place:
    """A server that asks for Basic, redirects where it is told, and remembers who came."""

    def __init__(self) -> None:
        self.location = ""
        self.status = 307
        self.asks = True
        self.seen: list[tuple[str, str | None]] = []
        self.host = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        authorization = request.headers.get("Authorization")
        self.seen.append((request.path_qs, authorization))
        if self.asks and authorization is None:
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
        if self.location:
            return web.Response(status=self.status, headers={"Location": self.location})
        return web.Response(body=CONTENT)


@pytest.fixture
async def places() -> AsyncIterator[tuple[Place, Place]]:
    """A registry, and another server that it points at, which asks for nothing."""
    async with AsyncExitStack() as stack:
        registry, other = Place(), Place()
        other.asks = False
        for place in (registry, other):
            place.host = await stack.enter_async_context(scripted_server(place.answer))
        registry.location = f"http://{other.host}/storage/blob?X-Amz-Signature=canary-signature"
        yield registry, other


async def read(client: RegistryClient, host: str) -> bytes:
    return await pull(client, parse_reference(f"{host}/project/app"), BLOB)


async def test_a_host_that_is_not_in_the_settings_is_not_contacted(
    places: tuple[Place, Place], open_client: OpenClient
) -> None:
    client = await open_client(places[0].host)
    with pytest.raises(PermanentError) as caught:
        await read(client, places[1].host)
    assert caught.value.code == "host_not_allowed"
    assert not places[1].seen


async def test_a_redirect_to_a_foreign_host_is_refused(places: tuple[Place, Place], open_client: OpenClient) -> None:
    registry, other = places
    client = await open_client(registry.host, auth=BASIC)
    with pytest.raises(PermanentError) as caught:
        await read(client, registry.host)
    assert caught.value.code == "host_not_allowed"
    assert "canary" not in f"{caught.value} {caught.value.details}"
    assert not other.seen


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_to_an_allowed_host_takes_no_credentials_along(
    places: tuple[Place, Place], open_client: OpenClient, status: int
) -> None:
    registry, other = places
    registry.status = status
    client = await open_client(registry.host, auth=BASIC, token_hosts=(other.host,))
    assert await read(client, registry.host) == CONTENT
    assert other.seen == [("/storage/blob?X-Amz-Signature=canary-signature", None)]


async def test_a_redirect_to_another_registry_of_ours_takes_no_credentials_along(
    places: tuple[Place, Place], open_client: OpenClient
) -> None:
    registry, other = places
    more = {other.host: Auth(insecure=True, auth=SecretStr(base64.b64encode(b"other:canary-other").decode()))}
    client = await open_client(registry.host, auth=BASIC, more=more)
    assert await read(client, registry.host) == CONTENT
    assert [authorization for _, authorization in other.seen] == [None]


async def test_a_redirect_within_the_registry_keeps_the_credentials(
    places: tuple[Place, Place], open_client: OpenClient
) -> None:
    registry, _ = places
    registry.location = "/elsewhere"
    client = await open_client(registry.host, auth=BASIC)
    with pytest.raises(PermanentError) as caught:
        await read(client, registry.host)
    assert caught.value.code == "unexpected_answer"  # it redirects for ever
    assert len(registry.seen) < 10
    assert all(authorization for path, authorization in registry.seen if path == "/elsewhere")


@pytest.mark.parametrize(
    ("location", "code"),
    [
        ("http://169.254.169.254/latest/meta-data/", "host_not_allowed"),
        ("http://[fe80::1]/", "host_not_allowed"),
        ("http://[::ffff:169.254.169.254]/", "host_not_allowed"),
        ("http://[fd00:ec2::254]/", "host_not_allowed"),
        ("file:///etc/passwd", "host_not_allowed"),
        ("http://user:canary-userinfo@127.0.0.1/", "host_not_allowed"),
        ("//", "unexpected_answer"),
        ("http://[broken", "registry_unavailable"),
    ],
)
async def test_a_redirect_into_the_dark_is_refused_whatever_the_settings_say(
    places: tuple[Place, Place], open_client: OpenClient, location: str, code: str
) -> None:
    registry, _ = places
    registry.location = location
    registry.asks = False
    client = await open_client(registry.host, auth=BASIC, token_hosts=("*",))
    with pytest.raises(IcsError) as caught:
        await read(client, registry.host)
    assert caught.value.code == code
    assert "canary" not in f"{caught.value} {caught.value.details}"


async def test_a_name_that_resolves_to_metadata_is_refused(open_client: OpenClient) -> None:
    class Inner(AbstractResolver):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[ResolveResult]:
            addresses = {"good.example.com": ["127.0.0.1"], "bad.example.com": ["127.0.0.1", "169.254.169.254"]}
            return [
                ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
                for address in addresses[host]
            ]

        async def close(self) -> None:
            pass

    resolver = GuardedResolver(Inner())
    assert len(await resolver.resolve("good.example.com")) == 1
    with pytest.raises(RefusedAddressError):
        await resolver.resolve("bad.example.com")
    await resolver.close()


async def test_the_address_that_was_checked_is_the_one_that_is_connected_to(
    places: tuple[Place, Place], open_client: OpenClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name is resolved once per connection; a second look-up between check and connect could be answered otherwise."""
    registry, _ = places
    registry.asks, registry.location = False, ""
    host, port = registry.host.split(":")
    name, genuine = "rebinding.example.com", socket.getaddrinfo
    answers = iter([host, "169.254.169.254", "169.254.169.254"])
    asked: list[str] = []

    def resolve(wanted: Any, *arguments: Any, **options: Any) -> Any:
        if wanted != name:
            return genuine(wanted, *arguments, **options)
        asked.append(wanted)
        return genuine(next(answers), *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    client = await open_client(f"{name}:{port}")
    assert await read(client, f"{name}:{port}") == CONTENT
    assert asked == [name]
    late = await open_client(f"{name}:{port}")  # a client that has not resolved it yet
    with pytest.raises(PermanentError) as caught:
        await read(late, f"{name}:{port}")
    assert caught.value.code == "host_not_allowed"
    assert len(registry.seen) == 1


async def test_a_decimal_address_is_still_a_metadata_address(open_client: OpenClient) -> None:
    """``2852039166`` is a name to a URL parser and 169.254.169.254 to the C library."""
    client = await open_client("2852039166")
    with pytest.raises(PermanentError) as caught:
        await client.manifest(Reference("2852039166", "app", "latest"))
    assert caught.value.code in {"host_not_allowed", "invalid_url"}  # aiohttp refuses such names itself


async def test_a_metadata_address_in_the_settings_is_refused(open_client: OpenClient) -> None:
    client = await open_client("169.254.169.254")
    with pytest.raises(PermanentError) as caught:
        await client.manifest(parse_reference("169.254.169.254/app"))
    assert caught.value.code == "host_not_allowed"


async def test_an_upload_location_on_a_foreign_host_is_refused(
    places: tuple[Place, Place], open_client: OpenClient
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if request.method == "POST":
            return web.Response(status=202, headers={"Location": f"http://{places[1].host}/upload"})
        return web.Response(status=404)

    async with scripted_server(answer) as host:
        client = await open_client(host)
        with pytest.raises(PermanentError) as caught:
            await push(client, parse_reference(f"{host}/a"), b"x")
    assert caught.value.code == "host_not_allowed"
    assert not places[1].seen


async def test_a_token_realm_on_a_foreign_host_gets_no_credentials(
    places: tuple[Place, Place], open_client: OpenClient
) -> None:
    """Not even if it is another registry of the settings."""
    other = places[1]

    async def answer(request: web.Request) -> web.StreamResponse:
        challenge = f'Bearer realm="http://{other.host}/token",service="s"'
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    async with scripted_server(answer) as host:
        for more in ({}, {other.host: Auth(insecure=True)}):
            client = await open_client(host, auth=BASIC, more=more)
            with pytest.raises(PermanentError) as caught:
                await read(client, host)
            assert caught.value.code == "host_not_allowed"
    assert not other.seen


@pytest.mark.parametrize("broken", ["a b", "a\r\nX-Injected: 1", "../../other", "a?x=1", "a#x", "a%2e"])
async def test_a_reference_that_was_never_parsed_injects_nothing(
    places: tuple[Place, Place], open_client: OpenClient, broken: str
) -> None:
    client = await open_client(places[0].host)
    for reference in (Reference(places[0].host, broken, "t"), Reference(places[0].host, "a", broken)):
        with pytest.raises(PermanentError) as caught:
            await client.manifest(reference)
        assert caught.value.code == "invalid_reference"
    assert not places[0].seen


async def test_an_external_name_is_taken_to_its_endpoint_realm_and_location_included(
    tmp_path: Any, open_client: OpenClient, development: tuple[FaultyRegistry, str]
) -> None:
    """Harbor names itself by its external host, which may not be reachable."""
    registry, host = development
    registry.gate.mode, registry.gate.user, registry.gate.password = "token", "user", SECRET
    data = os.urandom(100_000)
    client = await open_client("harbor.example.com", auth=BASIC, endpoints={"harbor.example.com": host})
    repository = parse_reference("harbor.example.com/project/app")
    blob = await push(client, repository, data)
    assert await pull(client, repository, blob) == data
    registry.faults.add(
        Fault(
            "status",
            "GET",
            "/blobs/",
            status=307,
            headers={"Location": f"https://harbor.example.com/v2/project/app/blobs/{blob.digest}"},
        )
    )
    assert await pull(client, repository, blob) == data


async def test_an_endpoint_that_is_allowed_allows_its_external_name(
    open_client: OpenClient, development: tuple[FaultyRegistry, str]
) -> None:
    client = await open_client(development[1], endpoints={"harbor.example.com": development[1]})
    assert await client.resolve(parse_reference("harbor.example.com/project/app")) is None


async def test_no_secret_is_written_anywhere(
    places: tuple[Place, Place],
    open_client: OpenClient,
    development: tuple[FaultyRegistry, str],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Canaries in password, token, signature and a registry that echoes what it was sent."""
    caplog.set_level(logging.DEBUG)
    written: list[str] = []

    async def echo(request: web.Request) -> web.StreamResponse:
        authorization = request.headers.get("Authorization")
        if authorization is None:
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
        said = f"you sent {authorization} to https://u:canary-user@h/?canary-query as {authorization.split()[1]}"
        return web.json_response({"errors": [{"code": "DENIED", "message": said}]}, status=403)

    async with scripted_server(echo) as host:
        settings = Settings(auths={host: Auth(insecure=True, auth=BASIC)})
        client = await open_client(host, auth=BASIC)
        with pytest.raises(PermanentError) as caught:
            await read(client, host)
    assert caught.value.code == "denied"
    assert "you sent" in caught.value.message
    written += [str(caught.value), repr(caught.value), str(caught.value.details), repr(settings), repr(vars(client))]
    written += [repr(vars(client._transport)), repr(vars(client._transport.access))]
    written += [repr(client._transport.access.of(host)), repr(Gate("basic", "user", SECRET))]
    registry, host = development
    registry.gate.mode, registry.gate.user, registry.gate.password = "token", "user", SECRET
    client = await open_client(host, auth=BASIC)
    await push(client, parse_reference(f"{host}/a/b"), b"x")
    tokens = list(registry.gate._tokens)
    assert tokens
    written += [repr(vars(client._transport._authenticator)), caplog.text, *capfd.readouterr()]
    everything = "\n".join(written)
    for secret in (SECRET, BASIC.get_secret_value(), "canary-", *tokens):
        assert secret not in everything
