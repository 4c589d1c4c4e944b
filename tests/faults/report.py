"""A run's account as Markdown tables, and whether every promise was kept."""

from __future__ import annotations

from tests.faults.account import Report
from tests.faults.ledger import table
from tests.faults.proxy import BITES


def problems(report: Report) -> list[str]:
    """Every promise that the run broke; empty is what is wanted."""
    found = [f"lost: {event.id} ({event.tag} at {event.digest})" for event in report.lost]
    found += [f"dead letter of the wrong class: {text}" for text in report.misclassified]
    found += [f"a broken image was called converted: {text}" for text in report.broken_unnoticed]
    found += [f"stale target of {tag}" for tag in report.stale]
    found += [f"damaged target {text}" for text in report.damaged]
    found += [f"no target of {tag} after the replay" for tag in report.unreplayed]
    found += [
        f"{count} dead letters are left after the replay: {code}" for code, count in report.dead_after_replay.items()
    ]
    if not report.ledger.accepted:
        found.append("no event was accepted: the run shows nothing")
    if not report.faults:
        found.append("no fault struck: the run shows nothing")
    if report.scale.faults >= 200:  # enough for every kind in every stage
        struck = {name.partition(" @ ")[0] for name in report.faults}
        found += [f"no fault of the kind {kind} struck" for kind in BITES if kind not in struck]
    return found


def render(report: Report) -> str:
    """The tables that the closing note and the README of the harness show."""
    ledger, scale = report.ledger, report.scale
    faults = [*sorted(report.faults.items()), ("**all**", sum(report.faults.values()))]
    outcome = [
        ("webhooks posted", ledger.posts),
        ("tries that were not answered with 202", sum(ledger.refused.values())),
        *((f"… {what}", count) for what, count in sorted(report.webhooks.items())),
        ("conversions accepted", len(ledger.accepted)),
        *((f"… last seen as {name}", count) for name, count in sorted(ledger.summary().items())),
        ("retried", sum(ledger.retries.values())),
        ("still waiting when the time to settle was over", len(report.late)),
        ("dead letters when the faults ended", sum(report.dead.values())),
        *((f"… with code {code}", count) for code, count in sorted(report.dead.items())),
        ("… of the wrong class", len(report.misclassified)),
        ("replayed", ledger.replayed),
        ("dead letters after the replay", sum(report.dead_after_replay.values())),
        ("targets read back and found whole", report.verified),
        ("stale or damaged targets", len(report.stale) + len(report.damaged)),
        ("converted twice", ledger.converted_twice),
        ("links that a killed registry left empty, taken away", report.torn_links),
        ("upload sessions left at the registry", report.sessions_left),
        ("**lost**", len(report.lost)),
    ]
    title = f"{report.broker}: {scale.events} events, seed {scale.seed}, {report.seconds:.0f} s"
    return "\n".join([table(faults, f"Faults on {title}"), table(outcome, f"Account of {title}")])
