"""``ics harbor``: point Harbor projects at ICS."""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
import sys
from pathlib import Path
from typing import Annotated

import orjson
import typer
import uvloop
from pydantic import SecretStr
from yarl import URL

from cli.errors import told
from cli.options import Output, OutputOption, print_json
from shared.errors import PermanentError
from shared.harbor_api import HarborApi
from shared.harbor_setup import HarborSetup, Outcome, PayloadFormat
from shared.outgoing_http import create_session
from shared.settings.model import HarborApi as HarborSettings

app = typer.Typer(no_args_is_help=True, help="Set up Harbor projects for conversion.")


@app.callback()
def _harbor() -> None:
    """Keeps ``setup`` a subcommand."""


@app.command()
def setup(  # noqa: PLR0917  one parameter an option
    harbor: Annotated[str, typer.Option("--harbor", help="Harbor's URL, https://harbor.example.com.")],
    project: Annotated[str, typer.Option("--project", help="The project whose pushes are to be converted.")],
    webhook_url: Annotated[
        str,
        typer.Option("--webhook-url", help="ICS' endpoint as Harbor reaches it, https://ics.example.com/conversion."),
    ] = "",
    username: Annotated[
        str, typer.Option("--username", "-u", help="A Harbor user who administers the project.")
    ] = "admin",
    password_file: Annotated[
        Path | None, typer.Option(help="Its password, in a file; else $HARBOR_PASSWORD, else asked for on a terminal.")
    ] = None,
    robot: Annotated[str, typer.Option("--robot", help="Name of the robot account.")] = "ics",
    policy: Annotated[str, typer.Option("--policy", help="Name of the webhook policy.")] = "ics",
    payload: Annotated[str, typer.Option("--payload", help="CloudEvents or Default.")] = "CloudEvents",
    secrets_dir: Annotated[
        Path | None,
        typer.Option(help="Write robot and auth header to files here (mode 0600) instead of printing them."),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take robot and policy away again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Make a robot account that may pull and push, and the webhook policy; print what goes into config.yml.

    May be repeated: what is there already is brought up to date. Every run makes a new auth header and gives it to Harbor.

    Example: ics harbor setup --harbor https://harbor.example.com --project library --webhook-url https://ics.example.com/conversion
    """
    with told(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if payload not in {"CloudEvents", "Default"}:
            raise PermanentError("--payload is CloudEvents or Default", code="invalid_options")
        if not remove and URL(webhook_url).scheme not in {"http", "https"}:
            raise PermanentError(
                "--webhook-url wants a URL: https://ics.example.com/conversion", code="invalid_options"
            )
        settings = HarborSettings(url=harbor, username=username, password=SecretStr(_password(password_file)))
        authorization = f"Bearer {secrets.token_urlsafe(32)}"
        if secrets_dir is not None:
            _prepare(secrets_dir)
        kind: PayloadFormat = "Default" if payload == "Default" else "CloudEvents"

        async def run() -> Outcome:
            async with create_session() as session:
                work = HarborSetup(HarborApi(settings, session), project, robot=robot, policy=policy, dry_run=dry_run)
                if remove:
                    return await work.remove()
                return await work.apply(webhook_url, authorization, kind)

        outcome = runner.run(run())
    if output is Output.JSON:
        print_json({"dry_run": dry_run, "done": outcome.done, "robot": outcome.robot_name})
    else:
        for line in outcome.done:
            print(line + (" (dry run)" if dry_run else ""))
    if not (remove or dry_run):
        host = URL(harbor).authority
        with told():
            _hand_over(host, outcome, authorization, secrets_dir)


def _hand_over(host: str, outcome: Outcome, authorization: str, folder: Path | None) -> None:
    """The part of config.yml, with the secrets in files or, once, on standard output."""
    pair = base64.b64encode(f"{outcome.robot_name}:{outcome.robot_secret}".encode()).decode()
    lines = ["", "# for config.yml:"]
    if folder is not None:
        _secret(folder / "auth_header", authorization)
        lines += [f"auth_header_file: {folder / 'auth_header'}"]
        if outcome.robot_secret:
            _secret(folder / "robot", pair)
    else:
        lines += [f"auth_header: {authorization}"]
    lines += ["auths:", f"  {orjson.dumps(host).decode()}:"]
    if not outcome.robot_secret:
        lines += ["    # auth or auth_file as it was: Harbor shows a robot's secret once"]
    elif folder is not None:
        lines += [f"    auth_file: {folder / 'robot'}"]
    else:
        lines += [f"    auth: {pair}"]
    lines += [f"operators_to_ignore: [{orjson.dumps(outcome.robot_name).decode()}]"]
    print("\n".join(lines))


def _prepare(folder: Path) -> None:
    """Before Harbor is asked: it tells a robot's secret once."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise PermanentError(f"--secrets-dir {folder} is no folder that can be written", code="cannot_write")


def _secret(path: Path, value: str) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError as error:
        raise PermanentError(f"cannot write {path}: {error.strerror}", code="cannot_write") from None
    with os.fdopen(handle, "w") as file:
        os.fchmod(handle, 0o600)  # of a file that was there, too
        file.write(value + "\n")


def _password(file: Path | None) -> str:
    if file is not None:
        try:
            return file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise PermanentError(f"cannot read {file}: {error.strerror}", code="invalid_options") from None
    if from_environment := os.environ.get("HARBOR_PASSWORD"):
        return from_environment
    if not sys.stdin.isatty():
        raise PermanentError("give the password: --password-file or $HARBOR_PASSWORD", code="invalid_options")
    answer: str = typer.prompt("Harbor password", hide_input=True)
    return answer
