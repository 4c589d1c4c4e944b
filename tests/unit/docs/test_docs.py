"""What the documents say can be followed: every link leads somewhere, every ``ics`` command parses."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app

ROOT = Path(__file__).parents[3]
DOCUMENTS = [
    ROOT / name
    for name in subprocess.run(
        ("git", "ls-files", "*.md"), cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
]


def prose(text: str) -> str:
    """Without code, in which brackets are no links."""
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def anchors(path: Path) -> set[str]:
    """As the forges make them of headings."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def commands(text: str) -> Iterator[str]:
    """Of code blocks, fenced or indented, and of backticks."""
    whole = text.replace("\\\n", " ")
    yield from re.findall(r"^(?: {4,}|(?=ics ))(?:[A-Z_]+=\S+ )*ics (\S.*)$", whole, re.MULTILINE)
    for inline in re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", whole, flags=re.DOTALL)):
        if found := re.fullmatch(r"(?:[A-Z_]+=\S+ )*ics ([a-z].*)", " ".join(inline.split())):
            yield found[1]


def words(command: str) -> list[str]:
    """Up to a comment, a redirection, a pipe, or the next command."""
    found = []
    for word in shlex.split(command, comments=True):
        if word in {">", "|", "&&", "<"}:
            break
        found.append(word)
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), f"{target} is not there"
        assert not anchor or anchor in anchors(file), f"{target} is no heading of {file.name}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_parses(path: Path) -> None:
    for command in commands(path.read_text()):
        # Options and subcommands are looked at before the help is shown.
        result = CliRunner().invoke(app, [*words(command), "--help"])
        assert result.exit_code == 0, f"ics {command}: {result.output}"


def test_the_commands_are_found() -> None:
    found = {words(command)[0] for path in DOCUMENTS for command in commands(path.read_text())}
    assert found >= {"backfill", "check", "config", "convert", "dead-letters", "demo", "drivers", "harbor", "up"}
