"""The build hook: what it compiles, what it leaves alone, and what it says when it cannot."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hatch_build import LIBRARY, SOURCES, CompileError, compile_library, platform

ROOT = Path(__file__).parents[3]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project of one source."""
    (tmp_path / SOURCES).mkdir(parents=True)
    write(tmp_path, "1")
    return tmp_path


def write(root: Path, answer: str) -> None:
    (root / SOURCES / "answer.c").write_text(f"int answer(void);\nint answer(void) {{ return {answer}; }}\n")


def answer(library: Path) -> int:
    """Of a process of its own: one that has loaded a path does not load it again."""
    code = "import ctypes, sys; print(ctypes.CDLL(sys.argv[1]).answer())"
    done = subprocess.run((sys.executable, "-c", code, library), check=True, capture_output=True, text=True)
    return int(done.stdout)


def build(project: Path, call: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """``call`` of hatchling, as a frontend makes it."""
    code = f"import hatchling.build, sys; print(hatchling.build.{call})"
    env = os.environ | environment
    return subprocess.run(
        (sys.executable, "-c", code), cwd=project, env=env, check=False, capture_output=True, text=True
    )


def test_a_process_that_runs_keeps_the_library_that_it_has_loaded(root: Path) -> None:
    target = root / LIBRARY
    compile_library(root, target)
    loaded = ctypes.CDLL(str(target))
    write(root, "2")
    compile_library(root, target)
    assert (loaded.answer(), answer(target)) == (1, 2)


def test_builds_at_the_same_time_do_not_disturb_each_other(root: Path) -> None:
    target = root / LIBRARY
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: compile_library(root, target), range(4)))
    assert answer(target) == 1
    assert sorted(path.name for path in target.parent.iterdir()) == ["_native.so", "answer.c"]


def test_a_source_that_does_not_compile_leaves_the_library_as_it_was(root: Path) -> None:
    target = root / LIBRARY
    compile_library(root, target)
    write(root, "undeclared()")
    with pytest.raises(CompileError, match=r"answer\.c:2.*undeclared(?s:.*)apt install gcc libc6-dev"):
        compile_library(root, target)
    assert answer(target) == 1
    assert sorted(path.name for path in target.parent.iterdir()) == ["_native.so", "answer.c"]


def test_what_distributions_set_is_heeded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root, "ANSWER * FACTOR")
    monkeypatch.setenv("CC", "cc -DFACTOR=2")
    monkeypatch.setenv("CFLAGS", "-DANSWER=21")
    compile_library(root, root / LIBRARY)
    assert answer(root / LIBRARY) == 42


def test_without_a_compiler_the_build_says_what_to_install(tmp_path: Path) -> None:
    for call in (f"build_wheel({str(tmp_path)!r})", f"build_editable({str(tmp_path)!r})"):
        done = build(ROOT, call, PATH=str(tmp_path))
        assert done.returncode == 1
        assert done.stderr.startswith("cc cannot be run")
        assert done.stderr.endswith("apt install gcc libc6-dev\n")
    assert list(tmp_path.iterdir()) == []


def test_a_wheel_of_the_source_distribution_holds_the_library_and_fits_every_python_of_the_platform(
    tmp_path: Path,
) -> None:
    done = build(ROOT, f"build_sdist({str(tmp_path)!r})")
    assert done.returncode == 0, done.stderr
    subprocess.run(("tar", "xzf", *tmp_path.glob("*.tar.gz")), cwd=tmp_path, check=True)
    (project,) = tmp_path.glob("image_conversion_service-*/")
    assert not (project / LIBRARY).exists()
    done = build(project, f"build_wheel({str(tmp_path)!r})")
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith(f"-py3-none-{platform()}.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert LIBRARY in archive.namelist()
        assert not [name for name in archive.namelist() if name.endswith((".c", ".h"))]
        assert b"Root-Is-Purelib: false" in archive.read(next(n for n in archive.namelist() if n.endswith("/WHEEL")))
    assert not (project / LIBRARY).exists()
