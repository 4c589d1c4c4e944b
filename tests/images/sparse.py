"""Sparse files as GNU tar stores them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

GNU_TAR: Final = {
    "oldgnu": ("--format=oldgnu",),
    "gnu": ("--format=gnu",),
    "pax-0.0": ("--format=posix", "--sparse-version=0.0"),
    "pax-0.1": ("--format=posix", "--sparse-version=0.1"),
    "pax-1.0": ("--format=posix", "--sparse-version=1.0"),
}
"""Each way to store them, and the options for it."""

BLOCK: Final = 4096
FILES: Final[dict[str, tuple[int, tuple[int, ...]]]] = {
    "hole only": (3_000_000, ()),
    "hole first": (BLOCK * 1000, (999,)),
    "hole last": (BLOCK * 1000 + 7, (0, 1, 2)),
    "holes between": (BLOCK * 601, tuple(range(0, 600, 2))),
    "a long name " + "n" * 150: (BLOCK * 20, (3, 17)),
    "no hole": (BLOCK * 2 - 5, (0, 1)),
}
"""Size and the blocks that are data. The one with hundreds of pieces has a map that one block does not hold, in any format."""


def write_files(folder: Path) -> None:
    for name, (size, blocks) in FILES.items():
        with (folder / name).open("wb") as file:
            for block in blocks:
                file.seek(block * BLOCK)
                file.write((b"%d\n" % block).ljust(BLOCK, b"d"))
            file.truncate(size)
        os.utime(folder / name, (1_700_000_000, 1_700_000_000))


def sparse_tar(folder: Path, options: tuple[str, ...]) -> bytes:
    """``--hole-detection=raw`` finds the same holes on every file system."""
    command = ["tar", "--create", "--sparse", "--hole-detection=raw", "--sort=name", "--owner=0", "--group=0", *options]
    return subprocess.run([*command, *FILES], cwd=folder, check=True, capture_output=True).stdout
