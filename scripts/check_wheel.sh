#!/bin/sh
# Build the wheel and use it outside this checkout: an editable install hides what packaging forgets.
set -eu
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# What compilers only warn of, and what their analysis finds, are errors here; in a build they are not, since compilers differ.
strict="-Werror -Wconversion -Wshadow -Wstrict-prototypes -Wmissing-prototypes -fanalyzer"
CFLAGS="${CFLAGS:-} $strict" .venv/bin/python -m pip wheel -q --no-deps --wheel-dir "$folder" .
case $(echo "$folder"/*.whl) in *-py3-none-any.whl) echo "the wheel holds native code, and its tag does not say so" >&2; exit 1 ;; esac
.venv/bin/python -m pip install -q --no-deps --target "$folder/site" "$folder"/*.whl
cd "$folder"
# -P and an explicit path: nothing of the checkout is importable but through the wheel, which comes first.
PYTHONPATH="$folder/site" "$OLDPWD/.venv/bin/python" -P - "$folder/site" "$OLDPWD" <<'PYTHON'
import ctypes, importlib, pathlib, pkgutil, sys

site, checkout = map(pathlib.Path, sys.argv[1:])
for name in ("shared", "drivers", "consumer", "ingress", "cli"):
    package = importlib.import_module(name)
    assert package.__file__ and package.__file__.startswith(str(site)), f"{name} is not the wheel's: {package.__file__}"
    for module in pkgutil.walk_packages(package.__path__, f"{name}."):
        if not module.name.endswith((".__main__", "._native")):  # a C library, and by its name no module's
            importlib.import_module(module.name)
    for path in (checkout / name).rglob("*"):  # templates, styles, py.typed
        if path.suffix in {".py", ".typed", ".html", ".css", ".js", ".svg"}:
            assert (site / path.relative_to(checkout)).exists(), f"the wheel lacks {path.relative_to(checkout)}"

library = site / "drivers/reencoding/_native.so"
bound = ctypes.CDLL(str(library)).reencoding_bound
bound.argtypes, bound.restype = (ctypes.c_size_t, ctypes.c_size_t), ctypes.c_size_t
assert bound(1 << 40, 1) > 1 << 40, "the native library does not answer"
with open("/proc/self/maps") as maps:
    loaded = {line.split()[-1] for line in maps if line.rstrip().endswith("/_native.so")}
assert loaded == {str(library.resolve())}, f"native code comes from {loaded}"

from typer.testing import CliRunner

from cli.main import app

result = CliRunner().invoke(app, ["--help"])
assert result.exit_code == 0, result.output
print("wheel: every file is there, every module imports, its native code and the command line answer")
PYTHON
