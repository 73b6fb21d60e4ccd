"""A comparison of runs in tables, as a chart, and in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quillgpt.console import clock_time
from quillgpt.errors import join_names, shorten
from quillgpt.plots.chart import UNICODE, draw_chart
from quillgpt.plots.record import AXES, Axis
from quillgpt.runs.comparison import ComparedRun, Comparison, Difference, Measure, common_end
from quillgpt.runs.differences import settings_that_differ
from quillgpt.runs.screen import plain
from quillgpt.tables import NOTHING, ResultTable

MOST_CURVES = len(UNICODE.curves)
LONGEST_VALUE = 40
VERDICTS = {
    "better": "more than seeds explain: better",
    "worse": "more than seeds explain: worse",
    "no difference can be told": "no more than seeds explain: no difference can be told",
}


def results(runs: Sequence[ComparedRun], measure: Measure) -> ResultTable:
    """Return what each run has reached, also after equal iterations and equal minutes."""
    words, numbers = ("run", "state", "seed"), {"iter": ",", "minutes": ".1f", "best": ".4f", "whole split": ".4f"}
    formats = dict.fromkeys(words, "s") | numbers
    columns: dict[str, tuple[Axis, float]] = {}
    iteration, seconds = common_end(runs, "iter"), common_end(runs, "seconds")
    if iteration is not None and any(run.overview.iteration != iteration for run in runs):
        columns[f"by iter {int(iteration):,}"] = ("iter", iteration)
    if seconds is not None:
        columns[f"by {clock_time(seconds)}"] = ("seconds", seconds)
    rows = [
        {
            "run": plain(run.name),
            "state": run.overview.state,
            "seed": str(run.settings.get("seed", NOTHING)),
            "iter": run.overview.iteration,
            "minutes": run.overview.minutes,
            "best": run.lowest(measure),
            "whole split": run.overview.full_loss if measure == "nats per token" else None,
            **{name: run.lowest(measure, by=by, axis=axis) for name, (axis, by) in columns.items()},
        }
        for run in runs
    ]
    title = f"validation loss, {measure}: lowest of an evaluation, and of the best checkpoint over the whole split"
    return ResultTable(title, formats | dict.fromkeys(columns, ".4f"), rows)


def settings_table(runs: Sequence[ComparedRun]) -> ResultTable | None:
    """Return the settings that differ; None if none does, or no run tells any."""
    different = settings_that_differ({run.name: run.settings for run in runs})
    if not different:
        return None
    rows = [
        {"setting": plain(name)} | {run: _value(value) for run, value in values.items()}
        for name, values in different.items()
    ]
    names = [run.name for run in runs if run.settings]
    rows = [{plain(name): value for name, value in row.items()} for row in rows]
    return ResultTable("settings that differ", {"setting": "s"} | {plain(name): "s" for name in names}, rows)


def _value(value: object) -> str:
    return NOTHING if value is None else plain(value if isinstance(value, str) else shorten(value))[:LONGEST_VALUE]


def chart(runs: Sequence[ComparedRun], measure: Measure, axis: Axis, *, width: int, encoding: str) -> str:
    """Draw the validation loss of the first runs; an empty text if there are too few points."""
    curves = {plain(run.name): run.curve(measure, axis) for run in runs[:MOST_CURVES]}
    return draw_chart(curves, title=f"val, {measure}", x_label=AXES[axis], width=width, encoding=encoding)


def sentences(comparison: Comparison, runs: Sequence[ComparedRun]) -> list[str]:
    """Say in words what a comparison has found, and what is not known."""
    said = [line for difference in comparison.differences for line in _of_difference(difference, comparison)]
    spread = comparison.spread
    if not comparison.differences:
        said.append("all of them differ in their seed only")
    if spread is not None:
        names = plain(join_names(spread.names, 6))
        said.append(f"seeds: standard deviation {spread.deviation:.4f}, measured on {names}")
    else:
        said.append(
            "seeds: how much they matter is not known; train one of these again with another --seed, into a folder "
            "beside it, and compare again"
        )
    return [*said, _of_text(comparison, runs)]


def _of_difference(difference: Difference, comparison: Comparison) -> list[str]:
    first, second = (plain(" and ".join(names)) for names in (difference.first, difference.second))
    verb = "is" if len(difference.second) == 1 else "are on average"
    direction = "lower" if difference.value < 0 else "higher"
    scoring = comparison.scoring
    lines = [
        f"{second} {verb} {abs(difference.value):.4f} {direction} than {first}: {difference.values[1]:.4f} and "
        f"{difference.values[0]:.4f} {scoring.measure}, {scoring.words}"
    ]
    if difference.margin is not None:
        lines.append(
            f"  {VERDICTS[difference.verdict]} (of 100 differences between equal settings, 95 are below "
            f"{difference.margin:.4f})"
        )
    return lines


def _of_text(comparison: Comparison, runs: Sequence[ComparedRun]) -> str:
    if comparison.scoring.by is not None:
        return (
            "text: evaluations read a part of the validation text, and their standard error is not recorded; finished "
            "runs are compared over the whole split"
        )
    errors = [(run.name, run.overview.standard_error) for run in runs]
    known = [f"{error:.4f} ({plain(name)})" for name, error in errors if error is not None]
    told = f"standard error {join_names(known, 6)}" if known else "its standard error is not recorded"
    return (
        f"text: {told}; on the same text much of it is the same for all, and quill eval A,B measures the difference "
        "unit by unit"
    )


def rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the differences for `--json`."""
    spread, scoring = comparison.spread, comparison.scoring
    return [
        {
            "first": list(difference.first),
            "second": list(difference.second),
            "first_loss": difference.values[0],
            "second_loss": difference.values[1],
            "difference": difference.value,
            "measure": scoring.measure,
            "by_iteration": None if scoring.by is None else int(scoring.by),
            "seeds_deviation": None if spread is None else spread.deviation,
            "seeds_runs": None if spread is None else list(spread.names),
            "margin": difference.margin,
            "verdict": difference.verdict,
        }
        for difference in comparison.differences
    ]
