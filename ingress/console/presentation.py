"""Numbers, times and states as people read them: the filters and functions that the templates use."""

from __future__ import annotations

from datetime import UTC, datetime

from markupsafe import Markup, escape

STATUS_WORDS = {
    "queued": "Queued",
    "converting": "Converting",
    "lost": "Lost sight of",
    "retrying": "Waiting to retry",
    "succeeded": "Succeeded",
    "skipped": "Skipped",
    "failed": "Failed",
    "cancelled": "Cancelled",
    "discarded": "Discarded",
    "running": "Running",
    "interrupted": "Interrupted",
    "preempted": "Made room for a push",
}
_SYMBOLS = {
    "queued": "queued",
    "converting": "running",
    "running": "running",
    "lost": "unknown",
    "retrying": "retrying",
    "succeeded": "ok",
    "skipped": "skipped",
    "failed": "failed",
    "cancelled": "cancelled",
    "discarded": "discarded",
    "interrupted": "retrying",
    "preempted": "retrying",
}


def status_pill(status: str, word: str = "") -> Markup:
    """A word (the status' own unless another fits better) and a symbol: never colour alone."""
    symbol = _SYMBOLS.get(status, "queued")
    return Markup(
        '<span class="pill pill-{status}"><svg class="icon" aria-hidden="true"><use href="#i-{symbol}"/></svg>{word}</span>'
    ).format(status=status, symbol=symbol, word=word or STATUS_WORDS.get(status, status))


def bytes_text(value: float | None) -> str:
    """Binary multiples, three significant digits: ``512 B``, ``1.50 MiB``, ``23.4 GiB``."""
    if value is None:
        return "—"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} TiB"


def duration_text(seconds: float | None) -> str:
    """``12 ms``, ``3.4 s``, ``2 min 05 s``, ``1 h 12 min``, ``3 d 4 h``."""
    if seconds is None:
        return "—"
    if seconds < 1:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24} h"


def ago(moment: datetime | None, now: datetime | None = None) -> Markup:
    """A ``<time>`` that says how long ago, UTC on hover; the script keeps it fresh."""
    if moment is None:
        return Markup("—")
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    words = f"{_coarse(seconds)} ago" if seconds >= 0 else f"in {_coarse(-seconds)}"
    return Markup('<time datetime="{iso}" title="{utc}" data-relative>{words}</time>').format(
        iso=moment.isoformat(timespec="milliseconds"), utc=utc_text(moment), words=words
    )


def utc_text(moment: datetime | None) -> str:
    return "—" if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def short_digest(digest: str) -> str:
    """``sha256:0123456789ab``, enough for a person to tell digests apart."""
    algorithm, separator, hexadecimal = digest.partition(":")
    return f"{algorithm}:{hexadecimal[:12]}" if separator else digest[:12]


def copyable(text: str, shown: str = "") -> Markup:
    """Code with a button that copies the whole (the script makes the button appear)."""
    if not text:
        return Markup("—")
    return Markup(
        '<span class="copyable"><code title="{text}">{shown}</code>'
        '<button type="button" class="copy" data-copy="{text}" aria-label="Copy {text}" hidden>'
        '<svg class="icon" aria-hidden="true"><use href="#i-copy"/></svg></button></span>'
    ).format(text=text, shown=shown or text)


def size_change(source: int | None, target: int | None) -> Markup:
    """``120 MiB → 118 MiB (-1.7 %)``."""
    if source is None or target is None:
        return Markup("—")
    change = f" ({(target - source) / source:+.1%})" if source else ""
    return escape(f"{bytes_text(source)} → {bytes_text(target)}{change}")


def cut(text: str, length: int = 200) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _coarse(seconds: float) -> str:
    for limit, size, word in ((90, 1, "s"), (5400, 60, "min"), (129_600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f} {word}"
    return f"{seconds / 86400:.0f} d"
