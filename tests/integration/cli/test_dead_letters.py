"""``ics dead-letters`` on real brokers, as an operator uses it after a bad night."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from typer.testing import CliRunner

from cli.main import app
from drivers.catalogue import option_models
from shared.broker.open import open_broker
from shared.messages import DeadLetter
from shared.settings.load import load_settings
from tests.servers.nats import nats
from tests.servers.rabbitmq import rabbitmq
from tests.unit.shared.test_dead_letter_operations import letter
from tests.waiting import PATIENCE


@pytest.fixture(scope="module", params=["nats", "rabbitmq"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    start = nats if request.param == "nats" else rabbitmq
    with start(tmp_path_factory.mktemp("broker")) as running:
        yield running.url


@pytest.fixture
def config(server: str, tmp_path: Path) -> Path:
    path = tmp_path / "config.yml"
    path.write_text(
        yaml.safe_dump({"broker": {"url": server, "prefix": f"t{abs(hash(tmp_path)) % 10**9}", "publish_timeout": 30}})
    )
    return path


def died(number: int, *, code: str = "denied", minutes: float = 0, request: bool = True) -> DeadLetter:
    base = letter(number, request=request)
    failure = base.failure.model_copy(update={"code": code})
    return base.model_copy(update={"failure": failure, "died_at": datetime.now(UTC) - timedelta(minutes=minutes)})


def bury(config: Path, *letters: DeadLetter) -> None:
    async def body() -> None:
        settings = load_settings(config, environ={}, option_models=option_models())
        async with open_broker(settings) as broker:
            for each in letters:
                await broker.dead_letters.add(each)

    asyncio.run(body())


def waiting(config: Path) -> list[str]:
    """What each message of the work queue replays."""

    async def body() -> list[str]:
        settings = load_settings(config, environ={}, option_models=option_models())
        async with open_broker(settings) as broker:
            count = (await broker.stats()).ready or 0
            found: list[str] = []
            async with asyncio.timeout(PATIENCE), broker.deliveries(10) as deliveries:
                for _ in range(count):
                    delivery = await anext(deliveries)
                    found.append(delivery.request.replay_of)
                    await delivery.ack()
            return sorted(found)

    return asyncio.run(body())


def ics(config: Path, *arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["dead-letters", *arguments, "--config", str(config)], catch_exceptions=False)
    assert result.exit_code == code, result.output + result.stderr
    return result.stdout


def listed(config: Path, *filters: str) -> list[Any]:
    found: list[Any] = orjson.loads(ics(config, "list", "--output", "json", *filters))
    return [each["id"] for each in found]


def test_a_bad_night(config: Path, tmp_path: Path) -> None:
    bury(
        config,
        died(1, minutes=300),
        died(2, code="registry_unavailable", minutes=10),
        died(3, code="registry_unavailable", minutes=5),
        died(4, request=False, code="malformed_message", minutes=1),
    )
    everything = ["letter-1", "letter-2", "letter-3", "letter-4"]
    assert listed(config) == everything
    assert listed(config, "--code", "registry_*") == ["letter-2", "letter-3"]
    assert listed(config, "--older-than", "1h") == ["letter-1"]
    assert listed(config, "--newer-than", "7m", "--repository", "library/*") == ["letter-3"]
    assert listed(config, "--tag", "v2") == ["letter-2"]
    table = ics(config, "list")
    assert "harbor.example.com/library/app:v1" in table
    assert "5h" in table
    assert "(not a request)" in table
    for limit, shown_ids, more in [(2, everything[:2], True), (4, everything, False), (5, everything, False)]:
        assert listed(config, "--limit", str(limit)) == shown_ids
        assert (f"the oldest {limit}, and there are more" in ics(config, "list", "-n", str(limit))) is more

    shown = ics(config, "show", "letter-1")
    assert "denied (permanent): no" in shown
    assert "pull and push on this project" in " ".join(shown.split())
    ics(config, "show", "letter-9", code=1)

    ics(config, "export", "--to", str(tmp_path / "letters.jsonl"))
    assert len((tmp_path / "letters.jsonl").read_text().splitlines()) == 4
    os.mkfifo(tmp_path / "fifo")
    ics(config, "export", "--to", str(tmp_path / "fifo"), code=1)  # a file in its place would be no fifo any more
    assert "would replay 2" in ics(config, "replay", "--code", "registry_unavailable", "--dry-run")
    ics(config, "replay", code=2)
    assert ics(config, "replay", "letter-2", "letter-3", "--rate", "50").strip() == "2 replayed"
    ics(config, "replay", "letter-4", code=3)  # it never was a request: it stays, and the command says so
    assert listed(config) == ["letter-1", "letter-4"]
    assert waiting(config) == ["letter-2", "letter-3"]

    ics(config, "discard", "--code", "malformed_message", code=2)  # nobody to ask, and no --yes
    ics(config, "discard", "--code", "malformed_message", "--yes")
    assert listed(config) == ["letter-1"]
    ics(config, "import", str(tmp_path / "letters.jsonl"))
    assert sorted(listed(config)) == everything
    (tmp_path / "bad.jsonl").write_text('{"no": 1}\n')
    ics(config, "import", str(tmp_path / "bad.jsonl"), code=1)
    (tmp_path / "bad.jsonl").write_bytes(b"\xff\n")
    ics(config, "import", str(tmp_path / "bad.jsonl"), code=1)
    ics(config, "purge", "--yes")
    assert listed(config) == []
    assert "no dead letters" in ics(config, "list")


def test_the_summary_tells_what_there_is_most_of_and_what_to_do(config: Path) -> None:
    assert "no dead letters" in ics(config, "summary")
    bury(
        config,
        died(1, code="denied", minutes=60),
        *(died(number, code="registry_timeout", minutes=number) for number in range(2, 5)),
        died(6, code="malformed_message", request=False),
    )
    text = ics(config, "summary")
    assert text.index("registry_timeout") < text.index("denied")
    assert "Check that the registry is up" in " ".join(text.split())
    found = orjson.loads(ics(config, "summary", "--output", "json", "--older-than", "90s"))
    assert [(group["code"], group["count"]) for group in found] == [("registry_timeout", 3), ("denied", 1)]
    assert found[0]["repositories"] == {"harbor.example.com/library/app": 3}
    assert found[0]["oldest"] < found[0]["newest"]
    assert "no dead letters match" in ics(config, "summary", "--code", "nothing")
