"""When a run is saved, which checkpoints are kept, and what happens if the disk is full."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from torch import Tensor

from quillgpt import console
from quillgpt.checkpoint import save_checkpoint
from quillgpt.checkpoint.names import (
    BEST,
    LAST,
    checkpoints_folder,
    drop_checkpoints_after,
    has_checkpoint,
    iteration_name,
    numbered,
    point,
    prune,
)
from quillgpt.config.runs import how_to_go_on
from quillgpt.config.schema import TrainSettings
from quillgpt.config.values import seconds_of
from quillgpt.distributed.shards import own_rows
from quillgpt.errors import UserError
from quillgpt.optim.groups import group_parameters
from quillgpt.training.folder.out_dir import take_over
from quillgpt.training.run import Run
from quillgpt.training.start.adapter_base import name_of_base

LARGEST_SHARE = 0.02
"""Share of the time that saves by the clock may take; slower saves come less often."""


class Checkpointer:
    """Writes the checkpoints of one run.

    If the disk refuses a save, that is said and training goes on; the next save is tried, and earlier ones stay.

    Args:
        run: The run.
        clock: Returns seconds.
        warn: Warns the user.

    Attributes:
        failure: Why the latest save could not be done; None where it could.
    """

    def __init__(
        self, run: Run, *, clock: Callable[[], float] = time.perf_counter, warn: Callable[[str], None] = console.warn
    ) -> None:
        self._run = run
        self._warn = warn
        self._clock = clock
        self._start_counting()

    def begin(self) -> None:
        """Go on from the run's state, at its start or after a rollback: later checkpoints are dropped."""
        run = self._run
        if run.resumed and run.world.is_main:
            assert run.parent is not None
            drop_checkpoints_after(
                run.out_dir, run.parent, iteration=run.state.iteration, best_iteration=run.state.best_iteration
            )
        self._start_counting()

    def _start_counting(self) -> None:
        self._saved_at = self._clock()
        self._cost_seconds = 0.0
        self._saved_iteration = self._run.state.iteration if self._run.resumed else None
        self._saved_best = self._run.state.best_iteration
        self.failure: str | None = None

    def forget(self) -> None:
        """Save again when it is next due: what was saved is gone."""
        self._saved_iteration = self._saved_best = None

    def is_due(self, time_is_up: bool) -> bool:
        """Whether `checkpoint_interval` asks for a save now.

        Args:
            time_is_up: What the method of that name has returned, on rank 0.
        """
        interval, iteration = self._run.settings.checkpoint_interval, self._run.state.iteration
        if interval is None or iteration == self._saved_iteration:
            return False
        return iteration % interval == 0 if isinstance(interval, int) else time_is_up

    def time_is_up(self) -> bool:
        """Whether a `checkpoint_interval` in units of time has passed since the last save."""
        interval = self._run.settings.checkpoint_interval
        if interval is None or isinstance(interval, int):
            return False
        seconds = seconds_of(interval)
        return self._clock() - self._saved_at >= max(seconds, self._cost_seconds / LARGEST_SHARE)

    def save(self, *, best: bool) -> bool:
        """Write a checkpoint and make it `last`, and `best` where asked to or where there is none.

        Returns:
            Whether it is there; if not, `failure` says why, and the person has been told.

        Raises:
            UserError: A weight is not finite.
        """
        run, state = self._run, self._run.state
        if state.iteration == self._saved_iteration and not best and self.failure is None:
            return True
        with run.world.agreement():
            tensors = [*run.model.parameters(), *run.evaluated_model.parameters(), *run.optimizers.state().values()]
            check_finite(tensors, run)
        started = self._clock()
        with run.world.agreement():
            self.failure = self._write(best=best)
        self.failure = run.world.broadcast(self.failure)
        self._saved_at = self._clock()
        if self.failure is not None:
            self._warn(
                f"the checkpoint of iter {state.iteration} cannot be written: {self.failure}; "
                f"{self._what_is_kept()}; training goes on, and the next save is tried"
            )
            return False
        self._saved_iteration, self._saved_best = state.iteration, state.best_iteration
        self._cost_seconds = self._saved_at - started
        state.saving_seconds += self._cost_seconds
        return True

    def _write(self, *, best: bool) -> str | None:
        """Write a checkpoint and remove those that are not kept; return why the disk refuses it, if it does.

        All ranks take part, and the first one writes.
        """
        run, state = self._run, self._run.state
        apart = run.average is not None or run.settings.lora_rank > 0
        raw_weights: dict[str, Tensor] | None = dict(group_parameters(run.model).trained) if apart else None
        name = iteration_name(state.iteration)
        try:
            save_checkpoint(
                run.out_dir,
                run.evaluated_model,
                run.mixture.tokenizer,
                about=run.about,
                optimizer=run.optimizers.state(),
                state=state,
                raw_weights=raw_weights,
                own_teachers=[dict(model.named_parameters()) for model in run.own_teachers],
                adapter_base=name_of_base(run.settings, state),
                world=run.world,
            )
            if not run.world.is_main:
                return None
            if best or not (checkpoints_folder(run.out_dir) / BEST).exists():
                point(run.out_dir, BEST, name)
            point(run.out_dir, LAST, name)
        except OSError as error:
            return error.strerror or str(error)
        take_over(run.settings)
        # The checkpoint before `last` is kept to fall back on, and with it the best one of that time.
        spared = () if self._saved_best is None else (iteration_name(self._saved_best),)
        prune(run.out_dir, run.settings.keep_last if run.settings.always_save_checkpoint else 0, spared=spared)
        return None

    def require_saved(self) -> None:
        """Check that the latest save could be done.

        Raises:
            UserError: It could not.
        """
        if self.failure is None:
            return
        run = self._run
        again = (
            f"make room and go on from there: {how_to_go_on(run.out_dir)}"
            if numbered(run.out_dir)
            else "make room and train again"
        )
        raise UserError(
            f"iter {run.state.iteration} could not be saved: {self.failure}; {self._what_is_kept()}; {again}"
        )

    def _what_is_kept(self) -> str:
        last: Path = checkpoints_folder(self._run.out_dir) / LAST
        return f"{last.resolve().name} is kept" if last.is_dir() else "there is no checkpoint yet"


def check_finite(tensors: Iterable[Tensor], run: Run) -> None:
    """Check that nothing that this rank holds is NaN or infinite.

    Raises:
        UserError: Something is; it must not replace a good checkpoint.
    """
    if not all(bool(own_rows(tensor).isfinite().all()) for tensor in tensors):
        raise UserError(
            f"a weight is not finite at iteration {run.state.iteration}: training has diverged, and nothing of it is "
            f"saved; go back to the last checkpoint ({how_to_go_on(run.out_dir)}) or start over, with a "
            f"--learning_rate below {run.settings.learning_rate:g}"
        )


def check_loss(val_loss: float, iteration: int, settings: TrainSettings) -> None:
    """Check that a validation loss is a number.

    Raises:
        UserError: It is not; a model like that is not saved.
    """
    if math.isfinite(val_loss):
        return
    again = f"train again with a --learning_rate below {settings.learning_rate:g}"
    if has_checkpoint(out_dir := Path(settings.out_dir)):
        again = f"go back to the last checkpoint: {how_to_go_on(out_dir)}"
        again += f" with a --learning_rate below {settings.learning_rate:g}"
    raise UserError(
        f"the validation loss is {val_loss} at iteration {iteration}: training has diverged, and "
        f"nothing of it is saved; {again}"
    )
