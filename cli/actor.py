"""Who acts, for the history."""

from __future__ import annotations

import getpass
import os


def actor() -> str:
    """A container's user often has no name."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):
        return f"cli:uid {os.getuid()}"
