"""What happens when a loss or a gradient is not finite: find where it began, and go back to what was good."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from quillgpt import console
from quillgpt.checkpoint import TrainingState
from quillgpt.checkpoint.names import has_checkpoint
from quillgpt.config.schema import TrainSettings
from quillgpt.device import autocast
from quillgpt.errors import UserError
from quillgpt.training.compilation import uncompiled
from quillgpt.training.origin import find_origin
from quillgpt.training.setup import Run, starting_model, take_raw_weights
from quillgpt.training.step import NonFiniteError, seed_iteration

LOWERED = 0.5
"""What a rollback multiplies the learning rate by, for a while."""

MOST_AT_ONCE = 3
"""How often the learning rate may be lowered at once; then the run is given up."""

EXCERPT_TOKENS = 12
WINDOWS_NAMED = 4


@dataclass(frozen=True)
class Fault:
    """Where a computation stopped being finite.

    Attributes:
        place: The first output, or the first gradient, that was not finite; None where computing the batch again gave
            finite values throughout.
        windows: Starts of the windows concerned, in the training split.
    """

    place: str | None
    windows: list[int]


@dataclass(frozen=True)
class Rollback:
    """One return to an earlier state; what a run does after it is a function of these records.

    Attributes:
        iteration: The iteration that was not finite; it is left out from then on.
        back_to: The iteration whose state was restored.
        reason: What was not finite, and where.
        windows: Starts of the windows concerned, in the training split.
    """

    iteration: int
    back_to: int
    reason: str
    windows: list[int]


def rollbacks_of(state: TrainingState) -> list[Rollback]:
    """Return the rollbacks of a run."""
    return [Rollback(**each) for each in state.rollbacks]


def is_left_out(iteration: int, state: TrainingState) -> bool:
    """Say whether an iteration's batch was found to spoil the run."""
    return any(each.iteration == iteration for each in rollbacks_of(state))


def rate_factor(iteration: int, state: TrainingState, settings: TrainSettings) -> float:
    """Return what the learning rate of an iteration is multiplied by.

    It is halved from where a rollback led to until `eval_interval` iterations after the one that was not finite.
    """
    return LOWERED ** sum(
        each.back_to <= iteration <= each.iteration + settings.eval_interval for each in rollbacks_of(state)
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
            again = f"quill train {run.out_dir / 'config.toml'} --init_from=resume, with " + (
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


def find_fault(run: Run, iteration: int) -> Fault:
    """Compute an iteration's batch again, uncompiled, and note where the first value that is not finite appears."""
    model, step = run.model, run.step
    starts = step.starts(iteration).tolist()
    if (spoiled := first_not_finite(model.named_parameters())) is not None:
        return Fault(f"the weight {spoiled}", starts)
    seed_iteration(run.settings.seed, iteration)
    model.train()
    first = 0
    order: list[str] = []
    for inputs, targets in step.parts(*step.batch(iteration)):
        windows = starts[first : first + len(inputs)]
        first += len(inputs)
        with uncompiled(model), watch(model) as seen, autocast(run.machine.device, run.machine.dtype):
            loss = model.loss_sum(inputs, targets) / len(starts)
        order = seen.order
        if seen.module is not None:
            return Fault(f"the output of {seen.module}", [windows[row] for row in seen.rows] or windows)
        if not bool(loss.isfinite()):
            return Fault("the loss", windows)
        loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    spoiled_gradients = {name for name, gradient in gradients.items() if not bool(gradient.isfinite().all())}
    model.zero_grad(set_to_none=True)
    # The backward pass comes from the end: the last module of the forward pass is where it began.
    for module in reversed(order):
        if any(name.rpartition(".")[0] == module for name in spoiled_gradients):
            return Fault(f"the gradient of {module}", starts)
    return Fault(None, starts)


@dataclass
class Sighting:
    """The first module whose output was not finite, and the rows of the batch in which."""

    module: str | None = None
    rows: list[int] = field(default_factory=list)
    order: list[str] = field(default_factory=list)


@contextmanager
def watch(model: nn.Module) -> Iterator[Sighting]:
    """Note the first output that is not finite while the block runs, and the order in which modules compute."""
    seen = Sighting()

    def look(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, arguments: object, output: object) -> None:  # noqa: ARG001
            seen.order.append(name)
            if seen.module is None and isinstance(output, Tensor) and not bool(output.isfinite().all()):
                seen.module = name
                seen.rows = (~output.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()

        return hook

    handles = [module.register_forward_hook(look(name)) for name, module in model.named_modules() if name]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def first_not_finite(named: Any) -> str | None:
    """Return the name of the first tensor with a value that is not finite."""
    return next((name for name, tensor in named if not bool(tensor.isfinite().all())), None)


def describe_windows(run: Run, windows: Sequence[int]) -> str:
    """Say where windows start in the training split, with the beginning of the first one's text."""
    named = ", ".join(f"{start:,}" for start in windows[:WINDOWS_NAMED])
    more = f" and {len(windows) - WINDOWS_NAMED} more" if len(windows) > WINDOWS_NAMED else ""
    excerpt = run.dataset.tokenizer.decode(run.dataset.train[windows[0] : windows[0] + EXCERPT_TOKENS].tolist())
    return f"windows at token {named}{more} of the training split, the first beginning with {excerpt!r}"


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
    weights = starting_model(origin, settings, run.model.shape).state_dict()
    for model in {run.model, run.evaluated_model}:
        model.load_state_dict(weights)
    take_raw_weights(run.model, origin)
    run.optimizers.load_state(origin.stored.optimizer if origin.stored else {})
    run.step.restore(origin.state)
    run.resumed = saved
    run.parent = origin.parent.folder if origin.parent else None
    run.state = replace(
        origin.state,
        settings=before.settings,
        data_fingerprint=before.data_fingerprint,
        rollbacks=[*before.rollbacks, asdict(Rollback(iteration, origin.state.iteration, reason, windows))],
        # Time goes on: only what was learnt is taken back.
        seconds=before.seconds,
        train_seconds=before.train_seconds,
        saving_seconds=before.saving_seconds,
    )
