"""Curves as what an SVG picture needs: lines and ticks in its coordinates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from quillgpt.plots.chart import round_step, short_number
from quillgpt.plots.record import Points, lowest

WIDTH: Final = 360
HEIGHT: Final = 230
"""Units of a picture, which are about pixels on a phone, so that its text can be read there."""

LEFT, RIGHT, TOP, BOTTOM = 44, 12, 10, 38
TICKS: Final = 5
MOST_POINTS: Final = 6_000
"""Points of all curves of a picture together; more cannot be seen, and would make the page large."""

MOST_POINTS_EACH: Final = 400
STYLES: Final = 6
"""Kinds of lines, which differ in colour and dashes; later curves use them again."""


@dataclass(frozen=True)
class Tick:
    """A tick of an axis: its place, and its number in words."""

    at: float
    label: str


@dataclass(frozen=True)
class Line:
    """A curve: its name, the number of its style, its points as SVG has them, and its lowest and last values."""

    name: str
    style: int
    points: str
    lowest: str
    last: str


@dataclass(frozen=True)
class Mark:
    """A point that matters: its place and what it is."""

    x: float
    y: float
    words: str


@dataclass(frozen=True)
class Picture:
    """A picture of curves.

    Attributes:
        title: What is drawn.
        about: The same in a sentence or two, for those who do not see it.
        x_label: What goes from left to right.
        lines: The curves.
        across: The ticks of the x axis.
        up: The ticks of the y axis.
        marks: Points that matter.
    """

    title: str
    about: str
    x_label: str
    lines: list[Line]
    across: list[Tick]
    up: list[Tick]
    marks: list[Mark]


def picture(
    title: str, curves: Mapping[str, Points], *, x_label: str = "iterations", mark: str | None = None, words: str = ""
) -> Picture | None:
    """Return a picture of curves; None where there is nothing to draw.

    Args:
        title: What is drawn, with its unit.
        curves: The points of each curve by its name.
        x_label: What goes from left to right.
        mark: The curve whose lowest point is marked; None: none.
        words: What that point is.
    """
    shown = {name: points for name, points in curves.items() if points}
    if not shown:
        return None
    xs = [x for points in shown.values() for x, _ in points]
    ys = [y for points in shown.values() for _, y in points]
    across, left, right = _scale(min(0.0, *xs) if len(xs) > 1 else 0.0, max(xs))
    up, low, high = _scale(min(ys), max(ys), tight=False)

    def place(x: float, y: float) -> tuple[float, float]:
        inner, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        return LEFT + (x - left) / (right - left) * inner, TOP + (high - y) / (high - low) * tall

    each = max(2, min(MOST_POINTS_EACH, MOST_POINTS // len(shown)))
    lines, marks = [], []
    for number, (name, points) in enumerate(shown.items()):
        placed = (place(x, y) for x, y in thinned(points, each))
        best = lowest(points)
        assert best is not None
        lowest_words = f"{_value(best[1])} at {short_number(best[0])}"
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        lines.append(Line(name, number % STYLES, drawn, lowest_words, _value(points[-1][1])))
        if name == mark:
            marks.append(Mark(*place(*best), words))
    about = ". ".join(f"{line.name}: lowest {line.lowest} {x_label}, last {line.last}" for line in lines[:STYLES])
    return Picture(
        title,
        about + ("" if len(lines) <= STYLES else f", and {len(lines) - STYLES} more in the table") + ".",
        x_label,
        lines,
        [Tick(place(value, low)[0], short_number(value)) for value in across],
        [Tick(place(left, value)[1], f"{value:g}") for value in up],
        marks,
    )


def thinned(points: Points, most: int) -> Points:
    """Return at most about `most` points of a curve, with the first, the last and the lowest."""
    if len(points) <= most:
        return points
    step = math.ceil(len(points) / most)
    kept = {*range(0, len(points), step), len(points) - 1, min(range(len(points)), key=lambda place: points[place][1])}
    return [points[place] for place in sorted(kept)]


def _scale(low: float, high: float, *, tight: bool = True) -> tuple[list[float], float, float]:
    """Return round numbers between two values, and the ends of the axis: the values, or round numbers around them."""
    if high <= low:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    step = round_step((high - low) / TICKS)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [round(number * step, 12) for number in range(first, last + 1)]
    if tight:
        return [tick for tick in ticks if low <= tick <= high], low, high
    return ticks, ticks[0], ticks[-1]


def _value(value: float) -> str:
    return f"{value:.4f}" if 0.01 <= abs(value) < 1000 else short_number(value)
