"""What this process is called wherever somebody may look for it."""

from __future__ import annotations

import os
import socket

INSTANCE = f"{socket.gethostname()}/{os.getpid()}"
"""``host/pid``: in events, traces, and beside the claims that it holds at the broker."""
