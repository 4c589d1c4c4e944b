"""Images in a registry, put there and fetched by the field's own tools: umoci and skopeo."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

_TIMEOUT = 300


def make_layout(folder: Path, layers: Sequence[Path], *, tag: str = "source") -> str:
    """An OCI layout of one image whose layers umoci makes of the tars; gives ``path:tag``."""
    layout = folder / "layout"
    run("umoci", "init", "--layout", str(layout))
    image = f"{layout}:{tag}"
    run("umoci", "new", "--image", image)
    for layer in layers:
        run("umoci", "raw", "add-layer", "--image", image, str(layer))
    return image


def push(image: str, reference: str, *more: str) -> None:
    """From an OCI layout's ``path:tag`` to a registry on plain HTTP."""
    run(
        "skopeo",
        "--insecure-policy",
        "copy",
        "-q",
        "--dest-tls-verify=false",
        *more,
        f"oci:{image}",
        f"docker://{reference}",
    )


def pull(reference: str, folder: Path, *, tag: str = "pulled") -> str:
    """Into an OCI layout; gives ``path:tag``."""
    image = f"{folder / 'pulled'}:{tag}"
    run("skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false", f"docker://{reference}", f"oci:{image}")
    return image


def copy(source: str, target: str) -> None:
    """From registry to registry."""
    plain = ("--src-tls-verify=false", "--dest-tls-verify=false")
    run("skopeo", "--insecure-policy", "copy", "-q", *plain, f"docker://{source}", f"docker://{target}")


def unpack(image: str, folder: Path) -> Path:
    """The root file system as umoci extracts it; needs root."""
    run("umoci", "raw", "unpack", "--image", image, str(folder))
    return folder


def digest_of(reference: str) -> str:
    done = run("skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}", f"docker://{reference}")
    return done.strip()


def run(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_TIMEOUT)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr[-2000:]}"
    return done.stdout
