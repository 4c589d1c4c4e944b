"""Tables, and figures as people read them."""

from __future__ import annotations

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are figures."""
    lines = [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * (len(head) - 1)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)


def goal(text: str, met: bool, found: str) -> str:
    """One line: what was aimed at, and whether it was reached."""
    return f"- {'✓' if met else '✗'} {text}: **{found}**"


def megabytes(size: float) -> str:
    return f"{size / 1e6:,.0f}"


def seconds(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:.1f}"
