"""What a process of the service masks in its log."""

from __future__ import annotations

import pytest

from cli.process import secret_values
from drivers.catalogue import option_models
from shared.settings.load import load_settings


def secrets(**environ: str) -> set[str]:
    return set(secret_values(load_settings(None, environ=environ, option_models=option_models())))


def test_secrets_are_found_wherever_the_configuration_has_them() -> None:
    assert secrets(
        ICS_AUTH_HEADER='["Bearer first", "Bearer second"]',
        ICS_AUTHS='{"harbor.example.com": {"auth": "dXNlcjpwYXNzd29yZA==", "proxy": "http://us:p%40ss@proxy"}}',
        ICS_NOTIFICATIONS='[{"url": "https://chat.example.com/hooks/T0KEN", "secret": "signing"}]',
        ICS_CONSOLE__OPERATOR_CREDENTIAL="boss:replay-it",
    ) == {
        *("Bearer first", "Bearer second", "dXNlcjpwYXNzd29yZA=="),
        *("https://chat.example.com/hooks/T0KEN", "signing", "boss:replay-it"),
        *("http://us:p%40ss@proxy", "us:p%40ss", "p%40ss", "p@ss"),
    }


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("embedded:", set()),
        ("amqp://rabbitmq/", set()),
        ("nats://t0ken@one,nats://t0ken@two", {"t0ken"}),
        ("amqp://ics:p%40ss@mq-1/,amqp://ics:other@mq-2/", {"ics:p%40ss", "p%40ss", "p@ss", "ics:other", "other"}),
    ],
)
def test_of_a_brokers_url_only_what_is_secret_is_masked(url: str, expected: set[str]) -> None:
    assert secrets(ICS_BROKER__URL=url) == expected
