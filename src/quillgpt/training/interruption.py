"""A signal ends a run at the boundary of a step; a second one ends it at once."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from contextlib import ExitStack
from types import FrameType

from quillgpt.console import say_from_signal
from quillgpt.stopping import SIGNALS, answered_by, insists, interrupt

NOTHING_LOST = {
    False: "before the first iteration; nothing is lost",
    True: "before another iteration; the run is as it was",
}
"""What follows "interrupted" when a signal ends a new or a resumed run at once, since there is nothing to save yet."""


class Interrupted(Exception):  # noqa: N818 - it is no error
    """An evaluation ends early, because the run has been asked to stop."""


class Interruption:
    """Notes a request to stop while its block runs; a second signal raises KeyboardInterrupt with its number.

    Python delivers signals to the main thread only. In another thread, such as a notebook's, a program asks by setting
    `requested`.

    Attributes:
        requested: Whether the run is asked to stop.
        signal: The signal that asked, if one did.
        heeded: Whether signals are noted, as they are while its block runs.
    """

    SIGNALS = SIGNALS

    def __init__(self) -> None:
        self.requested = False
        self.signal: signal.Signals | None = None
        self.heeded = False
        self._noted = False
        self._handlers = ExitStack()

    def adopt(self, signals: Iterable[signal.Signals | None]) -> None:
        """Take over the request of another rank.

        Args:
            signals: The signal that has asked each of them, where one did.
        """
        self.requested = True
        self.signal = next(filter(None, signals), None)

    def __enter__(self) -> Interruption:
        self.heeded = True
        self._handlers.enter_context(answered_by(self._note))
        return self

    def __exit__(self, *exception: object) -> None:
        self.heeded = False
        self._handlers.close()

    @property
    def exit_status(self) -> int:
        """The exit status that shells expect of an interrupted process: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + (self.signal or signal.SIGINT)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self._noted:
            self._noted = True
            if not self.requested:  # by another rank, which the same signal may have reached before
                self.requested, self.signal = True, signal.Signals(number)
                say_from_signal("stopping after this step and saving; once more to stop at once")
        elif insists(number):
            interrupt(number, frame)
