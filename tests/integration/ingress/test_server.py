"""``ics ingress`` as a process: HTTPS beside the redirect, and SIGTERM."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path

import orjson
import pytest
import yaml
from aiohttp import ClientConnectionError, ClientSession, ClientTimeout, TCPConnector

from tests.servers.certificates import certificate_authority
from tests.servers.ports import free_port
from tests.servers.processes import Service
from tests.waiting import PATIENCE, until


async def test_https_is_served_http_is_redirected_and_sigterm_ends_both(tmp_path: Path) -> None:
    authority = certificate_authority(tmp_path / "ca")
    pair = authority.issue("ingress")
    plain, secure = free_port(), free_port()
    document = {
        "hostname": "127.0.0.1",
        "http": {"port": plain},
        "https": {"port": secure, "certificate": str(pair.certificate), "private_key": str(pair.key)},
        "auth_header": "Bearer x",
        "broker": {"data_dir": str(tmp_path / "broker")},
    }
    config = tmp_path / "config.yml"
    config.write_text(yaml.safe_dump(document))
    service = Service("ingress", config, {}, "", tmp_path / "ingress.log")
    trusting = ssl.create_default_context(cafile=authority.ca.certificate)
    connector = TCPConnector(ssl=trusting)
    await service.start()
    try:
        async with ClientSession(connector=connector, timeout=ClientTimeout(total=PATIENCE)) as session:
            async with asyncio.timeout(2 * PATIENCE):
                while True:
                    try:
                        async with session.get(f"https://127.0.0.1:{secure}/health") as answer:
                            if answer.status == 204:
                                break
                    except ClientConnectionError:
                        assert service.running, (tmp_path / "ingress.log").read_text()
                    await asyncio.sleep(0.1)
            url = f"http://127.0.0.1:{plain}/conversion?a=1"
            async with session.post(url, data=b"{}", allow_redirects=False) as answer:
                assert answer.status == 308
                assert answer.headers["Location"] == f"https://127.0.0.1:{secure}/conversion?a=1"
            async with session.post(f"https://127.0.0.1:{secure}/conversion", data=b"{}") as answer:
                assert answer.status == 401
    finally:
        await service.stop()
    assert service.exit_code == 0  # it ended by itself: SIGKILL would show


@pytest.mark.parametrize(("role", "key"), [("ingress", "http"), ("up", "http"), ("consumer", "metric")])
@pytest.mark.parametrize("form", ["json", "text"])
async def test_an_occupied_port_is_one_clear_line(role: str, key: str, form: str, tmp_path: Path) -> None:
    config = tmp_path / "config.yml"
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = occupied.getsockname()[1]
        document = {
            "hostname": "127.0.0.1",
            key: {"port": port},
            "log": {"format": form},
            "broker": {"url": "memory:"},
            "work_dir": str(tmp_path / "work"),
        }
        config.write_text(yaml.safe_dump(document))
        service = Service(role, config, {}, "", tmp_path / "log")
        await service.start()
        try:
            await until(lambda: not service.running)
        finally:
            await service.stop()
    said = (tmp_path / "log").read_text()
    assert service.exit_code == 1, said
    last = said.strip().splitlines()[-1]
    where = f"{key}.port: cannot listen on 127.0.0.1:{port}: Address already in use; "
    if form == "json":
        line = orjson.loads(last)
        assert line["message"].startswith(where)
        assert (line["level"], line["service"], line["code"]) == ("critical", role, "address_unavailable")
    else:
        assert last.startswith(f"ics: {where}")
        assert last.endswith("[address_unavailable]")
    assert "Traceback" not in said
