"""Drawing the curves of runs as PNG and SVG; this needs matplotlib, but no display."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quillgpt.errors import ConfigError
from quillgpt.extras import import_extra
from quillgpt.files import atomic_path
from quillgpt.plots.chart import short_number
from quillgpt.plots.record import Axis, Points, Row, curve, lowest

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours, which colour-blind people can tell apart, without yellow, which is too pale for lines."""

MARKERS = "osD^vP*X"
"""The markers of further runs after each round of colours."""

KINDS: dict[str, dict[str, Any]] = {
    "batches": {"linewidth": 0.8, "alpha": 0.4},
    "train": {"linewidth": 1.3, "linestyle": "--"},
    "val": {"linewidth": 1.8},
    "best": {"linestyle": "none", "marker": "*", "markersize": 13, "markeredgecolor": "white", "zorder": 5},
}
"""The line style of each kind of loss; the colour shows the run."""

NAMES = {
    "batches": "training, logged batches",
    "train": "training, at evaluations",
    "val": "validation",
    "best": "best evaluation",
}
INK = "#444444"
INCHES = (9.0, 9.0)
INCHES_LOSS_ALONE = (6.5, 4.2)
LOSS_LABEL = "loss (nats per token)"
PANEL_LABELS = {"lr": "learning rate", "grad_norm": "gradient norm", "tokens_per_second": "tokens per second"}
"""The panels below the loss, by the name that metrics.jsonl has for their numbers."""

LOSS_PANEL_HEIGHT = 2.6
"""The height of the loss panel; other panels have height 1."""

INCHES_PER_NAME = 0.22
LONGEST_NAME = 60
LONGEST_NAME_ALONE = 25
"""The longest name of a run in the smaller figure of the loss alone."""

DOTS_PER_INCH = 150
MOST_MARKERS = 40
"""With more evaluations than this, markers would hide the line."""

AUTHOR = "Quill"
MARKS = (b"tEXtSoftware\0Quill", b"<dc:title>Quill</dc:title>")
"""The marks at the beginning of PNG and SVG files that Quill has drawn."""
BEGINNING_BYTES = 4096

TIME_UNITS = ((2 * 86400, 86400, "days"), (2 * 3600, 3600, "hours"), (90, 60, "minutes"), (0, 1, "seconds"))


def save_figure(runs: Mapping[str, list[Row]], paths: list[Path], *, axis: Axis = "iter") -> None:
    """Draw runs together and write the figure to each path, in the format of its ending.

    Args:
        runs: Rows of metrics.jsonl, by the name of the run in the legend.
        paths: Files that end in .png or .svg; their folders are created.
        axis: The x axis.

    Raises:
        UserError: matplotlib is not installed.
    """
    purpose = "a figure (unlike quill plot --terminal)"
    write_figure(lambda: draw_figure(runs, axis=axis), paths, purpose=purpose)


def write_figure(draw: Callable[[], Figure], paths: Sequence[Path], *, purpose: str = "a figure") -> None:
    """Draw a figure and write it to each path, in the format of its ending; the same numbers give the same bytes.

    Args:
        draw: Draws the figure.
        paths: Files that end in .png or .svg; their folders are created.
        purpose: The purpose of matplotlib, as the beginning of a sentence.

    Raises:
        UserError: matplotlib is not installed.
        ConfigError: A file is there that Quill did not draw.
    """
    matplotlib = import_extra("matplotlib", extra="plots", purpose=purpose)
    check_pictures(paths)
    with matplotlib.rc_context({"font.size": 10, "axes.axisbelow": True, "svg.hashsalt": "quill"}):
        figure = draw()
        for path in paths:
            kind = path.suffix.lower().removeprefix(".")
            metadata = {"Date": None, "Creator": AUTHOR} if kind == "svg" else {"Software": AUTHOR}
            with atomic_path(path) as temporary:
                figure.savefig(temporary, format=kind, dpi=DOTS_PER_INCH, metadata=metadata)


def check_pictures(paths: Iterable[Path]) -> None:
    """Check that only pictures that Quill has drawn would be overwritten.

    Raises:
        ConfigError: Another file is there.
    """
    for path in paths:
        if path.is_symlink() or (path.exists() and not _is_ours(path)):
            raise ConfigError(f"{path} exists and was not drawn by Quill; give another name, or move it")


def _is_ours(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        beginning = file.read(BEGINNING_BYTES)
    return any(mark in beginning for mark in MARKS)


def tidy(panel: Axes) -> None:
    """Give a panel a light grid, and no frame at the top and on the right."""
    panel.grid(color="#dddddd", linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)


def draw_figure(runs: Mapping[str, list[Row]], *, axis: Axis = "iter") -> Figure:
    """Return a figure of the loss, with a panel below it for each other number that a run has recorded."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter

    scale, x_label = _scale(runs, axis)
    curves_of = {name: _curves(rows, axis, scale) for name, rows in runs.items()}
    recorded = [kind for kind in PANEL_LABELS if any(curves[kind] for curves in curves_of.values())]
    alone = not recorded and max(map(len, runs), default=0) <= LONGEST_NAME_ALONE
    width, height = INCHES_LOSS_ALONE if alone else INCHES
    height += INCHES_PER_NAME * (len(runs) - 1)
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))
    ratios = [LOSS_PANEL_HEIGHT, *(1 for _ in recorded)]
    losses, *others = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
    panels = dict(zip(recorded, others, strict=True))
    kinds: dict[str, dict[str, Any]] = {}
    for number, (name, curves) in enumerate(curves_of.items()):
        colour = COLOURS[number % len(COLOURS)]
        marker = MARKERS[number // len(COLOURS) % len(MARKERS)] if len(curves["val"]) <= MOST_MARKERS else ""
        for kind, style in KINDS.items():
            if points := curves[kind]:
                marks = {"marker": marker, "markersize": 3.5} if kind == "val" else {}
                losses.plot(*zip(*points, strict=True), color=colour, **(_dot(points) | marks | style))
                kinds[kind] = style
        for kind, panel in panels.items():
            if points := curves[kind]:
                panel.plot(*zip(*points, strict=True), color=colour, linewidth=1.2, **_dot(points))
        losses.plot([], [], color=colour, marker=marker, label=_label(name, runs[name]))
    losses.set_ylabel(LOSS_LABEL)
    for panel in (losses, *others):
        tidy(panel)
        panel.margins(x=0.02)
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    for kind, panel in panels.items():
        panel.set_ylabel(PANEL_LABELS[kind])
        panel.set_ylim(bottom=0)
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    (losses, *others)[-1].set_xlabel(x_label)
    figure.legend(loc="outside upper left", frameon=False)
    styles = [Line2D([], [], color=INK, **style) for style in kinds.values()]
    figure.legend(styles, [NAMES[kind] for kind in kinds], loc="outside lower center", ncols=len(kinds), frameon=False)
    figure.align_ylabels()
    return figure


def _label(name: str, rows: list[Row]) -> str:
    best = lowest(curve(rows, "eval", "val_loss"))
    name = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}..."
    return f"{name}: " + (
        "not evaluated yet" if best is None else f"best validation loss {best[1]:.4f} at iteration {best[0]:,.0f}"
    )


def _curves(rows: list[Row], axis: Axis, scale: float) -> dict[str, Points]:
    """Return the curves of a run, by kind."""
    curves = {
        "batches": curve(rows, "train", "loss", axis=axis),
        "train": curve(rows, "eval", "train_loss", axis=axis),
        "val": curve(rows, "eval", "val_loss", axis=axis),
        **{kind: curve(rows, "train", kind, axis=axis) for kind in PANEL_LABELS},
    }
    best = lowest(curves["val"])
    curves["best"] = [] if best is None else [best]
    return {kind: [(x / scale, y) for x, y in points] for kind, points in curves.items()}


def _dot(points: Points) -> dict[str, Any]:
    """Return a marker that makes a line of a single point visible."""
    return {"marker": "."} if len(points) == 1 else {}


def _scale(runs: Mapping[str, list[Row]], axis: Axis) -> tuple[float, str]:
    """Return the divisor of x values, and the label of the x axis."""
    if axis == "tokens":
        return 1.0, "tokens trained on"
    if axis == "iter":
        return 1.0, "iteration"
    longest = max((row.get("seconds", 0) for rows in runs.values() for row in rows), default=0)
    size, unit = next((size, unit) for least, size, unit in TIME_UNITS if longest >= least)
    return size, f"time since the start ({unit})"
