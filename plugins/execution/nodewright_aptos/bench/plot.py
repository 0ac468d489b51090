"""Curves as an SVG, written by hand: throughput over shards is all that is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Final

WIDTH: Final = 720
HEIGHT: Final = 440
_LEFT: Final = 90
_RIGHT: Final = 160
_TOP: Final = 50
_BOTTOM: Final = 60
_DASHES: Final = ("", "8 4", "2 4", "10 3 2 3")  # so that curves differ without colours too
_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")

Curve = Sequence[tuple[float, float]]


def round_up(value: float) -> float:
    """The next of 1, 2, 2.5, 5 and 10 times a power of ten."""
    step = 1.0
    while step * 10 <= value:
        step *= 10
    while step > value and step > 1e-9:
        step /= 10
    return next(step * factor for factor in (1, 2, 2.5, 5, 10) if step * factor >= value)


def svg(title: str, across: str, up: str, curves: Mapping[str, Curve]) -> str:
    """Both axes are linear and begin at 0; the abscissas that curves have are marked, but for those that stand where the
    number of a larger one does."""
    points = [point for curve in curves.values() for point in curve]
    widest = max((x for x, _ in points), default=1.0) or 1.0
    highest = round_up(max((y for _, y in points), default=1.0) or 1.0)
    width, height = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM

    def place(x: float, y: float) -> tuple[str, str]:
        return f"{_LEFT + width * x / widest:.1f}", f"{_TOP + height * (1 - y / highest):.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="26" font-size="15">{escape(title)}</text>',
        f'<text x="{_LEFT + width / 2:.1f}" y="{HEIGHT - 16}" text-anchor="middle">{escape(across)}</text>',
        f'<text x="20" y="{_TOP + height / 2:.1f}" text-anchor="middle" '
        f'transform="rotate(-90 20 {_TOP + height / 2:.1f})">{escape(up)}</text>',
    ]
    for part in range(5):
        value = highest * part / 4
        _, y = place(0, value)
        parts.append(f'<line x1="{_LEFT}" y1="{y}" x2="{_LEFT + width}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y}" dy="4" text-anchor="end">{value:,.0f}</text>')
    free = float(WIDTH)
    for value in sorted({x for x, _ in points}, reverse=True):
        x, y = place(value, 0)
        half = 4 * len(f"{value:g}") + 3
        parts.append(f'<line x1="{x}" y1="{y}" x2="{x}" y2="{float(y) + 5:.1f}" stroke="#888"/>')
        if float(x) + half <= free:
            parts.append(f'<text x="{x}" y="{y}" dy="18" text-anchor="middle">{value:g}</text>')
            free = float(x) - half
    for number, (name, curve) in enumerate(curves.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        stroke = f'stroke="{colour}" stroke-width="2" stroke-dasharray="{_DASHES[number % len(_DASHES)] or "none"}"'
        drawn = [place(x, y) for x, y in sorted(curve)]
        parts.append(f'<polyline fill="none" {stroke} points="{" ".join(f"{x},{y}" for x, y in drawn)}"/>')
        parts += [f'<circle cx="{x}" cy="{y}" r="3.5" fill="{colour}"/>' for x, y in drawn]
        at = _TOP + 20 * number
        left = WIDTH - _RIGHT + 14
        parts.append(f'<line x1="{left}" y1="{at + 7}" x2="{left + 28}" y2="{at + 7}" {stroke}/>')
        parts.append(f'<text x="{left + 34}" y="{at + 11}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>\n"])


def write_svg(path: Path, title: str, across: str, up: str, curves: Mapping[str, Curve]) -> None:
    path.write_text(svg(title, across, up, curves))
