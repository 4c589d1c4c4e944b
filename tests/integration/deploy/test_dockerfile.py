"""The Dockerfile's build stage, done in a folder: its own lines, without a container engine; then the service runs from it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.servers.ports import free_port

ROOT = Path(__file__).parents[3]
PYTHON = f'python() {{ "{sys.executable}" "$@"; }}; '
"""The base image has a ``python``; a Debian machine need not."""
IGNORED = (ROOT / ".dockerignore").read_text().split()


def stages() -> list[tuple[str, list[tuple[str, str]]]]:
    """Each one's image, and its instructions."""
    text = re.sub(r"^#.*\n", "", (ROOT / "deploy/Dockerfile").read_text(), flags=re.MULTILINE)
    parts = re.split(r"^FROM (\S+).*\n", text.replace("\\\n", " "), flags=re.MULTILINE)[1:]
    return [
        (image, [(line.split(None, 1)[0], line.split(None, 1)[1].strip()) for line in lines.splitlines() if line])
        for image, lines in zip(parts[::2], parts[1::2], strict=True)
    ]


def let_through(name: str) -> bool:
    """By .dockerignore, which lets through only what it names."""
    return IGNORED[0] == "*" and f"!{name}" in IGNORED


def clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("ICS_", "OTEL_", "PYTHON"))}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with what the second stage copies: ``/opt/ics``."""
    root = tmp_path_factory.mktemp("image")
    folder = root
    kept_out = shutil.ignore_patterns(*(line.removeprefix("**/") for line in IGNORED if line.startswith("**/")))
    (root / "bin").mkdir()
    (root / "bin/apt-get").symlink_to("/bin/true")  # the compiler is here, by setup
    environment = clean() | {"PATH": f"{root}/bin:{os.environ['PATH']}"}
    for instruction, rest in stages()[0][1]:
        match instruction:
            case "WORKDIR":
                folder = root / rest.lstrip("/")
                folder.mkdir(parents=True)
            case "COPY":
                *names, target = rest.split()
                for name in names:
                    assert let_through(name), f".dockerignore keeps {name} out"
                    if (ROOT / name).is_dir():
                        shutil.copytree(ROOT / name, folder / target, ignore=kept_out)
                    else:
                        shutil.copy(ROOT / name, folder / target)
            case "RUN":
                inside = re.sub(r"(?<![\w.])/(?=opt/|dist\b|var/)", f"{root}/", rest)
                done = subprocess.run(
                    ("sh", "-ec", PYTHON + inside),
                    cwd=folder, env=environment, capture_output=True, text=True, check=False,
                )  # fmt: skip
                assert done.returncode == 0, done.stdout + done.stderr
            case _:
                assert instruction == "ENV"  # pip's cache is welcome here
    return root


def test_the_image_holds_the_service_and_nothing_that_installs(image: Path) -> None:
    (site,) = (image / "opt/ics/lib").glob("python3.*/site-packages")
    assert not {path.name for path in site.iterdir()} & {"pip", "setuptools", "wheel", "build"}
    assert list(site.glob("image_conversion_service-*.dist-info/licenses/LICENSE"))
    shipped = subprocess.run(
        ("git", "ls-files", "shared", "drivers", "consumer", "ingress", "cli"),
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    missing = {name for name in shipped.stdout.split() if not (site / name).is_file()}
    assert {Path(name).suffix for name in missing} <= {".c", ".h"}
    assert (site / "drivers/reencoding/_native.so").is_file()


def test_the_service_runs_on_the_image_that_its_native_code_was_built_on_without_the_compiler() -> None:
    (build, built), (run, running) = stages()
    assert build == run
    assert [rest for instruction, rest in built if instruction == "RUN" and re.search(r"apt-get install .* gcc ", rest)]
    assert [rest for _, rest in running if "apt-get" in rest] == []


def test_the_ingress_runs_from_it_and_its_health_is_what_compose_asks(image: Path, tmp_path: Path) -> None:
    bin_ = image / "opt/ics/bin"
    told = subprocess.run(
        (bin_ / "ics", "version"), cwd=tmp_path, env=clean(), capture_output=True, text=True, check=True
    )
    assert "estargz" in told.stdout
    assert "nydus" in told.stdout
    compose = yaml.safe_load((ROOT / "deploy/compose.yml").read_text())
    port = free_port()
    _, program, *arguments = compose["services"]["ingress-1"]["healthcheck"]["test"]
    ask = [str(bin_ / program), *(each.replace("8081", str(port)) for each in arguments)]
    settings = {"ICS_BROKER__URL": "memory:", "ICS_HTTP__PORT": str(port), "ICS_HOSTNAME": "127.0.0.1"}
    with subprocess.Popen(
        (bin_ / "ics", *compose["services"]["ingress-1"]["command"]),
        cwd=tmp_path, env=clean() | settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as ingress:  # fmt: skip
        try:
            deadline = time.monotonic() + 60
            while subprocess.run(ask, cwd=tmp_path, env=clean(), check=False, capture_output=True).returncode:
                assert ingress.poll() is None, ingress.communicate()[0]
                assert time.monotonic() < deadline
                time.sleep(0.2)
        finally:
            ingress.send_signal(signal.SIGTERM)
            said = ingress.communicate()[0]
    assert ingress.returncode == 0, said
