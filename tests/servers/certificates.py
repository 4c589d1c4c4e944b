"""A certificate authority for tests, made with ``openssl`` (Debian package openssl)."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class KeyPair:
    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Authority:
    """Signs server and client certificates."""

    folder: Path
    ca: KeyPair

    def issue(self, name: str, *, san: str = "IP:127.0.0.1,DNS:localhost", days: int = 2) -> KeyPair:
        """A certificate named ``name`` for the addresses in ``san``; ``days`` may be negative: expired."""
        pair = KeyPair(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        request = self.folder / f"{name}.csr"
        extensions = self.folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={san}\nbasicConstraints=CA:FALSE\n")
        _openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", pair.key, "-out", request, "-subj", f"/CN={name}")
        _openssl(
            "x509", "-req", "-in", request, "-CA", self.ca.certificate, "-CAkey", self.ca.key, "-CAcreateserial",
            "-out", pair.certificate, "-days", str(days), "-extfile", extensions,
        )  # fmt: skip
        return pair


def certificate_authority(folder: Path) -> Authority:
    folder.mkdir(parents=True, exist_ok=True)
    pair = KeyPair(folder / "ca.pem", folder / "ca.key")
    _openssl(
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", pair.key, "-out", pair.certificate,
        "-days", "2", "-subj", "/CN=ICS test authority",
        "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign",
    )  # fmt: skip
    return Authority(folder, pair)


def _openssl(*arguments: str | Path) -> None:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, check=False, text=True)
    if done.returncode:
        raise RuntimeError(f"openssl {arguments[0]} failed: {done.stderr[-500:]}")
