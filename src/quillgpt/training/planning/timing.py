"""How long a run will take: estimated from iterations that are tried now, or from the operations it needs."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from statistics import median

import torch

from quillgpt.config.schema import ChosenSettings, ResolvedSettings, TrainSettings
from quillgpt.data.batches import Source, Tokens, all_offsets
from quillgpt.device import synchronize
from quillgpt.evaluation import mean_loss
from quillgpt.model import GPT
from quillgpt.model.cost import FORWARD_SHARE
from quillgpt.model.distillation import Teachers
from quillgpt.optim.optimizers import OptimizerSet
from quillgpt.optim.schedule import learning_rate
from quillgpt.training.cuda_graph import WARM_UP_ITERATIONS, CudaGraphStep, kind_of_step
from quillgpt.training.fault import NonFiniteError
from quillgpt.training.run import training_batches
from quillgpt.training.start.choices import EXPECTED_UTILISATION, Machine

TRIED_SECONDS = 3.0
"""Seconds for trying iterations, and about the longest that one of them may take."""

MOST_TRIES = 40
"""Tries after which more of them tell nothing new."""

LONGEST_SEQUENCE_SECONDS = 10.0
"""Predicted seconds of one sequence above which nothing is tried."""


@dataclass(frozen=True)
class RunTiming:
    """How long the parts of a run take.

    Attributes:
        iteration: Seconds of an iteration.
        evaluated_token: Seconds to evaluate one token.
        basis: What the estimate is based on.
    """

    iteration: float
    evaluated_token: float
    basis: str


def predicted_timing(settings: TrainSettings, flops_per_token: float, flops_per_second: float) -> RunTiming:
    """Estimate the times from operations, at the usual share of the device's peak rate.

    Args:
        settings: The run's.
        flops_per_token: Operations of a training step for one token.
        flops_per_second: The device's peak.
    """
    token = flops_per_token / (flops_per_second * EXPECTED_UTILISATION)
    return RunTiming(
        settings.tokens_per_iteration * token,
        FORWARD_SHARE * token,
        f"a rough guess: no step was tried; {EXPECTED_UTILISATION:.0%} of the device's peak is assumed",
    )


def sequences_to_try(settings: ChosenSettings, predicted: RunTiming) -> int:
    """Return how many sequences a trial may have to end in time; 0 if a single one takes too long."""
    sequence = predicted.iteration / settings.sequences_per_iteration
    if sequence > LONGEST_SEQUENCE_SECONDS:
        return 0
    return max(1, min(settings.micro_batch_size, int(TRIED_SECONDS / sequence)))


def trial_step(
    model: GPT,
    optimizers: OptimizerSet,
    train: Tokens,
    settings: TrainSettings,
    machine: Machine,
    teachers: Teachers | None = None,
) -> Callable[[int], None]:
    """Return a function that does iteration i, uncompiled; one that is not finite is no error, as only time matters.

    Where a CUDA graph is recorded, it has been.
    """
    resolved = ResolvedSettings.of(settings.model_copy(update={"compile": False}))
    kind = kind_of_step(resolved, machine.device)
    batches = training_batches(resolved, [Source(train)])
    step = kind(model, optimizers, batches, resolved, machine, teachers=teachers)

    def act(iteration: int) -> None:
        with suppress(NonFiniteError):
            step(iteration, learning_rate(iteration, resolved))

    for iteration in range(WARM_UP_ITERATIONS + 1 if kind is CudaGraphStep else 0):
        act(iteration)
    return act


def measured_timing(
    model: GPT,
    optimizers: OptimizerSet,
    settings: TrainSettings,
    machine: Machine,
    train: Tokens,
    val: Tokens,
    *,
    sequences: int,
    teachers: Teachers | None = None,
) -> RunTiming:
    """Estimate the times from iterations that are done now, uncompiled; they change the model and its optimizers.

    A short iteration is tried whole. Of a long one, a micro-batch and the update are tried.

    Args:
        model: The model, on its device.
        optimizers: Its optimizers.
        settings: The run's, all choices made.
        machine: Device and number format.
        train: Tokens to train on.
        val: Tokens to evaluate on.
        sequences: Sequences of a micro-batch.
        teachers: The models that teach this one, if any.
    """

    def seconds(act: Callable[[int], object], *, within: float = 0.0) -> list[float]:
        """Return the seconds of one call, and of as many more as fit into `within`."""
        times: list[float] = []
        while not times or (len(times) < MOST_TRIES and sum(times) + times[-1] < within):
            before = time.perf_counter()
            act(len(times))
            synchronize(machine.device)
            times.append(time.perf_counter() - before)
        return times

    micro_batch = {"batch_size": sequences, "gradient_accumulation_steps": 1, "micro_batch_size": sequences}
    try_micro_batch = trial_step(model, optimizers, train, settings.model_copy(update=micro_batch), machine, teachers)
    attempt = min(seconds(try_micro_batch, within=TRIED_SECONDS))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    scaler = torch.amp.GradScaler(machine.device.type, enabled=False)
    update = min(attempt, *seconds(lambda _: optimizers.step(scaler)))
    micro_batches = settings.sequences_per_iteration / sequences
    iteration = update + micro_batches * (attempt - update)
    basis = f"{sequences} of the {settings.sequences_per_iteration} sequences of an iteration, and one update"
    if iteration < TRIED_SECONDS / 2:
        tried = seconds(trial_step(model, optimizers, train, settings, machine, teachers), within=TRIED_SECONDS)
        iteration = median(tried)
        basis = f"{len(tried)} iterations" if len(tried) > 1 else "one iteration"
    elif micro_batches == 1:
        basis = "one iteration"
    offsets = all_offsets(len(val), settings.block_size)[:sequences]
    forward = min(
        seconds(
            lambda _: mean_loss(model, val, offsets, batch_size=sequences, dtype=machine.dtype),
            within=min(TRIED_SECONDS / 3, 3 * attempt),
        )
    )
    return RunTiming(iteration, forward / (len(offsets) * settings.block_size), f"trying {basis}, uncompiled")
