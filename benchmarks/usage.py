"""What this process and its children have used, read from the kernel."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds() -> float:
    """Of this process, of the children that it has waited for, and of those that still run."""
    own, waited = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = own.ru_utime + own.ru_stime + waited.ru_utime + waited.ru_stime
    return ended + _of_children(os.getpid(), cpu_of)


def peak_bytes() -> int:
    """Peak RSS of this process and of the children that still run, added up.

    ``VmHWM``, not ``ru_maxrss``: that one counts the parent's memory from before the exec.
    """
    return peak_of(os.getpid())


def cpu_of(pid: int) -> float:
    """User and system seconds of another process, of the children that it has waited for, and of those that still run."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICK + _of_children(pid, cpu_of)


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
    return _status(pid, "VmRSS") + int(_of_children(pid, resident_bytes))


def peak_of(pid: int) -> int:
    """Peak RSS of a process and of the children that still run, added up."""
    return _status(pid, "VmHWM") + int(_of_children(pid, peak_of))


def _of_children(pid: int, measure: Callable[[int], float]) -> float:
    """What a process' children use; one that ends meanwhile counts no more."""
    total = 0.0
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):
            for child in path.read_text().split():
                with suppress(FileNotFoundError, ProcessLookupError):
                    total += measure(int(child))
    return total


def _status(pid: int, key: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    # A process that has ended, and that nobody has waited for yet, has no memory.
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{key}:")), 0) * 1024
