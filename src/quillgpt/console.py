"""Where words for the user go: set-up and progress to standard error, results to standard output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

stdout = Console(highlight=False, soft_wrap=True)
stderr = Console(stderr=True, highlight=False, soft_wrap=True)


def say(message: str, style: str | None = None) -> None:
    """Print one line for the user on standard error; `message` is shown as it is, without markup."""
    stderr.print(message, style=style, markup=False, emoji=False)


def warn(message: str) -> None:
    """Print a warning on standard error."""
    say(f"warning: {message}", style="yellow")


def table(title: str, rows: Mapping[str, object], *, console: Console = stderr) -> None:
    """Print names and values in two columns, on standard error unless another console is given."""
    grid = Table(title=title, title_justify="left", title_style="bold", show_header=False, box=None, pad_edge=False)
    grid.add_column(style="cyan", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows.items():
        grid.add_row(escape(str(name)), escape(str(value)))
    console.print(grid)


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
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as bar:
        task = bar.add_task(escape(description), total=total)
        yield Advance(bar, task)


class Advance:
    """Moves one progress bar forward when called."""

    def __init__(self, bar: Progress, task: object) -> None:
        self._bar = bar
        self._task = task

    def __call__(self, amount: float = 1) -> None:
        """Move the bar forward by `amount`."""
        self._bar.advance(self._task, amount)  # type: ignore[arg-type]
