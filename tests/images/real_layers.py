"""Real file systems as source layers: Debian, and Python and Node installations on top of it. Made once per test session."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

_TAR = ("tar", "--xattrs", "--sort=name", "--mtime=@1700000000", "--owner=0", "--group=0", "--numeric-owner")
_TIMEOUT = 500


class RealLayers:
    """Tars in a folder that the session's workers share; the first one to ask makes them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def debian(self) -> Path:
        """A minimal Debian, about 7,000 entries: setuid files, hard links, device nodes."""
        return self._make("debian.tar", self._debian)

    def python(self) -> Path:
        """A few packages of PyPI, installed where Debian's Python finds them."""
        return self._make("python.tar", self._python)

    def node(self) -> Path:
        """An npm package with its dependencies: thousands of small files."""
        return self._make("node.tar", self._node)

    def icons(self) -> Path:
        """An npm package of more than 15,000 small files."""
        return self._make("icons.tar", self._icons)

    def _make(self, name: str, make: Callable[[Path], None]) -> Path:
        path = self._folder / name
        with (self._folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                partial = path.with_suffix(".part.tar")
                make(partial)
                partial.rename(path)
        return path

    def _debian(self, path: Path) -> None:
        _run("mmdebstrap", "--quiet", '--aptopt=Acquire::Retries "5"', "--variant=essential", "bookworm", str(path))

    def _python(self, path: Path) -> None:
        root = self._folder / "python"
        target = root / "usr" / "local" / "lib" / "python3.11" / "dist-packages"
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir")
        _run(*pip, "--root-user-action=ignore", "--target", str(target), "flask", "requests", "pyyaml")
        _run(*_TAR, "-cf", str(path), "-C", str(root), "usr")

    def _node(self, path: Path) -> None:
        root = self._folder / "node"
        app = root / "srv" / "app"
        app.mkdir(parents=True)
        _run("npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(app), "express", "eslint")
        _run(*_TAR, "-cf", str(path), "-C", str(root), "srv")

    def _icons(self, path: Path) -> None:
        root = self._folder / "icons"
        app = root / "srv" / "icons"
        app.mkdir(parents=True)
        npm = ("npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--legacy-peer-deps")
        _run(*npm, "--prefix", str(app), "@mui/icons-material")
        _run(*_TAR, "--exclude=esm", "-cf", str(path), "-C", str(root), "srv")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=_TIMEOUT)
