"""Which registries a command line may name, and with what they are contacted."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from cli.registries import allowing, knows
from shared.settings.model import Auth, Settings


@pytest.fixture(autouse=True)
def docker_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path / "config.json"


def test_a_registry_is_known_by_the_configuration_or_dockers(docker_config: Path) -> None:
    settings = Settings(auths={"Ours": Auth()}, endpoints={"outside": "inside:5000"})
    known = knows(settings)
    assert [known(name) for name in ("ours", "outside", "inside", "dockers", "helped")] == [
        True,
        True,
        False,
        False,
        False,
    ]
    docker_config.write_bytes(
        orjson.dumps({"auths": {"dockers": {}}, "credHelpers": {"helped": "x"}, "credsStore": "y"})
    )
    assert [known(name) for name in ("dockers", "helped", "y")] == [True, True, False]


def test_dockers_configuration_is_not_read_for_what_ours_knows(docker_config: Path) -> None:
    docker_config.write_text("{")
    assert knows(Settings(auths={"ours": Auth()}))("ours")


def test_what_is_known_of_a_registry_holds_for_its_other_names() -> None:
    ours = Auth(ca=Path("ca.pem"))
    settings = Settings(
        auths={"Harbor.Example.com": ours, "inside:5000": ours}, endpoints={"harbor.test": "inside:5000"}
    )
    hosts = ("harbor.example.com", "harbor.test", "new.example.com")
    allowed = allowing(settings, *hosts, insecure=False).auths
    assert [allowed[host] for host in hosts] == [ours, ours, Auth()]
    assert allowing(settings, "harbor.test", insecure=True).auths["harbor.test"].insecure
