"""deploy/compose.yml says what can be run: valid, pinned, complete, and understood by the settings."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from drivers.catalogue import option_models
from shared.settings.load import load_settings

DEPLOY = Path(__file__).parents[3] / "deploy"
COMPOSE = DEPLOY / "compose.yml"
REQUIRED = re.compile(r"\$\{([A-Z_]+)(?::\?[^}]*)?\}")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    data = yaml.safe_load(COMPOSE.read_text())
    assert isinstance(data, dict)
    return data


@pytest.fixture(scope="module")
def example_environment() -> dict[str, str]:
    lines = (DEPLOY / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_it_is_valid_against_the_compose_specification() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_image_is_pinned_to_a_full_version(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+([-.][\w.-]+)?", service["image"]), name


def test_every_mounted_file_exists(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (DEPLOY / source).exists(), f"{name} mounts {source}"


def test_every_named_volume_is_declared_and_used(compose: dict[str, Any]) -> None:
    used = {
        volume.split(":")[0]
        for service in compose["services"].values()
        for volume in service.get("volumes", [])
        if volume[0] not in "./"
    }
    assert used == set(compose["volumes"])


def test_every_variable_has_an_example(example_environment: dict[str, str]) -> None:
    assert set(REQUIRED.findall(COMPOSE.read_text())) == set(example_environment)


def test_no_example_is_a_usable_secret(example_environment: dict[str, str]) -> None:
    for name, value in example_environment.items():
        assert name == "RABBITMQ_USER" or "change-me" in value


def test_every_container_is_read_only_without_capabilities_and_limited(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "memory" in service["deploy"]["resources"]["limits"], name


def test_whatever_can_be_asked_for_its_health_is(compose: dict[str, Any]) -> None:
    without = {name for name, service in compose["services"].items() if "healthcheck" not in service}
    # Two images hold no program that could ask, the third runs once.
    assert without == {"otel-collector", "tempo", "rabbitmq-policies"}


@pytest.mark.parametrize("service", ["ingress-1", "ingress-2", "consumer"])
def test_the_services_environment_and_file_are_understood(
    compose: dict[str, Any], example_environment: dict[str, str], service: str
) -> None:
    environment = {
        key: REQUIRED.sub(lambda match: example_environment[match[1]], value)
        for key, value in compose["services"][service]["environment"].items()
    }
    settings = load_settings(DEPLOY / "config.yml", environ=environment, option_models=option_models())
    assert settings.broker.url.get_secret_value() == "amqp://ics:change-me@rabbitmq:5672/"
    assert [header.get_secret_value() for header in settings.auth_header] == ["Bearer change-me"]
    assert settings.console.operator_credential is not None
    assert settings.endpoints["localhost:5000"] in settings.auths


def test_prometheus_looks_for_services_that_there_are(compose: dict[str, Any]) -> None:
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    names = {n for job in config["scrape_configs"] for look in job.get("dns_sd_configs", []) for n in look["names"]}
    assert names == {"ingress-1", "ingress-2", "consumer", "rabbitmq", "registry"}
    assert names <= set(compose["services"])
    plugins = (DEPLOY / "rabbitmq/enabled_plugins").read_text()
    assert {"rabbitmq_prometheus", "rabbitmq_management"} == set(re.findall(r"rabbitmq_\w+", plugins))


def test_the_grace_period_outlasts_the_drain(compose: dict[str, Any], example_environment: dict[str, str]) -> None:
    settings = load_settings(
        DEPLOY / "config.yml",
        environ={"ICS_AUTH_HEADER": "x", "ICS_BROKER__URL": "memory:"},
        option_models=option_models(),
    )
    seconds = int(compose["services"]["consumer"]["stop_grace_period"].removesuffix("s"))
    assert seconds > settings.timeouts.drain


def test_rabbitmq_waits_longer_than_a_conversion_may_take() -> None:
    match = re.search(r"^consumer_timeout = (\d+)$", (DEPLOY / "rabbitmq/rabbitmq.conf").read_text(), re.MULTILINE)
    assert match
    settings = load_settings(
        DEPLOY / "config.yml",
        environ={"ICS_AUTH_HEADER": "x", "ICS_BROKER__URL": "memory:"},
        option_models=option_models(),
    )
    assert int(match[1]) / 1000 > settings.timeouts.conversion + settings.timeouts.drain
