"""The report: every part's newest outcome as Markdown, with its charts as files beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks.charts import svg
from benchmarks.parts import PARTS
from benchmarks.results import Outcome

PLOTS = "plots"
QUIET = 0.3
"""Cores; what runs on an idle machine keeps fewer busy."""
_INTRODUCTION = """Written by `make bench`; [README.md](README.md) says what each part is and how to read it. Every ratio compares
what was measured in the same run, in turns; figures are medians. ✓ and ✗ say whether a goal was reached."""


def write(path: Path, outcomes: Mapping[str, Outcome], failed: Mapping[str, str]) -> None:
    """Write the report to ``path`` and the charts to ``plots/`` beside it.

    Args:
        path: of the Markdown file.
        outcomes: by part; the others are said to be missing.
        failed: part → why it could not be measured in this run.
    """
    plots = path.parent / PLOTS
    plots.mkdir(parents=True, exist_ok=True)
    text = ["# Benchmark report", "", _INTRODUCTION, ""]
    if any(outcome.quick for outcome in outcomes.values()):
        text += ["**A try-out with small inputs (`--quick`): the figures mean nothing.**", ""]
    busy = [f"`{name}`" for name in PARTS if name in outcomes and outcomes[name].others > QUIET]
    if busy:
        text += [
            (
                f"**Others kept cores busy around {', '.join(busy)} (last line of each): absolute figures are too low there,"
                " ratios of times uncertain; sizes, memory, CPU seconds and their ratios hold.**"
            ),
            "",
        ]
    text += [f"**`{name}` failed in the last run: {reason}**\n" for name, reason in failed.items()]
    missing = [name for name in PARTS if name not in outcomes and name not in failed]
    if missing:
        text += [f"Not measured yet: {', '.join(f'`{name}`' for name in missing)}.", ""]
    text += _machines(outcomes)
    for name, part in PARTS.items():
        if (outcome := outcomes.get(name)) is None:
            continue
        body, charts = part.render(outcome.data)
        text += [f"## {part.title}", "", body, ""]
        for chart in charts:
            (plots / f"{chart.name}.svg").write_text(svg(chart))
            text += [f"![{chart.title}]({PLOTS}/{chart.name}.svg)", ""]
        facts = (
            outcome.made_at, f"{outcome.rounds} rounds", f"{outcome.seconds:.0f} s", f"{outcome.others:.1f} cores busy with others",
            f"commit `{outcome.commit}`",
        )  # fmt: skip
        text += [f"*`{name}`: {', '.join(facts)}, `{outcome.command}`*", ""]
    path.write_text("\n".join(text))


def _machines(outcomes: Mapping[str, Outcome]) -> list[str]:
    """Of each machine its description, and what was measured there."""
    found: list[tuple[dict[str, str], list[str]]] = []
    for name in PARTS:
        if (outcome := outcomes.get(name)) is None:
            continue
        for machine, names in found:
            if machine == outcome.machine:
                names.append(name)
                break
        else:
            found.append((outcome.machine, [name]))
    text = []
    for machine, names in found:
        title = "The machine" if len(found) == 1 else f"The machine of {', '.join(f'`{name}`' for name in names)}"
        text += [f"## {title}", "", *(f"- {label}: {value}" for label, value in machine.items()), ""]
    return text
