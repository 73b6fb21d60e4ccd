"""Teachers that a run trains for itself: it trains several models one after the other, and all others teach the last.

A short text is exhausted before the time is, and more passes over it do not help. Several models of different seeds
know it better together than each of them, and one model can learn what they know (Hinton et al. 2015, arXiv
1503.02531, section 5).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from quillgpt.console import say
from quillgpt.distributed.shards import fill
from quillgpt.errors import CheckpointError
from quillgpt.model import GPT
from quillgpt.model.distillation import in_form_of_teacher

if TYPE_CHECKING:
    from pathlib import Path

    from quillgpt.training.run import Run
    from quillgpt.training.step import TrainStep


def begins_model(run: Run) -> bool:
    """Whether the next iteration is the first one of another model than the first."""
    state, settings = run.state, run.settings
    return (
        0 < state.iteration < settings.max_iters
        and settings.within_model(state.iteration) == 0
        and len(run.own_teachers) < state.iteration // settings.teacher_iters
    )


def begin_model(run: Run, step: TrainStep) -> None:
    """Let the model become a teacher, and begin anew with fresh weights and optimizers; the last one is taught."""
    settings, state = run.settings, run.state
    run.own_teachers.append(teacher_of(run.evaluated_model, run.evaluated_model.named_parameters(), run))
    count = len(run.own_teachers)
    weights = run.starting_weights(count)
    for model in {run.model, run.evaluated_model}:
        fill(model, weights.items())
    run.optimizers.load_state({})
    state.evaluations_since_best = 0
    state.taught = state.iteration + settings.teacher_iters >= settings.max_iters
    step.teach(run.teachers, state)
    earlier = "the one before teaches" if count == 1 else f"the {count} before teach"
    taught = f"the last one, which {earlier}" if state.taught else "another teacher"
    say(f"model {count + 1} of {settings.models}: {taught}, from fresh weights; the best one is kept")


def teach_if_last(run: Run) -> bool:
    """Let the teachers teach the present model where it has become the last one on the way; return whether it has."""
    state, settings = run.state, run.settings
    is_last = settings.began_at(state.iteration) + settings.teacher_iters >= settings.max_iters
    if state.taught or not run.own_teachers or not is_last or state.iteration >= settings.max_iters:
        return False
    state.taught = True
    say("the present model is the last one now, so those before teach it from here on")
    return True


def restore_teachers(run: Run, stored: Sequence[Mapping[str, Tensor]], folder: Path | None) -> None:
    """Let the teachers that a run has trained be those of a checkpoint.

    Raises:
        CheckpointError: Their number is not that of the run by now, or they have another shape, or a weight that is not
            finite.
    """
    own = {name: tensor.shape for name, tensor in run.model.named_parameters()}
    length, iteration = run.settings.teacher_iters, run.state.iteration
    expected = run.settings.began_at(iteration) // length if length else 0
    if len(stored) != expected:
        raise CheckpointError(
            f"iter {iteration} of {run.out_dir} has {len(stored)} teachers, and with teacher_iters = {length} it would "
            f"have {expected}; resume with the teacher_iters of the run itself"
        )
    run.own_teachers.clear()
    for weights in stored:
        if own != {name: tensor.shape for name, tensor in weights.items()}:
            raise CheckpointError(f"the teachers in {folder} are models of another shape than its own")
        if not all(bool(tensor.isfinite().all()) for tensor in weights.values()):
            raise CheckpointError(f"a weight of the teachers in {folder} is not finite; go back to another checkpoint")
        run.own_teachers.append(teacher_of(run.model, weights.items(), run))


def teacher_of(model: GPT, weights: Iterable[tuple[str, Tensor]], run: Run) -> GPT:
    """Return a model of the same shape with copies of these weights, in the form of a teacher."""
    teacher = GPT(model.config, seed=None, attn_path=run.settings.attn_path).to(run.machine.device)
    with torch.no_grad():
        fill(teacher, weights)
    return in_form_of_teacher(teacher)
