"""A service that cannot start says so in its log's own form; people get plain text."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import orjson
import pytest
import typer
import yaml

from cli.last_words import told_as_its_log
from cli.settings import settings_for
from shared.errors import PermanentError, TransientError

BROKEN = "limits.memory: must be a whole number"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ICS_LOG__FORMAT", raising=False)


def started(folder: Path, **log: str) -> int:
    """Exit code of a start with a wrong configuration."""
    config = folder / "config.yml"
    config.write_text(yaml.safe_dump({"log": log, "limits": {"memory": "much"}}))
    with pytest.raises(typer.Exit) as ended, told_as_its_log(config, "ingress"):
        settings_for(config)
    return ended.value.exit_code


@pytest.mark.parametrize("log", [{"format": "json"}, {}, {"format": "json", "level": "loud"}])
def test_programs_read_a_line_of_the_log(
    log: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert started(tmp_path, **log) == 1
    (line,) = capsys.readouterr().err.splitlines()
    said = orjson.loads(line)
    assert (said["level"], said["service"], said["code"]) == ("critical", "ingress", "invalid_configuration")
    assert BROKEN in said["message"]


def test_the_environment_chooses_the_form_of_a_file_that_is_no_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yml"
    config.write_text("rules: [")
    for form in ("json", "text"):
        monkeypatch.setenv("ICS_LOG__FORMAT", form)
        with pytest.raises(typer.Exit), told_as_its_log(config, "up"):
            settings_for(config)
        said = capsys.readouterr().err
        assert "is not YAML" in said
        assert said.startswith("{" if form == "json" else "ics: ")


def test_people_read_text(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    plain = f"ics: 1 problem in the configuration\n  {BROKEN} [invalid_configuration]\n"
    assert started(tmp_path, format="text") == 1
    assert capsys.readouterr().err == plain
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)  # of a terminal, whatever the log is
    assert started(tmp_path, format="json") == 1
    assert capsys.readouterr().err == plain


@pytest.mark.parametrize(
    ("error", "exit_code", "message", "code"),
    [
        (PermanentError("no such user", code="broker_refused"), 1, "no such user", "broker_refused"),
        (TransientError("it is away", code="broker_unavailable"), 3, "it is away", "broker_unavailable"),
        (OSError(errno.ENOSPC, "No space left on device", "var"), 1, "var: No space left on device", "cannot_write"),
    ],
)
def test_the_exit_code_is_the_errors_own(
    error: Exception, exit_code: int, message: str, code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yml"
    config.write_text("log: {format: json}")
    with pytest.raises(typer.Exit) as ended, told_as_its_log(config, "consumer"):
        raise error
    assert ended.value.exit_code == exit_code
    said = orjson.loads(capsys.readouterr().err)
    assert (said["message"], said["code"], said["service"]) == (message, code, "consumer")
