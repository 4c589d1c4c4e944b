"""The part of ``config.yml`` that belongs to a Harbor project, with its secrets in files or, once, on standard output."""

from __future__ import annotations

import base64
import binascii
import os
import sys
from pathlib import Path
from typing import Any

import yaml
from yarl import URL

from cli.harbor.intent import Intent, Outcome
from cli.options import Output, print_json
from shared.errors import PermanentError
from shared.settings.model import HarborSettings

AUTH_HEADER, ROBOT, ROBOT_PASSWORD = "auth_header", "robot", "robot_password"
"""Files of a secrets folder: the webhook's ``Authorization``, base64 of ``robot:secret``, the secret alone."""


class Handover:
    """Writes the secrets and prints the configuration; raises where it cannot, before anything is lost.

    Args:
        harbor: where Harbor is.
        intent: what was set up.
        reached: how it was reached: what the configuration needs of that, too.
        folder: for the secrets; None prints them.
        output: YAML for people, or one JSON document.
    """

    def __init__(
        self, harbor: URL, intent: Intent, reached: HarborSettings, folder: Path | None, output: Output
    ) -> None:
        self._url = harbor
        self._intent = intent
        self._ca = reached.ca
        self._proxy = "" if reached.proxy is None else reached.proxy.get_secret_value()
        self._folder = folder
        self._output = output

    def __call__(self, outcome: Outcome) -> None:
        """Raises PermanentError: ``cannot_write``."""
        if self._folder is not None:
            _keep_authorization(self._folder / AUTH_HEADER, outcome.authorization)
            if outcome.robot_secret:
                _write(self._folder / ROBOT, _pair(outcome))
                _write(self._folder / ROBOT_PASSWORD, outcome.robot_secret)
        document = self._document(outcome)
        try:
            if self._output is Output.JSON:
                print_json({"dry_run": False, "done": outcome.done, "robot": outcome.robot_name, "config": document})
            else:
                print("\n".join(outcome.done), file=sys.stderr)
                if "@" in self._proxy:
                    print("the proxy's URL holds a password: keep the configuration to its owner", file=sys.stderr)
                if "auths" not in document:
                    print(
                        f"# auths.{_host(self._url)}: as it was; Harbor shows a robot's secret once (--new-robot-secret)"
                    )
                sys.stdout.write(yaml.safe_dump(document, sort_keys=False))
            sys.stdout.flush()
        except OSError as error:
            raise PermanentError(f"standard output cannot be written: {error.strerror}", code="cannot_write") from error

    def _document(self, outcome: Outcome) -> dict[str, Any]:
        host, folder = _host(self._url), self._folder
        registry: dict[str, Any] = {}
        api: dict[str, Any] = {"url": str(self._url.origin()), "username": outcome.robot_name}
        if folder is not None:
            document: dict[str, Any] = {"auth_header_file": str(folder / AUTH_HEADER)}
            if (folder / ROBOT).exists():
                registry["auth_file"] = str(folder / ROBOT)
                api["password_file"] = str(folder / ROBOT_PASSWORD)
        else:
            document = {"auth_header": outcome.authorization}
            if outcome.robot_secret:
                registry["auth"] = _pair(outcome)
                api["password"] = outcome.robot_secret
        if registry:
            if self._url.scheme == "http":
                registry["insecure"] = True
            if self._ca is not None:
                registry["ca"] = api["ca"] = str(self._ca)
            if self._proxy:
                registry["proxy"] = api["proxy"] = self._proxy
            document["auths"] = {host: registry}
            if self._intent.label:
                api["label"] = self._intent.label
            if self._intent.label or self._intent.backfill:
                document["harbor"] = {host: api}
        document["operators_to_ignore"] = [outcome.robot_name]
        return document


def prepare(folder: Path | None, robot: str) -> None:
    """Before Harbor is asked: the folder can be written, and holds no other robot's secret.

    Raises:
        PermanentError: ``cannot_write``, ``invalid_options``.
    """
    if folder is None:
        return
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise PermanentError(f"--secrets-dir {folder} is no folder that can be written", code="cannot_write")
    known = _read(folder / ROBOT)
    try:
        name = base64.b64decode(known, validate=True).decode().partition(":")[0]
    except (binascii.Error, UnicodeDecodeError):
        name = ""
    if known and not name.endswith(robot):
        raise PermanentError(
            f"--secrets-dir {folder} holds the secret of robot account {name or 'unknown'}: name another folder",
            code="invalid_options",
        )


def authorization_in(folder: Path | None) -> str:
    """What the ingress accepts already: the first line of the folder's auth header file; empty without any."""
    lines = _read(folder / AUTH_HEADER).splitlines() if folder is not None else []
    return lines[0].strip() if lines else ""


def _keep_authorization(path: Path, value: str) -> None:
    """The one that Harbor has comes first; the one of before stays accepted until somebody takes it out (rotation)."""
    known = _read(path).splitlines()
    if value not in known[:1]:
        _write(path, "\n".join([value, *(line for line in known[:1] if line)]))


def _host(harbor: URL) -> str:
    """As references name it: the port only where it is not the scheme's own."""
    return harbor.host_port_subcomponent or ""


def _pair(outcome: Outcome) -> str:
    return base64.b64encode(f"{outcome.robot_name}:{outcome.robot_secret}".encode()).decode()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", "") or "not text"
        raise PermanentError(f"cannot read {path}: {reason}", code="invalid_options") from None


def _write(path: Path, value: str) -> None:
    """Replace in one step: a full disk leaves what was there."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.unlink(missing_ok=True)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(value + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise PermanentError(f"cannot write {path}: {error.strerror}", code="cannot_write") from None
