"""A signal ends a run at the boundary of a step; a second one ends it at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from quillgpt.console import say_from_signal
from quillgpt.stopping import SIGNALS, heeded, insists

NOTHING_LOST = {
    False: "before the first iteration; nothing is lost",
    True: "before another iteration; the run is as it was",
}
"""What is said of a new or of a resumed run that a signal ends on the spot, because there is nothing to save yet."""


class Interrupted(Exception):  # noqa: N818 - it is no error
    """Raised out of an evaluation when the run has been asked to stop."""


class Interruption:
    """Notes requests to stop while its block runs; after one, a signal raises KeyboardInterrupt with its number.

    Signals are only noticed in the main thread, where alone handlers may be set; elsewhere, as in a notebook's thread,
    a program asks by setting `requested`.

    Attributes:
        requested: Whether one has come.
        signal: The signal that asked, if one did.
    """

    SIGNALS = SIGNALS

    def __init__(self) -> None:
        self.requested = False
        self.signal: signal.Signals | None = None
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in heeded()}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @property
    def exit_status(self) -> int:
        """The exit status of a process that was stopped so, as shells have it: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + (self.signal or signal.SIGINT)

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if not self.requested:
            self.requested, self.signal = True, signal.Signals(number)
            say_from_signal("stopping after this step and saving; once more to stop at once")
        elif insists(number):
            raise KeyboardInterrupt(number)
