from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from shared.errors import IcsError, PermanentError, TransientError
from shared.registry.access import Credential
from shared.registry.docker_config import DockerConfig

AUTH = base64.b64encode(b"user:canary").decode()


def written(folder: Path, config: Any) -> DockerConfig:
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    environment = {"DOCKER_CONFIG": str(folder), "PATH": f"{folder}:{os.environ['PATH']}"}
    return DockerConfig.of_environment(environment)


def helper(folder: Path, name: str, script: str) -> None:
    path = folder / f"docker-credential-{name}"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("host", "registry"),
    [
        ("h.io", "h.io"),
        ("https://h.io", "h.io"),
        ("https://h.io/v2/", "h.io"),
        ("h.io:5000", "h.io:5000"),
        ("https://index.docker.io/v1/", "docker.io"),
    ],
)
async def test_an_entry_is_found_as_docker_writes_it(tmp_path: Path, host: str, registry: str) -> None:
    config = written(tmp_path, {"auths": {"other.io": {"auth": "eDp5"}, host: {"auth": AUTH}}})
    assert await config.credential(registry) == Credential("user", "canary")
    assert await config.credential("unknown.io") is None


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"username": "u", "password": "p"}, Credential("u", "p")),
        ({"identitytoken": "t", "auth": AUTH}, Credential("<token>", "t", identity_token=True)),
        ({}, None),
        ({"username": "u"}, None),
    ],
)
async def test_kinds_of_entries(tmp_path: Path, entry: dict[str, str], expected: Credential | None) -> None:
    assert await written(tmp_path, {"auths": {"h.io": entry}}).credential("h.io") == expected


async def test_a_missing_file_knows_nothing(tmp_path: Path) -> None:
    assert await DockerConfig(tmp_path / "none.json").credential("h.io") is None


async def test_docker_is_looked_for_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    assert DockerConfig.of_environment().path == tmp_path / ".docker" / "config.json"


@pytest.mark.parametrize("text", ["{canary", "[]", '{"auths": {"h.io": {"auth": "canary"}}}'])
async def test_a_broken_file_is_named_and_not_shown(tmp_path: Path, text: str) -> None:
    with pytest.raises(PermanentError) as caught:
        await written(tmp_path, text).credential("h.io")
    assert caught.value.code in {"invalid_docker_config", "invalid_credential"}
    assert "config.json" in caught.value.message
    assert "canary" not in caught.value.message


@pytest.mark.parametrize("text", ['{"auths": []}', '{"auths": {"h.io": 1}}', '{"credHelpers": 1}'])
async def test_odd_sections_are_passed_over(tmp_path: Path, text: str) -> None:
    assert await written(tmp_path, text).credential("h.io") is None


async def test_the_helper_of_a_registry_comes_before_the_store(tmp_path: Path) -> None:
    helper(tmp_path, "one", 'cat >/dev/null; echo \'{"Username":"one","Secret":"1"}\'')
    helper(tmp_path, "all", 'read server; echo "{\\"Username\\":\\"$server\\",\\"Secret\\":\\"2\\"}"')
    config = written(tmp_path, {"credHelpers": {"h.io": "one"}, "credsStore": "all"})
    assert await config.credential("h.io") == Credential("one", "1")
    assert await config.credential("other.io") == Credential("other.io", "2")
    assert await config.credential("docker.io") == Credential("https://index.docker.io/v1/", "2")


async def test_a_helper_that_knows_nothing_leaves_it_to_the_file(tmp_path: Path) -> None:
    helper(tmp_path, "none", "echo credentials not found in native keychain; exit 1")
    config = written(tmp_path, {"credsStore": "none", "auths": {"h.io": {"auth": AUTH}}})
    assert await config.credential("h.io") == Credential("user", "canary")


async def test_a_helper_is_asked_again_when_the_answer_is_old_or_refused(tmp_path: Path) -> None:
    helper(tmp_path, "count", f'cat >/dev/null; echo x >> "{tmp_path}/calls"; echo \'{{"Username":"u","Secret":"s"}}\'')
    config = written(tmp_path, {"credsStore": "count"})
    now = 0.0
    config.clock = lambda: now
    for moment, fresh, calls in ((0, False, 1), (299, False, 1), (300, False, 2), (301, True, 3), (302, False, 3)):
        now = moment
        await config.credential("h.io", fresh=fresh)
        assert len((tmp_path / "calls").read_text().split()) == calls


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exit 3", "credential_helper_failed"),
        ("echo no json", "credential_helper_failed"),
        ("echo '[]'", "credential_helper_failed"),
        ('echo \'{"Username": "canary"}\'', "credential_helper_failed"),
    ],
)
async def test_a_helper_that_fails_is_named_and_its_words_are_not_shown(tmp_path: Path, script: str, code: str) -> None:
    helper(tmp_path, "bad", script)
    with pytest.raises(PermanentError) as caught:
        await written(tmp_path, {"credsStore": "bad"}).credential("h.io")
    assert caught.value.code == code
    assert "docker-credential-bad" in caught.value.message
    assert "canary" not in caught.value.message


async def test_a_helper_that_hangs_is_killed(tmp_path: Path) -> None:
    helper(tmp_path, "slow", f'echo $$ > "{tmp_path}/pid"; exec sleep 60')
    config = written(tmp_path, {"credsStore": "slow"})
    config.helper_timeout, pid = 0.3, tmp_path / "pid"
    while not (pid.exists() and pid.read_text()):  # until it came to hang before its time was over
        with pytest.raises(TransientError) as caught:
            await config.credential("h.io")
        assert caught.value.code == "credential_helper_timeout"
        config.helper_timeout *= 2
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


@pytest.mark.parametrize("name", ["missing", "../../bin/sh", "a b", "-x"])
async def test_a_helper_that_cannot_be_started(tmp_path: Path, name: str) -> None:
    with pytest.raises(IcsError) as caught:
        await written(tmp_path, {"credsStore": name}).credential("h.io")
    assert caught.value.code in {"credential_helper_failed", "invalid_docker_config"}
