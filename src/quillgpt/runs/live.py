"""Shows runs in a terminal while they train, or writes what is new about them into a file or a pipe."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Final

from rich.console import Console, Group
from rich.live import Live

from quillgpt.runs.follow import Followed
from quillgpt.runs.keys import END_OF_INPUT, Keyboard, keyboard
from quillgpt.runs.screen import Frame, compose, line_of, plain, warnings_of

LOOK_SECONDS: Final = 1.0
"""How often a run's record is looked at."""

DRAW_SECONDS: Final = 2.0
"""How often it is drawn at most, but for keys and new sizes: drawing is most of the work."""

QUIT: Final = ("q", "Q", END_OF_INPUT)
NEXT, BEFORE, PAUSE = "\t", "\x1b[Z", " "
FILE_WIDTH: Final = 80


def show_once(runs: Sequence[Followed], console: Console) -> None:
    """Print how runs are now."""
    on_screen = console.is_terminal
    width = console.width if on_screen else FILE_WIDTH
    for place, run in enumerate(runs):
        run.look_at_all()
        if place:
            console.print()
        for line in compose(run, Frame(width=width, encoding=console.encoding)):
            console.print(line if on_screen else line.plain, markup=False, emoji=False)


def write_news(runs: Sequence[Followed], console: Console, *, wait: Callable[[float], object] = time.sleep) -> None:
    """Print how runs are now, and then a line for what is new, until none trains any more."""
    show_once(runs, console)
    shown = [_news(run) for run in runs]
    while any(run.state == "running" for run in runs):
        wait(LOOK_SECONDS)
        for place, run in enumerate(runs):
            run.look()
            news = _news(run)
            if not run.is_behind and news != shown[place]:
                console.print(line_of(run), markup=False, emoji=False)
                for warning in news[-1] - shown[place][-1]:
                    console.print(f"{plain(run.name)}: warning {warning}", markup=False, emoji=False)
                shown[place] = news


def _news(run: Followed) -> tuple[object, object, frozenset[str]]:
    """Return what a line is written for: another state, an evaluation, a warning."""
    return run.state, run.latest.get("eval", {}).get("iter"), frozenset(warnings_of(run))


def show_live(runs: Sequence[Followed], console: Console) -> None:
    """Show runs on the whole screen, one at a time, until the user has enough.

    Raises:
        KeyboardInterrupt: A signal other than Ctrl-C asks to end; the terminal is restored.
    """
    view = _View(runs, console)
    while True:
        with keyboard() as board, _whole_screen(console) as live:
            view.show(live, board)
        if board.asked_to_suspend and board.asked_to_end is None:
            os.kill(os.getpid(), signal.SIGSTOP)  # and go on when the shell says so
            continue
        if board.asked_to_end not in (None, signal.SIGINT):
            raise KeyboardInterrupt(board.asked_to_end)
        return


def _whole_screen(console: Console) -> Live:
    return Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)


class _View:
    """Which run is shown, and whether it is paused."""

    def __init__(self, runs: Sequence[Followed], console: Console) -> None:
        self._runs, self._console = runs, console
        self._chosen = 0
        self._paused = False

    def show(self, live: Live, board: Keyboard) -> None:
        """Show runs until a key or a signal ends it."""
        drawn, size, is_due, is_new = 0.0, None, True, True
        while board.asked_to_end is None and not board.asked_to_suspend:
            if not self._paused:
                changed = [run.look() for run in self._runs]
                is_new |= changed[self._chosen]
            run, now = self._runs[self._chosen], time.monotonic()
            is_due |= self._console.size != size or (is_new and now - drawn >= DRAW_SECONDS)
            if is_due:
                drawn, size, is_due, is_new = now, self._console.size, False, False
                live.update(Group(*compose(run, self._frame(board))), refresh=True)
            for key in board.wait(0 if run.is_behind and not self._paused else LOOK_SECONDS):
                if key in QUIT:
                    return
                is_due |= self._press(key)

    def _press(self, key: str) -> bool:
        """Do what a key asks for; return whether it asks for something."""
        if key == PAUSE:
            self._paused = not self._paused
        elif key in (NEXT, BEFORE):
            self._chosen = (self._chosen + (1 if key == NEXT else -1)) % len(self._runs)
        else:
            return False
        return True

    def _frame(self, board: Keyboard) -> Frame:
        width, height = self._console.size
        return Frame(
            width=width,
            height=height,
            encoding=self._console.encoding,
            place=(self._chosen + 1, len(self._runs)),
            paused=self._paused,
            has_keys=board.has_keys,
        )
