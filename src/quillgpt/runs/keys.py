"""Keys without waiting for Enter, and signals that wait their turn, while something is shown in a terminal.

A signal that ended the process at once could leave the terminal without an echo, or a cursor. So signals are noted
here, and answered when the terminal is restored.
"""

from __future__ import annotations

import os
import re
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType
from typing import Final

from quillgpt.stopping import answered_by

END_OF_INPUT: Final = "\x04"
KEY: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|O.)|.", re.DOTALL)
"""A character, or what a terminal sends for an arrow and its like."""

KEYS_AT_ONCE: Final = 1024
POLL_SECONDS: Final = 0.05

NOTED: Final = tuple(
    signal.Signals[name] for name in ("SIGTSTP", "SIGWINCH") if name in signal.Signals.__members__
)  # Ctrl-Z, and another size of the window; Windows has neither


class Keyboard:
    """Where keys and signals arrive.

    Args:
        terminal: The descriptor of the terminal whose keys are read; None: there is none.

    Attributes:
        asked_to_end: The signal that asks this process to end, if one has come.
        asked_to_suspend: Whether Ctrl-Z asks it to stop for a while.
    """

    def __init__(self, terminal: int | None) -> None:
        self._terminal = terminal
        self.asked_to_end: int | None = None
        self.asked_to_suspend = False
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)

    @property
    def has_keys(self) -> bool:
        """Whether there are keys to be pressed."""
        return self._terminal is not None

    def note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Note a signal, and end the wait for a key."""
        if signal.Signals(number).name == "SIGTSTP":
            self.asked_to_suspend = True
        elif number not in NOTED:
            self.asked_to_end = number
        with suppress(OSError):  # as full as it can be
            os.write(self._writer, b"\0")

    def wait(self, seconds: float) -> list[str]:
        """Wait until a key is pressed or a signal comes, so many seconds at most; return the keys, if any.

        What one key such as an arrow sends is one text.
        """
        if os.name == "nt":
            return self._wait_on_windows(seconds)
        sources = [self._reader] if self._terminal is None else [self._reader, self._terminal]
        ready = select.select(sources, [], [], seconds)[0]
        if self._reader in ready:
            os.read(self._reader, KEYS_AT_ONCE)
        if self._terminal not in ready:
            return []
        try:
            pressed = os.read(self._terminal, KEYS_AT_ONCE).decode("utf-8", "replace")
        except OSError:  # the terminal is gone
            pressed = ""
        return KEY.findall(pressed or END_OF_INPUT)

    def _wait_on_windows(self, seconds: float) -> list[str]:
        import msvcrt

        end = time.monotonic() + seconds
        while time.monotonic() < end and self.asked_to_end is None:
            if self.has_keys and msvcrt.kbhit():  # type: ignore[attr-defined,unused-ignore]
                return [str(msvcrt.getwch())]  # type: ignore[attr-defined,unused-ignore]
            time.sleep(POLL_SECONDS)
        return []

    def close(self) -> None:
        """Close what signals wake it by."""
        os.close(self._reader)
        os.close(self._writer)


@contextmanager
def keyboard() -> Iterator[Keyboard]:
    """Read keys one by one while the block runs, and note signals; the terminal is restored afterwards."""
    with ExitStack() as stack:
        board = Keyboard(sys.stdin.fileno() if sys.stdin.isatty() else None)
        stack.callback(board.close)
        stack.enter_context(answered_by(board.note))
        for number in NOTED:
            stack.callback(signal.signal, number, signal.signal(number, board.note))
        if board.has_keys and os.name != "nt":
            import termios
            import tty

            terminal = sys.stdin.fileno()
            stack.callback(termios.tcsetattr, terminal, termios.TCSAFLUSH, termios.tcgetattr(terminal))
            tty.setcbreak(terminal)
        yield board
