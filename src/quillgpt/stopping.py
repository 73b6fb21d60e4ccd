"""Signals that ask a command to end: it ends within a second, with one line and the exit status that shells expect.

A signal raises KeyboardInterrupt with its number, so that every `finally` runs. While modules are imported, the
exception waits a moment. If it has no effect in time, because a library computes or swallows it, the process ends
nevertheless. Training replaces this by `training.interruption` while there is something to save.

This module imports nothing slow, so that a command heeds signals before anything else.
"""

from __future__ import annotations

import _thread
import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

SIGNALS = tuple(
    signal.Signals[name]
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")  # a lost terminal; SLURM's warning. Windows has neither
    if name in signal.Signals.__members__
)
LONGEST_SECONDS = 0.8
"""How long the `finally` blocks may take."""

PAUSE_SECONDS = 0.05

Description = str | Callable[[], str]
"""Words, or a function that returns them when they are printed."""

_unwinding = False
_raised: int | None = None
_postponed = False
_said = False
_status: int | None = None
_activities: list[Description] = []


def heeded() -> tuple[signal.Signals, ...]:
    """Return the signals to heed: `SIGNALS` without SIGHUP under `nohup`, which ignores it."""
    return tuple(
        number for number in SIGNALS if number.name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN
    )


def heed_signals() -> None:
    """Let signals end this process from now on; outside of `unwinding` they end it at once."""
    for number in heeded():
        signal.signal(number, _answer)
    sys.unraisablehook = _unraisable
    atexit.register(_end)  # what is registered first is called last
    if os.name != "nt":  # where a pipe cannot wake a thread
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGURG, _nothing)
        _thread.start_new_thread(_watch, (reader,))


@contextmanager
def unwinding() -> Iterator[None]:
    """Let a signal raise KeyboardInterrupt while the block runs, instead of ending the process at once."""
    global _unwinding
    _unwinding = True
    try:
        yield
    finally:
        _unwinding = False


@contextmanager
def answered_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Let `handler` answer signals while the block runs, in its own time; only the main thread may set handlers."""
    is_main = threading.current_thread() is threading.main_thread()
    previous = {number: signal.signal(number, handler) for number in heeded()} if is_main else {}
    try:
        yield
    finally:
        for number, before in previous.items():
            if signal.getsignal(number) is handler:  # and not ignored since
                signal.signal(number, before)


def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    """Answer a signal with KeyboardInterrupt and no deadline, for a block that has much to put in order."""
    raise KeyboardInterrupt(number)


@contextmanager
def activity(description: Description) -> Iterator[None]:
    """Describe an interruption of the block: what was interrupted, what is kept, and how to go on.

    Args:
        description: The words after "interrupted"; those of the innermost block are printed.
    """
    _activities.append(description)
    try:
        yield
    except KeyboardInterrupt as error:
        error.__notes__ = [*getattr(error, "__notes__", []), _in_words(description)]
        raise
    finally:
        _activities.pop()


def insists(number: int) -> bool:
    """Return whether a second signal asks to leave at once; SIGHUP does not, since a lost terminal sends it twice."""
    return signal.Signals(number).name != "SIGHUP"


def words_on(error: KeyboardInterrupt) -> str:
    """Return the message of an interruption; `leave` does not print it again."""
    global _said
    _said = True
    return _words(getattr(error, "__notes__", []))


def raised() -> int | None:
    """Return the signal that has raised KeyboardInterrupt in this process, even if that was caught since."""
    return _raised


def end_with(status: int) -> int:
    """Return the exit status of a command, after which this process ends without tearing down what it has imported.

    With PyTorch that takes a second of computing, and many on a busy machine. And the threads of gloo and NCCL abort a
    process that is torn down around them.
    """
    global _status
    _status = status
    return status


def leave_words_to_others() -> None:
    """Let `leave` print nothing in this process: another one has the words for all of them."""
    global _said
    _said = True


def ignore_signals() -> None:
    """Ignore signals from now on: all is saved, and the exit status is decided."""
    if threading.current_thread() is threading.main_thread():
        for number in heeded():
            signal.signal(number, signal.SIG_IGN)


def leave(number: int) -> NoReturn:
    """Print that this process was interrupted, and end it now with the exit status that shells expect."""
    if not _said:
        with suppress(OSError):
            os.write(2, f"quill: {_words([*map(_in_words, _activities[-1:])])}\n".encode("utf-8", "replace"))
    os._exit(128 + number)


def _in_words(description: Description) -> str:
    if isinstance(description, str):
        return description
    try:
        return description()
    except Exception:  # whatever happens, an interrupted process ends
        return ""


def _words(descriptions: list[str]) -> str:
    return " ".join(filter(None, ["interrupted", *descriptions[:1]]))


def _answer(number: int, frame: FrameType | None) -> None:
    global _raised, _postponed
    if not _unwinding:
        leave(number)
    if _raised is not None:
        if insists(number):
            leave(number)
        return
    if _is_importing(frame):  # an exception there would come out as another one; the watcher asks again
        _postponed = True
        return
    _raised = number
    raise KeyboardInterrupt(number)


def _end() -> None:
    """End a process whose command has ended at once; all files are closed by now.

    Any other process ignores signals from here on. Otherwise Python would restore their defaults, which kill it.
    """
    if _status is not None:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(_status)
    for number in heeded():
        signal.signal(number, signal.SIG_IGN)


def _nothing(number: int, frame: FrameType | None) -> None:
    """Answer the signal that only wakes the main thread."""


def _wake() -> None:
    """Let the main thread look at its signals.

    One that arrives just before the main thread begins to wait, such as in `time.sleep`, does not end the wait.
    """
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGURG)


def _watch(reader: int) -> None:
    """Wait for signals beside the main thread, and make sure that they are answered in time."""
    noted = False  # by another handler, such as that of training, which takes its own time
    while received := os.read(reader, 1):
        number = received[0]
        if number not in SIGNALS:
            continue
        if signal.getsignal(number) is _answer:
            _insist(number)
            continue
        time.sleep(PAUSE_SECONDS)
        _wake()
        if noted and insists(number):
            time.sleep(LONGEST_SECONDS)
            leave(number)
        noted = True


def _insist(number: int) -> None:
    """Have the main thread answer a signal, and end the process if it does not."""
    global _postponed
    end = time.monotonic() + LONGEST_SECONDS
    while signal.getsignal(number) is _answer:
        if time.monotonic() > end:
            leave(number)
        if _postponed:
            _postponed = False
            _thread.interrupt_main(signal.Signals(number))
        if _raised is None:
            _wake()
        time.sleep(PAUSE_SECONDS)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """End the process if the exception was raised where it has no effect, such as in a destructor."""
    if isinstance(unraisable.exc_value, KeyboardInterrupt) and _raised is not None:
        leave(_raised)
    sys.__unraisablehook__(unraisable)
