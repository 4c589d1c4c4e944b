"""Adding a format is one folder and one entry-point line: nothing of ICS changes, and every command knows it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from cli.main import app
from drivers.catalogue import driver_types
from tests.images.pushing import make_layout
from tests.images.small import layer_tar


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What pip leaves of a distribution whose pyproject.toml has ``toy = "tests.toy_format:ToyDriver"`` under ``ics.drivers``."""
    site = tmp_path / "site"
    metadata = site / "ics_toy-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: ics-toy\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[ics.drivers]\ntoy = tests.toy_format:ToyDriver\n")
    monkeypatch.syspath_prepend(site)
    monkeypatch.chdir(tmp_path)
    importlib.invalidate_caches()
    driver_types.cache_clear()
    yield tmp_path
    driver_types.cache_clear()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("other = tests.toy_format:ToyDriver", "the driver's type is 'toy', and the entry point must have that name"),
        ("toy = tests.no_such_format:ToyDriver", "No module named"),
        ("toy = tests.toy_format:NoDriver", "no attribute 'NoDriver'"),
        ("estargz = drivers.estargz.driver:EstargzDriver", "there is another one of this name"),
    ],
)
def test_an_entry_point_that_cannot_be_used_is_named_at_the_start(installed: Path, line: str, why: str) -> None:
    (installed / "site/ics_toy-1.0.dist-info/entry_points.txt").write_text(f"[ics.drivers]\n{line}\n")
    told = ics("config", "check", code=1)
    assert why in told
    assert f"{line} of ics-toy cannot be used" in told or "another one" in why
    assert "[invalid_driver]" in told


def ics(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == code, result.output + result.stderr
    return result.stdout if code == 0 else result.stderr


def test_a_format_of_somebody_elses(installed: Path) -> None:
    assert "toy" in ics("drivers")
    assert "Of nothing in particular." in ics("drivers", "toy")
    assert "driver.config.size (toy)" in ics("config", "keys", "driver")

    config = installed / "config.yml"
    config.write_text("driver: {type: toy, config: {size: 10}}\n")
    assert "driver.config.size: must be less than or equal to 9" in ics("config", "check", code=1)
    config.write_text("driver: {type: toy, config: {size: 9}}\n")
    assert "fine" in ics("config", "check")

    (installed / "layer.tar").write_bytes(layer_tar(1, 5))
    source = f"oci:{make_layout(installed, [installed / 'layer.tar'])}"
    made = orjson.loads(ics("convert", source, "oci:lazy:1", "--output", "json"))
    assert made["driver"] == "toy"
    assert "sound; 1 image(s)" in ics("check", "oci:lazy:1", "--source", source)
