"""From registry to registry; skopeo and umoci take the result as an ordinary image."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from cli.main import app
from shared.oci import media_types
from tests.images.pushing import make_layout, pull, push, run, unpack
from tests.servers.registry import docker_registry


def ics(*arguments: str) -> Any:
    result = CliRunner().invoke(app, [*arguments, "--output", "json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output + result.stderr
    return orjson.loads(result.stdout)


def image_of(image: str) -> tuple[Any, bytes]:
    """Manifest and raw config of the only image of a layout (``path:tag``)."""
    layout = Path(image.partition(":")[0])
    (described,) = orjson.loads((layout / "index.json").read_bytes())["manifests"]
    manifest = orjson.loads(blob(layout, described))
    return manifest, blob(layout, manifest["config"])


def blob(layout: Path, descriptor: dict[str, Any]) -> bytes:
    return (layout / "blobs" / str(descriptor["digest"]).replace(":", "/")).read_bytes()


def test_an_image_by_way_of_a_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "none"))
    for name in ("base", "top"):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as archive:
            for number in range(30):
                info = tarfile.TarInfo(f"{name}-{number}")
                info.size, info.mtime, info.mode = 5_000, 1_700_000_000 + number, 0o640
                archive.addfile(info, io.BytesIO(bytes([number]) * info.size))
    layout = make_layout(tmp_path, [tmp_path / "base.tar", tmp_path / "top.tar"])
    with docker_registry(tmp_path / "registry") as server:
        source = f"{server.host}/library/app:1"
        push(layout, source)
        made = ics("convert", "--insecure", "--driver", "zstdchunked", source)["target"]
        checked = ics("check", "--insecure", made)
        assert (checked["ok"], checked["compared"], checked["entries"]) == (True, True, 60)
        copied = pull(made, tmp_path)
    manifest, config = image_of(copied)
    assert config == image_of(layout)[1]
    assert [layer["mediaType"] for layer in manifest["layers"]] == [media_types.OCI_LAYER_ZSTD] * 2
    # As gzip, which older tools know: skopeo inflates the layers for it, and umoci compares the diff IDs.
    packed = tmp_path / "packed"
    run(
        *("skopeo", "--insecure-policy", "copy", "-q", "--dest-compress-format", "gzip"),
        f"oci:{copied}",
        f"oci:{packed}:1",
    )
    assert image_of(str(packed))[0]["layers"][0]["mediaType"] == media_types.OCI_LAYER_GZIP
    unpack(f"{packed}:1", tmp_path / "rootfs")
    assert (tmp_path / "rootfs" / "top-7").read_bytes() == bytes([7]) * 5_000
