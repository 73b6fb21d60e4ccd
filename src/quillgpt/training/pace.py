"""How fast a run is, how long it will take, and how many iterations fit into its minutes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from statistics import fmean

from quillgpt.training.planning.scaling import enough_iterations
from quillgpt.training.run import Run
from quillgpt.training.validation import blocks_of_an_evaluation, blocks_of_val

RECENT_ITERATIONS = 200
"""Latest iterations whose times predict the next ones; the first of a run are far slower, and soon left out."""

LEAST_CHANGE = 0.02
"""Share of its length by which a run's prediction must change before the length follows it."""

SPARE_SECONDS = 1.5
"""For saving, and for the program to end."""


class Pace:
    """Measures a run and predicts its end.

    Args:
        run: The run.
        started: When its command began, by the clock.
        clock: Returns seconds.
    """

    def __init__(self, run: Run, started: float, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._run = run
        self._clock = clock
        minutes = run.settings.minutes
        self._deadline = None if minutes is None else started - run.state.seconds + 60 * minutes
        self._recent: deque[float] = deque(maxlen=RECENT_ITERATIONS)
        self._since_reading: list[float] = []
        self._evaluation_seconds = 0.0

    def count(self, seconds: float) -> None:
        """Count the time of an iteration."""
        self._recent.append(seconds)
        self._since_reading.append(seconds)

    def count_evaluation(self, seconds: float) -> None:
        """Count the time of an evaluation of both splits."""
        self._evaluation_seconds = seconds

    def read(self) -> float:
        """Return the mean seconds of the iterations since the last call."""
        mean = fmean(self._since_reading)
        self._since_reading.clear()
        return mean

    def remaining_seconds(self) -> float:
        """Predict the seconds that are left, from recent iterations, evaluations and saves."""
        left = self._run.settings.max_iters - self._run.state.iteration
        pauses = 1 + left // self._run.settings.eval_interval
        return left * fmean(self._recent) + pauses * self._pause_seconds()

    def fitting_iterations(self) -> int | None:
        """Return the iterations that fit into the minutes; None without minutes, or if it has about as many."""
        state, settings = self._run.state, self._run.settings
        if self._deadline is None or state.iteration >= settings.max_iters:
            return None
        left = self._deadline - self._clock() - self._pause_seconds() - self._last_seconds()
        per_iteration = fmean(self._recent) + self._pause_seconds() / settings.eval_interval
        more = state.iteration + int(left / per_iteration) - settings.max_iters
        if settings.defaults == "scaled":  # more passes over the text would not help
            enough = enough_iterations(settings, self._run.mixture.train_tokens)
            more = min(more, max(0, enough - settings.max_iters))
        if abs(more) <= LEAST_CHANGE * settings.max_iters:
            return None
        return max(state.iteration, settings.max_iters + more)

    def _pause_seconds(self) -> float:
        """Return the mean seconds of evaluations and saves, per evaluation."""
        state = self._run.state
        return (state.seconds - state.train_seconds) / (1 + state.iteration // self._run.settings.eval_interval)

    def _last_seconds(self) -> float:
        """Predict the seconds of the last evaluation: the best checkpoint on the whole validation split."""
        blocks = sum(blocks_of_an_evaluation(self._run))
        return SPARE_SECONDS + self._evaluation_seconds * blocks_of_val(self._run) / max(1, blocks)
