"""``ics config check --contact``: what registries say to the credentials that the configuration has for them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from cli.main import app
from tests.servers.ports import free_port
from tests.servers.registry import docker_registry


@pytest.fixture(autouse=True)
def no_docker_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "no-docker-config"))


def contacted(folder: Path, *auths: tuple[str, str | None]) -> tuple[int, list[str]]:
    """Exit code, and the lines about registries."""
    file = folder / "config.yml"
    document = {host: {"insecure": True, **({"auth": auth} if auth else {})} for host, auth in auths}
    file.write_text(yaml.safe_dump({"auth_header": "Bearer x", "auths": document}, sort_keys=False))
    result = CliRunner().invoke(app, ["config", "check", "--contact", "--config", str(file)])
    return result.exit_code, result.output.splitlines()[1:]


def test_every_registry_is_asked_and_the_worst_answer_is_the_exit_code(tmp_path: Path) -> None:
    wrong, away = "aWNzOmNhbmFyeS13cm9uZw==", f"127.0.0.1:{free_port()}"
    with docker_registry(tmp_path / "registry", credential=("ics", "s3cret")) as guarded:
        right = guarded.basic
        assert contacted(tmp_path, (guarded.host, right)) == (0, [f"{guarded.host}: credentials accepted."])
        assert contacted(tmp_path, (guarded.host, None)) == (0, [f"{guarded.host}: no credentials shown."])
        code, (refused,) = contacted(tmp_path, (guarded.host, wrong))
        assert code == 1
        assert refused.startswith(f"{guarded.host}: ")
        assert "401" in refused
        assert "see its user and password under `auths`" in refused
        code, (accepted, unknown) = contacted(tmp_path, (guarded.host, right), (away, wrong))
        assert code == 3
        assert accepted == f"{guarded.host}: credentials accepted."
        assert unknown.startswith(f"{away}: ")
        assert "Connection refused" in unknown
        assert contacted(tmp_path, (guarded.host, wrong), (away, wrong))[0] == 1
        assert contacted(tmp_path, (away, wrong), (guarded.host, wrong))[0] == 1
