"""What this process and its children have used, read from the kernel."""

from __future__ import annotations

import os
import resource
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds() -> float:
    """Of this process, of the children that it has waited for, and of those that still run."""
    own, waited = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = own.ru_utime + own.ru_stime + waited.ru_utime + waited.ru_stime
    return ended + sum(cpu_of(pid) for pid in _children(os.getpid()))


def peak_bytes() -> int:
    """Peak RSS of this process and of the children that still run, added up.

    ``VmHWM``, not ``ru_maxrss``: that one counts the parent's memory from before the exec.
    """
    return peak_of(os.getpid())


def cpu_of(pid: int) -> float:
    """User and system seconds of another process, of the children that it has waited for, and of those that still run."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICK + sum(cpu_of(child) for child in _children(pid))


def cpu_of_group(pid: int) -> float:
    """Of every process in the session that ``pid`` leads: a server behind a shell script."""
    total = 0.0
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(path.name)) == pid:
                fields = (path / "stat").read_text().rpartition(")")[2].split()
                total += (int(fields[11]) + int(fields[12])) / _TICK
        except (ProcessLookupError, FileNotFoundError):
            continue  # ended since it was listed
    return total


def resident_bytes(pid: int) -> int:
    """Of a process and its children."""
    return _status(pid, "VmRSS") + sum(resident_bytes(child) for child in _children(pid))


def peak_of(pid: int) -> int:
    """Peak RSS of a process and of the children that still run, added up."""
    return _status(pid, "VmHWM") + sum(peak_of(child) for child in _children(pid))


def _children(pid: int) -> list[int]:
    return [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]


def _status(pid: int, key: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) * 1024
