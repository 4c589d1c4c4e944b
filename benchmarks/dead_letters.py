"""Dead letters on RabbitMQ in numbers: time, memory and the longest hold of the loop of a list, a summary and a replay of 100."""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.bench import Bench, child, interleaved
from benchmarks.charts import Chart
from benchmarks.markdown import goal, megabytes, seconds, table
from tests.servers.rabbitmq import rabbitmq

COUNTS = (2_000, 20_000, 50_000)
QUICK_COUNTS = (100, 300)
USES = {"list": "list of one tag", "summary": "all by code", "replay": "replay of 100"}
GOAL_SECONDS, GOAL_MEMORY, GOAL_HOLD = 10.0, 200e6, 0.1


def measure(bench: Bench) -> dict[str, Any]:
    counts = QUICK_COUNTS if bench.quick else COUNTS
    runs: dict[str, Any] = {}
    with bench.folder("dead-letters") as folder, rabbitmq(folder / "broker") as server:
        for count in counts:
            where = {"url": server.url, "prefix": f"dead{count}", "count": count}
            bench.say(f"{count:,} dead letters, {bench.rounds} rounds")
            child("dead_letters_fill", where)
            runs[str(count)] = interleaved(
                bench, {use: partial(child, "dead_letters_use", {**where, "use": use}) for use in USES}
            )
    return {"runs": runs}


def render(data: dict[str, Any]) -> tuple[str, list[Chart]]:
    runs = {int(count): run for count, run in data["runs"].items()}
    rows = [
        (f"{count:,}: {words}", seconds(run[use]["wall"]), seconds(run[use]["cpu"]), megabytes(run[use]["growth"]),
         f"{run[use]['hold'] * 1000:.0f}", f"{run[use]['wall_spread']:.0%}")
        for count, run in runs.items() for use, words in USES.items()
    ]  # fmt: skip
    head = ("letters", "seconds", "CPU, s", "peak memory on top, MB", "longest hold of the loop, ms", "spread")
    most = runs[max(runs)].values()
    wall, growth, hold = (max(use[key] for use in most) for key in ("wall", "growth", "hold"))
    goals = "\n".join(
        (
            goal(f"{max(runs):,} in under 10 s", wall < GOAL_SECONDS, f"{seconds(wall)} s"),
            goal(f"{max(runs):,} in under 200 MB", growth < GOAL_MEMORY, f"{megabytes(growth)} MB"),
            goal("the loop is never held for more than 0.1 s", hold <= GOAL_HOLD, f"{hold * 1000:.0f} ms"),
        )
    )
    how = (
        "Letters of three attempts in RabbitMQ, each use in a process of its own, over its own connection. Memory is the process's"
        " peak above what it had before."
    )
    return f"{how}\n\n{table(head, rows)}\n\n{goals}", []
