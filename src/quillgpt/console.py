"""Where words for the user go: set-up and progress to standard error, results to standard output.

A notebook is treated as the plain stream of text that it shows standard error as: rich's own rendering for notebooks
would put these words among the results, out of order, and bars that move need a terminal.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO, NoReturn

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from quillgpt.streams import Words, visible

QUIET_VARIABLE = "QUILL_QUIET"


class _WordsConsole(Console):
    """Standard error, through which nothing can fail."""

    @property
    def file(self) -> IO[str]:
        return Words(super().file)  # type: ignore[return-value]

    @file.setter
    def file(self, file: IO[str]) -> None:
        self._file = file


class _ResultsConsole(Console):
    """Standard output, whose reader may have enough; rich itself would leave with a status that says nothing."""

    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError


stdout = _ResultsConsole(highlight=False, soft_wrap=True, force_jupyter=False)
stderr = _WordsConsole(stderr=True, highlight=False, soft_wrap=True, force_jupyter=False)

_quiet = False


def help_console() -> Console:
    """Return standard output folded to the width that the terminal has now, for --help."""
    return _ResultsConsole(force_jupyter=False)


@contextmanager
def quietly(quiet: bool = True) -> Iterator[None]:
    """Leave out set-up, log lines and progress while the block runs; warnings, errors and outcomes stay."""
    global _quiet
    before, _quiet = _quiet, quiet or _quiet
    try:
        yield
    finally:
        _quiet = before


def is_quiet() -> bool:
    """Return whether set-up, log lines and progress are left out, by `quietly` or by the environment."""
    return _quiet or os.environ.get(QUIET_VARIABLE, "").lower() not in ("", "0", "false", "no", "off")


def say(message: str, style: str | None = None) -> None:
    """Print one line of set-up or progress on standard error; `message` is shown as it is, without markup."""
    if not is_quiet():
        outcome(message, style)


def say_from_signal(message: str) -> None:
    """Print one line like `say`, but past the stream's buffer, which a signal may find half written."""
    if not is_quiet():
        with suppress(AttributeError, OSError, ValueError):  # no standard error, or one that is no file
            os.write(stderr.file.fileno(), f"{message}\n".encode())


def outcome(message: str, style: str | None = None) -> None:
    """Print on standard error what a command came to; like `say`, but also where the command is quiet.

    Characters that steer a terminal, which a name or a text from elsewhere may hold, are written out.
    """
    stderr.print(visible(message), style=style, markup=False, emoji=False)


def warn(message: str) -> None:
    """Print a warning on standard error."""
    outcome(f"warning: {message}", style="yellow")


def table(title: str, rows: Mapping[str, object], *, console: Console = stderr) -> None:
    """Print names and values in two columns, on standard error unless another console is given.

    On a terminal long values are folded to its width; elsewhere, such as in a file, each stays on its line.
    """
    if console is stderr and is_quiet():
        return
    title, shown = visible(title), {visible(str(name)): visible(str(value)) for name, value in rows.items()}
    if not is_screen(console):
        width = max((len(name) for name in shown), default=0)
        lines = [title, *(f"{name:{width}} {value}" for name, value in shown.items())]
        console.print("\n".join(lines), markup=False, emoji=False)
        return
    grid = Table(title=title, title_justify="left", title_style="bold", show_header=False, box=None, pad_edge=False)
    grid.add_column(style="cyan", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in shown.items():
        grid.add_row(escape(name), escape(value))
    console.print(grid)


def is_screen(console: Console) -> bool:
    """Return whether somebody looks at a terminal; colours that were forced into a file or a notebook are none."""
    return console.is_terminal and not console.is_dumb_terminal and console.file.isatty()


@contextmanager
def progress(description: str, total: float | None, *, as_bytes: bool = False) -> Iterator[Advance]:
    """Show a progress bar on standard error while the block runs, and nothing where that is no terminal.

    Args:
        description: Words before the bar.
        total: The count at which the bar is full, or None where it is not known.
        as_bytes: Show counts as sizes of a download.
    """
    counter = DownloadColumn() if as_bytes else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), counter, TimeRemainingColumn())
    with Progress(*columns, console=stderr, transient=True, disable=is_quiet() or not is_screen(stderr)) as bar:
        task = bar.add_task(escape(visible(description)), total=total)
        yield Advance(bar, task)


class Advance:
    """Moves one progress bar forward when called."""

    def __init__(self, bar: Progress, task: object) -> None:
        self._bar = bar
        self._task = task

    def __call__(self, amount: float = 1) -> None:
        """Move the bar forward by `amount`."""
        self._bar.advance(self._task, amount)  # type: ignore[arg-type]
