"""The frame that measurements run in: medians, turns, the report and its plots."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from benchmarks import report, results
from benchmarks.bench import Bench, child, interleaved, medians
from benchmarks.charts import Chart, Line, svg
from benchmarks.parts import PARTS
from benchmarks.raw_publish import AMQP_QUEUE, NATS_SUBJECT
from benchmarks.webhook_load import body, push_event
from ingress.webhooks.dialects import read_webhook
from shared.settings.model import Settings
from shared.telemetry.work_queue import WorkQueue

SVG = "{http://www.w3.org/2000/svg}"


def bench(folder: Path, rounds: int = 3) -> Bench:
    return Bench(cache=folder, scratch=folder / "scratch", rounds=rounds, quick=True)


def test_contenders_take_turns_and_medians_are_theirs(tmp_path: Path) -> None:
    turns: list[str] = []
    walls = iter([1.0, 10.0, 3.0, 30.0, 2.0, 20.0])

    def contender(name: str) -> dict[str, Any]:
        turns.append(name)
        return {"wall": next(walls), "note": "texts are left out"}

    found = interleaved(bench(tmp_path), {name: partial(contender, name) for name in ("a", "b")})
    assert turns == ["a", "b"] * 3
    assert found == {"a": {"wall": 2.0, "wall_spread": 1.0}, "b": {"wall": 20.0, "wall_spread": 1.0}}
    assert medians([{"size": 4}]) == {"size": 4}


def test_a_folder_is_empty_and_gone_afterwards(tmp_path: Path) -> None:
    for _ in range(2):
        with bench(tmp_path).folder("a/b") as folder:
            assert list(folder.iterdir()) == []
            (folder / "left").write_text("over")
    assert not folder.exists()


def test_a_childs_failure_is_told_with_what_it_said() -> None:
    with pytest.raises(RuntimeError, match="no-such-layer"):
        child("estargz", {"layer": "no-such-layer", "out": "/dev/null"})


def test_a_chart_keeps_its_points_within_its_axes() -> None:
    drawn = ET.fromstring(
        svg(Chart("n", "A & B", "x", "y", [Line("<one>", [(0, 0), (7, 123)]), Line("two", [(3, 9)])]))
    )
    circles = [(float(each.attrib["cx"]), float(each.attrib["cy"])) for each in drawn.iter(f"{SVG}circle")]
    assert len(circles) == 3
    assert all(70 <= x <= 620 and 44 <= y <= 308 for x, y in circles)
    assert {"A & B", "<one>"} <= {each.text for each in drawn.iter(f"{SVG}text")}


def outcome(name: str, data: dict[str, Any], machine: str = "one", others: float = 0) -> results.Outcome:
    return results.Outcome(
        name,
        "today",
        "abc",
        "python -m benchmarks",
        3,
        quick=False,
        seconds=1,
        others=others,
        machine={"CPU": machine},
        data=data,
    )


def test_a_part_measured_again_replaces_only_its_own_figures(tmp_path: Path) -> None:
    history = {
        "conversions": 5,
        "event_bytes": 1e6,
        "wall": 2,
        "resident_bytes": 3e6,
        "longest_hold": 0.1,
        "search": 0.2,
    }
    run = {"wall": 10.0, "wall_spread": 0.0, "cpu": 1.0, "spans": 0}
    results.save(outcome("history", history), tmp_path)
    results.save(outcome("tracing", {"images": 2, "off": run, "on": run}, "two", others=1.7), tmp_path)
    results.save(outcome("history", {**history, "conversions": 77}), tmp_path)
    report.write(tmp_path / "REPORT.md", results.load(tmp_path), {"ingest": "RuntimeError: no broker"})
    text = (tmp_path / "REPORT.md").read_text()
    assert "| 77 |" in text
    assert "kept cores busy around `tracing` (" in text
    assert "✓ tracing costs no more than 5 %" in text
    assert "**`ingest` failed in the last run: RuntimeError: no broker**" in text
    assert "Not measured yet: `estargz_layer`" in text
    assert "The machine of `history`" in text


def test_every_part_can_be_named_on_the_command_line() -> None:
    command = [sys.executable, "-m", "benchmarks", "--help"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert all(name in told for name in PARTS)


def test_the_floor_publishes_what_the_ingress_would() -> None:
    assert read_webhook(body(7)).pushes[0].reference == push_event(7).reference
    assert read_webhook(body(7)).pushes[0].event_id == push_event(7).event_id
    assert WorkQueue.of(Settings()).name == AMQP_QUEUE
    assert f"{AMQP_QUEUE}.live" == NATS_SUBJECT
