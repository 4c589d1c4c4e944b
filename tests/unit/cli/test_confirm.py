"""A person is asked on the terminal, and a script can tell what became of it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

ASK = """
import typer
from cli.options import confirm
app = typer.Typer()
app.command()(lambda: confirm("Really?") or print("done"))
app()
"""


@pytest.mark.parametrize(
    ("answer", "code", "printed", "told"),
    [
        (b"y\n", 0, "done\n", "Really?"),
        (b"n\n", 5, "", "Nothing was done."),
        (b"\n", 5, "", "Nothing was done."),
        (b"\x04", 5, "", "Nothing was done."),
    ],
)
def test_an_answer_is_an_exit_code(answer: bytes, code: int, printed: str, told: str) -> None:
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer)
        done = subprocess.run(
            [sys.executable, "-c", ASK],
            stdin=theirs,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert (done.returncode, done.stdout) == (code, printed)
    assert told in done.stderr


def test_nobody_is_asked_who_is_no_person() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASK], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "Really? Say so with --yes.\n"
