"""`train`: one session of a run, from its settings to its result."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from quillgpt.config import Given
from quillgpt.config.schema import TrainSettings
from quillgpt.config.values import seconds_of
from quillgpt.console import clock_time, muted, say
from quillgpt.distributed import World
from quillgpt.distributed.alike import check_settings_alike
from quillgpt.distributed.join import joined
from quillgpt.stopping import activity
from quillgpt.training.cuda_graph import make_step
from quillgpt.training.folder.occupation import Occupation, occupied
from quillgpt.training.folder.out_dir import check_out_dir, earlier_run_kept, forget_attempt
from quillgpt.training.interruption import NOTHING_LOST, Interruption
from quillgpt.training.pace import minutes_count_from
from quillgpt.training.planning.budget import REACHED, Speed
from quillgpt.training.record.report import RunSummary, show_set_up
from quillgpt.training.start.choices import device_of
from quillgpt.training.start.restarted import after_loss, going_on
from quillgpt.training.start.run_data import without_secrets
from quillgpt.training.start.setup import set_up
from quillgpt.training.start.starting_point import apart_from_parent
from quillgpt.training.trainer import Trainer, WrongSizeError


def train(
    settings: TrainSettings,
    *,
    interruption: Interruption | None = None,
    started: float | None = None,
    given: Given | None = None,
) -> RunSummary | None:
    """Train a model as the settings say.

    Args:
        settings: What to train, on what, and how.
        interruption: Notes requests to stop, which signals make once there is something to save.
        started: From when its minutes count, as time.perf_counter has it; None: from now.
        given: How the settings were given, to be shown; None: by a program.

    Returns:
        The result of the run; None if it was only evaluated, or interrupted, and on all ranks but the first.

    Raises:
        UserError: A setting, the data or a checkpoint does not allow it, or another process trains in out_dir.
    """
    started = time.perf_counter() if started is None else started
    given = given or Given(settings)
    world = World.from_environment()
    with ExitStack() as stack:
        stack.enter_context(muted(not world.is_main))
        settings = apart_from_parent(settings)
        together = stack.enter_context(ExitStack())
        together.enter_context(
            joined(
                world,
                device_of(settings, world),
                settings.backend,
                timeout_seconds=seconds_of(settings.rank_timeout),
                advice=lambda: after_loss(settings),
            )
        )
        check_settings_alike(world, without_secrets(settings).model_dump(mode="json"))
        occupation = None
        with world.agreement():
            if world.is_main:
                check_out_dir(settings)
                occupation = None if settings.eval_only else stack.enter_context(occupied(Path(settings.out_dir)))
                stack.enter_context(earlier_run_kept(settings))
        settings = going_on(settings, world)
        stack.enter_context(activity("" if settings.eval_only else NOTHING_LOST[settings.init_from == "resume"]))
        attempt = Attempt(
            settings, world, interruption or Interruption(), occupation, given, leave_group=together.close
        )
        try:
            return attempt.run(started)
        except WrongSizeError as error:
            speed = Speed(error.rate, REACHED)
        forget_attempt(settings)
        say("at this speed another size learns more in the minutes, so the run begins again")
        return replace(attempt, settings=settings.model_copy(update={"overwrite": True})).run(started, speed)


@dataclass(frozen=True)
class Attempt:
    """What a session trains with, whether it begins once or again with a model of another size.

    Attributes:
        settings: The run's.
        world: The processes that train it.
        interruption: Notes requests to stop.
        occupation: Its hold on out_dir; None where it is only evaluated.
        given: How the settings were given.
        leave_group: Lets this process leave the others, when all have trained.
    """

    settings: TrainSettings
    world: World
    interruption: Interruption
    occupation: Occupation | None
    given: Given
    leave_group: Callable[[], None]

    def run(self, started: float, speed: Speed | None = None) -> RunSummary | None:
        """Set the run up and train it.

        Args:
            started: From when its minutes count, as time.perf_counter has it.
            speed: The speed of an attempt with a model of another size; None: this is the first one.

        Raises:
            WrongSizeError: It should begin again with another size.
        """
        run = set_up(self.settings, self.world, started=started, speed=speed)
        if run.settings.minutes is not None and not run.resumed:
            started = say_if_late(started, run.settings.minutes)
        trainer = Trainer(
            run,
            make_step(run),
            interruption=self.interruption,
            started=started,
            occupation=self.occupation,
            given=self.given,
        )
        show_set_up(run, trainer.peak, self.given)
        has_ended = trainer.run_to_the_end()
        self.leave_group()
        return trainer.summarize() if has_ended and self.world.is_main else None


def say_if_late(started: float, minutes: float) -> float:
    """Return from when the minutes of a new run count, and say so if that is later than its start."""
    now = time.perf_counter()
    counted_from = minutes_count_from(started, now, minutes)
    if counted_from > started:
        say(
            f"it took {clock_time(now - started)} to start and to prepare the text, so this run ends "
            f"{clock_time(counted_from - started)} after its {minutes:g} min: a quarter of them is for training"
        )
    return counted_from
