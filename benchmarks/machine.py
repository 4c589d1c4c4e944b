"""Where and of what a measurement was made, without naming the machine."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

LIBRARIES = ("isal", "zstandard", "deflate", "lz4", "aiohttp", "uvloop", "uvicorn", "fastapi", "aio-pika", "nats-py")
PACKAGES = (
    "rabbitmq-server",
    "docker-registry",
    "skopeo",
    "golang-go",
    "golang-github-containerd-stargz-snapshotter-dev",
)
_ROOT = Path(__file__).resolve().parents[1]


def describe() -> dict[str, str]:
    """Label → value, in the order of the report."""
    return {
        "CPU": _cpu(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB",
        "kernel": platform.release(),
        "Python": platform.python_version(),
        "libraries": ", ".join(f"{name} {found}" for name in LIBRARIES if (found := _library(name))),
        "Debian packages": ", ".join(f"{name} {found}" for name in PACKAGES if (found := _package(name))),
    }


def busy(seconds: float = 2.0) -> float:
    """Cores that are busy while this process only looks."""
    before = _busy_ticks()
    time.sleep(seconds)
    return (_busy_ticks() - before) / os.sysconf("SC_CLK_TCK") / seconds


def commit() -> str:
    """Short hash of the checkout, marked when the measured code differs from it."""
    try:
        found = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--", "shared", "drivers", "consumer", "ingress", "cli")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{found} with changes" if changed else found


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _busy_ticks() -> int:
    """Of all cores: everything but idle and waiting for disks (proc(5), ``/proc/stat``)."""
    user, nice, system, _idle, _wait, interrupt, soft = map(int, Path("/proc/stat").read_text().split()[1:8])
    return user + nice + system + interrupt + soft


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=_ROOT, check=True, capture_output=True, text=True).stdout.strip()


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _library(name: str) -> str:
    try:
        return version(name)
    except ModuleNotFoundError:
        return ""


def _package(name: str) -> str:
    done = subprocess.run(["dpkg-query", "-W", "-f=${Version}", name], check=False, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else ""
