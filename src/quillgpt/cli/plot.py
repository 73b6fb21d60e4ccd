"""`quill plot`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from quillgpt.cli.flags import PATH
from quillgpt.console import say, stdout
from quillgpt.errors import ConfigError, DataError
from quillgpt.plots.chart import loss_chart
from quillgpt.plots.record import METRICS, Axis, Row, read_metrics
from quillgpt.runs.find import check_is_run, named, run_folder

SUFFIXES = (".png", ".svg")
OTHER_PICTURES = (".pdf", ".jpg", ".jpeg", ".gif", ".webp", ".eps", ".ps", ".tif", ".tiff", ".html")
NAMED_RUNS = 3
WIDEST_CHART = 80

RUN_HELP = "Folder of a run, finished or not; several runs are drawn together."
OUT_HELP = (
    "File to write, .png or .svg; any other name gets both endings. [default: plots/training in the run's folder; for "
    "several runs, a file in plots/ named after them]"
)
TOKENS_HELP = "Draw over the tokens trained on, not over iterations."
SECONDS_HELP = "Draw over the time since the start, not over iterations."
TERMINAL_HELP = "Print the losses as text on standard output and write nothing; needs no matplotlib."


def plot(
    *runs: Annotated[Path, PATH, Parameter(name="RUN", help=RUN_HELP)],
    out: Annotated[Path | None, PATH, Parameter(help=OUT_HELP, show_default=False)] = None,
    tokens: Annotated[bool, Parameter(negative=(), show_default=False, help=TOKENS_HELP)] = False,
    seconds: Annotated[bool, Parameter(negative=(), show_default=False, help=SECONDS_HELP)] = False,
    terminal: Annotated[bool, Parameter(negative=(), show_default=False, help=TERMINAL_HELP)] = False,
) -> None:
    """Draw the loss, learning rate, gradient norm and speed of runs, as PNG and SVG."""
    if not runs:
        raise ConfigError("plot needs the folder of a run: quill plot out-shakespeare-char")
    if tokens and seconds:
        raise ConfigError("--tokens and --seconds are both an x axis; give one of them")
    if terminal and out is not None:
        raise ConfigError("--terminal writes no file, --out names one; give one of them")
    axis: Axis = "tokens" if tokens else "seconds" if seconds else "iter"
    for run in runs:
        check_is_run(run)
    records = {name: read_run(folder) for name, folder in named([run_folder(run) for run in runs]).items()}
    if terminal:
        for name, rows in records.items():
            width = min(WIDEST_CHART, stdout.width)
            chart = loss_chart(rows, axis=axis, width=width, encoding=stdout.encoding)
            print(f"{name}\n{chart or 'too few points for a chart, or too narrow a terminal'}")
        return
    folder = (run_folder(runs[0]) if len(records) == 1 else Path()) / "plots"
    paths = figure_paths(out, folder / figure_name(list(records)))

    from quillgpt.plots.figure import save_figure

    save_figure(records, paths, axis=axis)
    say(f"drawn: {', '.join(records)}")
    for path in paths:
        print(path)


def read_run(run: Path) -> list[Row]:
    """Return the rows of a run.

    Raises:
        DataError: It has none.
    """
    path = check_is_run(run) / METRICS
    rows = read_metrics(path)
    if not rows:
        raise DataError(f"{path} has no numbers yet; the first come with the first evaluation")
    return rows


def figure_name(names: list[str]) -> str:
    """Return a figure's file name without ending: `training` for one run, otherwise the names of the runs."""
    if len(names) == 1:
        return "training"
    stems = [Path(name).name for name in names]
    return "-vs-".join(stems) if len(stems) <= NAMED_RUNS else f"{stems[0]}-vs-{len(stems) - 1}-others"


def figure_paths(out: Path | None, default: Path) -> list[Path]:
    """Return the files to write.

    Raises:
        ConfigError: `out` has the ending of another kind of picture.
    """
    path = out or default
    if path.suffix.lower() in OTHER_PICTURES:
        raise ConfigError(f"--out={path} must end in .png or .svg, or in neither to get both")
    if path.is_dir():
        path = path / default.name
    if path.suffix.lower() in SUFFIXES:
        return [path]
    return [path.with_name(path.name + suffix) for suffix in SUFFIXES]
