"""Going back to the last checkpoint when a loss or a gradient is not finite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quillgpt import console
from quillgpt.checkpoint import StoredTraining, TrainingState, load_run
from quillgpt.checkpoint.names import has_checkpoint
from quillgpt.checkpoint.state import Rollback
from quillgpt.config.runs import how_to_go_on
from quillgpt.config.schema import TrainSettings
from quillgpt.data.batches import Window
from quillgpt.distributed.shards import fill
from quillgpt.errors import UserError
from quillgpt.training.fault import NonFiniteError, describe_windows, find_fault
from quillgpt.training.own_teachers import restore_teachers
from quillgpt.training.run import Run
from quillgpt.training.start.raw_weights import load_raw_weights
from quillgpt.training.start.starting_point import forget_lost_best

if TYPE_CHECKING:
    from quillgpt.training.step import TrainStep

LOWERED = 0.5
"""What a rollback multiplies the learning rate by, for a while."""

MOST_AT_ONCE = 3
"""How often the learning rate may be lowered at once; then the run is given up."""

KEPT = (
    *("data_fingerprint", "replay_fingerprint", "base", "teachers"),
    *("dropout_by_sequence", "loss_in_parts", "fused_rest"),
    *("seconds", "start_seconds", "train_seconds", "saving_seconds"),
)
"""Of the state, what no rollback takes back: what the run is made of, and time, which goes on."""


def is_left_out(iteration: int, state: TrainingState) -> bool:
    """Whether an iteration is left out, since its batch was not finite before."""
    return any(rollback.iteration == iteration for rollback in state.rollbacks)


def lr_multiplier(iteration: int, state: TrainingState, settings: TrainSettings) -> float:
    """Return what the learning rate of an iteration is multiplied by.

    It is halved from where a rollback led to until `eval_interval` iterations after the one that was not finite.
    """
    return LOWERED ** sum(
        rollback.back_to <= iteration <= rollback.iteration + settings.eval_interval for rollback in state.rollbacks
    )


def is_hopeless(iteration: int, state: TrainingState, settings: TrainSettings) -> bool:
    """Whether a run has gone back too often around an iteration to hope for better."""
    return lr_multiplier(iteration, state, settings) < LOWERED**MOST_AT_ONCE


def roll_back(run: Run, step: TrainStep, error: NonFiniteError) -> str:
    """Go back to the last checkpoint and leave the batch out, or end the run, as `on_nonfinite` says.

    Args:
        run: The run, with the weights that it had before the iteration that was not finite.
        step: Does its iterations.
        error: Says which iteration was not finite.

    Returns:
        What was not finite, and where.

    Raises:
        UserError: The run ends; its checkpoints are as they were.
    """
    settings, iteration = run.settings, error.iteration
    fault = find_fault(step, iteration)
    where = "computing it again, uncompiled, is finite" if fault.place is None else f"first in {fault.place}"
    reason = f"{error}, {where}"
    console.warn(f"iter {iteration + 1}: {reason}; {describe_windows(run, fault.windows)}")
    if settings.on_nonfinite == "rollback":
        with run.world.agreement():
            restore(run, step)
        back_to, windows = run.state.iteration, numbers_of(fault.windows, run)
        run.state.rollbacks.append(Rollback(iteration=iteration, back_to=back_to, reason=reason, windows=windows))
    if settings.on_nonfinite == "stop" or is_hopeless(iteration, run.state, settings):
        again = f"train again with a --learning_rate below {settings.learning_rate:g}"
        if has_checkpoint(run.out_dir):
            again = f"{how_to_go_on(run.out_dir)}, with " + (
                f"--on_nonfinite=rollback or a --learning_rate below {settings.learning_rate:g}"
                if settings.on_nonfinite == "stop"
                else f"a --learning_rate below {settings.learning_rate:g}"
            )
        with run.world.agreement():
            raise UserError(f"iter {iteration + 1} is not finite ({reason}); nothing of it is saved. To go on: {again}")
    console.say(
        f"back to iter {run.state.iteration}; iter {iteration + 1} will be left out, and until iter "
        f"{iteration + settings.eval_interval + 1} the learning rate is "
        f"{lr_multiplier(iteration, run.state, settings):g} of its schedule"
    )
    return f"iter {iteration + 1} was not finite ({reason}), and is left out"


def restore(run: Run, step: TrainStep) -> None:
    """Make a run what its last checkpoint holds or, before the first one, what it was at the start."""
    stored = None
    if has_checkpoint(run.out_dir):
        loaded, stored = load_run(run.out_dir)
        forget_lost_best(stored.state, run.out_dir)
        if not run.settings.lora_rank:  # else all weights but the adapters are what they were
            fill(run.evaluated_model, loaded.tensors())
        load_raw_weights(run.model, stored, loaded.folder)
        run.parent = loaded.folder
    else:
        weights = run.starting_weights(0)
        for model in {run.model, run.evaluated_model}:
            fill(model, weights.items())
    run.resumed = stored is not None
    run.optimizers.load_state(stored.optimizer if stored else {})
    restore_state(run.state, stored)
    restore_teachers(run, stored.own_teachers if stored else (), run.parent)
    step.teach(run.teachers, run.state)


def restore_state(state: TrainingState, stored: StoredTraining | None) -> None:
    """Make a state what a checkpoint says, or that of a start, but for what is kept and the record of rollbacks."""
    earlier = stored.state if stored else TrainingState()
    for name in TrainingState.model_fields.keys() - {*KEPT, "rollbacks", "settings"}:
        setattr(state, name, getattr(earlier, name))


def numbers_of(windows: list[Window], run: Run) -> list[int]:
    """Return windows as a rollback's record lists them: each source counts on from the end of the one before."""
    return [window.offset + sum(len(text.train) for text in run.texts[: window.source]) for window in windows]
