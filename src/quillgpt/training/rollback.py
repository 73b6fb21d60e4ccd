"""Going back to what was good when a loss or a gradient is not finite."""

from __future__ import annotations

from quillgpt import console
from quillgpt.checkpoint import TrainingState
from quillgpt.checkpoint.names import has_checkpoint
from quillgpt.checkpoint.state import Rollback
from quillgpt.config.runs import how_to_go_on
from quillgpt.config.schema import TrainSettings
from quillgpt.errors import UserError
from quillgpt.training.fault import describe_windows, find_fault
from quillgpt.training.origin import find_origin
from quillgpt.training.setup import Run, starting_model, take_raw_weights
from quillgpt.training.step import NonFiniteError

LOWERED = 0.5
"""What a rollback multiplies the learning rate by, for a while."""

MOST_AT_ONCE = 3
"""How often the learning rate may be lowered at once; then the run is given up."""


def is_left_out(iteration: int, state: TrainingState) -> bool:
    """Say whether an iteration's batch was found to spoil the run."""
    return any(each.iteration == iteration for each in state.rollbacks)


def rate_factor(iteration: int, state: TrainingState, settings: TrainSettings) -> float:
    """Return what the learning rate of an iteration is multiplied by.

    It is halved from where a rollback led to until `eval_interval` iterations after the one that was not finite.
    """
    return LOWERED ** sum(
        each.back_to <= iteration <= each.iteration + settings.eval_interval for each in state.rollbacks
    )


def is_hopeless(iteration: int, state: TrainingState, settings: TrainSettings) -> bool:
    """Say whether a run has gone back too often around an iteration to hope for better."""
    return rate_factor(iteration, state, settings) < LOWERED**MOST_AT_ONCE


def recover(run: Run, error: NonFiniteError) -> None:
    """Go back to the last good state and leave the batch out, or end the run, as `on_nonfinite` says.

    Args:
        run: The run, with the weights that it had before the iteration that was not finite.
        error: What was not.

    Raises:
        UserError: The run ends; its checkpoints are as they were.
    """
    settings, iteration = run.settings, error.iteration
    fault = find_fault(run, iteration)
    where = "computing it again, uncompiled, is finite" if fault.place is None else f"first in {fault.place}"
    reason = f"{error}, {where}"
    console.warn(f"iter {iteration + 1}: {reason}; {describe_windows(run, fault.windows)}")
    if settings.on_nonfinite == "rollback":
        go_back(run, iteration, reason, fault.windows)
    if settings.on_nonfinite == "stop" or is_hopeless(iteration, run.state, settings):
        again = f"train again with a --learning_rate below {settings.learning_rate:g}"
        if has_checkpoint(run.out_dir):
            again = f"{how_to_go_on(run.out_dir)}, with " + (
                f"--on_nonfinite=rollback or a --learning_rate below {settings.learning_rate:g}"
                if settings.on_nonfinite == "stop"
                else f"a --learning_rate below {settings.learning_rate:g}"
            )
        raise UserError(f"iter {iteration + 1} is not finite ({reason}); nothing of it is saved. To go on: {again}")
    console.say(
        f"back to iter {run.state.iteration}; iter {iteration + 1} will be left out, and until iter "
        f"{iteration + settings.eval_interval + 1} the learning rate is "
        f"{rate_factor(iteration, run.state, settings):g} of its schedule"
    )


def go_back(run: Run, iteration: int, reason: str, windows: list[int]) -> None:
    """Make a run what its last checkpoint says, or, before the first one, what it was at the start.

    Args:
        run: The run.
        iteration: The iteration that was not finite.
        reason: What was not finite, and where.
        windows: Starts of the windows concerned.
    """
    before, saved = run.state, has_checkpoint(run.out_dir)
    settings = run.settings.model_copy(update={"init_from": "resume"} if saved else {})
    origin = find_origin(settings)
    weights = starting_model(origin, settings, run.model.config).state_dict()
    for model in {run.model, run.evaluated_model}:
        model.load_state_dict(weights)
    take_raw_weights(run.model, origin)
    run.optimizers.load_state(origin.stored.optimizer if origin.stored else {})
    run.step.restore(origin.state)
    run.resumed = saved
    run.parent = origin.parent.folder if origin.parent else None
    this = Rollback(iteration=iteration, back_to=origin.state.iteration, reason=reason, windows=windows)
    # Time goes on: only what was learnt is taken back.
    kept = ("settings", "data_fingerprint", "seconds", "train_seconds", "saving_seconds")
    update = {name: getattr(before, name) for name in kept} | {"rollbacks": [*before.rollbacks, this]}
    run.state = origin.state.model_copy(update=update)
