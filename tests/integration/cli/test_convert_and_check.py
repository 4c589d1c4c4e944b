"""``ics convert`` and ``ics check`` between registries, layouts and archives, read back by skopeo."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from typer.testing import CliRunner

from cli.main import app
from shared.oci import media_types
from shared.oci.digest import Digest
from tests.images.pushing import copy, make_layout, push, run
from tests.servers.registry import RegistryServer, docker_registry


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as server:
        yield server


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration and no credentials but the command line's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "none"))


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("source")
    for name, files in (("base", 40), ("top", 5)):
        with tarfile.open(folder / f"{name}.tar", "w") as archive:
            for number in range(files):
                info = tarfile.TarInfo(f"{name}/file-{number}")
                info.size, info.mtime, info.mode = 5_000, 1_700_000_000 + number, 0o640
                archive.addfile(info, io.BytesIO(bytes([number]) * info.size))
            link = tarfile.TarInfo(f"{name}/link")
            link.type, link.linkname = tarfile.SYMTYPE, "file-0"
            archive.addfile(link)
    return make_layout(folder, [folder / "base.tar", folder / "top.tar"])


def ics(*arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [*arguments, "--output", "json"], catch_exceptions=False)
    assert result.exit_code == code, result.output + result.stderr
    return orjson.loads(result.stdout) if result.stdout.strip().startswith("{") else result.stderr


def test_from_registry_to_registry_beside_the_source(registry: RegistryServer, layout: str) -> None:
    source = f"{registry.host}/library/app:1"
    push(layout, source)
    first = ics("convert", "--insecure", source)
    assert first["target"] == f"{source}_esgz"
    assert first["layers_total"] == 2
    assert {stage["name"] for stage in first["stages"]} >= {"resolve", "pull", "push", "tag"}
    again = ics("convert", "--insecure", source)
    assert again["skipped"] == "up to date"
    checked = ics("check", "--insecure", first["target"])
    assert checked["ok"]
    assert checked["compared"]
    assert checked["entries"] == 47


@pytest.mark.parametrize("named", [("auths", "endpoints"), ("endpoints",)])
def test_a_name_without_a_dot_is_a_registrys_where_the_configuration_knows_one(
    named: tuple[str, ...], layout: str, tmp_path: Path
) -> None:
    with docker_registry(tmp_path / "registry", credential=("ics", "s3cret")) as guarded:
        auth = {"insecure": True, "auth": guarded.basic}
        document = {"auths": {"team" if "auths" in named else guarded.host: auth}, "endpoints": {"team": guarded.host}}
        (tmp_path / "config.yml").write_text(yaml.safe_dump(document))
        made = ics("convert", f"oci:{layout}", "team/app:1_esgz")
        assert made["target"] == "team/app:1_esgz"
        again = ics("convert", "--driver", "nydus", f"oci:{layout}", "team/app:1_nydus")
        assert again["target_digest"] != made["target_digest"]
        for target in (made["target"], again["target"]):
            assert ics("check", target, "--source", f"oci:{layout}")["compared"]


def test_archive_to_layout_to_archive_to_registry(registry: RegistryServer, layout: str, tmp_path: Path) -> None:
    run("skopeo", "--insecure-policy", "copy", "-q", f"oci:{layout}", f"docker-archive:{tmp_path}/app.tar:app:1")
    one = ics("convert", f"docker-archive:{tmp_path}/app.tar:app:1", f"oci:{tmp_path}/lazy:1")
    assert ics("check", f"oci:{tmp_path}/lazy:1", "--source", f"docker-archive:{tmp_path}/app.tar")["ok"]
    two = ics("convert", f"docker-archive:{tmp_path}/app.tar", f"docker-archive:{tmp_path}/lazy.tar:lazy:1")
    assert two["target_digest"] == one["target_digest"]
    assert ics("check", f"docker-archive:{tmp_path}/lazy.tar", "--source", f"docker-archive:{tmp_path}/app.tar")["ok"]
    target = f"{registry.host}/library/from-archive:1"
    run(
        *("skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false"),
        *(f"docker-archive:{tmp_path}/lazy.tar", f"docker://{target}"),
    )
    run("skopeo", "--insecure-policy", "copy", "-q", f"oci:{tmp_path}/lazy:1", f"oci:{tmp_path}/copied:1")


def test_a_driver_with_options_and_the_digests_of_two_runs(
    registry: RegistryServer, layout: str, tmp_path: Path
) -> None:
    source = f"{registry.host}/library/options:1"
    push(layout, source)
    arguments = ("convert", "--insecure", "-O", "estargz_chunk_size=65536", source)
    one = ics(*arguments, f"oci:{tmp_path}/one:1")
    two = ics(*arguments, f"oci:{tmp_path}/two:1")
    other = ics("convert", "--insecure", "-O", "estargz_compression_level=1", source, f"oci:{tmp_path}/three:1")
    assert one["target_digest"] == two["target_digest"] != other["target_digest"]


def test_layers_that_were_only_inflated_are_compared_too(layout: str, tmp_path: Path) -> None:
    made = f"oci:{tmp_path}/inflated:1"
    ics("convert", "-O", "uncompress=true", f"oci:{layout}", made)
    report = ics("check", made, "--source", f"oci:{layout}")
    assert (report["ok"], report["compared"], report["blobs"], report["entries"]) == (True, True, 2, 47)


def test_an_image_that_keeps_a_layer_as_it_was_is_checked(tmp_path: Path) -> None:
    for name, kind in (("file", tarfile.REGTYPE), ("dangling", tarfile.LNKTYPE)):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as archive:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "below"
            archive.addfile(info)
    source = f"oci:{make_layout(tmp_path, [tmp_path / 'file.tar', tmp_path / 'dangling.tar'])}"
    made = f"oci:{tmp_path}/lazy:1"
    assert len(ics("convert", source, made)["left_out"]) == 1
    report = ics("check", made, "--source", source)
    assert (report["ok"], report["compared"], report["blobs"]) == (True, True, 1)


def test_nydus_into_a_registry_and_checked_there(registry: RegistryServer, layout: str, tmp_path: Path) -> None:
    source = f"{registry.host}/library/nydus:1"
    push(layout, source)
    made = ics("convert", "--insecure", "--driver", "nydus", source)
    assert made["target"] == f"{source}_nydus"
    for command in (("nydus", "check"), ("check",)):
        report = ics(*command, "--insecure", made["target"])
        assert report["ok"]
        assert report["compared"]
    assert "docker" in ics(
        "convert", "--insecure", "--driver", "nydus", source, f"docker-archive:{tmp_path}/no.tar", code=1
    )


def test_check_names_the_file_that_differs(registry: RegistryServer, layout: str, tmp_path: Path) -> None:
    """The image is checked against a source in which one file is another."""
    folder = tmp_path / "other"
    folder.mkdir()
    run("cp", "-r", layout.partition(":")[0], str(folder / "layout"))
    made = ics("convert", f"oci:{layout}", f"oci:{tmp_path}/lazy:1")
    blob = next(
        path
        for path in (tmp_path / "lazy" / "blobs" / "sha256").iterdir()
        if path.read_bytes()[:2] == b"\x1f\x8b" and path.stat().st_size > 2000
    )
    data = bytearray(blob.read_bytes())
    data[300] ^= 0xFF
    blob.write_bytes(data)
    report = ics("check", f"oci:{tmp_path}/lazy:1", "--source", f"oci:{layout}", code=4)
    assert not report["ok"]
    assert report["findings"][0]["where"].startswith("layers[")
    assert str(Digest(made["target_digest"])) == report["findings"][0]["image"]
    text = CliRunner().invoke(app, ["check", f"oci:{layout}"])
    assert text.exit_code == 1
    assert "not_converted" in text.stderr


def test_without_its_source_it_says_that_nothing_was_compared(registry: RegistryServer, layout: str) -> None:
    source = f"{registry.host}/library/alone:1"
    push(layout, source)
    made = ics("convert", "--insecure", source)
    copy(made["target"], f"{registry.host}/moved/alone:1")
    report = ics("check", "--insecure", f"{registry.host}/moved/alone:1")
    assert report["ok"]
    assert not report["compared"]
    assert ics("check", "--insecure", f"{registry.host}/moved/alone:1", "--source", source)["compared"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("convert", "--driver", "zip", "localhost/app:1"), "unknown_driver"),
        (("convert", "-O", "estargz_compression_level=77", "localhost/app:1"), "invalid_options"),
        (("convert", "-O", "nonsense", "localhost/app:1"), "invalid_options"),
        (("convert", "-p", "linux", "localhost/app:1"), "invalid_options"),
        (("convert", "oci:/nowhere:1"), "invalid_reference"),
        (("convert", "oci:/nowhere:1", "oci:out:1"), "no_layout"),
        (("convert", "docker-archive:/nowhere", "oci:out:1"), "no_archive"),
        (("check", "oci:/nowhere:1"), "no_layout"),
        (("convert", "localhost:1/app:1", "localhost:1/app:1"), "target_not_ours"),
        (("convert", f"localhost:1/app:1@sha256:{'0' * 64}", "localhost:1/app:1"), "target_not_ours"),
        (("convert", "oci:lay:1", "oci:lay:1"), "target_not_ours"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(arguments: tuple[str, ...], said: str) -> None:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 1
    assert result.stderr.strip().endswith(f"[{said}]")
    assert result.stderr.count("\n") == 1


def test_a_name_that_a_layout_lacks_is_told_with_those_it_has(layout: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["convert", f"oci:{layout.partition(':')[0]}:other", f"oci:{tmp_path}/out:1"])
    assert result.exit_code == 1
    assert "there are: " in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_source_that_is_named_and_not_the_one_is_an_error(
    registry: RegistryServer, layout: str, tmp_path: Path
) -> None:
    ics("convert", f"oci:{layout}", f"oci:{tmp_path}/lazy:1")
    lazy = f"oci:{tmp_path}/lazy:1"
    assert "manifest_unknown" in ics("check", lazy, "--source", f"oci:{layout}-other", code=1)
    other = f"{registry.host}/library/other:1"
    push(layout, other)
    assert "manifest_unknown" in ics("check", "--insecure", lazy, "--source", f"{other}x", code=1)
    assert "source_differs" in ics("check", lazy, "--source", lazy, code=1)


def test_every_platform_of_a_layout_is_compared(layout: str, tmp_path: Path) -> None:
    """Also when the manifests are named by sha512, which layouts may do."""
    folder = Path(layout.partition(":")[0])
    (described,) = orjson.loads((folder / "index.json").read_bytes())["manifests"]
    raw = (folder / "blobs" / described["digest"].replace(":", "/")).read_bytes()
    copied = tmp_path / "multi"
    run("cp", "-r", str(folder), str(copied))
    (copied / "blobs" / "sha512").mkdir()
    child = f"sha512:{hashlib.sha512(raw).hexdigest()}"
    (copied / "blobs" / child.replace(":", "/")).write_bytes(raw)
    platforms = [{"os": "linux", "architecture": name} for name in ("amd64", "arm64")]
    children = [
        {"mediaType": described["mediaType"], "digest": digest, "size": len(raw), "platform": platform}
        for digest, platform in zip((described["digest"], child), platforms, strict=True)
    ]
    index = orjson.dumps({"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": children})
    digest = Digest.of(index)
    (copied / "blobs" / "sha256" / digest.hex).write_bytes(index)
    entry = {"mediaType": media_types.OCI_INDEX, "digest": digest, "size": len(index)}
    named = {**entry, "annotations": {"org.opencontainers.image.ref.name": "multi"}}
    (copied / "index.json").write_bytes(orjson.dumps({"schemaVersion": 2, "manifests": [named]}))

    made = ics("convert", f"oci:{copied}:multi", f"oci:{tmp_path}/lazy:1")
    assert len(made["platforms"]) == 2
    report = ics("check", f"oci:{tmp_path}/lazy:1", "--source", f"oci:{copied}:multi")
    assert report["compared"]
    assert report["images"] == 2

    (copied / "blobs" / child.replace(":", "/")).write_bytes(raw.replace(b"schemaVersion", b"schemaversion"))
    assert "digest_mismatch" in ics("convert", f"oci:{copied}:multi", f"oci:{tmp_path}/again:1", code=1)
