"""How fast a run is, how long it will take, and how many iterations fit into its minutes."""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

from quillgpt.config.schema import MOST_MODELS
from quillgpt.model.cost import FORWARD_SHARE
from quillgpt.optim.schedule import learning_rate
from quillgpt.training.planning.scaling import enough_iterations
from quillgpt.training.run import Run
from quillgpt.training.samples import samples_to_come
from quillgpt.training.validation import blocks_of_an_evaluation, blocks_of_val, evaluations_to_come

WINDOW_SECONDS, WINDOW_SHARE = 0.5, 0.1
"""The latest iterations predict the next ones: those of so many seconds, or of this share of the time that is left.

So the prediction is steady at first, and quick to follow near the end.
"""

LUMP_SHARE = 0.02
"""Share of these seconds whose iterations are counted as one, so that their number stays small."""

FIRST_SHARE = 0.02
"""Share of the time that is left for which iterations are counted before the length follows them.

The first one is slow, as memory is taken and code is compiled, and is left out from then on.
"""

LOOK_SHARE = 0.005
"""Share of the time that is left after which a run with minutes is looked at again."""

LEAST_CHANGE, LEAST_CHANGE_OF_MINUTES = 0.02, 0.003
"""Share of the time that is left, and of all minutes, by which a run must be off for its length to change."""

SURPRISE = 8.0
"""How many times as long as predicted something takes that counts only if the next one takes as long.

Else the process was only stopped for a while, and what comes is as fast as before.
"""

SIZE_SECONDS, SIZE_SHARE = 2.0, 0.02
"""After so many seconds, or this share of the minutes if that is more, iterations tell whether the size is right."""

LEAST_SHARE = 0.25
"""Share of the minutes that a new run has for training, however long it took to prepare its text."""

SPARE_SECONDS, SPARE_SHARE = 1.2, 0.05
"""For the program to end: what it computes then, which takes longer where others compute; a share of all at most."""

EVALUATIONS_SHARE = 0.1
"""Share of the time that evaluations during a run may take where its rules decide; else there are fewer of them."""

LAST_SHARE = 0.08
"""Share of the minutes that the last evaluation, of the whole validation split, may take; else a part is evaluated."""

PART_SECONDS = 0.5
"""Predicted seconds of the last evaluation after which the clock is looked at."""

TRACED_SHARE = 0.02
"""Share of the time of a session that looking for copies in samples may take (`memorization.py`)."""

TRACES_AT_END = 2
"""Looks that are kept for the end: at what the last weights write, and at what the best ones do."""

LEAST_OF_TRACE = 0.25
"""The part of a look that is taken at the end however little time there was."""

LATE_SECONDS, LATE_SHARE = 5.0, 0.03
"""What a run may take beyond its minutes at most: so many seconds, or this share of them if that is more."""

SMALL_RATE = 0.1
"""Share of the highest learning rate, both above the lowest, that is small enough for a last iteration."""


def minutes_count_from(started: float, now: float, minutes: float) -> float:
    """Return from when the minutes of a new run count: later than from its start where little of them is left."""
    return max(started, now - (1 - LEAST_SHARE) * 60 * minutes)


class Pace:
    """Measures a run and predicts its end.

    Args:
        run: The run.
        started: When its command began, by the clock.
        clock: Returns seconds.
        computed: Returns the seconds that this process has computed.
    """

    def __init__(
        self,
        run: Run,
        started: float,
        *,
        clock: Callable[[], float] = time.perf_counter,
        computed: Callable[[], float] = time.process_time,
    ) -> None:
        self._run = run
        self._clock, self._computed = clock, computed
        self._begun = clock(), computed()
        self._interval = run.settings.eval_interval
        minutes = run.settings.minutes
        self._seconds = 0.0 if minutes is None else 60 * minutes
        spent = run.state.seconds + run.state.start_seconds
        self._deadline = None if minutes is None else started - spent + self._seconds
        self._late = max(LATE_SECONDS, LATE_SHARE * self._seconds)
        self._recent: deque[tuple[int, float]] = deque()
        self._recent_iterations, self._recent_seconds = 0, 0.0
        self._is_first_recent = True
        self._unwaited = 0, 0.0
        self._doubted: tuple[int, float] | None = None
        self._since_reading: list[float] = []
        self._block, self._save, self._sample, self._trace = Timing(), Timing(), Timing(), Timing()
        self._traced_seconds = 0.0
        self._evaluation_seconds = 0.0
        self._next_look = 0.0

    def count(self, seconds: float, *, waited: bool = True) -> None:
        """Count an iteration.

        Args:
            seconds: Its time.
            waited: Whether the device has done it; else its time is known only together with that of later ones.
        """
        self._since_reading.append(seconds)
        count, total = self._unwaited
        self._unwaited = count + 1, total + seconds
        if not waited:
            return
        iterations, seconds = self._unwaited
        self._unwaited = 0, 0.0
        doubted, self._doubted = self._doubted, None
        if self._is_surprise(iterations, seconds):
            if doubted is None:
                self._doubted = iterations, seconds
                return
            iterations, seconds = iterations + doubted[0], seconds + doubted[1]
        self._recent_iterations += iterations
        self._recent_seconds += seconds
        window = self._window_seconds()
        if len(self._recent) > 1 and self._recent[-1][1] + seconds < LUMP_SHARE * window:
            before = self._recent.pop()
            iterations, seconds = iterations + before[0], seconds + before[1]
        self._recent.append((iterations, seconds))
        self._forget_before(window)
        if not self._is_first_recent:
            for timing in (self._block, self._save, self._sample, self._trace):
                timing.iteration = timing.iteration or self.iteration_seconds()

    def count_pause(self, seconds: float) -> None:
        """Count the time of an evaluation of both splits, with the save after it; at the start there may be none."""
        if self._run.state.iteration:
            self._save.note(max(0.0, seconds - self._evaluation_seconds), self.iteration_seconds())
        self._evaluation_seconds = 0.0

    @property
    def has_counted(self) -> bool:
        """Whether an iteration has been counted."""
        return bool(self._recent)

    def count_evaluation(self, seconds: float) -> None:
        """Count the time of an evaluation of both splits, before its pause is counted."""
        self._evaluation_seconds = seconds
        blocks = sum(blocks_of_an_evaluation(self._run))
        self._block.note(seconds / max(1, blocks), self.iteration_seconds())

    def count_sample(self, seconds: float) -> None:
        """Count the time of a sample."""
        self._sample.note(seconds, self.iteration_seconds())

    def expect_trace(self, seconds: float) -> None:
        """Take the predicted time of a whole look for copies."""
        self._trace.note(seconds, self.iteration_seconds())

    def count_trace(self, seconds: float, part: float) -> None:
        """Count the time of a look for copies, or of a part of one."""
        self._traced_seconds += seconds
        self._evaluation_seconds += seconds  # within a pause, this is not its save
        self._trace.note(seconds / part, self.iteration_seconds())

    def part_of_trace(self, *, ending: bool) -> float:
        """Return how much of a look for copies there is time for: all, or nothing; near the end, at least a part."""
        each = self._trace.now(self.iteration_seconds())
        left = TRACED_SHARE * (self._clock() - self._begun[0]) - self._traced_seconds
        if not ending:
            return 1.0 if left >= (1 + TRACES_AT_END) * each else 0.0
        return max(LEAST_OF_TRACE, min(1.0, left / each)) if each else 1.0

    def read(self) -> float:
        """Return the mean seconds of the iterations since the last call."""
        mean = fmean(self._since_reading)
        self._since_reading.clear()
        return mean

    def iteration_seconds(self) -> float | None:
        """Return the seconds of an iteration, by the latest ones or by those of earlier sessions; None before any."""
        if self._recent:
            return self._recent_seconds / self._recent_iterations
        state = self._run.state
        return state.train_seconds / state.iteration if state.iteration and state.train_seconds else None

    def remaining_seconds(self) -> float:
        """Predict the seconds until the last iteration is evaluated and saved."""
        left = self._run.settings.max_iters - self._run.state.iteration
        return self._seconds_of(left, self.iteration_seconds() or 0.0)

    def is_off(self) -> bool:
        """Whether the length should change; now and then, and whenever the end is reached."""
        if self._deadline is None:
            return False
        now = self._clock()
        if now < self._next_look and self._run.state.iteration < self._run.settings.max_iters:
            return False
        self._next_look = now + LOOK_SHARE * (self._deadline - now)
        return self.fitting_iterations() is not None

    def fitting_iterations(self) -> int | None:
        """Return the iterations that fit into the minutes; None without minutes, or if it has about as many."""
        state, settings, each = self._run.state, self._run.settings, self.iteration_seconds()
        if self._deadline is None or not each:  # which a coarse clock may show as no time at all
            return None
        left = self._deadline - self._clock() - self._spare_seconds() - self._last_seconds()
        if self._is_first_recent and self._recent:
            others = self._recent_seconds - self._recent[0][1]
            fits_again = self._seconds_of(1, each) < left
            if others < FIRST_SHARE * left and fits_again and state.iteration < settings.max_iters:
                return None
            if len(self._recent) == 1:
                each /= 2  # the next one is faster
        most = int(max(0.0, left) / each)
        more = bisect_right(range(most + 1), left, key=lambda count: self._seconds_of(count, each)) - 1
        length = state.iteration + max(0, more, self._last_iterations(each, left, more))
        if settings.teacher_iters:
            length = self._end_of_models(each, left, length)
        elif settings.defaults == "scaled":  # more passes over the text would not help
            enough = enough_iterations(settings, self._run.mixture.train_tokens)
            length = min(length, max(enough, settings.max_iters))
        change = abs(length - settings.max_iters) * each
        least = max(LEAST_CHANGE * left, LEAST_CHANGE_OF_MINUTES * self._seconds)
        return length if change > least else None

    def speed_and_rest(self) -> tuple[float, float] | None:
        """Return the seconds of an iteration and those left of the minutes, once iterations tell a size; else None."""
        told = self._run.state.train_seconds >= max(SIZE_SECONDS, SIZE_SHARE * self._seconds)
        each = self.iteration_seconds()
        if self._deadline is None or self._is_first_recent or not each or not told:
            return None
        return each, max(0.0, self._deadline - self._clock())

    def fitting_interval(self) -> int:
        """Return after how many iterations to evaluate: later than was chosen where evaluations take too long."""
        usual = self._block.iteration
        if self._run.settings.defaults != "scaled" or not usual:
            return self._interval
        return max(self._interval, math.ceil(self._pause_seconds(usual) / usual / EVALUATIONS_SHARE))

    def _is_surprise(self, iterations: int, seconds: float) -> bool:
        """Whether iterations took much longer than those before them."""
        if not self._recent:
            return False
        return seconds > SURPRISE * iterations * self._recent_seconds / self._recent_iterations

    def _spare_seconds(self) -> float:
        """Predict the seconds that the program needs to end, from how long its computations take now."""
        passed, computed = self._clock() - self._begun[0], self._computed() - self._begun[1]
        slowness = passed / computed if computed > 0 else 1.0
        return min(SPARE_SECONDS * max(1.0, slowness), SPARE_SHARE * self._seconds)

    def _last_iterations(self, each: float, left: float, more: int) -> int:
        """Return how many iterations a run does, though late, so that its last ones have small learning rates."""
        settings, iteration = self._run.settings, self._run.state.iteration
        small = settings.min_lr + SMALL_RATE * (settings.learning_rate - settings.min_lr)
        if more > 0 or settings.within_model(iteration) == 0 or not settings.decay_lr:
            return 0
        if learning_rate(iteration, settings) <= small:
            return 0
        may_take = self._late / 2
        usual = self._run.state.train_seconds / iteration  # as the latest one may have been held up
        return max(1 if min(each, usual) <= may_take else 0, int((left + may_take) / each))

    def _seconds_of(self, iterations: int, each: float) -> float:
        """Predict the seconds of coming iterations with evaluations and samples among them and after the last one."""
        state, settings = self._run.state, self._run.settings
        end = state.iteration + iterations
        evaluations = evaluations_to_come(state, settings, end)
        samples = samples_to_come(state.iteration, end, settings) * self._sample.now(each)
        traces = self._trace.now(each) * (evaluations + 1)
        traces = min(traces, TRACES_AT_END * self._trace.now(each) + TRACED_SHARE * iterations * each)
        return self._work_of(iterations) * each + evaluations * self._pause_seconds(each) + samples + traces

    def _end_of_models(self, each: float, left: float, cut: int) -> int:
        """Return the iteration at which a run ends that trains teachers: no model begins that would not be done.

        Args:
            each: Seconds of an iteration as the latest ones.
            left: Seconds that are left.
            cut: Iteration at which the present model is cut short if there is no time for all of it.
        """
        now, length = self._run.state.iteration, self._run.settings.teacher_iters
        begun = max(1, math.ceil(now / length))
        is_last = self._run.state.taught and now < begun * length
        counts = range(max(begun, 1 if is_last else MOST_MODELS), begun - 1, -1)
        fitting = (count * length for count in counts if self._seconds_of(count * length - now, each) <= left)
        return next(fitting, min(cut, begun * length))

    def _work_of(self, iterations: int) -> float:
        """Return how many iterations as the latest ones take as long as the coming ones, which others may teach."""
        state, length = self._run.state, self._run.settings.teacher_iters
        end = state.iteration + iterations
        last = max(0, end - 1) // length * length if length else -1
        if last < state.iteration:  # the present model is the last one
            return iterations
        taught = FORWARD_SHARE * (last // length) * (end - last)
        return (iterations + taught) / (1 + FORWARD_SHARE * (len(self._run.own_teachers) if state.taught else 0))

    def _pause_seconds(self, each: float) -> float:
        """Predict the seconds of an evaluation of both splits, with the save after it."""
        return sum(blocks_of_an_evaluation(self._run)) * self._block.now(each) + self._save.now(each)

    def _last_seconds(self) -> float:
        """Return the seconds that are kept for the last evaluation."""
        return min(self._whole_seconds(), LAST_SHARE * self._seconds)

    def _whole_seconds(self) -> float:
        """Predict the seconds of the last evaluation: the best checkpoint on the whole validation split."""
        return blocks_of_val(self._run) * self._block.now(self.iteration_seconds())

    def parts_of_last_evaluation(self) -> int:
        """Return in how many parts the last evaluation is done, after each of which it may end."""
        if self._deadline is None or not self._recent:
            return 1
        return max(1, math.ceil(self._whole_seconds() / PART_SECONDS))

    def has_time_for_a_part(self) -> bool:
        """Whether the last evaluation should go on: if it was to be whole, then even a little late."""
        if self._deadline is None:
            return True
        was_to_be_whole = self._whole_seconds() <= LAST_SHARE * self._seconds
        return self._clock() < self._deadline + (self._late / 2 if was_to_be_whole else -self._spare_seconds())

    def _window_seconds(self) -> float:
        """Return for how many seconds iterations are recent."""
        left = self.remaining_seconds() if self._deadline is None else self._deadline - self._clock()
        return max(WINDOW_SECONDS, WINDOW_SHARE * left)

    def _forget_before(self, window: float) -> None:
        """Leave out the iterations before the latest ones of so many seconds."""
        while len(self._recent) > 1:
            iterations, seconds = self._recent[0]
            needed = window * FIRST_SHARE / WINDOW_SHARE if self._is_first_recent else window
            if self._recent_seconds - seconds < needed:
                break
            self._recent.popleft()
            self._recent_iterations -= iterations
            self._recent_seconds -= seconds
            self._is_first_recent = False


@dataclass
class Timing:
    """How long something took, which takes longer when iterations do.

    Attributes:
        seconds: Its time.
        iteration: The seconds of an iteration at that time; None: not known.
    """

    seconds: float = 0.0
    iteration: float | None = None
    _is_doubted: bool = False

    def note(self, seconds: float, iteration: float | None) -> None:
        """Take its latest time, unless that is a surprise for the first time."""
        is_surprise = self.seconds > 0 and seconds > SURPRISE * self.now(iteration)
        self._is_doubted = is_surprise and not self._is_doubted
        if not self._is_doubted:
            self.seconds, self.iteration = seconds, iteration

    def now(self, iteration: float | None) -> float:
        """Return what it would take now, when an iteration takes so many seconds."""
        return self.seconds * (iteration / self.iteration if iteration and self.iteration else 1.0)
