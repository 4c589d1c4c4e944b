"""Configuration: the proposal's keys, overrides, secrets from files, and every problem at once with its path."""

from __future__ import annotations

import base64
import contextlib
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from drivers.api import DriverOptions
from shared.settings.load import load_settings, log_settings, render_settings
from shared.settings.model import Settings
from shared.settings.problems import ConfigError


class Options(DriverOptions):
    level: int = Field(default=6, ge=0, le=9)
    files: tuple[str, ...] = ()


MODELS = {"estargz": Options, "nydus": Options}
PROPOSAL = """
hostname: 127.0.0.1
http: {port: 8081}
endpoint: /conversion
metric: {enabled: true, port: 9091, path: /metrics}
auth_header: Bearer test
maximum_concurrency: 5
auths: {harbor1.example.com: {auth: cm9ib3Q6c2VjcmV0LWNhbmFyeQ==, insecure: false}}
log: {level: info}
rules: {oci: true, overwrite: false, target_suffix: nydus, platform: "linux/amd64,linux/arm64"}
driver: {type: nydus, config: {level: 3, files: [bin/sh]}}
"""


def load(tmp_path: Path, text: str, **environ: str) -> Settings:
    path = tmp_path / "config.yml"
    path.write_text(text)
    return load_settings(path, environ=environ, option_models=MODELS)


def problems(tmp_path: Path, text: str, **environ: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text, **environ)
    assert error.value.code == "invalid_configuration"
    return {problem.path: problem.message for problem in error.value.problems}


def test_the_proposals_file_is_understood(tmp_path: Path) -> None:
    settings = load(tmp_path, PROPOSAL)
    assert settings.maximum_concurrency == 5
    assert [header.get_secret_value() for header in settings.auth_header] == ["Bearer test"]
    (rule,) = settings.rules
    assert (rule.name, rule.target_suffix, rule.platform) == ("default", "nydus", "linux/amd64,linux/arm64")
    assert settings.driver.type == "nydus"
    assert settings.broker.url.get_secret_value() == "embedded:"


def test_without_a_file_the_defaults_hold() -> None:
    settings = load_settings(None, environ={}, option_models=MODELS)
    assert settings.http.port == 8081
    assert settings.rules[0].name == "default"


def test_rules_may_be_a_list_with_a_driver_each(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        "rules:\n- {target_suffix: a, match: {repositories: {include: library/*}}}\n"
        "- {name: second, target_suffix: b, platform: [linux/amd64], driver: {type: nydus}}",
    )
    assert [rule.name for rule in settings.rules] == ["rule-1", "second"]
    assert settings.rules[0].match.repositories.include == ("library/*",)
    assert settings.rules[1].platform == "linux/amd64"


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        PROPOSAL,
        ICS_BROKER__URL="amqp://user:word@host/",
        ICS_HTTP__PORT="9000",
        ICS_AUTH_HEADER='["Bearer one", "Bearer two"]',
        ICS_AUTHS='{"other.example.com": {"insecure": true}}',
        ICS_CONFIG="ignored",
        UNRELATED="x",
    )
    assert settings.http.port == 9000
    assert settings.broker.url.get_secret_value() == "amqp://user:word@host/"
    assert [header.get_secret_value() for header in settings.auth_header] == ["Bearer one", "Bearer two"]
    assert set(settings.auths) == {"harbor1.example.com", "other.example.com"}


def test_secrets_come_from_files(tmp_path: Path) -> None:
    (tmp_path / "headers").write_text("Bearer old\nBearer new\n")
    (tmp_path / "credential").write_text("user:word\n")
    settings = load(
        tmp_path,
        f"auth_header_file: {tmp_path / 'headers'}",
        ICS_CONSOLE__CREDENTIAL_FILE=str(tmp_path / "credential"),
    )
    assert [header.get_secret_value() for header in settings.auth_header] == ["Bearer old", "Bearer new"]
    assert settings.console.credential is not None
    assert settings.console.credential.get_secret_value() == "user:word"


def test_every_problem_comes_at_once_with_its_path(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        """
        hostnam: x
        http: {port: 99999}
        endpoint: conversion
        https: {certificate: /nowhere/c.pem, private_key: /nowhere/k.pem}
        auths: {h.example.com: {auth: zzz, insecur: true}, "https://x": {}}
        rules:
        - {overwrite: true, target_suffix: x}
        - {target_suffix: y, platform: linux, driver: {type: estargz, config: {level: 12, lvel: 1}}}
        - {target_suffix: z, driver: {type: squash}}
        - {}
        broker: {url: "kafka://h"}
        """,
        ICS_BROKR="x",
    )
    assert set(found) == {
        "hostnam",
        "http.port",
        "endpoint",
        "https.certificate",
        'auths."h.example.com".auth',
        'auths."h.example.com".insecur',
        'auths."https://x"',
        "rules[0]",
        "rules[1].platform",
        "rules[1].driver.config.level",
        "rules[1].driver.config.lvel",
        "rules[2].driver.type",
        "rules[3]",
        "broker.url",
        "ICS_BROKR",
    }
    assert "did you mean hostname?" in found["hostnam"]
    assert "65535" in found["http.port"]
    assert "did you mean level?" in found["rules[1].driver.config.lvel"]
    assert "9" in found["rules[1].driver.config.level"]
    assert "estargz, nydus" in found["rules[2].driver.type"]


def test_a_key_that_is_missing_hides_no_other_problem(tmp_path: Path) -> None:
    found = problems(tmp_path, "https: {}\nnotifications: [{}]\nrules: [7]\nendpoint: x\nbroker: {url: kafka}")
    assert found == {
        "https.certificate": "is missing",
        "https.private_key": "is missing",
        "notifications[0].url": "is missing",
        "rules[0]": "must be a mapping of keys",
        "endpoint": found["endpoint"],
        "broker.url": found["broker.url"],
    }


def test_a_single_rule_is_named_without_an_index(tmp_path: Path) -> None:
    assert set(problems(tmp_path, "rules: {overwrite: true, target_suffix: x}")) == {"rules"}


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("rules: [{target_suffix: a, name: n}, {target_suffix: b, name: n}]", "rules[1].name"),
        ("rules: [{target_suffix: a}, {target_suffix: a}]", "rules[1]"),
        ("rules: []", "rules"),
        ("rules: {target_suffix: 'a b'}", "rules.target_suffix"),
        ("rules: {overwrite: true, target_repository: x}", "rules"),
        ("auth_header: ''", "auth_header[0]"),
        ('auth_header: "a\\nb"', "auth_header[0]"),
        ("auth_header_file: /nowhere", "auth_header_file"),
        ("broker: {url_file: /nowhere}", "broker.url_file"),
        ("broker: {prefix: a.b}", "broker.prefix"),
        ("broker: {prefix: _a}", "broker.prefix"),
        ("console: {credential: word}", "console.credential"),
        ("auths: {h: {client_certificate: /c}}", "auths.h"),
        ("auths: {h: {ca: /nowhere}}", "auths.h.ca"),
        ("auths: {h: {proxy: 'proxy:3128'}}", "auths.h.proxy"),
        ("auths: {h: {proxy: 'https://proxy:3128'}}", "auths.h.proxy"),
        ("harbor: {h: {url: 'https://h', proxy: 'http://proxy/path'}}", "harbor.h.proxy"),
        ("notifications: [{url: 'https://h', proxy: 'http://:3128'}]", "notifications[0].proxy"),
        ("broker: {ca: /dev/null}", "broker.ca"),
        ("harbor: {h: {url: 'https://h', ca: /dev/null}}", "harbor.h.ca"),
        ("auths: {h: {auth: dTpw, auth_file: /nowhere}}", "auths.h"),
        ("endpoint: /console/hook", "endpoint"),
        ("endpoint: /metrics", "endpoint"),
        ("endpoint: /api/v1/dead-letters/replay", "endpoint"),
        ("endpoint: /docs", "endpoint"),
        ("metric: {path: /health}", "metric.path"),
        ("metric: {path: /console}", "metric.path"),
        ("metric: {path: /api/v1/status}", "metric.path"),
        ("auths: {'h:65536': {}}", 'auths."h:65536"'),
        ("auths: {'h h': {}}", "auths.h h"),
        ("endpoints: {a: 'b:0'}", "endpoints.a"),
        ("endpoints: {a: 'https://b'}", "endpoints.a"),
        ("endpoints: {a: b, c: 'd/e'}", "endpoints.c"),
        ("auths: {h: {auth_file: /dev/null}}", "auths.h.auth_file"),
        ("rules: {target_repository: '{nope}/x'}", "rules.target_repository"),
        ("rules: {target_repository: 'UPPER/{name}'}", "rules.target_repository"),
        ("{auths: {h: {}}, rules: {target_repository: 'other.example.com/{name}'}}", "rules.target_repository"),
        ("cache: {repository: '{nope}'}", "cache.repository"),
        ("console: {path_prefix: ics/}", "console.path_prefix"),
        ("console: {trace_url: 'ftp://x'}", "console.trace_url"),
        ("harbor: {h: {url: harbor.example.com}}", "harbor.h.url"),
        ("harbor: {h: {url: 'https://h', password: a, password_file: /dev/null}}", "harbor.h"),
        ("harbor: {'https://h': {url: 'https://h'}}", 'harbor."https://h"'),
        ("notifications: [{url: 'ftp://x'}]", "notifications[0].url"),
        ("broker: {url: 'amqp://'}", "broker.url"),
        ("broker: {url: 'nats://h:port'}", "broker.url"),
        ("broker: {url_file: /dev/null}", "broker.url_file"),
        ("[1, 2]", ""),
        ("a: [", ""),
        ("maximum_concurrency: 0", "maximum_concurrency"),
        ("driver: {config: {files: {a: 1}}}", "driver.config.files"),
    ],
)
def test_what_cannot_work_is_refused_at_its_path(tmp_path: Path, text: str, path: str) -> None:
    assert path in problems(tmp_path, text)


@pytest.mark.parametrize(
    ("target", "more"),
    [
        ("OTHER.example.com/{name}", ""),
        ("registry-1.docker.io/me/{name}", ""),
        ("inside/{name}", ""),
        ("{registry}/lazy/{name}", ""),
        ("{project}.example.com/{name}", ""),
        ("outside.example.com/{name}", "endpoints: {outside.example.com: other.example.com}"),
    ],
)
def test_a_target_may_be_on_any_registry_that_is_allowed(tmp_path: Path, target: str, more: str) -> None:
    load(
        tmp_path,
        f"auths: {{other.example.com: {{}}, docker.io: {{}}}}\nrules: {{target_repository: '{target}'}}\n{more}",
    )


@pytest.mark.parametrize("key", ["auth_header_file", "broker.url_file"])
def test_a_secrets_file_that_is_no_text_is_a_clear_problem(tmp_path: Path, key: str) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"amqp://h/\xff")
    section, _, name = key.rpartition(".")
    text = f"{name}: {file}"
    assert key in problems(tmp_path, f"{section}: {{{text}}}" if section else text)
    assert "not text" in problems(tmp_path, "", ICS_CONSOLE__CREDENTIAL_FILE=str(file))["ICS_CONSOLE__CREDENTIAL_FILE"]


@pytest.mark.parametrize("number", [".inf", ".nan"])
def test_seconds_are_finite(tmp_path: Path, number: str) -> None:
    """An event loop has no timer for others."""
    assert problems(tmp_path, f"timeouts: {{conversion: {number}}}") == {
        "timeouts.conversion": "must be a finite number"
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("hostname: a\nhttp: {port: 1}\nhostname: b\n", "line 3: hostname"),
        ("rules:\n- target_suffix: x\n  target_suffix: y\n", "line 3: target_suffix"),
        ("auths: {h.example: {insecure: true}, h.example: {}}\n", 'line 1: "h.example"'),
    ],
)
def test_a_key_that_is_given_twice_is_refused(tmp_path: Path, text: str, told: str) -> None:
    """YAML forbids it, and one of the two would be lost without a word."""
    assert f"{told} was given before" in problems(tmp_path, text)[""]


def test_merged_keys_and_aliases_are_no_repetition(tmp_path: Path) -> None:
    text = """
rules:
- &first {target_suffix: esgz, oci: true}
- {<<: *first, target_suffix: nydus}
"""
    assert [rule.target_suffix for rule in load(tmp_path, text).rules] == ["esgz", "nydus"]


def test_a_wrong_value_of_the_environment_is_told_with_its_variable(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        "http: {port: x}\nlog: {level: nope}\n",
        ICS_RETRY__MAXIMUM_ATTEMPTS="none",
        ICS_LOG__FORMAT="xml",
        ICS_RULES='[{"target_suffix":',
    )
    assert found["retry.maximum_attempts"] == "must be a whole number (from ICS_RETRY__MAXIMUM_ATTEMPTS)"
    assert found["log.format"].endswith("(from ICS_LOG__FORMAT)")
    assert found["rules[0]"].endswith("(from ICS_RULES)")
    assert "ICS_" not in found["http.port"] + found["log.level"]


def test_a_password_that_must_be_encoded_is_told_as_such(tmp_path: Path) -> None:
    found = problems(tmp_path, "broker: {url: 'amqp://ics:se/cret@rabbitmq/'}")["broker.url"]
    assert "%2F" in found
    assert "cret" not in found


def test_a_missing_file_is_a_clear_problem(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load_settings(tmp_path / "none.yml", environ={}, option_models=MODELS)


def test_secrets_are_masked_when_shown(tmp_path: Path) -> None:
    text = render_settings(load(tmp_path, PROPOSAL, ICS_BROKER__URL="amqp://user:canary-word@host/"))
    assert "canary" not in text
    assert "cm9ib3Q6" not in text
    assert "Bearer test" not in text
    assert yaml.safe_load(text)["rules"][0]["target_suffix"] == "nydus"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("embedded:", "embedded:"),
        ("amqp://ics:p%40ss@mq-1/,amqp://ics:other@mq-2:5673/virtual", "amqp://***@mq-1/,amqp://***@mq-2:5673/virtual"),
        ("nats://t0ken@nats:4222", "nats://***@nats:4222"),
        ("amqps://mq/?password=s3cret", "amqps://mq/?***"),
        ("amqp://ics:12/34@mq/", "amqp://***@mq/"),
    ],
)
def test_which_broker_is_meant_is_shown_without_what_is_secret(tmp_path: Path, url: str, shown: str) -> None:
    assert yaml.safe_load(render_settings(load(tmp_path, "", ICS_BROKER__URL=url)))["broker"]["url"] == shown


def test_a_problem_never_repeats_a_value(tmp_path: Path) -> None:
    canary = base64.b64encode(b"no colon canary").decode()
    with pytest.raises(ConfigError) as error:
        load(
            tmp_path,
            f"auths: {{h: {{auth: {canary}}}}}\nbroker: {{url: 'canary://user:canary@h'}}\nauth_header: [[canary]]",
        )
    assert "canary" not in str(error.value)
    assert canary not in str(error.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(sorted(Settings.model_fields)) | st.text(max_size=10), json_values, max_size=4))
def test_whatever_the_file_holds_the_answer_is_settings_or_a_list_of_problems(data: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yml"
        path.write_text(yaml.safe_dump(data))
        with contextlib.suppress(ConfigError):
            load_settings(path, environ={}, option_models=MODELS)
        assert log_settings(path, environ={}).format in {"json", "text"}


@pytest.mark.parametrize(
    "document",
    [
        {"auths": {"https://user:canary-word@h.example.com/": {}}},
        {"harbor": {"h.example.com": {"url": "https://user:canary-word@h.example.com"}}},
        {"notifications": [{"url": "https://h.example.com/", "secret": "whsec_canary-word"}]},
    ],
)
def test_a_secret_in_the_wrong_place_is_refused_and_not_shown(document: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(ConfigError) as caught:
        load_settings(path, environ={}, option_models=MODELS)
    assert "canary-word" not in caught.value.message
