"""``ics cancel`` where there is nothing to ask; with real brokers: ``tests/integration/cancelling``."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.cancel import Status
from cli.main import app
from ingress.status.conversion import OPEN


@pytest.mark.parametrize("url", ["memory:", "embedded:"])
def test_a_broker_that_is_not_there_is_one_line(tmp_path: Path, url: str) -> None:
    config = tmp_path / "config.yml"
    config.write_text(f"broker: {{url: '{url}', data_dir: '{tmp_path}'}}\n")
    result = CliRunner().invoke(app, ["cancel", "0" * 32, "--config", str(config)], catch_exceptions=False)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.endswith("[broker_missing]\n")


@pytest.mark.parametrize(
    "arguments",
    [[], ["0" * 32, "--all"], ["0" * 32, "--repository", "library/*"], ["0" * 32, "--dry-run"], ["--status", "failed"]],
)
def test_it_is_said_by_id_or_by_filter_what_is_meant(arguments: list[str]) -> None:
    assert CliRunner().invoke(app, ["cancel", *arguments]).exit_code == 2


def test_the_states_to_choose_from_are_those_that_can_be_cancelled() -> None:
    assert tuple(Status) == OPEN
