"""Compiled code that takes over from uncompiled code while a run trains.

The first time that a model is compiled takes longest. So another process does that while the run trains uncompiled, and
only where it pays by prediction. Then the run loads the code and goes on compiled. The state of the run says from which
iteration on, so that a resumed run computes each iteration as before.
"""

from __future__ import annotations

import os
import time

import torch

from quillgpt.console import say, warn
from quillgpt.device import memory
from quillgpt.training.compile_process import CompileProcess
from quillgpt.training.pace import Pace
from quillgpt.training.run import Run
from quillgpt.training.start.choices import NEVER_SECONDS
from quillgpt.training.start.compile_choice import (
    LOAD_SECONDS,
    USUAL_GAIN,
    CompiledSpeed,
    keep_speed,
    known_speed,
    pays,
    usual_cost,
)
from quillgpt.training.start.memory import USABLE_SHARE, memory_needed
from quillgpt.training.step import TrainStep

WATCHED_SECONDS, WATCHED_ITERATIONS = 2.0, 2
"""What a run does before it judges whether compiling pays, after its first iteration, which is slow."""

SECONDS_BETWEEN_LOOKS = 0.25

PATIENCE = 10
"""How many times the predicted seconds compiling may take: other programs go before it."""

COMPILER_BYTES = 1 << 30
"""Memory of the process that compiles, besides that of the model."""


class TakeOver:
    """Lets compiled code take over in a run whose setting `compile` is still open.

    Args:
        run: The run.
        step: Does its iterations.
        pace: Predicts how long it still takes.
    """

    def __init__(self, run: Run, step: TrainStep, pace: Pace) -> None:
        self._run, self._step, self._pace = run, step, pace
        self._given_up = False
        self._process: CompileProcess | None = None
        self._watched_from: tuple[int, float, float] | None = None
        self._slowdown: float | None = None
        self._next_look = self._process_ends_by = 0.0

    @property
    def is_open(self) -> bool:
        """Whether compiled code may still take over."""
        return self._run.settings.compile == "auto" and not self._given_up and not self._step.compiled

    def look(self) -> float | None:
        """Go on with it between two iterations.

        Returns:
            How many times as fast the compiled code is that takes over now; None if none does.
        """
        if not self.is_open or self._is_watching():
            return None
        now = time.perf_counter()
        if now < self._next_look:
            return None
        self._next_look = now + SECONDS_BETWEEN_LOOKS
        if self._process is not None and self._process.is_running():
            if now > self._process_ends_by or not self._gain_pays(USUAL_GAIN["cpu"], LOAD_SECONDS):
                self._give_up("compiling in the background takes too long to gain anything")
            return None
        failure = None
        if self._process is not None:
            failure = self._process.failure()
            self.close()
        speed = self._known_speed()
        if speed is None and failure is None:
            self._begin()
            return None
        if speed is None or speed.compiled_seconds == NEVER_SECONDS:
            warn(f"compiling in the background failed ({failure or 'as before'}); training goes on uncompiled")
            self._give_up()
            return None
        return self._start(speed)

    def close(self) -> None:
        """End the process that compiles, if it runs."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def _is_watching(self) -> bool:
        """Whether the first iterations, after the very first one, are still too few to predict from."""
        if self._slowdown is not None:
            return False
        iteration, now, busy = self._run.state.iteration, time.perf_counter(), time.process_time()
        if self._watched_from is None:
            if self._pace.has_counted:
                self._watched_from = iteration, now, busy
            return True
        first, since, busy_since = self._watched_from
        if iteration - first < WATCHED_ITERATIONS or now - since < WATCHED_SECONDS:
            return True
        cores = (busy - busy_since) / (now - since)
        self._slowdown = max(1.0, torch.get_num_threads() / max(cores, 0.01))
        return False

    def _begin(self) -> None:
        """Let a process compile the model, where that pays and there is memory for it."""
        cost = usual_cost(self._run.machine.device) * (self._slowdown or 1)
        if not self._gain_pays(USUAL_GAIN["cpu"], cost):
            return self._give_up("compiling would cost more than it gains in a run of this length")
        if not self._has_room():
            return self._give_up("there is too little memory to compile in the background")
        try:
            self._process = CompileProcess(self._run.settings, self._run.model.config)
        except OSError as error:
            return self._give_up(f"no process could be started to compile ({error.strerror or error})")
        self._process_ends_by = time.perf_counter() + PATIENCE * cost
        say("compiling in the background; training goes on uncompiled meanwhile")
        return None

    def _start(self, speed: CompiledSpeed) -> float | None:
        """Load the compiled code and use it, where that pays."""
        if not self._gain_pays(speed.gain, speed.cost * (self._slowdown or 1)):
            self._give_up("compiled code would gain nothing here")
            return None
        run, before, busy = self._run, time.perf_counter(), processor_seconds()
        self._step.start_compiled()
        run.state.train_seconds += time.perf_counter() - before
        if not self._step.compiled:  # which has been said
            self._give_up()
            return None
        if speed.load_seconds is None:
            speed = speed.model_copy(update={"load_seconds": processor_seconds() - busy})
            keep_speed(run.settings, run.model.config, run.machine, speed)
        run.state.compiled_from = run.state.iteration
        speedup = speed.eager_seconds / speed.compiled_seconds
        say(f"compiled code takes over after iter {run.state.iteration}: {speedup:.2g} times as fast")
        return speedup

    def _known_speed(self) -> CompiledSpeed | None:
        return known_speed(self._run.settings, self._run.model.config, self._run.machine)

    def _gain_pays(self, gain: float, cost: float) -> bool:
        return pays(self._pace.remaining_seconds(), gain, cost=cost)

    def _has_room(self) -> bool:
        run = self._run
        available = memory(run.machine.device)
        needed = memory_needed(
            run.settings, run.model.config, device=run.machine.device, dtype=run.machine.dtype, world=run.world
        )(run.settings.micro_batch_size)
        return available is None or needed.total + COMPILER_BYTES <= USABLE_SHARE * available.free

    def _give_up(self, reason: str = "") -> None:
        self._given_up = True
        self.close()
        if reason:
            say(f"{reason}: the run goes on uncompiled")


def processor_seconds() -> float:
    """Return the processor seconds of this process and of the processes that it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
