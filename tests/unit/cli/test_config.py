"""What ``ics config check`` says of a configuration that is right."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app


@pytest.mark.parametrize(
    ("document", "noted"),
    [
        ("http: {port: 9091}\n", True),
        ("metric: {port: 8081}\n", True),
        ("metric: {port: 8081, enabled: false}\n", False),
        ("http: {port: 0}\nmetric: {port: 0}\n", False),
        ("{}\n", False),
    ],
)
def test_ports_that_an_ingress_and_a_consumer_on_one_machine_would_share_are_noted(
    tmp_path: Path, document: str, *, noted: bool
) -> None:
    config = tmp_path / "config.yml"
    config.write_text(document)
    result = CliRunner().invoke(app, ["config", "check", "--config", str(config)])
    assert result.exit_code == 0, result.output
    assert ("http.port and metric.port are both" in result.output) == noted


@pytest.mark.parametrize(
    ("text", "notes"),
    [
        ("{auth_header: Bearer x, auths: {h.example.com: {}}}", ""),
        ("{auths: {h.example.com: {}}}", "Note: no auth_header is set, so every webhook is accepted.\n"),
        (
            "{auth_header: Bearer x}",
            "Note: auths is empty, so no registry may be contacted and every webhook is skipped.\n",
        ),
        (
            "{auth_header: Bearer x, auths: {core: {}}, endpoints: {h.test: core}, harbor: {H.test: {url: 'https://h.test'}}}",
            "",
        ),
        (
            "{auth_header: Bearer x, auths: {h.example.com: {}}, harbor: {g.example.com: {url: 'https://g.example.com'}}}",
            "Note: g.example.com is under harbor and not under auths, so none of its images is converted.\n",
        ),
    ],
)
def test_what_is_allowed_and_seldom_meant_is_noted(tmp_path: Path, text: str, notes: str) -> None:
    file = tmp_path / "config.yml"
    file.write_text(text)
    result = CliRunner().invoke(app, ["config", "check", "--config", str(file)])
    assert result.exit_code == 0
    first, _, rest = result.output.partition("\n")
    assert "fine" in first
    assert rest == notes
