"""HTTPS: own authorities, client certificates, and every way in which trust fails."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from shared.errors import IcsError, PermanentError, TransientError
from shared.oci.reference import parse_reference
from shared.registry.retry import RetryPolicy
from shared.settings.model import Auth, Timeouts
from tests.integration.registry.conftest import OpenClient
from tests.integration.registry.images import pull, push
from tests.servers.certificates import Authority, KeyPair, certificate_authority
from tests.servers.devregistry import Fault, FaultPlan, FaultyRegistry, serve_registry
from tests.servers.registry import RegistryServer, docker_registry
from tests.servers.scripted import raw_server


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return certificate_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def server_pair(authority: Authority) -> KeyPair:
    return authority.issue("server")


@pytest.fixture(scope="module")
def https_registry(tmp_path_factory: pytest.TempPathFactory, server_pair: KeyPair) -> Iterator[RegistryServer]:
    pair = (server_pair.certificate, server_pair.key)
    with docker_registry(tmp_path_factory.mktemp("https"), certificate=pair) as server:
        yield server


@pytest.fixture
async def closed_registry(tmp_path: Path, authority: Authority, server_pair: KeyPair) -> AsyncIterator[str]:
    """Wants a client certificate of the authority."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.ca.certificate)
    context.load_cert_chain(server_pair.certificate, server_pair.key)
    context.verify_mode = ssl.CERT_REQUIRED
    async with serve_registry(FaultyRegistry(tmp_path / "closed"), tls=context) as host:
        yield host


async def test_a_registry_of_our_own_authority_is_trusted(
    https_registry: RegistryServer, authority: Authority, open_client: OpenClient
) -> None:
    client = await open_client(https_registry.host, insecure=False, ca=authority.ca.certificate)
    repository, data = parse_reference(f"{https_registry.host}/project/tls"), os.urandom(3_000_000)
    blob = await push(client, repository, data)
    assert await pull(client, repository, blob) == data


async def test_an_unknown_authority_is_not_trusted(https_registry: RegistryServer, open_client: OpenClient) -> None:
    client = await open_client(https_registry.host, insecure=False)
    with pytest.raises(PermanentError) as caught:
        await client.manifest(parse_reference(f"{https_registry.host}/a"))
    assert caught.value.code == "tls_error"
    assert "certificate" in caught.value.message


async def test_plain_http_is_never_tried_where_it_is_not_allowed(
    development: tuple[FaultyRegistry, str], open_client: OpenClient
) -> None:
    registry, host = development
    client = await open_client(host, insecure=False)
    with pytest.raises(PermanentError) as caught:
        await client.manifest(parse_reference(f"{host}/a"))
    assert caught.value.code == "tls_error"
    assert not registry.requests


@pytest.mark.parametrize("fault", ["hangs", "closes", "refuses"])
async def test_no_time_out_and_no_refusal_makes_plain_http_of_https(
    open_client: OpenClient, https_registry: RegistryServer, authority: Authority, fault: str
) -> None:
    """One bad minute of one registry must not send anybody's credentials in the clear: not there, and nowhere else."""
    first_bytes: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        first_bytes.append(await reader.readexactly(1))
        if fault == "hangs":
            await asyncio.sleep(60)

    async with raw_server(answer) as listening:
        host = listening if fault != "refuses" else "127.0.0.1:1"
        other = {https_registry.host: Auth(ca=authority.ca.certificate)}
        quick = Timeouts(connect=2, read=2)
        client = await open_client(host, insecure=False, auth="dTpw", timeouts=quick, more=other)
        for _ in range(2):
            with pytest.raises(TransientError):
                await client.manifest(parse_reference(f"{host}/a"))
        assert await client.resolve(parse_reference(f"{https_registry.host}/a")) is None
    assert set(first_bytes) == (set() if fault == "refuses" else {b"\x16"})  # a TLS handshake, nothing else


async def test_a_certificate_for_another_name_is_not_trusted(
    tmp_path: Path, authority: Authority, open_client: OpenClient
) -> None:
    await _refused(tmp_path, authority, authority.issue("other", san="DNS:other.example.com"), open_client)


async def test_an_expired_certificate_is_not_trusted(
    tmp_path: Path, authority: Authority, open_client: OpenClient
) -> None:
    await _refused(tmp_path, authority, authority.issue("expired", days=-1), open_client)


async def _refused(tmp_path: Path, authority: Authority, pair: KeyPair, open_client: OpenClient) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.certificate, pair.key)
    async with serve_registry(FaultyRegistry(tmp_path / "refused"), tls=context) as host:
        client = await open_client(host, insecure=False, ca=authority.ca.certificate)
        with pytest.raises(PermanentError) as caught:
            await client.manifest(parse_reference(f"{host}/a"))
    assert caught.value.code == "tls_error"


async def test_a_client_certificate_opens(closed_registry: str, authority: Authority, open_client: OpenClient) -> None:
    pair = authority.issue("client")
    client = await open_client(
        closed_registry,
        insecure=False,
        ca=authority.ca.certificate,
        client_certificate=pair.certificate,
        client_key=pair.key,
    )
    repository = parse_reference(f"{closed_registry}/project/mutual")
    assert await pull(client, repository, await push(client, repository, b"content")) == b"content"


async def test_without_a_client_certificate_it_stays_closed(
    closed_registry: str, authority: Authority, open_client: OpenClient
) -> None:
    client = await open_client(closed_registry, insecure=False, ca=authority.ca.certificate)
    with pytest.raises(IcsError) as caught:
        await client.manifest(parse_reference(f"{closed_registry}/a"))
    assert caught.value.code in {"tls_error", "registry_unavailable"}


async def test_a_handshake_that_is_cut_may_pass(open_client: OpenClient) -> None:
    async def cut(reader: object, writer: object) -> None:
        return

    async with raw_server(cut) as host:
        client = await open_client(host, insecure=False, retry=RetryPolicy(attempts=1))
        with pytest.raises(TransientError) as caught:
            await client.manifest(parse_reference(f"{host}/a"))
    assert caught.value.code == "registry_unavailable"


async def test_a_redirect_from_https_to_plain_http_is_refused(
    tmp_path: Path, authority: Authority, server_pair: KeyPair, open_client: OpenClient
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(server_pair.certificate, server_pair.key)
    location = {"Location": "http://storage.example.com/blob"}
    registry = FaultyRegistry(
        tmp_path / "r", faults=FaultPlan([Fault("status", times=0, status=307, headers=location)])
    )
    async with serve_registry(registry, tls=context) as host:
        client = await open_client(
            host, insecure=False, ca=authority.ca.certificate, token_hosts=("storage.example.com",)
        )
        with pytest.raises(PermanentError) as caught:
            await client.manifest(parse_reference(f"{host}/a"))
    assert caught.value.code == "plain_http_refused"


async def test_the_systems_authorities_count_for_storage_and_not_for_a_registry_with_its_own(
    tmp_path: Path, authority: Authority, server_pair: KeyPair, open_client: OpenClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry of a company's own authority often keeps its blobs in a public cloud."""
    public = certificate_authority(tmp_path / "public")
    monkeypatch.setenv("SSL_CERT_FILE", str(public.ca.certificate))
    pair, own, cloud = public.issue("cloud"), *(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) for _ in range(2))
    own.load_cert_chain(server_pair.certificate, server_pair.key)
    cloud.load_cert_chain(pair.certificate, pair.key)
    async with serve_registry(FaultyRegistry(tmp_path / "cloud"), tls=cloud) as storage:
        keeper = await open_client(storage, insecure=False)  # by the system's trust alone
        reference = parse_reference(f"{storage}/a")
        blob = await push(keeper, reference, b"content")
        distrustful = await open_client(storage, insecure=False, ca=authority.ca.certificate)
        with pytest.raises(PermanentError) as caught:
            await pull(distrustful, reference, blob)
        assert caught.value.code == "tls_error"
        location = {"Location": f"https://{storage}/v2/{reference.repository}/blobs/{blob.digest}"}
        moved = FaultPlan([Fault("status", "GET", "/blobs/", times=0, status=307, headers=location)])
        async with serve_registry(FaultyRegistry(tmp_path / "own", faults=moved), tls=own) as host:
            client = await open_client(host, insecure=False, ca=authority.ca.certificate, token_hosts=(storage,))
            assert await pull(client, parse_reference(f"{host}/a"), blob) == b"content"
