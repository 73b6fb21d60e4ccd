"""How many threads compute a decode step: the number that is fastest at the moment.

A decode step is hundreds of small operations, and in each of them all threads wait for the slowest. If another program
keeps one thread from running, one thread alone can be ten times as fast as two.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from typing import Final

import torch
from torch import Tensor

from quillgpt.console import say

FEWEST_STEPS: Final = 3
SHORTEST: Final = 0.02
LONG_ENOUGH: Final = 0.2
"""Seconds. A measurement takes FEWEST_STEPS steps and at least SHORTEST, because fewer would often miss the moments in
which a thread has to wait. After LONG_ENOUGH it takes no further step."""

CLEARLY_SLOWER: Final = 1.4
"""Ratio of the times of a step from which on the difference is no noise."""

MUCH_SLOWER: Final = 4
"""Ratio that only waiting explains."""

PAUSE: Final = 20
"""Times the duration of a trial that must pass before the next, so that trials cost a few percent at most."""

LONGEST_PAUSE: Final = 10.0
"""Seconds."""


class DecodingThreads:
    """Tries numbers of threads on the steps that are computed anyway, and goes on with the fastest.

    All threads are kept until steps become slow; fewer are compared again from time to time. Only numbers that give the
    result of all threads bit for bit are used, so that no result depends on a measurement.

    Args:
        clock: Returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._all = torch.get_num_threads()
        self._same_result = {self._all: True}
        self._said = False
        self._took = 0.0
        self._numbers = self._choices()

    def compute(self, step: Callable[[], Tensor]) -> Tensor:
        """Return the result of a decode step; computing it twice must do no harm."""
        if self._all == 1:
            return step()
        number = next(self._numbers)
        if number not in self._same_result:
            self._same_result[number] = self._gives_the_same(number, step)
        usable = self._same_result[number]
        result, seconds = self._timed(number if usable else self._all, step)
        self._took = seconds if usable else math.inf
        return result

    def _timed(self, number: int, step: Callable[[], Tensor]) -> tuple[Tensor, float]:
        """Return the result of a step that is computed by so many threads, and the seconds."""
        start = self._clock()
        result = with_threads(number, step)
        return result, self._clock() - start

    def _gives_the_same(self, number: int, step: Callable[[], Tensor]) -> bool:
        """Whether so many threads give the result of all threads; say so if they do not, although they are faster."""
        (expected, slow), (result, fast) = self._timed(self._all, step), self._timed(number, step)
        same = torch.equal(expected, result)
        if not same and slow > MUCH_SLOWER * fast and not self._said:
            say(
                f"other programs use the same cores, and {self._all} threads wait for each other; --threads={number} "
                "is faster, but rounds differently"
            )
            self._said = True
        return same

    def _choices(self) -> Generator[int, None, None]:
        """Yield the number of threads for step after step; `_took` then has the seconds of that step."""
        best, usual, pause = self._all, math.inf, 0.0
        while True:
            start, before = self._clock(), best
            times: dict[int, float] = {}
            for number in numbers_to_try(self._all):
                times[number] = yield from self._measure(number, min(usual, *times.values(), math.inf))
                if CLEARLY_SLOWER * min(times.values()) < times[number] < math.inf:
                    break  # still fewer will be slower still
            best = min(times, key=times.__getitem__)
            usual = recent = times[best]
            pause = min(2 * pause if best == before else PAUSE * (self._clock() - start), LONGEST_PAUSE)
            end = self._clock() + pause
            while self._clock() < end or (best == self._all and recent < CLEARLY_SLOWER * usual):
                recent = yield from self._measure(best)
                usual = min(usual, recent)

    def _measure(self, number: int, fastest: float = math.inf) -> Generator[int, None, float]:
        """Yield a number for as many steps as a measurement needs, and return the mean seconds of a step.

        It ends early when the number cannot become as fast as `fastest`.
        """
        steps, seconds = 0, 0.0
        enough = min(LONG_ENOUGH, FEWEST_STEPS * fastest)
        while seconds < SHORTEST or (steps < FEWEST_STEPS and seconds < enough):
            yield number
            steps += 1
            seconds += self._took
        return seconds / steps


def numbers_to_try(most: int) -> list[int]:
    """Return numbers of threads from `most` down to one: one less, for a busy core, and then always half."""
    halves = [most >> times for times in range(1, most.bit_length())]
    return sorted({most, max(1, most - 1), *halves}, reverse=True)


def with_threads(number: int, step: Callable[[], Tensor]) -> Tensor:
    """Return the result of a step that is computed by so many threads."""
    usual = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        return step()
    finally:
        torch.set_num_threads(usual)
