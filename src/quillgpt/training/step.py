"""One iteration: forward and backward for each micro-batch, clip, check, update.

Of several processes, each takes its part of the batch. They sum their gradients, and then all do the same update.

Shapes: B sequences of the global batch, R of this rank's part, M of a micro-batch, T tokens of a sequence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import torch
from torch import Tensor, nn

from quillgpt.attention import spread
from quillgpt.checkpoint import TrainingState
from quillgpt.config.schema import ResolvedSettings
from quillgpt.data.batches import TrainingBatches
from quillgpt.device import autocast, to_device
from quillgpt.distributed import ALONE, World
from quillgpt.distributed.ddp import Parallel, Replicas
from quillgpt.distributed.fsdp import drop_gathered
from quillgpt.distributed.join import is_of_connections
from quillgpt.distributed.shards import is_sharded, own_rows
from quillgpt.model import GPT
from quillgpt.model.distillation import Teachers
from quillgpt.model.kernels import mean_range_excess
from quillgpt.optim.average import WeightAverage
from quillgpt.optim.optimizers import OptimizerSet
from quillgpt.training.compilation import (
    compile_model,
    failed_on_rank,
    leave_uncompiled,
    warn_of_failed_compilation,
)
from quillgpt.training.fault import NonFiniteError
from quillgpt.training.start.choices import Machine


@dataclass(frozen=True)
class Votes:
    """What a rank asks for before an iteration, or what all ranks know after it that one of them has asked for.

    Attributes:
        stop: The run is to be saved and ended.
        save: A checkpoint is due by the clock.
        retime: The run's length no longer fits into its minutes.
    """

    stop: bool = False
    save: bool = False
    retime: bool = False


@dataclass(frozen=True)
class StepResult:
    """What an iteration returns, on the device: reading it waits for the device.

    Attributes:
        loss: Mean loss over the global batch, nats per token, a scalar.
        grad_norm: Norm of the gradient before clipping, a scalar.
        votes: What the ranks have asked for.
    """

    loss: Tensor
    grad_norm: Tensor
    votes: Votes = Votes()


class Objective(nn.Module):
    """What training minimizes, as a module that processes can share.

    Args:
        model: The model.
        range_penalty: Factor of the penalty for arguments that are out of a kernel's range.
        teachers: The models whose probabilities are a share of its targets, if any.
    """

    def __init__(self, model: GPT, range_penalty: float, teachers: Teachers | None = None) -> None:
        super().__init__()
        self.model = model
        self.range_penalty = range_penalty
        self.teachers = teachers

    def forward(
        self, inputs: Tensor, targets: Tensor, batch_size: int, seeds: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return what a micro-batch adds to the objective of the global batch, and to its loss, both scalars.

        Args:
            inputs: Ids (M, T).
            targets: Ids (M, T).
            batch_size: Sequences of the global batch, B, over whose tokens the loss is the mean.
            seeds: Seeds of the sequences' dropout, int64 (M,), if they have any.
        """
        tokens = batch_size * targets.shape[1]
        if self.teachers is None:
            objective = self.model.loss_sum(inputs, targets, seeds) / tokens
            loss = objective.detach()
        else:
            objective, loss = (each / tokens for each in self.teachers.loss_sums(self.model, inputs, targets, seeds))
        if self.range_penalty:
            objective = objective + self.range_penalty * mean_range_excess(self.model) / batch_size
        return objective, loss


MicroBatch = tuple[Tensor, Tensor, Tensor | None]
"""Inputs and targets, ids (M, T), and the seeds of the sequences' dropout, int64 (M,), if they have any."""


class TrainStep:
    """Does iterations. What iteration i does depends on the weights, the settings and i only.

    Args:
        model: The model, on its device.
        optimizers: Update its parameters.
        batches: The batch of each iteration.
        settings: The run's. A later change of its length does not matter here: the learning rate is given.
        machine: Device and number format.
        average: Follows the weights, where an average of them is kept.
        world: The processes that share every batch.
        teachers: The models that teach this one, if any.

    Attributes:
        compiled: Whether the compiled model is used; False from the first iteration on where compiling fails, and at
            first where `compile` is still open.
        seeds_sequences: Whether each sequence has a seed of its own for dropout.
        scaler: Scales float16 gradients; passes other formats on.
        overflows: Iterations whose float16 gradient overflowed; the scaler left their updates out.
    """

    def __init__(
        self,
        model: GPT,
        optimizers: OptimizerSet,
        batches: TrainingBatches,
        settings: ResolvedSettings,
        machine: Machine,
        average: WeightAverage | None = None,
        world: World = ALONE,
        teachers: Teachers | None = None,
    ) -> None:
        self.model, self.optimizers, self.average = model, optimizers, average
        self.world = world
        self.rows = world.slice_of(batches.batch_size)
        self.batches = batches
        self.settings = settings
        self.device, self.dtype = machine.device, machine.dtype
        self.compiled = settings.compile is True
        self._has_compiled_once = False
        if self.compiled:
            compile_model(model)
        self._objective = Objective(model, settings.range_penalty, teachers)
        self.objective = self.parallel(self._objective)
        self.restore(TrainingState(dropout_by_sequence=True))

    def parallel(self, objective: Objective) -> Parallel:
        """Return an objective whose gradients the ranks sum up, as the strategy has it."""
        if self.world.size == 1 or self.settings.strategy == "fsdp":
            return Parallel(objective)
        return Replicas(objective, self.world, self.device)

    def __call__(self, iteration: int, lr: float, votes: Votes | None = None) -> StepResult:
        """Do an iteration.

        Args:
            iteration: Its number, counted from 0.
            lr: Its learning rate.
            votes: What this rank asks for.

        Raises:
            NonFiniteError: Its loss or gradient is not finite; no weight has been updated.
        """
        self.model.train()
        inputs, targets = self.batch(iteration)  # each (R, T)
        try:
            loss = self.accumulate_gradient(iteration, inputs, targets)
        except Exception as error:  # a compiler may fail in any way, but only before it has worked once
            if not self.compiled or self._has_compiled_once:
                raise
            if self.world.size > 1:  # the others may have compiled, and wait for this rank's gradient
                raise error if is_of_connections(error) else failed_on_rank(error, self.world.rank) from error
            self.go_on_uncompiled(error)
            loss = self.accumulate_gradient(iteration, inputs, targets)
        self._has_compiled_once = self.compiled
        loss, votes = self.share(loss, votes or Votes())
        grad_norm = self.clip_gradient()
        self.check_finite(iteration, loss, grad_norm)
        self.update(lr)
        if self.average is not None:
            self.average.update(self.model, self.settings.within_model(iteration))
        return StepResult(loss, grad_norm, votes)

    def batch(self, iteration: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of this rank's part of an iteration, on the device, each (R, T)."""
        inputs, targets = self.batches.batch(iteration, self.rows)
        return to_device(inputs, self.device), to_device(targets, self.device)

    def accumulate_gradient(self, iteration: int, inputs: Tensor, targets: Tensor) -> Tensor:
        """Compute the gradient of the mean loss over the global batch, micro-batch by micro-batch.

        Returns:
            What this rank's part of the batch adds to that loss.
        """
        loss = torch.zeros((), device=self.device)
        *earlier, last = self.micro_batches(inputs, targets, self.dropout_seeds(iteration))
        with self.objective.accumulating():
            for number, micro_batch in enumerate(earlier):
                self.seed(iteration, number)
                loss += self.forward_backward(*micro_batch)
        self.seed(iteration, len(earlier))
        loss += self.forward_backward(*last)
        return loss

    def share(self, loss: Tensor, votes: Votes) -> tuple[Tensor, Votes]:
        """Return the loss of the global batch, and what a rank has asked for, as all ranks know then."""
        if self.world.size == 1:
            return loss, votes
        asked = torch.tensor([votes.stop, votes.save, votes.retime], dtype=loss.dtype, device=loss.device)
        loss, stop, save, retime = self.world.sum(torch.cat([loss[None], asked]))
        return loss, Votes(stop=bool(stop), save=bool(save), retime=bool(retime))

    def dropout_seeds(self, iteration: int) -> Tensor | None:
        """Return the seeds of the dropout of this rank's sequences, int64 (R,), on the device; None if they have none.

        A sequence's seed is a function of seed, iteration and its place in the global batch. So dividing the batch into
        micro-batches or between ranks changes nothing, and resuming needs no state.
        """
        if not self.seeds_sequences:
            return None
        own = torch.tensor(self._random_word(iteration).view(np.int64))
        return to_device(spread(own, self.rows.stop - self.rows.start, first=self.rows.start), self.device)

    def seed(self, iteration: int, micro_batch: int = 0) -> None:
        """Seed PyTorch's generator for a micro-batch by seed, iteration and the place of its first sequence.

        The fused attention of GPUs draws its dropout from it. Runs that began before sequences had seeds draw all
        dropout of an iteration from it, and it is seeded for their first micro-batch only.
        """
        if micro_batch == 0 or self.seeds_sequences:
            place = self.rows.start + micro_batch * self.settings.micro_batch_size
            torch.manual_seed(int(self._random_word(iteration, place)))

    def _random_word(self, iteration: int, place: int = 0) -> np.uint64:
        """Return 64 random bits, a function of seed, iteration and place; place 0 is as good as none."""
        word: np.uint64 = np.random.SeedSequence([self.settings.seed, iteration, place]).generate_state(1, np.uint64)[0]
        return word

    def micro_batches(self, inputs: Tensor, targets: Tensor, seeds: Tensor | None) -> Iterator[MicroBatch]:
        """Return the micro-batches of this rank's part of a batch."""
        size = self.settings.micro_batch_size
        own: Iterable[Tensor | None] = repeat(None) if seeds is None else torch.split(seeds, size)
        return zip(torch.split(inputs, size), torch.split(targets, size), own, strict=False)

    def forward_backward(self, inputs: Tensor, targets: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Add the gradient of a micro-batch to that of its batch.

        Args:
            inputs: Ids (M, T).
            targets: Ids (M, T).
            seeds: Seeds of the sequences' dropout, int64 (M,); None: PyTorch's generator draws it.

        Returns:
            What the micro-batch adds to the mean loss, nats per token, a scalar.
        """
        with autocast(self.device, self.dtype):
            objective, loss = self.objective(inputs, targets, self.batches.batch_size, seeds)
        if self.objective.scale != 1:
            objective = objective * self.objective.scale
        self.scaler.scale(objective).backward()
        return loss  # type: ignore[no-any-return]

    def clip_gradient(self) -> Tensor:
        """Bound the norm of the gradient by grad_clip, and return the norm that it had."""
        for optimizer in self.optimizers.optimizers:
            self.scaler.unscale_(optimizer)
        parameters = list(self.model.parameters())
        norm = torch.nn.utils.get_total_norm([own_rows(p.grad) for p in parameters if p.grad is not None])
        if any(map(is_sharded, parameters)):
            norm = self.world.sum(norm.square()).sqrt()
        if self.settings.grad_clip:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.settings.grad_clip, norm)
        return norm

    def check_finite(self, iteration: int, loss: Tensor, grad_norm: Tensor) -> None:
        """Check that an update would not spoil the weights; an overflow of float16 is the scaler's matter.

        Raises:
            NonFiniteError: Loss or gradient is NaN or infinite; the gradient has been dropped.
        """
        judged = loss if self.scaler.is_enabled() else loss + grad_norm
        if not bool(judged.isfinite()):
            self.model.zero_grad(set_to_none=True)
            raise NonFiniteError(iteration, float(loss), float(grad_norm))

    def update(self, lr: float) -> None:
        """Update the weights by their gradient, and drop it."""
        scale_before = self.scaler.get_scale()
        self.optimizers.set_learning_rate(lr)
        self.optimizers.step(self.scaler, keeping_gradients=self.objective.keeps_gradients)
        self.overflows += self.scaler.get_scale() < scale_before

    def synchronize(self) -> None:
        """Wait until all iterations are done.

        Raises:
            NonFiniteError: One was not finite. Here that is raised at once; a recorded step raises it later.
        """

    def go_on_uncompiled(self, error: Exception) -> None:
        """Go on without torch.compile, which failed."""
        warn_of_failed_compilation(error)
        self.compiled = False
        leave_uncompiled(self.model)
        drop_gathered(self.model)
        self.model.zero_grad(set_to_none=True)

    def start_compiled(self) -> None:
        """Use the compiled model from now on, or say that compiling failed; its code is loaded or compiled now."""
        self.compiled = True
        compile_model(self.model)
        try:
            self.try_gradient()
        except Exception as error:  # a compiler may fail in any way
            self.go_on_uncompiled(error)

    def try_gradient(self, *, of_one: bool = False) -> None:
        """Compute the gradient of micro-batches, and drop it: those of the first batch that differ in size.

        Args:
            of_one: Only of the first one.
        """
        self.model.train()
        micro_batches = list(self.micro_batches(*self.batch(0), self.dropout_seeds(0)))
        alike = of_one or len(micro_batches[0][0]) == len(micro_batches[-1][0])
        for micro_batch in micro_batches[:1] if alike else (micro_batches[0], micro_batches[-1]):
            self.forward_backward(*micro_batch)
        self.model.zero_grad(set_to_none=True)

    def teach(self, teachers: Teachers | None, state: TrainingState) -> None:
        """Go back or forward to what the step was in a state, with these teachers."""
        self._objective.teachers = teachers
        self.restore(state)

    def record(self, state: TrainingState) -> None:
        """Write into a state what the step remembers: float16's scaler, and whether it is uncompiled."""
        state.scaler, state.overflows = self.scaler.state_dict(), self.overflows
        if not self.compiled:
            state.compiled_from = None

    def restore(self, state: TrainingState) -> None:
        """Go back or forward to what the step was in a state."""
        drops = self.settings.dropout > 0 or self.settings.lora_dropout > 0
        self.seeds_sequences = drops and state.dropout_by_sequence
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        if state.scaler:
            self.scaler.load_state_dict(state.scaler)
        self.overflows = state.overflows
        if self.settings.compile == "auto" and self.compiled and state.compiled_from is None:
            self.compiled = self._has_compiled_once = False
            leave_uncompiled(self.model)
