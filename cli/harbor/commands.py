"""``ics harbor ...``."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import SecretStr
from yarl import URL

from cli.harbor.config import Handover, authorization_in, prepare
from cli.harbor.intent import Intent, Outcome, PayloadFormat
from cli.harbor.setup import HarborSetup
from cli.options import Output, OutputOption, print_json
from cli.running import running
from shared.errors import PermanentError
from shared.outgoing.harbor_api import HarborApi
from shared.outgoing.http import create_session
from shared.settings.check import PROXY, is_proxy
from shared.settings.model import HarborSettings

app = typer.Typer(no_args_is_help=True, help="Set up Harbor projects for conversion.")


@app.callback()
def _harbor() -> None:
    """Keeps ``setup`` a subcommand."""


@app.command()
def setup(
    *,
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
    ca: Annotated[Path | None, typer.Option(help="PEM bundle of Harbor's certificate authority.")] = None,
    proxy: Annotated[
        str,
        typer.Option(
            "--proxy",
            envvar="HARBOR_PROXY",
            help="URL of a proxy that leads to Harbor, now and for conversions; in the variable where it holds a password.",
        ),
    ] = "",
    robot: Annotated[str, typer.Option("--robot", help="Name of the robot account.")] = "ics",
    policy: Annotated[str, typer.Option("--policy", help="Name of the webhook policy.")] = "ics",
    label: Annotated[
        str, typer.Option("--label", help="Put this label on converted source artifacts; made if it is missing.")
    ] = "",
    backfill: Annotated[
        bool, typer.Option("--backfill", help="The robot may list the project too, for `ics backfill --project`.")
    ] = False,
    payload: Annotated[str, typer.Option("--payload", help="CloudEvents or Default.")] = "CloudEvents",
    secrets_dir: Annotated[
        Path | None,
        typer.Option(help="Keep robot and auth header in files here (mode 0600) instead of printing them."),
    ] = None,
    new_auth_header: Annotated[
        bool, typer.Option("--new-auth-header", help="Give Harbor another auth header than it has.")
    ] = False,
    new_robot_secret: Annotated[
        bool, typer.Option("--new-robot-secret", help="Give a robot that is there already a new secret.")
    ] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Take robot and policy away again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Make the webhook policy and a robot account with least rights; print what goes into config.yml.

    The robot may pull and push in the project, and only with --label or --backfill a little more. May be repeated: what is
    there already is brought up to date, auth header and secret stay. Standard output is the configuration alone (YAML, or JSON
    with --output json); what was done is told on standard error.

    Examples:
    - `ics harbor setup --harbor https://harbor.example.com --project library --webhook-url https://ics.example.com/conversion`
    - `ics harbor setup --harbor https://harbor.example.com --project library --webhook-url https://ics.example.com/conversion
      --label accelerated --secrets-dir /etc/ics/secrets > /etc/ics/config.yml`
    """
    with running() as runner:
        kind: PayloadFormat = "Default" if payload == "Default" else "CloudEvents"
        if payload != kind:
            raise PermanentError("--payload is CloudEvents or Default", code="invalid_options")
        url = _http("--harbor", harbor, "https://harbor.example.com")
        if not remove:
            _http("--webhook-url", webhook_url, "https://ics.example.com/conversion")
        if proxy and not is_proxy(proxy):
            raise PermanentError(f"--proxy wants {PROXY}", code="invalid_options")
        settings = HarborSettings(
            url=harbor,
            username=username,
            password=SecretStr(_password(password_file)),
            ca=ca,
            proxy=SecretStr(proxy) if proxy else None,
        )
        intent = Intent(project, robot, policy, label, backfill)
        authorization = ""
        if not (remove or dry_run):
            prepare(secrets_dir, f"{project}+{robot}")
            authorization = authorization_in(secrets_dir)
        if new_auth_header:
            authorization = f"Bearer {secrets.token_urlsafe(32)}"
        hand_over = Handover(url, intent, settings, secrets_dir, output)

        async def run() -> Outcome:
            async with create_session() as session:
                work = HarborSetup(HarborApi(settings, session), intent, dry_run=dry_run)
                if remove:
                    return await work.remove()
                return await work.apply(
                    webhook_url, kind, hand_over, authorization=authorization, new_secret=new_robot_secret
                )

        outcome = runner.run(run())
    if not (remove or dry_run):
        return
    if output is Output.JSON:
        print_json({"dry_run": dry_run, "done": outcome.done})
    for line in () if output is Output.JSON else outcome.done:
        print(line + (" (dry run)" if dry_run else ""))


def _http(option: str, text: str, example: str) -> URL:
    try:
        url = URL(text)
    except ValueError:
        url = URL()
    if url.scheme not in {"http", "https"} or not url.host:
        raise PermanentError(f"{option} wants a URL: {example}", code="invalid_options")
    if url.user is not None or url.password is not None:
        raise PermanentError(f"{option} must not hold a user name or a password", code="invalid_options")
    return url


def _password(file: Path | None) -> str:
    if file is not None:
        try:
            return file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", "") or "not text"
            raise PermanentError(f"cannot read {file}: {reason}", code="invalid_options") from None
    if from_environment := os.environ.get("HARBOR_PASSWORD"):
        return from_environment
    if not sys.stdin.isatty():
        raise PermanentError("give the password: --password-file or $HARBOR_PASSWORD", code="invalid_options")
    answer: str = typer.prompt("Harbor password", hide_input=True, err=True)
    return answer
