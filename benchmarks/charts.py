"""Line charts as SVG, readable on light and dark pages: no plotting library is needed to measure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 44, 52
_COLOURS = ("#2f6fde", "#d9622b", "#2a9d5c", "#9b4fd0")
_FONT = 'font-family="sans-serif" font-size="12"'
_DASHES = ("", "6 4", "2 3", "8 3 2 3")


@dataclass(frozen=True)
class Line:
    label: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """``name`` is the file's; both axes are linear and begin at 0."""

    name: str
    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]


def svg(chart: Chart) -> str:
    """The chart as one SVG document. Lines differ by dash and marker text too, not by colour alone."""
    points = [point for line in chart.lines for point in line.points]
    x_top, x_step = _scale(max(x for x, _ in points))
    y_top, y_step = _scale(max(y for _, y in points))
    inner_width, inner_height = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM

    def x_at(value: float) -> float:
        return round(_LEFT + value / x_top * inner_width, 1)

    def y_at(value: float) -> float:
        return round(HEIGHT - _BOTTOM - value / y_top * inner_height, 1)

    turned = f'transform="translate(16 {_TOP + inner_height / 2}) rotate(-90)"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" {_FONT}>',
        f"<title>{escape(chart.title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="18" font-size="14" font-weight="bold" fill="#222">{escape(chart.title)}</text>',
        f'<text x="{_LEFT + inner_width / 2}" y="{HEIGHT - 12}" text-anchor="middle" fill="#444">{escape(chart.x_label)}</text>',
        f'<text {turned} text-anchor="middle" fill="#444">{escape(chart.y_label)}</text>',
    ]
    for value in _ticks(y_top, y_step):
        parts.append(f'<path d="M{_LEFT} {y_at(value)}H{WIDTH - _RIGHT}" stroke="#dddddd"/>')
        parts.append(
            f'<text x="{_LEFT - 8}" y="{y_at(value) + 4}" text-anchor="end" fill="#444">{_figure(value)}</text>'
        )
    parts += [
        f'<text x="{x_at(value)}" y="{HEIGHT - _BOTTOM + 18}" text-anchor="middle" fill="#444">{_figure(value)}</text>'
        for value in _ticks(x_top, x_step)
    ]
    parts.append(f'<path d="M{_LEFT} {_TOP}V{HEIGHT - _BOTTOM}H{WIDTH - _RIGHT}" fill="none" stroke="#666666"/>')
    offset = _LEFT
    for number, line in enumerate(chart.lines):
        colour, dash = _COLOURS[number % len(_COLOURS)], _DASHES[number % len(_DASHES)]
        path = "L".join(f"{x_at(x)} {y_at(y)}" for x, y in line.points)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>')
        parts += [f'<circle cx="{x_at(x)}" cy="{y_at(y)}" r="3" fill="{colour}"/>' for x, y in line.points]
        parts.append(f'<path d="M{offset} 32h22" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>')
        parts.append(f'<text x="{offset + 27}" y="36" fill="#222">{escape(line.label)}</text>')
        offset += 45 + 7 * len(line.label)
    return "\n".join([*parts, "</svg>", ""])


def _scale(highest: float) -> tuple[float, float]:
    """A round end of the axis, and the step of its marks."""
    if highest <= 0:
        return 1.0, 0.5
    power = 10 ** math.floor(math.log10(highest / 4))
    step = next(step for factor in (1, 2, 2.5, 5, 10) if (step := factor * power) * 5 >= highest)
    return math.ceil(highest / step - 1e-9) * step, step


def _ticks(top: float, step: float) -> list[float]:
    return [number * step for number in range(round(top / step) + 1)]


def _figure(value: float) -> str:
    return f"{value:,.10g}"
