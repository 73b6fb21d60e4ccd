"""Requests take turns: one thread computes a step of each in turn, so none waits for a long one.

Steps of different requests are never computed together, since that would round differently. So a request gets the same
text whatever else is asked for at the time.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Final

from quillgpt.serve.completion import Piece

AT_A_TIME: Final = 8
"""Requests that take turns; each holds a key-value cache."""

MOST_WAITING: Final = 32
"""Requests that may wait until one of them ends."""

MOST_UNREAD: Final = 256
"""Steps that are computed before their reader takes them."""


class FullError(Exception):
    """As many requests wait as may."""


class EndedError(Exception):
    """The server ends before the request does."""


class Job:
    """A request that is computed step by step in one thread, and read by a coroutine in another.

    Args:
        steps: Computes the next step.
        loop: The reader's.
        notify: Called when there is room for further steps.
    """

    def __init__(
        self, steps: Iterator[list[Piece]], loop: asyncio.AbstractEventLoop, notify: Callable[[], None]
    ) -> None:
        self._steps = steps
        self._loop = loop
        self._notify = notify
        self._unread: deque[list[Piece] | Exception | None] = deque()  # an error or None is the end
        self._arrived = asyncio.Event()
        self._told = False  # whether the reader has been told of what it has not read
        self._over = asyncio.Event()
        self.cancelled = False

    @property
    def is_ready(self) -> bool:
        """Whether a step may be computed, or the request can be forgotten."""
        return self.cancelled or len(self._unread) < MOST_UNREAD

    def compute(self) -> bool:
        """Compute a step and hand it to the reader; return whether there may be more."""
        if self.cancelled:
            return False
        try:
            result: list[Piece] | Exception | None = next(self._steps, None)
        except Exception as error:
            result = error
        self._hand_over(result)
        return isinstance(result, list)

    def end(self) -> None:
        """Tell the reader that the server ends."""
        self.cancelled = True
        self._hand_over(EndedError())

    def _hand_over(self, result: list[Piece] | Exception | None) -> None:
        self._unread.append(result)
        if not self._told:  # waking the reader's thread for each step would take time from the next one
            self._told = True
            self._call_reader(self._arrived.set)
        if not isinstance(result, list):
            self._call_reader(self._over.set)

    def _call_reader(self, function: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop has ended, and with it the reader
            self._loop.call_soon_threadsafe(function)

    async def pieces(self, pause: float = 0.0) -> AsyncIterator[list[Piece]]:
        """Yield what the steps have added since the last time.

        Args:
            pause: Seconds from one time to the next, at least; the end is not waited for.

        Raises:
            EndedError: The server ends.
            Exception: That of a step.
        """
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            self._told = False  # before reading: a step that is handed over from here on is told of
            pieces: list[Piece] = []
            while self._unread:
                result = self._unread.popleft()
                if isinstance(result, list):
                    pieces += result
                    continue
                if pieces:
                    yield pieces
                if result is None:
                    return
                raise result
            self._notify()
            if pieces:
                yield pieces
                if pause:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._over.wait(), pause)

    def cancel(self) -> None:
        """Let no further step be computed."""
        self.cancelled = True
        self._notify()


class Turns:
    """The thread that computes, and the requests that take turns in it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._active: deque[Job] = deque()
        self._waiting: deque[Job] = deque()
        self._ended = False
        threading.Thread(target=self._work, name="turns", daemon=True).start()

    @property
    def counts(self) -> tuple[int, int]:
        """How many requests are computed, and how many wait."""
        return len(self._active), len(self._waiting)

    def submit(self, steps: Iterator[list[Piece]]) -> Job:
        """Let a request take turns with the others, from the coroutine that reads it.

        Raises:
            FullError: Too many wait already.
        """
        job = Job(steps, asyncio.get_running_loop(), self._notify)
        with self._changed:
            self._waiting = deque(other for other in self._waiting if not other.cancelled)
            if len(self._waiting) >= MOST_WAITING:
                raise FullError
            (self._active if len(self._active) < AT_A_TIME else self._waiting).append(job)
            self._changed.notify()
        return job

    def end(self) -> None:
        """Compute nothing any more, and tell all readers."""
        with self._changed:
            self._ended = True
            for job in (*self._active, *self._waiting):
                job.end()
            self._changed.notify()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify()

    def _next(self) -> Job | None:
        """Return the request whose turn it is; wait until there is one. None: it is the end."""
        with self._changed:
            while not self._ended:
                for _ in range(len(self._active)):
                    self._active.rotate(-1)
                    if self._active[-1].is_ready:
                        return self._active[-1]
                self._changed.wait()
        return None

    def _work(self) -> None:
        while (job := self._next()) is not None:
            if job.compute():
                continue
            with self._changed:
                self._active.remove(job)
                if self._waiting:
                    self._active.append(self._waiting.popleft())
