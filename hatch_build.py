"""Build hook: compiles the C sources in ``drivers/reencoding`` for wheels and editable installs.

An editable install gets the library beside its sources, a wheel one of its own. The library knows nothing of Python, so
that one wheel serves every version; its machine code is the platform's baseline, so that it runs on every machine of it.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = "drivers/reencoding"
LIBRARY = f"{SOURCES}/_native.so"
FLAGS = (
    "-std=c11", "-O3", "-fPIC", "-shared", "-Wall", "-Wextra",
    "-Werror=implicit-function-declaration", "-Werror=incompatible-pointer-types", "-Werror=int-conversion",
)  # fmt: skip
NEEDED = "Building ICS needs a C compiler and the C library's headers: apt install gcc libc6-dev"


class CompileError(Exception):
    """There is no compiler, or it refused; the message says which, and what to do."""


class NativeLibrary(BuildHookInterface[BuilderConfig]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform()}"
        try:
            if version == "editable":
                compile_library(root, root / LIBRARY)
            else:
                self._scratch = tempfile.TemporaryDirectory()
                built = Path(self._scratch.name, "_native.so")
                compile_library(root, built)
                build_data["force_include"][str(built)] = LIBRARY
        except CompileError as error:
            self.app.abort(str(error))

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002  the hook's signature
        if version != "editable":
            self._scratch.cleanup()


def platform() -> str:
    """As a wheel's name has it: ``linux_x86_64``."""
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")


def compile_library(root: Path, target: Path) -> None:
    """Compile every source below ``root`` and put the library at ``target`` in one step.

    A running process may have ``target`` mapped, and another build may write it, too: the new file takes the name of the
    old one, whose bytes stay as they are.

    Raises:
        CompileError: no compiler, or a source or header that it does not accept.
    """
    sources = sorted(path.relative_to(root).as_posix() for path in (root / SOURCES).glob("*.c"))
    with tempfile.TemporaryDirectory(prefix="_native-", dir=target.parent) as folder:
        built = Path(folder, target.name)
        ours = [*_words("CC", "cc"), *FLAGS, *_words("CPPFLAGS"), *_words("CFLAGS"), *sources]
        _run([*ours, "-o", str(built), *_words("LDFLAGS")], root)
        built.replace(target)


def _run(command: Sequence[str], folder: Path) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603  whoever builds chooses
    except OSError as error:
        raise CompileError(f"{command[0]} cannot be run ({error.strerror}). {NEEDED}") from error
    if done.returncode:
        raise CompileError(f"{shlex.join(command)}\n{done.stderr}\nThe native library was not built. {NEEDED}")


def _words(variable: str, default: str = "") -> list[str]:
    """Of an environment variable that distributions set; theirs come after ours, and win."""
    return shlex.split(os.environ.get(variable, default))
