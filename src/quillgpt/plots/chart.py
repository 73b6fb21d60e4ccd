"""Curves as text for the terminal.

plotext is not used: in twelve rows its legend covers the curve, its ticks stand at uneven numbers, its curves differ in
colour only, and its axes need more than ASCII.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from quillgpt.plots.record import AXES, Axis, Points, Row, loss_curves, lowest

FEWEST_POINTS = 4
HEIGHT = 9
"""Rows of the plot itself, an odd number; the axis and the legend take three more."""

NEARLY_EQUAL = 1e-12
LABEL_EVERY = 2
SHORTEST_TICK_DISTANCE = 13


@dataclass(frozen=True)
class Glyphs:
    """The characters of a chart, one for each curve; later curves are drawn over earlier ones."""

    curves: str
    side: str
    side_tick: str
    corner: str
    floor: str
    floor_tick: str


UNICODE = Glyphs(curves="·•×+*#", side="│", side_tick="┤", corner="└", floor="─", floor_tick="┴")
ASCII = Glyphs(curves=".ox+*#", side="|", side_tick="+", corner="+", floor="-", floor_tick="+")


def loss_chart(rows: list[Row], *, axis: Axis = "iter", width: int = 80, encoding: str = "utf-8") -> str:
    """Draw the losses of a run as text; see `draw_chart`."""
    return draw_losses(loss_curves(rows, axis=axis), axis=axis, width=width, encoding=encoding)


def draw_losses(
    curves: Mapping[str, Points],
    *,
    axis: Axis = "iter",
    width: int = 80,
    height: int = HEIGHT,
    encoding: str = "utf-8",
) -> str:
    """Draw the training and the validation loss, as `loss_curves` has them; see `draw_chart`."""
    best = lowest(curves["val"])
    val = "val" if best is None else f"val, lowest {best[1]:.4f} at {short_number(best[0])}"
    named = {"train": curves["train"], val: curves["val"]}
    title = "loss, nats per token"
    return draw_chart(named, title=title, x_label=AXES[axis], width=width, height=height, encoding=encoding)


def short_number(value: float) -> str:
    """Write 1500 as 1,500, 2500000 as 2.5M, and 3e9 as 3B."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if abs(value) >= size:
            return f"{value / size:.6g}{letter}"
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 1000 else f"{value:.4g}"


def draw_chart(
    curves: Mapping[str, Points],
    *,
    title: str,
    x_label: str,
    width: int = 80,
    height: int = HEIGHT,
    encoding: str = "utf-8",
) -> str:
    """Draw curves as text, as many as there are characters for them.

    Args:
        curves: Points (x, y) by name, sorted by x; all finite.
        title: The label of y, with its unit.
        x_label: The label of x, with its unit.
        width: The longest line, in characters.
        height: Rows of the plot itself, an odd number.
        encoding: The encoding of the terminal; if it lacks the usual characters, ASCII is used.

    Returns:
        At most `height` + 3 lines without a last newline; an empty text if there are too few points, or the width is
        too small.
    """
    glyphs = UNICODE if _can_show(UNICODE, encoding) else ASCII
    points = [point for curve in curves.values() for point in curve]
    if max(map(len, curves.values()), default=0) < FEWEST_POINTS:
        return ""
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    low, high = min(y for _, y in points), max(y for _, y in points)
    if right - left <= NEARLY_EQUAL * max(1, abs(left), abs(right)):
        return ""
    if high - low <= NEARLY_EQUAL * max(1, abs(low), abs(high)):
        low, high = low - 0.5, high + 0.5
    labels = _side_labels(low, high, height)
    margin = max(map(len, labels)) + 1
    columns = width - margin - 1
    if columns < 2 * SHORTEST_TICK_DISTANCE:
        return ""
    grid = [[" "] * columns for _ in range(height)]
    for glyph, curve in zip(glyphs.curves, curves.values(), strict=False):
        levels = _levels(curve, (columns, height), (left, right), (low, high))
        for column, row in _cells(levels):
            grid[row][column] = glyph
    names = "   ".join(f"{glyph} {name}" for glyph, name in zip(glyphs.curves, curves, strict=False))
    lines = [f"{'':{margin}}{title}:  {names}"[:width].rstrip()]
    for label, cells in zip(labels, grid, strict=True):
        side = glyphs.side_tick if label else glyphs.side
        lines.append(f"{label:>{margin - 1}} {side}{''.join(cells)}".rstrip())
    floor, numbers = _floor(left, right, columns, x_label, glyphs)
    lines += [f"{'':{margin}}{glyphs.corner}{floor}", f"{'':{margin}} {numbers}".rstrip()]
    return "\n".join(lines)


def _can_show(glyphs: Glyphs, encoding: str) -> bool:
    try:
        "".join(vars(glyphs).values()).encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _side_labels(low: float, high: float, height: int) -> list[str]:
    """Return the labels of the rows from the top, with enough digits to tell them apart; most rows have none."""
    step = LABEL_EVERY * (high - low) / (height - 1)
    digits = max(0, 1 - math.floor(math.log10(step)))
    values = [high - row * (high - low) / (height - 1) for row in range(height)]
    return ["" if row % LABEL_EVERY else f"{value:.{digits}f}" for row, value in enumerate(values)]


def _levels(
    points: Points, cells: tuple[int, int], across: tuple[float, float], along: tuple[float, float]
) -> list[float | None]:
    """Return the row of every column: the mean of its points, or interpolated between the columns beside it."""
    (columns, height), (left, right), (low, high) = cells, across, along
    heaps: dict[int, list[float]] = {}
    for x, y in points:
        heaps.setdefault(round((x - left) / (right - left) * (columns - 1)), []).append(y)
    depth = (height - 1) / (high - low)
    known = sorted((column, (high - sum(heap) / len(heap)) * depth) for column, heap in heaps.items())
    levels: list[float | None] = [None] * columns
    for column, level in known:
        levels[column] = level
    for (start, first), (end, last) in pairwise(known):
        for column in range(start + 1, end):
            levels[column] = first + (last - first) * (column - start) / (end - start)
    return levels


def _cells(levels: list[float | None]) -> list[tuple[int, int]]:
    """Return the (column, row) cells of a curve, with no gap where it is steep."""
    cells = []
    previous: int | None = None
    for column, level in enumerate(levels):
        if level is None:
            previous = None
            continue
        row = round(level)
        if previous is not None and abs(row - previous) > 1:
            step = 1 if row > previous else -1
            cells += [(column, between) for between in range(previous + step, row, step)]
        cells.append((column, row))
        previous = row
    return cells


def _floor(left: float, right: float, columns: int, x_label: str, glyphs: Glyphs) -> tuple[str, str]:
    """Return the horizontal axis and the numbers under it, at round values."""
    floor, under = [glyphs.floor] * columns, [" "] * columns
    step = round_step((right - left) * SHORTEST_TICK_DISTANCE / columns)
    room = columns - len(x_label) - 1
    free = 0
    for number in range(math.ceil(left / step), math.floor(right / step) + 1):
        column = round((number * step - left) / (right - left) * (columns - 1))
        label = short_number(number * step)
        start = max(0, column - len(label) // 2)
        if free <= start and start + len(label) <= room:
            floor[column] = glyphs.floor_tick
            under[start : start + len(label)] = label
            free = start + len(label) + 1
    under[room + 1 :] = x_label
    return "".join(floor), "".join(under)


def round_step(least: float) -> float:
    """Return the smallest of 1, 2, 5, 10, 20, ... (or of 0.1, 0.2, ...) that is at least `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))
