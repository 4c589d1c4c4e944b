"""A backfill asks for what exists, behind live pushes, and goes on where it stopped."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from shared.backfill.walk import BackfillReport, Journal, Tagged, backfill
from shared.errors import PermanentError, TransientError
from shared.messages import ConversionRequest, DriverChoice, request_id
from shared.oci.digest import Digest
from shared.oci.reference import Reference
from shared.settings.model import Globs

REGISTRY = "harbor.example.com"


class Shelf:
    """A catalogue in memory."""

    def __init__(self, content: dict[str, list[str]]) -> None:
        self.content = content

    async def repositories(self) -> AsyncIterator[str]:
        for name in self.content:
            yield name

    async def tags(self, repository: str, may_be_target: Callable[[str], bool]) -> AsyncIterator[Tagged]:
        for tag in self.content[repository]:
            yield Tagged(tag, Digest.of(f"{repository}:{tag}".encode()), may_be_target(tag) and tag.startswith("made"))


class Queue:
    def __init__(self, capacity: int = 1000) -> None:
        self.requests: list[ConversionRequest] = []
        self.capacity = capacity

    async def publish(self, request: ConversionRequest) -> None:
        if len(self.requests) >= self.capacity:
            raise TransientError("no broker", code="broker_unavailable")
        self.requests.append(request)


class Rules:
    def plan_source(self, source: Reference) -> Sequence[ConversionRequest] | str:
        assert source.tag
        if source.tag.endswith(".sig"):
            return "a signature"
        target = source.with_tag(source.tag + "_esgz")
        identity = request_id("backfill", str(source.digest), "default", target)
        return [ConversionRequest(id=identity, source=source, target=target, driver=DriverChoice(type="estargz"))]

    def may_be_target(self, source: Reference) -> bool:
        return str(source.tag).endswith("_esgz")


RULES = Rules()
SHELF = Shelf({"library/a": ["1", "2", "1.sig"], "library/b": ["1"], "other/c": ["1"]})


async def test_everything_is_asked_for_once_and_behind_live_pushes() -> None:
    queue = Queue()
    report = await backfill(REGISTRY, SHELF, RULES, queue.publish)
    assert [str(request.source).split("@")[0] for request in queue.requests] == [
        f"{REGISTRY}/library/a:1",
        f"{REGISTRY}/library/a:2",
        f"{REGISTRY}/library/b:1",
        f"{REGISTRY}/other/c:1",
    ]
    assert {request.priority for request in queue.requests} == {"backfill"}
    assert report == BackfillReport(repositories=3, tags=5, planned=4, published=4, skipped={"a signature": 1})


async def test_what_a_converter_made_is_left_out_and_counted() -> None:
    shelf = Shelf({"a": ["made", "made_esgz", "own_esgz"]})
    report = await backfill(REGISTRY, shelf, RULES, None)
    assert (report.tags, report.planned, report.skipped) == (3, 2, {"made by a converter": 1})


async def test_a_dry_run_publishes_nothing_and_leaves_no_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    report = await backfill(REGISTRY, SHELF, RULES, None, journal=Journal(path))
    assert (report.planned, report.published) == (4, 0)
    assert not path.exists()


async def test_globs_choose_repositories_and_tags() -> None:
    queue = Queue()
    await backfill(
        REGISTRY,
        SHELF,
        RULES,
        queue.publish,
        repositories=Globs(include=("library/*",), exclude=("*/b",)),
        tags=Globs(include=("2",)),
    )
    assert [request.source.tag for request in queue.requests] == ["2"]


@pytest.mark.parametrize("capacity", [0, 1, 2, 3])
async def test_a_walk_that_broke_off_goes_on_without_losing_any(tmp_path: Path, capacity: int) -> None:
    path = tmp_path / "journal"
    first, second = Queue(capacity), Queue()
    with pytest.raises(TransientError):
        await backfill(REGISTRY, SHELF, RULES, first.publish, journal=Journal(path))
    report = await backfill(REGISTRY, SHELF, RULES, second.publish, journal=Journal(path))
    asked = {request.id for request in first.requests} | {request.id for request in second.requests}
    assert len(asked) == 4
    assert report.resumed == (0 if capacity < 2 else 1 if capacity < 3 else 2)


async def test_a_journal_cut_in_the_middle_of_a_line_is_still_read(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b'{}\n"library/a"\n"libra')
    report = await backfill(REGISTRY, SHELF, RULES, Queue().publish, journal=Journal(path))
    assert report.resumed == 1
    assert path.read_bytes().startswith(b'{}\n"library/a"\n"')
    assert b'"libra"' not in path.read_bytes()
    path.write_bytes(b'{"regi')
    assert "library/a" not in Journal(path, {"registry": "r"})


async def test_a_journal_of_another_walk_is_refused_with_the_difference(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    Journal(path, {"registry": "r", "tags": ["*"]}).finish("library/a")
    assert "library/a" in Journal(path, {"registry": "r", "tags": ["*"]})
    with pytest.raises(PermanentError, match="another tags") as caught:
        Journal(path, {"registry": "r", "tags": ["v*"]})
    assert caught.value.code == "journal_of_another_walk"
    for other in (b'"library/a"\n', b"# Changes\n"):
        path.write_bytes(other)
        with pytest.raises(PermanentError, match="no journal"):
            Journal(path, {"registry": "r"})
    with pytest.raises(PermanentError, match="Is a directory"):
        Journal(tmp_path, {"registry": "r"})


async def test_the_limit_stops_the_walk_and_leaves_its_repository_unfinished(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    queue = Queue()
    await backfill(REGISTRY, SHELF, RULES, queue.publish, journal=Journal(path), limit=1)
    assert len(queue.requests) == 1
    assert not path.exists()


async def test_progress_is_told_after_each_tag() -> None:
    seen: list[int] = []
    await backfill(REGISTRY, SHELF, RULES, None, on_progress=lambda report, _requests: seen.append(report.tags))
    assert seen == [1, 2, 3, 4, 5]


def test_globs_cross_slashes_and_exclusion_wins() -> None:
    assert Globs(include=("a/*",)).matches("a/b/c")
    assert not Globs(include=("*",), exclude=("*/c",)).matches("a/b/c")
    assert not Globs(include=()).matches("x")
