"""Output for the user: set-up and progress on standard error, results on standard output.

A notebook gets plain text, since rich's rendering for notebooks would put messages among the results, out of order, and
moving progress bars need a terminal.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO, NoReturn

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from quillgpt.streams import Words, visible

QUIET_VARIABLE = "QUILL_QUIET"


class _WordsConsole(Console):
    """Standard error, where writing never fails."""

    @property
    def file(self) -> IO[str]:
        return Words(super().file)  # type: ignore[return-value]

    @file.setter
    def file(self, file: IO[str]) -> None:
        self._file = file


class _ResultsConsole(Console):
    """Standard output; raises an error when its reader has gone, where rich would exit with status 1."""

    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError


stdout = _ResultsConsole(highlight=False, soft_wrap=True, force_jupyter=False)
stderr = _WordsConsole(stderr=True, highlight=False, soft_wrap=True, force_jupyter=False)

_quiet = False
_muted = False


def help_console() -> Console:
    """Return standard output at the present width of the terminal, for --help."""
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


@contextmanager
def muted(mute: bool = True) -> Iterator[None]:
    """Print no message at all while the block runs, as in all but one of several processes that do the same."""
    global _muted
    before, _muted = _muted, mute or _muted
    try:
        yield
    finally:
        _muted = before


def is_quiet() -> bool:
    """Return whether `quietly` or the environment leaves out set-up, log lines and progress."""
    return _quiet or _muted or os.environ.get(QUIET_VARIABLE, "").lower() not in ("", "0", "false", "no", "off")


def say(message: str, style: str | None = None) -> None:
    """Print one line of set-up or progress on standard error, without markup."""
    if not is_quiet():
        outcome(message, style)


def say_from_signal(message: str) -> None:
    """Print one line like `say`, past the buffer of the stream, which may be half written during a signal."""
    if not is_quiet():
        with suppress(AttributeError, OSError, ValueError):  # no standard error, or one that is no file
            os.write(stderr.file.fileno(), f"{message}\n".encode())


def outcome(message: str, style: str | None = None) -> None:
    """Print the outcome of a command on standard error; like `say`, but also if the command is quiet.

    Control characters are escaped, since a message may hold a name or a text from elsewhere.
    """
    if not _muted:
        stderr.print(visible(message), style=style, markup=False, emoji=False)


def warn(message: str) -> None:
    """Print a warning on standard error."""
    outcome(f"warning: {message}", style="yellow")


def table(title: str, rows: Mapping[str, object], *, console: Console = stderr) -> None:
    """Print names and values in two columns.

    A terminal folds long values to its width; in a file, every value is one line.
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
    """Return whether a console is a terminal, and not a file or a notebook with forced colours."""
    return console.is_terminal and not console.is_dumb_terminal and console.file.isatty()


@contextmanager
def progress(
    description: str, total: float | None, *, as_bytes: bool = False, as_time: bool = False
) -> Iterator[Advance]:
    """Show a progress bar on standard error while the block runs, if that is a terminal.

    Args:
        description: The text before the bar.
        total: The count at which the bar is full; None if unknown.
        as_bytes: Show counts as bytes.
        as_time: Show counts as durations; they are in seconds.
    """
    counter = DownloadColumn() if as_bytes else _TimeColumn() if as_time else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), counter, TimeRemainingColumn())
    with Progress(*columns, console=stderr, transient=True, disable=is_quiet() or not is_screen(stderr)) as bar:
        task = bar.add_task(escape(visible(description)), total=total)
        yield Advance(bar, task)


class _TimeColumn(ProgressColumn):
    """Counts of seconds as durations."""

    def render(self, task: Task) -> Text:
        total = "?" if task.total is None else clock_time(task.total)
        return Text(f"{clock_time(task.completed)}/{total}", style="progress.download")


class Advance:
    """A callable that moves a progress bar forward."""

    def __init__(self, bar: Progress, task: object) -> None:
        self._bar = bar
        self._task = task

    def __call__(self, amount: float = 1) -> None:
        """Move the bar forward by `amount`."""
        self._bar.advance(self._task, amount)  # type: ignore[arg-type]


def clock_time(seconds: float) -> str:
    """Write a duration as `m:ss` or `h:mm:ss`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
