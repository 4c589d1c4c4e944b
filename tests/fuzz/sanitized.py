"""``python -m tests.fuzz.sanitized``: fuzz the C code built with its compiler's checks; a breach of one ends the process."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def fuzz(folder: Path, sanitizers: str, seconds: float) -> subprocess.CompletedProcess[str]:
    """Fuzz a copy of the drivers in ``folder`` whose native library is checked by ``sanitizers``."""
    drivers = folder / "drivers"
    shutil.copytree(ROOT / "drivers", drivers, ignore=shutil.ignore_patterns("__pycache__", "_native.so"))
    environment = os.environ | {
        "CFLAGS": f"-O1 -g -fno-omit-frame-pointer -fsanitize={sanitizers} -fno-sanitize-recover=all",
        "PYTHONPATH": os.pathsep.join(map(str, (folder, ROOT))),
    }
    code = f"import pathlib, hatch_build as h; p = pathlib.Path({str(folder)!r}); h.compile_library(p, p / h.LIBRARY)"
    subprocess.run((sys.executable, "-P", "-c", code), env=environment, check=True)
    if "address" in sanitizers:  # Python itself is not built for it
        runtime = subprocess.check_output(("cc", "-print-file-name=libasan.so"), text=True).strip()
        environment |= {"LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"}
    command = (sys.executable, "-P", "-m", "tests.fuzz", "--target", "reencoding", "--seconds", str(seconds))
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.sanitized", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--sanitizers", default="address,undefined", help="as the compiler's -fsanitize takes them")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        done = fuzz(Path(folder), arguments.sanitizers, arguments.seconds)
    print(done.stdout + done.stderr, end="")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
