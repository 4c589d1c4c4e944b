"""How a process of the service says why it ended: a line of its log where programs read that, plain text for people."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cli.errors import tell, told
from cli.settings import config_path
from shared.errors import PermanentError
from shared.settings.load import log_settings
from shared.telemetry.logging import configure_logging

_log = logging.getLogger(__name__)


@contextmanager
def told_as_its_log(config: Path | None, service: str) -> Iterator[None]:
    """As :func:`cli.errors.told`, but with ``log.format: json`` as a line of the log, unless a person looks at a terminal."""

    def write(message: str, code: str) -> None:
        log = log_settings(config_path(config), environ=os.environ)
        if log.format != "json" or sys.stderr.isatty():
            tell(message, code)
            return
        with configure_logging(log, service):
            _log.critical("%s", message, extra={"code": code})

    with told(write):
        try:
            yield
        except OSError as error:  # a folder that may not be written, say
            where = f"{error.filename}: " if error.filename else ""
            raise PermanentError(f"{where}{error.strerror or error}", code="cannot_write") from error
