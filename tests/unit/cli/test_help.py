"""Every command teaches: its help renders, names what it is for, and shows an example."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import typer.main
from typer.testing import CliRunner

from cli.main import app


def commands() -> Iterator[tuple[str, ...]]:
    def walk(path: tuple[str, ...], command: object) -> Iterator[tuple[str, ...]]:
        inner = getattr(command, "commands", {})
        if not inner:
            yield path
        for name, each in inner.items():
            yield from walk((*path, name), each)

    yield from walk((), typer.main.get_command(app))


@pytest.mark.parametrize("command", list(commands()), ids=" ".join)
def test_help_renders(command: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*command, "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage: " in result.output
    assert command in {("config", "check"), ("config", "show"), ("version",)} or "xample" in result.output


def test_every_command_of_the_readme_is_there() -> None:
    found = {" ".join(command) for command in commands()}
    assert {
        "up",
        "ingress",
        "consumer",
        "convert",
        "check",
        "nydus check",
        "demo",
        "dead-letters list",
        "dead-letters show",
        "dead-letters replay",
        "dead-letters purge",
        "drivers",
        "config check",
        "config show",
        "backfill",
        "harbor setup",
    } <= found


def test_drivers_tell_their_options() -> None:
    result = CliRunner().invoke(app, ["drivers", "--output", "json"])
    assert result.exit_code == 0
    assert "estargz_compression_level" in result.output
    assert CliRunner().invoke(app, ["drivers", "zip"]).exit_code == 1


@pytest.mark.parametrize(("columns", "widest"), [("", 100), ("72", 72), ("300", 100)])
@pytest.mark.parametrize("command", [("drivers",), ("config", "keys", "rules")])
def test_options_are_text_of_a_width_that_can_be_read(
    command: tuple[str, ...], columns: str, widest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    folded = [line for line in CliRunner().invoke(app, command).output.splitlines() if line.startswith("      ")]
    assert folded
    assert max(map(len, folded)) <= widest


def test_version_names_the_drivers() -> None:
    assert "estargz" in CliRunner().invoke(app, ["version"]).output


def test_keys_are_listed_as_they_are_written() -> None:
    result = CliRunner().invoke(app, ["config", "keys"])
    assert result.exit_code == 0
    assert "rules[].target_repository" in result.output
    assert "[registry/]path" in result.output
    assert "  broker.url: text, secret; default embedded:; ICS_BROKER__URL\n" in result.output
    below = CliRunner().invoke(app, ["config", "keys", "timeouts"]).output
    assert "timeouts.drain" in below
    assert "broker" not in below
    assert CliRunner().invoke(app, ["config", "keys", "timeout"]).exit_code == 1


def test_the_version_is_told_either_way() -> None:
    told = CliRunner().invoke(app, ["version"])
    assert told.output.startswith("ics ")
    assert CliRunner().invoke(app, ["--version"]).output == told.output
