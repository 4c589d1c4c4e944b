"""``ics backfill`` walks a real registry and enqueues behind live pushes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import orjson
import pytest
import yaml
from typer.testing import CliRunner

from cli.main import app
from drivers.catalogue import option_models
from shared.broker.open import open_broker
from shared.oci.converted import ANNOTATION_DRIVER_NAME
from shared.oci.reference import parse_reference
from shared.registry.client import RegistryClient
from shared.settings.load import load_settings
from tests.servers.nats import nats
from tests.servers.registry import docker_registry
from tests.unit.cli.test_stores import put_image


def test_a_walk_is_planned_then_enqueued_then_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "none"))
    with docker_registry(tmp_path / "registry") as registry, nats(tmp_path / "nats") as server:
        config = tmp_path / "config.yml"
        document = {"auths": {registry.host: {"insecure": True}}, "broker": {"url": server.url, "publish_timeout": 30}}
        config.write_text(yaml.safe_dump(document))
        settings = load_settings(config, environ={}, option_models=option_models())

        async def fill() -> None:
            async with RegistryClient.from_settings(settings) as client:
                made = parse_reference(f"{registry.host}/a/one:1_esgz")
                await put_image(client, made, **{ANNOTATION_DRIVER_NAME: "estargz"})
                for name in ("a/one:1", "a/one:2", "a/two:1", "b/three:1", "b/three:sha256-x.sig"):
                    await put_image(client, parse_reference(f"{registry.host}/{name}"))

        asyncio.run(fill())

        def ics(*arguments: str, code: int = 0) -> str:
            command = ["backfill", registry.host, *arguments, "--config", str(config)]
            result = CliRunner().invoke(app, command, catch_exceptions=False)
            assert result.exit_code == code, result.output + result.stderr
            return result.stdout if code == 0 else result.stderr

        plan = ics("--dry-run")
        assert f"{registry.host}/a/two:1_esgz" in plan
        assert "6 tags: 5 would be enqueued" in plan
        assert "1 skipped: made by a converter" in plan
        assert "one:1_esgz_esgz" not in plan
        asked = ics("--output", "json", code=2)
        assert "Enqueue 5 conversion(s)? Say so with --yes." in asked
        journal = ("--journal", str(tmp_path / "journal"), "--yes", "--output", "json")
        first = orjson.loads(ics("-r", "a/*", *journal))
        assert (first["repositories"], first["published"]) == (2, 3)
        second = orjson.loads(ics(*journal))
        assert (second["repositories"], second["resumed"], second["published"]) == (1, 2, 2)

        assert "journal_of_another_walk" in ics("-t", "v*", *journal, code=1)

        async def taken() -> list[str]:
            async with open_broker(settings) as broker, broker.deliveries(10) as deliveries:
                found: list[str] = []
                async with asyncio.timeout(60):
                    while len(found) < 5:
                        delivery = await anext(deliveries)
                        assert delivery.request.priority == "backfill"
                        found.append(str(delivery.request.target).removeprefix(registry.host))
                        await delivery.ack()
                return sorted(found)

        assert asyncio.run(taken())[0] == "/a/one:1_esgz"
