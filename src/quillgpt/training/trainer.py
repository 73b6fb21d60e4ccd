"""The training loop: evaluate when due, save when due, do an iteration, log it.

An iteration takes the global batch micro-batch by micro-batch, forward and backward; clips the gradient; checks that
loss and gradient are finite; and updates the weights once. Of several processes, each takes its part of the batch.
They sum their gradients, and then all do the same update.

Shapes: B sequences of the global batch, R of this rank's part, M of a micro-batch, T tokens of a sequence.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import repeat

import numpy as np
import torch
from rich.filesize import decimal
from torch import Tensor, nn

from quillgpt import console
from quillgpt.attention import spread
from quillgpt.checkpoint import TrainingState
from quillgpt.checkpoint.names import has_checkpoint
from quillgpt.config.runs import how_to_go_on
from quillgpt.config.schema import ResolvedSettings
from quillgpt.data.batches import TrainingBatches
from quillgpt.data.distribution_shift import describe_shift
from quillgpt.device import autocast, peak, peak_memory_bytes, to_device
from quillgpt.distributed import ALONE, World
from quillgpt.distributed.ddp import Parallel, Replicas, Single
from quillgpt.distributed.fsdp import Shards, drop_gathered
from quillgpt.distributed.reporting import refuse_restart
from quillgpt.distributed.shards import is_sharded, own_rows
from quillgpt.model import GPT
from quillgpt.model.cost import training_flops_per_token
from quillgpt.model.kernels import mean_range_excess
from quillgpt.optim.average import WeightAverage
from quillgpt.optim.optimizers import OptimizerSet
from quillgpt.optim.schedule import learning_rate
from quillgpt.plots.record import METRICS, curve, read_metrics
from quillgpt.stopping import activity, ignore_signals
from quillgpt.training.compilation import compile_model, leave_uncompiled, warn_of_failed_compilation
from quillgpt.training.fault import NonFiniteError
from quillgpt.training.folder.checkpointer import Checkpointer, check_loss
from quillgpt.training.folder.occupation import Occupation
from quillgpt.training.folder.out_dir import begin_record, claim_folder, record_settings
from quillgpt.training.interruption import NOTHING_LOST, Interrupted, Interruption
from quillgpt.training.pace import Pace
from quillgpt.training.record.finish import finish
from quillgpt.training.record.loggers import Logger, open_loggers
from quillgpt.training.record.metrics import MetricsLog, clock_time
from quillgpt.training.record.report import RunSummary, say_perplexity
from quillgpt.training.rollback import is_left_out, lr_multiplier, roll_back
from quillgpt.training.run import Run
from quillgpt.training.start.choices import Machine
from quillgpt.training.validation import (
    Losses,
    describe_losses,
    evaluate_splits,
    is_best,
    out_of_patience,
    overfitting,
    take_account,
)

WORTH_SAYING = 0.1
"""Share of its length by which a run must change at once for a line about it."""


class Trainer:
    """Trains one run.

    Args:
        run: The run.
        step: Does its iterations.
        interruption: Notes requests to stop.
        started: From when its minutes count, as time.perf_counter has it.
        occupation: Its hold on out_dir; None where it is only evaluated.

    Attributes:
        peak: The rate that MFU is a share of.
    """

    def __init__(
        self,
        run: Run,
        step: TrainStep,
        *,
        interruption: Interruption,
        started: float,
        occupation: Occupation | None,
    ) -> None:
        self.run, self.state, self.step = run, run.state, step
        self.world = run.world
        self.agreed = Votes()
        self.checkpointer = Checkpointer(run)
        recorded = self.world.is_main and not run.settings.eval_only
        self.metrics = MetricsLog(run.out_dir / METRICS if recorded else None)
        self.pace = Pace(run, started)
        self.peak = self.world.broadcast(peak(run.machine.device, run.machine.dtype) if self.world.is_main else None)
        self.interruption = interruption
        self.occupation = occupation
        self.started = time.perf_counter() - run.state.seconds
        self.shift = None if run.settings.eval_only else describe_shift(run.mixture)
        flops_per_token = training_flops_per_token(run.model.config, run.model.parameter_count(positions=False))
        self.flops_per_iteration = run.settings.tokens_per_iteration * flops_per_token

    @property
    def settings(self) -> ResolvedSettings:
        """The run's settings, whose length follows the clock where it has minutes."""
        return self.run.settings

    def run_to_the_end(self) -> bool:
        """Train, or only evaluate where the settings say so; return whether the run has reached its end."""
        settings = self.settings
        if settings.eval_only:
            losses = self.evaluate()
            say_perplexity(settings, train=losses.train, val=losses.val)
            return False
        with self.world.agreement():
            if self.world.is_main:
                claim_folder(settings, anew=not self.run.resumed)
        self.begin_record()
        with self.world.agreement():
            loggers = self.open_loggers() if self.world.is_main else []
        with self.metrics.shared_with(loggers):
            if self.shift is not None:
                console.warn(self.shift)
            if self.state.iteration >= settings.max_iters > 0:
                console.say(f"all {self.state.iteration} iterations are done; to train longer, raise --max_iters")
            if not self.train():
                return False
        with self.world.agreement():
            self.checkpointer.require_saved()
        self.say_memory()
        return True

    def say_memory(self) -> None:
        """Say how much memory each of several processes has held."""
        peaks = self.world.gather(peak_memory_bytes(self.run.machine.device))
        if self.world.size > 1 and all(peaks):
            told = ", ".join(f"{decimal(peak)} on rank {rank}" for rank, peak in enumerate(peaks) if peak)
            console.say(f"peak memory: {told}")

    def open_loggers(self) -> list[Logger]:
        """Open the loggers that the settings ask for."""
        return open_loggers(self.settings, iteration=self.state.iteration if self.run.resumed else None)

    def summarize(self) -> RunSummary:
        """Score the best checkpoint of a run that has reached its end, and write its summary; rank 0 does that."""
        with activity(f"after the last iteration: the run is saved; finish it with: {how_to_go_on(self.run.out_dir)}"):
            return finish(self.run, started=self.started, shift=self.shift is not None)

    def train(self) -> bool:
        """Train until max_iters, or until patience ends; return False where the run was interrupted before."""
        with ExitStack() as signals:
            while True:
                try:
                    agreed = self.agreed if self.world.size > 1 else self.vote()
                    evaluating, saving = self.evaluation_is_due(), self.checkpointer.is_due(agreed.save)
                    if evaluating or saving or agreed.stop or self.line_is_due():
                        self.keep_folder()
                        self.step.synchronize()
                    if evaluating:
                        self.evaluate_and_save()
                    elif saving:
                        self.save()
                    if self.is_stopping():
                        self.leave()
                        if self.world.size > 1:
                            ignore_signals()  # one rank is the first to end, and torchrun sends a signal to the others
                            refuse_restart(self.interruption.exit_status)
                        return False
                    if self.is_finished():
                        return True
                    self.do_iteration()
                    self.save_when_interrupted(signals)
                except NonFiniteError as error:
                    roll_back(self.run, self.step, error)
                    self.begin_record()

    def vote(self) -> Votes:
        """Return what this rank asks for: a signal may reach any of them, and the clock is that of rank 0."""
        return Votes(stop=self.interruption.requested, save=self.world.is_main and self.checkpointer.time_is_up())

    def is_stopping(self) -> bool:
        """Whether a rank has been asked to stop, as far as all of them know."""
        return self.agreed.stop if self.world.size > 1 else self.interruption.requested

    def stop_evaluating(self) -> None:
        """Raise `Interrupted` on all ranks if one of them has been asked to stop."""
        if self.world.size > 1 and not self.agreed.stop:
            asked = torch.tensor(float(self.interruption.requested), device=self.run.machine.device)
            self.agreed = replace(self.agreed, stop=bool(self.world.sum(asked)))
        if self.is_stopping():
            raise Interrupted

    def evaluation_is_due(self) -> bool:
        """Whether this is the last iteration, or every eval_interval-th."""
        iteration, settings = self.state.iteration, self.settings
        return iteration >= settings.max_iters or iteration % settings.eval_interval == 0

    def line_is_due(self) -> bool:
        """Whether this iteration has a line in the log."""
        iteration, settings = self.state.iteration, self.settings
        return iteration % settings.log_interval == 0 or iteration == settings.max_iters

    def is_finished(self) -> bool:
        """Whether all iterations are done, or the last evaluations were too often without an improvement."""
        state, settings = self.state, self.settings
        if state.iteration < settings.max_iters and out_of_patience(settings, state):
            console.say(
                f"stopping early: {state.evaluations_since_best} evaluations in a row were not better than "
                f"iter {state.best_iteration}; to go on: {how_to_go_on(self.run.out_dir)} --patience=N "
                "with a larger number, or 0 for none"
            )
            return True
        return state.iteration >= settings.max_iters

    def do_iteration(self) -> None:
        """Do one iteration, count it, and log it where a line is due.

        Raises:
            NonFiniteError: Its loss or gradient is not finite; no weight has been updated.
        """
        state, settings = self.state, self.settings
        if is_left_out(state.iteration, state):
            console.say(f"iter {state.iteration + 1}: left out, its batch was not finite before")
            state.iteration += 1
            return
        before = time.perf_counter()
        lr = learning_rate(state.iteration, settings) * lr_multiplier(state.iteration, state, settings)
        result = self.step(state.iteration, lr, self.vote() if self.world.size > 1 else None)
        self.agreed = result.votes
        state.iteration += 1
        state.tokens += settings.tokens_per_iteration
        loss = grad_norm = math.nan
        if self.line_is_due():
            self.step.synchronize()
            loss, grad_norm = float(result.loss), float(result.grad_norm)  # which waits for the device
        now = time.perf_counter()
        state.train_seconds += now - before
        state.seconds = now - self.started
        self.pace.count(now - before)
        if self.line_is_due():
            self.log(loss, lr, grad_norm)
            self.fit_into_minutes()

    def log(self, loss: float, lr: float, grad_norm: float) -> None:
        """Write the row of an iteration, and the line that a person reads."""
        state, per_iteration = self.state, self.pace.read()
        tokens_per_second = self.settings.tokens_per_iteration / per_iteration
        mfu = self.flops_per_iteration / per_iteration / self.peak.flops_per_second
        self.metrics.write(
            "train",
            iter=state.iteration,
            loss=loss,
            lr=lr,
            # A gradient may overflow in float16, whose scaler leaves the update out; JSON has no infinity.
            **({"grad_norm": grad_norm} if math.isfinite(grad_norm) else {}),
            tokens=state.tokens,
            seconds=state.seconds,
            tokens_per_second=tokens_per_second,
            mfu=mfu,
        )
        console.say(
            f"iter {state.iteration}: loss {loss:.4f}, grad norm {grad_norm:.3g}, elapsed {clock_time(state.seconds)}, "
            f"{per_iteration * 1e3:.0f} ms/iter, {tokens_per_second:,.0f} tokens/s, mfu {mfu:.1%}, lr {lr:.2e}, "
            f"{clock_time(self.pace.remaining_seconds())} left"
        )

    def fit_into_minutes(self) -> None:
        """Let the length of a run that has minutes follow its speed."""
        if self.settings.minutes is None:
            return
        before = self.settings.max_iters
        iterations = self.world.broadcast(self.pace.fitting_iterations() if self.world.is_main else None)
        if iterations is None:
            return
        self.run.change_length(iterations)
        self.record_settings()
        if abs(iterations - before) > before * WORTH_SAYING:
            console.say(f"{iterations:,} iterations instead of {before:,} fit into {self.settings.minutes:g} min")

    def evaluate_and_save(self) -> None:
        """Evaluate, and save `last`, and `best` where it improved; before the first step only what is finetuned."""
        state = self.state
        if state.evaluated_iteration == state.iteration:  # resumed right after this evaluation
            return
        try:
            losses = self.evaluate()
        except Interrupted:
            return
        state.evaluated_iteration = state.iteration
        if state.iteration == 0 < self.settings.max_iters:
            state.start_val_loss = losses.val
            if self.run.parent is None:
                return
        best_before = state.best_val_loss, state.best_iteration, state.best_train_loss, state.evaluations_since_best
        improved = take_account(losses, state)
        if not improved and self.shift is None:
            self.warn_of_overfitting(losses)
        if not self.save(best=improved) and improved:  # what is not on the disk cannot be the best
            state.best_val_loss, state.best_iteration, state.best_train_loss, state.evaluations_since_best = best_before

    def evaluate(self) -> Losses:
        """Print and record the loss of both splits.

        Raises:
            Interrupted: The run has been asked to stop.
        """
        run, state, settings = self.run, self.state, self.settings
        before = time.perf_counter()
        losses = evaluate_splits(run, self.stop_evaluating)
        self.pace.count_evaluation(time.perf_counter() - before)
        state.seconds = time.perf_counter() - self.started
        with self.world.agreement():
            check_loss(losses.val, state.iteration, settings)
        per_byte = losses.val_bits_per_byte
        say = console.outcome if settings.eval_only else console.say
        say(
            f"evaluation at iter {state.iteration}: {describe_losses(losses, run)}",
            style="green" if is_best(losses, state) else "red",
        )
        self.metrics.write(
            "eval",
            iter=state.iteration,
            train_loss=losses.train,
            val_loss=losses.val,
            **({} if per_byte is None else {"val_bits_per_byte": per_byte}),
            **{f"val_loss_{name}": loss for name, loss in losses.val_of.items()},
            **({} if losses.replay is None else {"replay_loss": losses.replay}),
            tokens=state.tokens,
            seconds=state.seconds,
        )
        return losses

    def warn_of_overfitting(self, losses: Losses) -> None:
        """Say once that the model overfits; not before it has read the whole text."""
        state, run = self.state, self.run
        passes = state.tokens / run.mixture.train_tokens
        if state.overfitting_said or passes < 1:
            return
        before = [loss for _, loss in curve(read_metrics(run.out_dir / METRICS), "eval", "val_loss")]
        if warning := overfitting(losses, state, before):
            console.warn(warning)
            state.overfitting_said = True

    def save(self, *, best: bool = False) -> bool:
        """Write a checkpoint; return whether the disk took it."""
        state = self.state
        state.seconds = time.perf_counter() - self.started
        state.settings = self.settings.model_dump(mode="json") | {"compile": self.step.compiled}
        self.step.record(state)
        return self.checkpointer.save(best=best)

    def save_when_interrupted(self, signals: ExitStack) -> None:
        """Let signals end the run after an iteration from now on: there is something to save."""
        if not self.interruption.heeded:
            signals.enter_context(activity(""))
            signals.enter_context(self.interruption)

    def leave(self) -> None:
        """Save an interrupted run, and say how to go on with it."""
        self.interruption.adopt(self.world.gather(self.interruption.signal))
        if self.state.iteration == 0 and not self.world.broadcast(has_checkpoint(self.run.out_dir)):
            console.outcome(f"interrupted {NOTHING_LOST[False]}")
            return
        self.step.synchronize()
        self.save()
        with self.world.agreement():
            self.checkpointer.require_saved()
        console.outcome(
            f"interrupted and saved at iter {self.state.iteration}; go on with: {how_to_go_on(self.run.out_dir)}"
        )

    def begin_record(self) -> None:
        """Let checkpoints and metrics.jsonl be what they were at this iteration: nothing, where the run begins."""
        with self.world.agreement():
            self.checkpointer.begin()
            if self.run.resumed:
                state = self.state
                self.metrics.rewind(state.iteration, evaluated=state.evaluated_iteration == state.iteration)
            elif self.world.is_main:
                begin_record(self.run.out_dir)
            self.record_settings()

    def record_settings(self) -> None:
        """Write config.toml."""
        if self.world.is_main:
            record_settings(self.settings)

    def keep_folder(self) -> None:
        """Go on in a new folder where out_dir was removed or moved: what the model has learned is not lost yet."""
        with self.world.agreement():
            lost = self.occupation is not None and self.occupation.is_lost()
        if not self.world.broadcast(lost):
            return
        with self.world.agreement():
            if self.occupation is not None:
                self.occupation.take_anew()
                claim_folder(self.settings, anew=False)
                self.record_settings()
        self.checkpointer.forget()
        state = self.state
        state.best_val_loss = state.best_iteration = state.best_train_loss = None
        state.evaluations_since_best = 0


@dataclass(frozen=True)
class Votes:
    """What a rank asks for before an iteration, or what all ranks know after it that one of them has asked for.

    Attributes:
        stop: The run is to be saved and ended.
        save: A checkpoint is due by the clock.
    """

    stop: bool = False
    save: bool = False


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
    """

    def __init__(self, model: GPT, range_penalty: float) -> None:
        super().__init__()
        self.model = model
        self.range_penalty = range_penalty

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
        loss = self.model.loss_sum(inputs, targets, seeds) / (batch_size * targets.shape[1])
        if not self.range_penalty:
            return loss, loss.detach()
        return loss + self.range_penalty * mean_range_excess(self.model) / batch_size, loss.detach()


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

    Attributes:
        compiled: Whether the compiled model is used; False from the first iteration on where compiling fails.
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
    ) -> None:
        self.model, self.optimizers, self.average = model, optimizers, average
        self.world = world
        self.rows = world.slice_of(batches.batch_size)
        self.batches = batches
        self.settings = settings
        self.device, self.dtype = machine.device, machine.dtype
        self.compiled = settings.compile
        self._has_compiled_once = False
        if self.compiled:
            compile_model(model)
        objective = Objective(model, settings.range_penalty)
        self.objective = self.parallel(objective)
        self.restore(TrainingState(dropout_by_sequence=True))

    def parallel(self, objective: Objective) -> Parallel:
        """Return an objective whose gradients the ranks sum up, as the strategy has it."""
        if self.world.size == 1:
            return Single(objective)
        return Shards(objective) if self.settings.strategy == "fsdp" else Replicas(objective, self.world, self.device)

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
            self.go_on_uncompiled(error)
            loss = self.accumulate_gradient(iteration, inputs, targets)
        self._has_compiled_once = self.compiled
        loss, votes = self.share(loss, votes or Votes())
        grad_norm = self.clip_gradient()
        self.check_finite(iteration, loss, grad_norm)
        self.update(lr)
        if self.average is not None:
            self.average.update(self.model, iteration)
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
        asked = torch.tensor([votes.stop, votes.save], dtype=loss.dtype, device=loss.device)
        loss, stop, save = self.world.sum(torch.cat([loss[None], asked]))
        return loss, Votes(stop=bool(stop), save=bool(save))

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

    def record(self, state: TrainingState) -> None:
        """Write into a state what the step remembers: float16's scaler."""
        state.scaler, state.overflows = self.scaler.state_dict(), self.overflows

    def restore(self, state: TrainingState) -> None:
        """Go back or forward to what the step was in a state."""
        drops = self.settings.dropout > 0 or self.settings.lora_dropout > 0
        self.seeds_sequences = drops and state.dropout_by_sequence
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        if state.scaler:
            self.scaler.load_state_dict(state.scaler)
        self.overflows = state.overflows
