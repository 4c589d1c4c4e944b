"""Registries that are reached through a proxy: the only one who knows where ``registry.test`` is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.errors import PermanentError, TransientError
from shared.oci.reference import Reference, parse_reference
from shared.settings.model import Auth
from tests.integration.registry.conftest import OpenClient
from tests.integration.registry.images import pull, push
from tests.servers.certificates import Authority, certificate_authority
from tests.servers.devregistry import FaultyRegistry
from tests.servers.forward_proxy import ForwardProxy, forward_proxy
from tests.servers.ports import free_port
from tests.servers.registry import docker_registry
from tests.servers.token_realm import TokenRealm, serve_realm

NAME = "registry.test:5000"
CREDENTIAL = "ics:pr0xy-s3cret"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return certificate_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def https_registry(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[str]:
    pair = authority.issue("registry", san="DNS:registry.test")
    with docker_registry(tmp_path_factory.mktemp("https"), certificate=(pair.certificate, pair.key)) as server:
        yield server.host


def image(tag: str = "latest") -> Reference:
    return parse_reference(f"{NAME}/project/app:{tag}")


@pytest.mark.parametrize("credential", ["", CREDENTIAL])
async def test_tls_goes_through_a_tunnel(
    https_registry: str, authority: Authority, open_client: OpenClient, credential: str
) -> None:
    data = os.urandom(3_000_000)
    async with forward_proxy(ForwardProxy({NAME: https_registry}, credential)) as proxy:
        client = await open_client(NAME, insecure=False, ca=authority.ca.certificate, proxy=proxy.url)
        assert await pull(client, image(), await push(client, image(), data)) == data
    assert set(proxy.seen) == {NAME}


async def test_the_registrys_own_certificate_is_verified_behind_a_proxy(
    https_registry: str, open_client: OpenClient
) -> None:
    async with forward_proxy(ForwardProxy({NAME: https_registry})) as proxy:
        client = await open_client(NAME, insecure=False, proxy=proxy.url)
        with pytest.raises(PermanentError) as caught:
            await client.manifest(image())
    assert caught.value.code == "tls_error"


async def test_plain_http_goes_through_it_too(development: tuple[FaultyRegistry, str], open_client: OpenClient) -> None:
    data = os.urandom(3_000_000)
    async with forward_proxy(ForwardProxy({NAME: development[1]}, CREDENTIAL)) as proxy:
        client = await open_client(NAME, proxy=proxy.url)
        assert await pull(client, image(), await push(client, image(), data)) == data
    assert set(proxy.seen) == {NAME}


async def test_a_registrys_token_host_is_reached_by_the_same_proxy(tmp_path: Path, open_client: OpenClient) -> None:
    realm = TokenRealm(tmp_path / "realm", "robot", "s3cret")
    known: dict[str, str] = {}
    async with forward_proxy(ForwardProxy(known)) as proxy, serve_realm(realm) as realm_host:
        with docker_registry(tmp_path / "registry", token=realm.configuration("realm.test")) as server:
            known |= {NAME: server.host, "realm.test": realm_host}
            client = await open_client(NAME, auth="cm9ib3Q6czNjcmV0", token_hosts=("realm.test",), proxy=proxy.url)
            data = os.urandom(1000)
            assert await pull(client, image(), await push(client, image(), data)) == data
    assert set(proxy.seen) == {NAME, "realm.test"}


@pytest.mark.parametrize("insecure", [False, True])
async def test_a_wrong_password_is_final_and_is_not_told(open_client: OpenClient, insecure: bool) -> None:
    async with forward_proxy(ForwardProxy({}, CREDENTIAL)) as proxy:
        client = await open_client(NAME, insecure=insecure, proxy=f"http://ics:wr0ng-s3cret@{proxy.host}")
        with pytest.raises(PermanentError) as caught:
            await client.manifest(image())
    assert caught.value.code == "proxy_refused"
    assert "407" in caught.value.message
    assert "wr0ng-s3cret" not in repr((caught.value, caught.value.details, client))


async def test_a_place_that_it_does_not_lead_to_is_final(open_client: OpenClient) -> None:
    async with forward_proxy(ForwardProxy({})) as proxy:
        client = await open_client(NAME, insecure=False, proxy=proxy.url)
        with pytest.raises(PermanentError) as caught:
            await client.manifest(image())
    assert caught.value.code == "proxy_refused"
    assert "403" in caught.value.message


async def test_a_proxy_that_does_not_reach_the_registry_is_tried_again(open_client: OpenClient) -> None:
    async with forward_proxy(ForwardProxy({}, status=502)) as proxy:
        client = await open_client(NAME, insecure=False, proxy=proxy.url)
        with pytest.raises(TransientError) as caught:
            await client.manifest(image())
    assert caught.value.code == "registry_unavailable"
    assert "its proxy answered 502" in caught.value.message
    assert len(proxy.seen) > 1


@pytest.mark.parametrize("insecure", [False, True])
async def test_a_proxy_that_is_away_is_told_as_such(open_client: OpenClient, insecure: bool) -> None:
    client = await open_client(NAME, insecure=insecure, proxy=f"http://127.0.0.1:{free_port()}")
    with pytest.raises(TransientError) as caught:
        await client.manifest(image())
    assert caught.value.code == "registry_unavailable"
    assert "its proxy cannot be reached, Connection refused" in caught.value.message


async def test_other_registries_are_reached_without_it(
    development: tuple[FaultyRegistry, str], open_client: OpenClient
) -> None:
    async with forward_proxy(ForwardProxy({})) as proxy:
        more = {development[1]: Auth(insecure=True)}
        client = await open_client(NAME, insecure=False, proxy=proxy.url, more=more)
        assert await client.resolve(parse_reference(f"{development[1]}/project/app:latest")) is None
    assert proxy.seen == []
