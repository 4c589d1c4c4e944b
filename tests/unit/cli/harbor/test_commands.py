"""``ics harbor setup`` as an operator runs it, against Harbor's API."""

from __future__ import annotations

import asyncio
import base64
import ssl
from pathlib import Path

import orjson
import pytest
import yaml
from typer.testing import CliRunner, Result

from cli.main import app
from drivers.catalogue import option_models
from shared.settings.load import load_settings
from tests.servers.certificates import certificate_authority
from tests.servers.forward_proxy import ForwardProxy, forward_proxy
from tests.servers.harbor import PASSWORD, Harbor, running_harbor

HOOK = "https://ics.example.com/conversion"


async def ics(harbor: Harbor, *arguments: str, url: str = "", password: str = PASSWORD, **more: str) -> Result:
    """In a thread: the command brings its own loop."""
    command = ["harbor", "setup", "--harbor", url or harbor.url, "--project", "library", *arguments]
    if "--remove" not in arguments:
        command += ["--webhook-url", HOOK]
    environment = {"HARBOR_PASSWORD": password, **more}
    return await asyncio.to_thread(lambda: CliRunner().invoke(app, command, catch_exceptions=False, env=environment))


async def test_standard_output_is_a_configuration_that_loads(tmp_path: Path) -> None:
    async with running_harbor() as harbor:
        result = await ics(harbor, "--label", "lazy")
    assert result.exit_code == 0, result.output
    config = tmp_path / "config.yml"
    config.write_text(result.stdout)
    settings = load_settings(config, environ={}, option_models=option_models())
    (header,) = settings.auth_header
    assert header.get_secret_value() == harbor.policies[0]["targets"][0]["auth_header"]
    auth = settings.auths[harbor.host]
    assert auth.insecure
    assert auth.auth is not None
    assert base64.b64decode(auth.auth.get_secret_value()).decode() == "robot$library+ics:Robot5ecret"
    assert settings.operators_to_ignore == ("robot$library+ics",)
    api = settings.harbor[harbor.host]
    assert (api.url, api.username, api.label) == (harbor.url, "robot$library+ics", "lazy")
    assert "robot account ics: created, may create artifact-label, list label" in result.stderr


async def test_harbor_behind_a_proxy_is_reached_through_it_and_the_configuration_names_it(tmp_path: Path) -> None:
    async with (
        running_harbor() as harbor,
        forward_proxy(ForwardProxy({"harbor.test": harbor.host}, "ics:pr0xy-s3cret")) as proxy,
    ):
        for way in ("option", "variable"):
            harbor.robots.clear()
            harbor.policies.clear()
            arguments = ("--proxy", proxy.url) if way == "option" else ()
            result = await ics(
                harbor, "--backfill", *arguments, url="http://harbor.test", HARBOR_PROXY="" if arguments else proxy.url
            )
            assert result.exit_code == 0, result.output
            assert set(proxy.seen) == {"harbor.test"}
            config = tmp_path / "config.yml"
            config.write_text(result.stdout)
            settings = load_settings(config, environ={}, option_models=option_models())
            for known in (settings.auths["harbor.test"].proxy, settings.harbor["harbor.test"].proxy):
                assert known is not None
                assert known.get_secret_value() == proxy.url
            assert "keep the configuration to its owner" in result.stderr
            assert "pr0xy-s3cret" not in result.stderr


async def test_a_proxy_that_is_none_is_refused_before_anything_is_done() -> None:
    async with running_harbor() as harbor:
        for wrong in ("proxy.example.com:3128", "https://proxy.example.com", "http://us:canary@proxy/path"):
            result = await ics(harbor, "--proxy", wrong)
            assert result.exit_code == 1
            assert "--proxy wants http://[user:password@]HOST[:PORT]" in result.stderr
            assert "canary" not in result.output
        assert harbor.writes == []


async def test_json_is_the_only_thing_on_standard_output() -> None:
    async with running_harbor() as harbor:
        document = orjson.loads((await ics(harbor, "--output", "json")).stdout)
        assert document["robot"] == "robot$library+ics"
        assert document["config"]["operators_to_ignore"] == ["robot$library+ics"]
        assert "harbor" not in document["config"]
        dry = orjson.loads((await ics(harbor, "--output", "json", "--dry-run")).stdout)
        assert (dry["dry_run"], len(dry["done"])) == (True, 2)
        gone = orjson.loads((await ics(harbor, "--output", "json", "--remove")).stdout)
        assert len(gone["done"]) == 2


async def test_secrets_go_to_files_of_their_own_and_a_second_run_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    async with running_harbor() as harbor:
        first = await ics(harbor, "--secrets-dir", str(folder), "--backfill")
        files = {path.name: path.read_text() for path in folder.iterdir()}
        assert set(files) == {"auth_header", "robot", "robot_password"}
        assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
        assert files["robot_password"] == "Robot5ecret\n"
        assert base64.b64decode(files["robot"]).decode() == "robot$library+ics:Robot5ecret"
        assert "Robot5ecret" not in first.output
        assert files["auth_header"].strip() not in first.output
        document = yaml.safe_load(first.stdout)
        assert document["auths"][harbor.host]["auth_file"] == str(folder / "robot")
        assert document["harbor"][harbor.host]["password_file"] == str(folder / "robot_password")
        harbor.writes.clear()
        again = await ics(harbor, "--secrets-dir", str(folder), "--backfill")
        assert again.stdout == first.stdout
        assert harbor.writes == []
        assert {path.name: path.read_text() for path in folder.iterdir()} == files


async def test_a_new_header_comes_first_and_the_old_one_stays_accepted(tmp_path: Path) -> None:
    async with running_harbor() as harbor:
        arguments = ("--secrets-dir", str(tmp_path))
        await ics(harbor, *arguments)
        (old,) = (tmp_path / "auth_header").read_text().splitlines()
        await ics(harbor, *arguments, "--new-auth-header")
        new, kept = (tmp_path / "auth_header").read_text().splitlines()
        assert (kept, harbor.policies[0]["targets"][0]["auth_header"]) == (old, new)
        assert new != old


async def test_without_files_a_second_run_says_that_the_secret_is_not_told_again() -> None:
    async with running_harbor() as harbor:
        await ics(harbor)
        result = await ics(harbor)
        assert result.exit_code == 0
        assert "auths" not in yaml.safe_load(result.stdout)
        assert "--new-robot-secret" in result.stdout
        renewed = await ics(harbor, "--new-robot-secret")
        pair = yaml.safe_load(renewed.stdout)["auths"][harbor.host]["auth"]
        assert base64.b64decode(pair).decode() == "robot$library+ics:N3wsecret"


async def test_a_folder_with_another_robots_secret_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "robot").write_text(base64.b64encode(b"robot$other+ics:x").decode())
    async with running_harbor() as harbor:
        result = await ics(harbor, "--secrets-dir", str(tmp_path))
        assert result.exit_code == 1
        assert "holds the secret of robot account robot$other+ics" in result.stderr
        assert harbor.writes == []


async def test_a_secret_that_cannot_be_kept_costs_the_robot_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "robot_password").mkdir()  # a file cannot take its place
    async with running_harbor() as harbor:
        result = await ics(harbor, "--secrets-dir", str(tmp_path))
        assert result.exit_code == 1
        assert "was removed again" in result.stderr
        assert "Robot5ecret" not in result.output
        assert harbor.robots == []
        (tmp_path / "robot_password").rmdir()
        assert (await ics(harbor, "--secrets-dir", str(tmp_path))).exit_code == 0
        assert (tmp_path / "robot_password").read_text() == "Robot5ecret\n"


POLICIES = "/projects/library/webhook/policies"


@pytest.mark.parametrize(
    ("step", "status", "code"),
    [
        ("GET /projects/library", 500, 3),
        ("GET /robots", 403, 1),
        (f"GET {POLICIES}", 429, 3),
        ("GET /labels", 500, 3),
        ("POST /labels", 403, 1),
        (f"POST {POLICIES}", 400, 1),
        (f"POST {POLICIES}", 0, 3),
        ("POST /robots", 403, 1),
        ("POST /robots", 503, 3),
    ],
)
async def test_a_step_that_fails_is_named_and_the_next_run_completes_it(step: str, status: int, code: int) -> None:
    async with running_harbor() as harbor:
        harbor.failures[step] = status
        result = await ics(harbor, "--label", "lazy")
        assert result.exit_code == code
        assert result.stdout == ""
        assert PASSWORD not in result.output
        assert "Bearer" not in result.output
        assert harbor.robots == []
        harbor.failures.clear()
        result = await ics(harbor, "--label", "lazy")
        assert result.exit_code == 0, result.output
        assert yaml.safe_load(result.stdout)["auths"][harbor.host]["auth"]


async def test_an_update_that_fails_leaves_what_was_there() -> None:
    async with running_harbor() as harbor:
        await ics(harbor)
        harbor.policies[0]["enabled"] = False
        harbor.failures[f"PUT {POLICIES}/9"] = 500
        result = await ics(harbor)
        assert (result.exit_code, "could not be updated" in result.stderr) == (3, True)
        harbor.failures = {"PUT /robots/700": 403}
        result = await ics(harbor, "--label", "lazy")
        assert (result.exit_code, "robot account robot$library+ics could not be updated" in result.stderr) == (1, True)
        harbor.failures = {"PATCH /robots/700": 403}
        result = await ics(harbor, "--new-robot-secret")
        assert (result.exit_code, "got no new secret" in result.stderr) == (1, True)
        assert len(harbor.robots) == 1


async def test_a_wrong_password_says_so_and_is_not_repeated() -> None:
    async with running_harbor() as harbor:
        result = await ics(harbor, password="wr0ng-passw0rd")
        assert result.exit_code == 1
        assert "wrong user name or password (user admin)" in result.stderr
        assert "wr0ng-passw0rd" not in result.output
        assert harbor.writes == []


async def test_a_private_authority_is_trusted_where_it_is_named(tmp_path: Path) -> None:
    authority = certificate_authority(tmp_path / "ca")
    pair = authority.issue("harbor")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    async with running_harbor(tls=context) as harbor:
        url = f"https://{harbor.host}"
        result = await ics(harbor, url=url)
        assert result.exit_code == 3
        assert "certificate is not trusted" in result.stderr
        bundle = str(authority.ca.certificate)
        result = await ics(harbor, "--ca", bundle, "--label", "lazy", url=url)
        assert result.exit_code == 0, result.output
        document = yaml.safe_load(result.stdout)
        assert document["auths"][harbor.host]["ca"] == document["harbor"][harbor.host]["ca"] == bundle
        assert "insecure" not in document["auths"][harbor.host]
        none = await ics(harbor, "--ca", str(tmp_path / "none.pem"), url=url)
        assert (none.exit_code, "none.pem cannot be loaded" in none.stderr) == (1, True)


async def test_nobody_there_is_worth_another_try() -> None:
    async with running_harbor() as harbor:
        pass
    assert (await ics(harbor)).exit_code == 3


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--payload", "XML"), "CloudEvents or Default"),
        (("--harbor", "harbor.example.com"), "--harbor wants a URL"),
        (("--harbor", "https://admin:pa55word@harbor.example.com"), "must not hold a user name or a password"),
        (("--webhook-url", "ics.example.com"), "--webhook-url wants a URL"),
        (("--password-file", "/nowhere/at/all"), "cannot read /nowhere/at/all"),
        (("--secrets-dir", "/proc/nowhere"), "no folder that can be written"),
    ],
)
def test_wrong_options_are_told_before_anything_is_asked(arguments: tuple[str, ...], why: str) -> None:
    command = ["harbor", "setup", "--harbor", "https://harbor.invalid", "--project", "p", "--webhook-url", HOOK]
    result = CliRunner().invoke(app, [*command, *arguments], env={"HARBOR_PASSWORD": "x"}, catch_exceptions=False)
    assert (result.exit_code, why in result.stderr) == (1, True), result.stderr
    assert "pa55word" not in result.output
    silent = CliRunner().invoke(app, command, env={"HARBOR_PASSWORD": ""}, catch_exceptions=False)
    assert (silent.exit_code, "--password-file or $HARBOR_PASSWORD" in silent.stderr) == (1, True)
