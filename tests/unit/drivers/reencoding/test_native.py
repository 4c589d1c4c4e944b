"""A library that does not fit these sources, as after an update without a build, says so and what to do."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from drivers.reencoding.native import load


def test_a_library_that_was_never_built_is_told(tmp_path: Path) -> None:
    with pytest.raises(ImportError, match=r"No such file.*build it anew with scripts/setup\.sh"):
        load(tmp_path / "_native.so")


def test_a_library_of_older_sources_is_told(tmp_path: Path) -> None:
    library = tmp_path / "_native.so"
    source = "void *reencoding_inflater_new(void) { return 0; }"
    subprocess.run(["cc", "-x", "c", "-shared", "-o", str(library), "-"], input=source, text=True, check=True)
    with pytest.raises(ImportError, match=r"undefined symbol: reencoding_\w+: build it anew with scripts/setup\.sh"):
        load(library)
