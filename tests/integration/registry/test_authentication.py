"""Who we are: Basic, tokens that expire and are revoked, Docker's configuration, and wrong credentials."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiohttp import web
from pydantic import SecretStr

from shared.errors import IcsError, PermanentError, TransientError
from shared.oci.digest import Digest
from shared.oci.reference import Reference, parse_reference
from shared.registry.access import AccessList
from shared.registry.auth import Authenticator
from shared.registry.client import RegistryClient
from shared.registry.observer import Silent
from shared.registry.sessions import Unrecorded
from shared.registry.transport import Transport
from shared.settings.model import Auth, Settings
from tests.integration.registry.conftest import CHUNK, QUICK, OpenClient
from tests.integration.registry.images import pull, push, push_image
from tests.servers.devregistry import Fault, FaultyRegistry, serve_registry
from tests.servers.devregistry.tokens import Gate, Mode
from tests.servers.registry import RegistryServer, docker_registry
from tests.servers.scripted import scripted_server
from tests.servers.token_realm import TokenRealm, serve_realm
from tests.waiting import until

USER, PASSWORD = "robot$project+ics", "canary-pässword"
BASIC = SecretStr(base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode())
WRONG = SecretStr(base64.b64encode(f"{USER}:canary-wrong".encode()).decode())


@pytest.fixture(scope="module")
def guarded_docker_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with docker_registry(tmp_path_factory.mktemp("guarded"), credential=(USER, PASSWORD)) as server:
        yield server


@pytest.fixture(params=["docker-registry basic", "devregistry basic", "devregistry token"])
async def guarded(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """A registry that wants ``USER`` and ``PASSWORD``."""
    if request.param == "docker-registry basic":
        yield request.getfixturevalue("guarded_docker_registry").host
        return
    mode: Mode = "basic" if request.param.endswith("basic") else "token"
    gate = Gate(mode, USER, PASSWORD)
    async with serve_registry(FaultyRegistry(tmp_path / "registry", gate=gate)) as host:
        yield host


def fresh(host: str) -> Reference:
    return parse_reference(f"{host}/project/{os.urandom(6).hex()}:latest")


async def test_the_right_credentials_push_and_pull(guarded: str, open_client: OpenClient) -> None:
    client = await open_client(guarded, auth=BASIC)
    repository, data = fresh(guarded), os.urandom(2 * CHUNK)
    manifest = await push_image(client, repository, data)
    assert (await client.manifest(repository)).raw == manifest.raw
    assert await client.check_credentials(guarded) == "accepted"


async def test_credentials_come_from_a_file(guarded: str, open_client: OpenClient, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(BASIC.get_secret_value() + "\n")
    client = await open_client(guarded, auth_file=path)
    assert await client.check_credentials(guarded) == "accepted"


@pytest.mark.parametrize("auth", [WRONG, None])
async def test_wrong_or_no_credentials_are_unauthorized_for_good(
    guarded: str, open_client: OpenClient, auth: SecretStr | None
) -> None:
    client = await open_client(guarded, auth=auth)
    with pytest.raises(PermanentError) as caught:
        await push(client, fresh(guarded), b"x")
    assert caught.value.code == "unauthorized"
    assert "canary" not in f"{caught.value} {caught.value.details}"


async def test_wrong_credentials_are_found_at_start(guarded: str, open_client: OpenClient) -> None:
    """Also where the token realm answers them with an anonymous token, as Harbor's does."""
    client = await open_client(guarded, auth=WRONG)
    with pytest.raises(PermanentError) as caught:
        await client.check_credentials(guarded)
    assert caught.value.code == "unauthorized"


async def test_docker_knows_the_credentials(
    guarded: str, open_client: OpenClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"auths": {f"https://{guarded}/v1/": {"auth": BASIC.get_secret_value()}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    client = await open_client(guarded)
    assert await client.check_credentials(guarded) == "accepted"


async def test_a_credential_helper_knows_the_credentials(
    guarded: str, open_client: OpenClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"credHelpers": {guarded: "test"}}))
    helper = tmp_path / "docker-credential-test"
    helper.write_text(
        f'#!/bin/sh\nread server\n[ "$1 $server" = "get {guarded}" ] || exit 1\n'
        f"cat <<'END'\n{json.dumps({'ServerURL': guarded, 'Username': USER, 'Secret': PASSWORD})}\nEND\n"
    )
    helper.chmod(0o755)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    client = await open_client(guarded)
    await push(client, fresh(guarded), b"x")


@pytest.fixture
async def tokens(tmp_path: Path) -> AsyncIterator[tuple[FaultyRegistry, str]]:
    registry = FaultyRegistry(tmp_path / "tokens", gate=Gate("token", USER, PASSWORD))
    async with serve_registry(registry) as host:
        yield registry, host


async def test_a_token_is_asked_for_once_per_scope(tokens: tuple[FaultyRegistry, str], open_client: OpenClient) -> None:
    registry, host = tokens
    client = await open_client(host, auth=BASIC)
    repository = fresh(host)
    await push_image(client, repository)
    await asyncio.gather(*(client.manifest(repository) for _ in range(8)))
    assert registry.gate.issued == 2  # pull,push and pull


async def test_a_token_revoked_in_the_middle_of_a_push_is_renewed(
    tokens: tuple[FaultyRegistry, str], open_client: OpenClient
) -> None:
    registry, host = tokens
    client = await open_client(host, auth=BASIC)
    repository, pieces = fresh(host), [os.urandom(CHUNK) for _ in range(5)]
    async with client.upload(repository) as upload:
        for piece in pieces:
            await upload.write(piece)
            registry.gate.revoke()
        blob = await upload.commit("application/octet-stream")
    assert blob.digest == Digest.of(b"".join(pieces))
    assert registry.gate.issued > 2


async def test_a_token_that_expires_in_the_middle_of_a_pull_is_renewed(
    tokens: tuple[FaultyRegistry, str], open_client: OpenClient
) -> None:
    registry, host = tokens
    client = await open_client(host, auth=BASIC)
    repository, data = fresh(host), os.urandom(2_000_000)
    blob = await push(client, repository, data)
    registry.faults.add(Fault("reset", "GET", "/blobs/", after=500_000))
    received = b""
    async with client.open_blob(repository, blob) as stream:
        async for piece in stream:
            if not received:
                registry.gate.revoke()
            received += piece
    assert received == data


async def test_a_new_token_that_a_replica_does_not_know_yet_is_renewed_once_more(
    tokens: tuple[FaultyRegistry, str], open_client: OpenClient
) -> None:
    registry, host = tokens
    client = await open_client(host, auth=BASIC)
    repository = fresh(host)
    pushed = await push_image(client, repository)
    refusal = {"WWW-Authenticate": f'Bearer realm="http://{host}/token",service="development"'}
    registry.faults.add(Fault("status", "GET", "/manifests/", times=2, status=401, headers=refusal))
    assert (await client.manifest(repository)).digest == pushed.digest
    registry.faults.clear()
    registry.faults.add(Fault("status", "GET", "/manifests/", times=0, status=401, headers=refusal))
    with pytest.raises(PermanentError) as caught:
        await client.manifest(repository)
    assert caught.value.code == "unauthorized"


async def test_an_old_token_is_renewed_before_it_is_refused(tokens: tuple[FaultyRegistry, str]) -> None:
    registry, host = tokens
    now = [0.0]
    settings = Settings(auths={host: Auth(insecure=True, auth=BASIC)})
    transport = Transport(
        AccessList.from_settings(settings),
        Authenticator(clock=lambda: now[0]),
        Silent(),
        QUICK,
        connect_timeout=5,
        read_timeout=5,
    )
    async with RegistryClient(transport, Unrecorded()) as client:
        repository = fresh(host)
        await client.resolve(repository)
        assert registry.gate.issued == 1
        now[0] = 285
        await client.resolve(repository)
        assert registry.gate.issued == 1
        now[0] = 295  # of 300
        registry.requests.clear()
        await client.resolve(repository)
        assert registry.gate.issued == 2
        assert next(path.partition("?")[0] for _, path in registry.requests) == "/token"


async def test_a_mount_asks_for_both_repositories(tokens: tuple[FaultyRegistry, str], open_client: OpenClient) -> None:
    host = tokens[1]
    client = await open_client(host, auth=BASIC)
    source, target = fresh(host), fresh(host)
    blob = await push(client, source, b"content")
    assert await client.mount_blob(target, blob.digest, source)
    assert await pull(client, target, blob) == b"content"


async def test_a_mount_that_is_denied_is_declined(tokens: tuple[FaultyRegistry, str], open_client: OpenClient) -> None:
    registry, host = tokens
    client = await open_client(host, auth=BASIC)
    source, target = fresh(host), fresh(host)
    blob = await push(client, source, b"content")
    registry.faults.add(Fault("status", "POST", "mount=", status=403))
    assert not await client.mount_blob(target, blob.digest, source)


async def test_docker_registry_takes_the_tokens_of_its_realm(tmp_path: Path, open_client: OpenClient) -> None:
    """Real JWTs, for the scopes that were asked for only."""
    realm = TokenRealm(tmp_path / "realm", USER, PASSWORD)
    async with serve_realm(realm) as realm_host:
        token = realm.configuration(realm_host)
        with docker_registry(tmp_path / "registry", token=token) as server:
            client = await open_client(server.host, auth=BASIC, token_hosts=(realm_host,))
            source, target = fresh(server.host), fresh(server.host)
            manifest = await push_image(client, source, os.urandom(2 * CHUNK + 1))
            assert (await client.manifest(source)).raw == manifest.raw
            blob = await push(client, source, b"content")
            assert await client.mount_blob(target, blob.digest, source)
            assert await client.check_credentials(server.host) == "accepted"
            nobody = await open_client(server.host, auth=WRONG, token_hosts=(realm_host,))
            with pytest.raises(PermanentError) as caught:
                await nobody.manifest(source)
            assert caught.value.code == "unauthorized"
            lost = await open_client(server.host, auth=BASIC)
            with pytest.raises(PermanentError) as caught:
                await lost.manifest(source)
            assert caught.value.code == "host_not_allowed"
    assert set(realm.scopes) >= {
        f"repository:{source.repository}:pull",
        f"repository:{source.repository}:pull,push",
        f"repository:{target.repository}:pull,push",
    }


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ((200, b"{}"), "registry_unavailable"),
        ((200, b"no json"), "registry_unavailable"),
        ((200, b"[]"), "registry_unavailable"),
        ((200, b'{"token": "two words"}'), "registry_unavailable"),
        ((200, b'{"token": "a\\r\\nX-Injected: 1"}'), "registry_unavailable"),
        ((200, b'{"token": "' + b"x" * 100_000 + b'"}'), "limit_exceeded"),
        ((401, b""), "unauthorized"),
        ((403, b""), "unauthorized"),
        ((503, b""), "registry_unavailable"),
        ((429, b""), "rate_limited"),
        ((404, b""), "not_found"),
    ],
)
async def test_a_realm_that_gives_no_token(open_client: OpenClient, answer: tuple[int, bytes], code: str) -> None:
    async def respond(request: web.Request) -> web.StreamResponse:
        if request.path == "/token":
            return web.Response(status=answer[0], body=answer[1])
        challenge = f'Bearer realm="http://{request.host}/token",service="s"'
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    async with scripted_server(respond) as host:
        client = await open_client(host, auth=BASIC)
        with pytest.raises(IcsError) as caught:
            await client.manifest(parse_reference(f"{host}/a"))
    assert caught.value.code == code
    assert isinstance(caught.value, TransientError) is (code in {"registry_unavailable", "rate_limited"})


async def test_a_realm_that_is_down_fails_everybody_who_waits_for_it_at_once(open_client: OpenClient) -> None:
    """Twenty in turn, each with its own time-outs, would outlast every conversion."""
    asked = challenged = 0

    async def respond(request: web.Request) -> web.StreamResponse:
        nonlocal asked, challenged
        if request.path == "/token":
            asked += 1
            await until(lambda: challenged >= 20)
            await asyncio.sleep(0.2)  # each reads its challenge, and waits
            return web.Response(status=503)
        challenged += 1
        challenge = f'Bearer realm="http://{request.host}/token",service="s"'
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    async with scripted_server(respond) as host:
        client = await open_client(host, auth=BASIC)
        reads = (client.manifest(parse_reference(f"{host}/a")) for _ in range(20))
        errors = await asyncio.gather(*reads, return_exceptions=True)
        assert {error.code for error in errors if isinstance(error, TransientError)} == {"registry_unavailable"}
        assert len([error for error in errors if isinstance(error, TransientError)]) == 20
        assert asked < 10
        before = asked
        with pytest.raises(TransientError):  # who comes later asks again
            await client.manifest(parse_reference(f"{host}/a"))
        assert asked > before


@pytest.mark.parametrize(
    "odd", ['Bearer realm="https://elsewhere.example.com/token"', 'Bearer realm="mailto:x"', 'Bearer realm="/gone"']
)
async def test_an_odd_challenge_is_forgotten_with_its_minute(open_client: OpenClient, odd: str) -> None:
    """A proxy's maintenance page must not close a registry until the next restart."""
    realms = iter(["", odd, "/token", "/moved"])
    realm = next(realms)

    async def respond(request: web.Request) -> web.StreamResponse:
        if request.path == realm:
            return web.json_response({"token": f"of{realm}"})
        if request.path.startswith("/v2/"):
            if realm.startswith("/") and request.headers.get("Authorization") == f"Bearer of{realm}":
                return web.json_response({"tags": ["seen"]})
            proper = f'Bearer realm="http://{request.host}{realm}",service="s"'
            return web.Response(status=401, headers={"WWW-Authenticate": proper if realm[0] == "/" else realm})
        return web.Response(status=404)

    async with scripted_server(respond) as host:
        client = await open_client(host, auth=BASIC)

        async def tags(name: str) -> list[str]:
            return [tag async for tag in client.tags(parse_reference(f"{host}/{name}"))]

        realm = next(realms)
        with pytest.raises(PermanentError):
            await tags("a")
        realm = next(realms)
        assert await tags("a") == ["seen"]
        realm = next(realms)
        assert await tags("b") == ["seen"]  # the realm that was good is gone


async def test_the_storage_behind_a_registry_gets_no_credentials_by_challenging(open_client: OpenClient) -> None:
    """It may be a shared cloud's, of which ``token_hosts`` has to name more than one's own."""
    seen: list[tuple[str, str]] = []

    async def storage(request: web.Request) -> web.StreamResponse:
        seen.append((request.path, request.headers.get("Authorization", "")))
        if request.path == "/token":
            return web.json_response({"token": "stolen"})
        challenge = f'Bearer realm="http://{request.host}/token",service="s"'
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    async with scripted_server(storage) as elsewhere:

        async def registry(request: web.Request) -> web.StreamResponse:
            if "Authorization" not in request.headers:
                return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="r"'})
            return web.Response(status=307, headers={"Location": f"http://{elsewhere}/blob"})

        async with scripted_server(registry) as host:
            client = await open_client(host, auth=BASIC, token_hosts=(elsewhere,))
            with pytest.raises(PermanentError) as caught:
                await client.manifest(parse_reference(f"{host}/a"))
    assert caught.value.code == "unauthorized"
    assert seen == [("/blob", "")]


@pytest.mark.parametrize("challenge", ["", "Negotiate", 'Bearer service="x"', 'Bearer realm="http://[bad"', "Basic"])
async def test_a_challenge_that_cannot_be_answered(open_client: OpenClient, challenge: str) -> None:
    async def respond(request: web.Request) -> web.StreamResponse:
        return web.Response(status=401, headers={"WWW-Authenticate": challenge} if challenge else {})

    async with scripted_server(respond) as host:
        client = await open_client(host)
        with pytest.raises(PermanentError) as caught:
            await client.manifest(parse_reference(f"{host}/a"))
    assert caught.value.code in {"unauthorized", "unexpected_answer"}


async def test_an_identity_token_is_exchanged(
    open_client: OpenClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forms: list[dict[str, str]] = []

    async def respond(request: web.Request) -> web.StreamResponse:
        if request.path == "/token":
            assert request.method == "POST"
            assert "Authorization" not in request.headers
            forms.append({key: str(value) for key, value in (await request.post()).items()})
            return web.json_response({"access_token": "opened"})
        if request.headers.get("Authorization") == "Bearer opened":
            return web.json_response({"tags": ["seen"]})
        challenge = f'Bearer realm="http://{request.host}/token",service="s"'
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    async with scripted_server(respond) as host:
        (tmp_path / "config.json").write_text(json.dumps({"auths": {host: {"identitytoken": "refresh-me"}}}))
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
        client = await open_client(host)
        assert [tag async for tag in client.tags(parse_reference(f"{host}/a"))] == ["seen"]
    assert forms == [
        {
            "grant_type": "refresh_token",
            "service": "s",
            "client_id": "image-conversion-service",
            "scope": "repository:a:pull",
            "refresh_token": "refresh-me",
        }
    ]
