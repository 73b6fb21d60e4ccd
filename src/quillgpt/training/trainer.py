"""The training loop: evaluate when due, save when due, do an iteration (`step.py`), log it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace

import torch
from rich.filesize import decimal

from quillgpt import console
from quillgpt.checkpoint.names import has_checkpoint
from quillgpt.config import Given
from quillgpt.config.runs import how_to_go_on
from quillgpt.config.schema import ResolvedSettings
from quillgpt.console import clock_time
from quillgpt.data.distribution_shift import describe_shift
from quillgpt.device import peak, peak_memory_bytes
from quillgpt.distributed.reporting import refuse_restart
from quillgpt.model.cost import training_flops_per_token
from quillgpt.optim.schedule import learning_rate
from quillgpt.plots.record import METRICS, curve, read_metrics
from quillgpt.stopping import activity, ignore_signals, raised
from quillgpt.training.fault import NonFiniteError
from quillgpt.training.folder.checkpointer import Checkpointer, check_loss
from quillgpt.training.folder.occupation import Occupation
from quillgpt.training.folder.out_dir import begin_record, claim_folder, record_settings
from quillgpt.training.interruption import NOTHING_LOST, Interrupted, Interruption
from quillgpt.training.memorization import Memorization, open_memorization
from quillgpt.training.own_teachers import begin_model, begins_model, teach_if_last
from quillgpt.training.pace import Pace
from quillgpt.training.record.finish import finish
from quillgpt.training.record.loggers import Logger, open_loggers
from quillgpt.training.record.metrics import MetricsLog
from quillgpt.training.record.provenance import record_session
from quillgpt.training.record.report import RunSummary, say_perplexity
from quillgpt.training.rollback import is_left_out, lr_multiplier, roll_back
from quillgpt.training.run import Run
from quillgpt.training.samples import RECORDED_PROMPT, draw_sample, sample_is_due, shown
from quillgpt.training.step import TrainStep, Votes
from quillgpt.training.take_over import TakeOver
from quillgpt.training.validation import (
    Losses,
    describe_losses,
    evaluate_splits,
    evaluation_is_due,
    is_best,
    out_of_patience,
    overfitting,
    take_account,
)

RECORDED_MESSAGE = 1000
"""Characters of a warning or an error that its row has."""

WORTH_SAYING = 0.1
"""Share of its length by which a run must change at once for a line about it."""


class WrongSizeError(Exception):
    """A run is so much slower or faster than was planned that a model of another size learns more in its minutes.

    Attributes:
        rate: Operations per second of its first iterations.
    """

    def __init__(self, rate: float) -> None:
        super().__init__(rate)
        self.rate = rate


class Trainer:
    """Trains one run.

    Args:
        run: The run.
        step: Does its iterations.
        interruption: Notes requests to stop.
        started: From when its minutes count, as time.perf_counter has it.
        occupation: Its hold on out_dir; None where it is only evaluated.
        given: How the settings were given; None: by a program.
        clock: Returns seconds, as time.perf_counter does.

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
        given: Given | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.run, self.state, self.step = run, run.state, step
        self.world = run.world
        self.agreed = Votes()
        self.clock = clock
        self.checkpointer = Checkpointer(run, clock=clock, warn=self.warn)
        recorded = self.world.is_main and not run.settings.eval_only
        self.metrics = MetricsLog(run.out_dir / METRICS if recorded else None)
        self.memorization = self.open_memorization()
        self.pace = Pace(run, started, clock=clock)
        if self.memorization is not None:
            self.pace.expect_trace(self.memorization.predicted_seconds)
        run.state.start_seconds += max(0.0, clock() - started)
        self.take_over = TakeOver(run, step, self.pace)
        self.length_said = self.length_recorded = run.settings.max_iters
        machine = run.machine
        own_peak = peak(machine.device, machine.dtype, machine.allowance) if self.world.is_main else None
        self.peak = self.world.broadcast(own_peak)
        self.interruption = interruption
        self.occupation = occupation
        self.given = given or Given(run.settings)
        self.started = clock() - run.state.seconds
        self.shift = None if run.settings.eval_only else describe_shift(run.mixture)
        self.flops_per_token = training_flops_per_token(run.model.config, run.model.parameter_count(positions=False))

    def open_memorization(self) -> Memorization | None:
        """Open what looks for copies in samples, where that is asked for; on rank 0, which alone writes."""
        settings = self.run.settings
        if settings.eval_only or not settings.trace_samples:
            return None
        with self.world.agreement(), self.world.main_first("index the text"):
            return open_memorization(self.run, self.warn) if self.world.is_main else None

    @property
    def flops_per_iteration(self) -> float:
        """Operations of an iteration, those of its teachers included."""
        teachers = self.run.teachers
        return self.settings.tokens_per_iteration * (
            self.flops_per_token + (teachers.flops_per_token() if teachers else 0)
        )

    @property
    def settings(self) -> ResolvedSettings:
        """The run's settings, whose length follows the clock where it has minutes."""
        return self.run.settings

    def run_to_the_end(self) -> bool:
        """Train, or only evaluate where the settings say so; return whether the run has reached its end.

        Raises:
            WrongSizeError: It should begin again with another size.
        """
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
            if self.world.is_main:
                record_session(self.run, self.given)
            loggers = self.open_loggers() if self.world.is_main else []
        with self.metrics.shared_with(loggers), self.failure_recorded():
            if self.shift is not None:
                (console.warn if self.run.resumed else self.warn)(self.shift)  # whose record has it already
            if self.run.resumed:
                self.go_on_for_minutes()
            if self.state.iteration >= self.settings.max_iters > 0:
                longer = "--max_iters" if settings.minutes is None else "--minutes"
                console.say(f"all {self.state.iteration} iterations are done; to train longer, raise {longer}")
            if not self.train():
                return False
        with self.world.agreement():
            self.checkpointer.require_saved()
        self.say_memory()
        return True

    @contextmanager
    def failure_recorded(self) -> Iterator[None]:
        """Record an error that ends the run, for those who look at it later; an interruption is none."""
        try:
            yield
        except WrongSizeError:
            raise
        except Exception as error:
            with suppress(Exception):  # also if another process has taken the folder since
                if raised() is None and (self.occupation is None or not self.occupation.is_lost()):
                    self.note("failed", str(error) or type(error).__name__)
            raise

    def warn(self, message: str) -> None:
        """Warn the user, and record that."""
        console.warn(message)
        self.note("warning", message)

    def note(self, kind: str, message: str) -> None:
        """Add a row with a message."""
        text = " ".join(message.split())[:RECORDED_MESSAGE]
        self.metrics.keep(kind, iter=self.state.iteration, text=text, seconds=self.clock() - self.started)

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
            shift = self.shift is not None
            return finish(self.run, self.pace, self.memorization, started=self.started, shift=shift)

    def train(self) -> bool:
        """Train until max_iters, or until patience ends; return False where the run was interrupted before."""
        with ExitStack() as signals:
            signals.callback(self.take_over.close)
            while True:
                try:
                    taken_over = self.let_compiled_code_take_over()
                    agreed = self.agreed if self.world.size > 1 else self.vote()
                    evaluating = evaluation_is_due(self.state, self.settings)
                    saving = taken_over or self.checkpointer.is_due(agreed.save)
                    sampling = sample_is_due(self.state, self.settings)
                    if evaluating or saving or sampling or agreed.stop or self.line_is_due():
                        self.keep_folder()
                        self.record_length()
                        self.step.synchronize()
                    if evaluating:
                        before = self.clock()
                        self.evaluate_and_save()
                        self.pace.count_pause(self.clock() - before)
                    elif saving:
                        self.save()
                    if sampling and self.world.is_main:
                        self.write_sample()
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
                    reason = roll_back(self.run, self.step, error)
                    self.begin_record()
                    self.note("warning", f"back to iter {self.state.iteration}: {reason}")

    def let_compiled_code_take_over(self) -> bool:
        """Return whether compiled code takes over now; that is recorded, and to be saved before the next iteration."""
        speedup = self.take_over.look()
        if speedup is None:
            return False
        state = self.state
        state.seconds = self.clock() - self.started
        self.metrics.write("compiled", iter=state.iteration, speedup=speedup, seconds=state.seconds)
        self.record_settings()
        return True

    @property
    def recorded_settings(self) -> ResolvedSettings:
        """The run's settings with what has become of `compile`."""
        compiled = "auto" if self.take_over.is_open else self.step.compiled
        return self.settings.model_copy(update={"compile": compiled})

    def vote(self) -> Votes:
        """Return what this rank asks for: a signal may reach any of them, and the clock is that of rank 0."""
        main = self.world.is_main
        return Votes(
            stop=self.interruption.requested,
            save=main and self.checkpointer.time_is_up(),
            retime=main and self.world.size > 1 and self.pace.is_off(),
        )

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
            WrongSizeError: Another size fits better.
        """
        if begins_model(self.run):
            begin_model(self.run, self.step)
        state, settings = self.state, self.settings
        if is_left_out(state.iteration, state):
            console.say(f"iter {state.iteration + 1}: left out, its batch was not finite before")
            state.iteration += 1
            return
        before = self.clock()
        lr = learning_rate(state.iteration, settings) * lr_multiplier(state.iteration, state, settings)
        result = self.step(state.iteration, lr, self.vote() if self.world.size > 1 else None)
        self.agreed = result.votes
        state.iteration += 1
        state.tokens += settings.tokens_per_iteration
        if self.line_is_due():
            self.step.synchronize()
            float(result.loss)  # which waits for the device
        now = self.clock()
        state.train_seconds += now - before
        state.seconds = now - self.started
        self.pace.count(now - before, waited=self.line_is_due() or not settings.cuda_graph)
        self.check_size()
        self.follow_the_clock()
        if self.line_is_due():
            self.log(float(result.loss), lr, float(result.grad_norm))

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

    def check_size(self) -> None:
        """Look once, when the first iterations tell the speed, whether the model has the right size for it.

        Raises:
            WrongSizeError: It has not.
        """
        is_wrong = self.run.is_of_wrong_size
        if is_wrong is None or (told := self.pace.speed_and_rest()) is None:
            return
        self.run.is_of_wrong_size = None
        each, left = told
        rate = self.settings.tokens_per_iteration * self.flops_per_token / each
        if is_wrong(rate * left):
            raise WrongSizeError(rate)

    def follow_the_clock(self) -> None:
        """Let the length of a run that has minutes follow its speed: whenever it is off, as all ranks know then."""
        if self.settings.minutes is None:
            return
        if self.pace.is_off() if self.world.size == 1 else self.agreed.retime or self.line_is_due():
            self.fit_into_minutes()
        length = self.settings.max_iters
        if self.line_is_due() and abs(length - self.length_said) > self.length_said * WORTH_SAYING:
            console.say(f"{length:,} iterations instead of {self.length_said:,} fit into {self.settings.minutes:g} min")
            self.length_said = length

    def fit_into_minutes(self) -> None:
        """Let a run be as long as fits into its minutes."""
        fitting = self.pace.fitting_iterations(), self.pace.fitting_interval()
        iterations, eval_interval = self.world.broadcast(fitting if self.world.is_main else None)
        if iterations is None:
            return
        self.run.change_length(iterations, eval_interval)
        if teach_if_last(self.run):
            self.step.teach(self.run.teachers, self.state)

    def go_on_for_minutes(self) -> None:
        """Let a resumed run be as long as fits into what is left of its minutes; one that has ended, if it has more."""
        before, settings = self.state.settings.get("minutes"), self.settings
        if settings.minutes is not None and (self.state.iteration < settings.max_iters or before != settings.minutes):
            self.fit_into_minutes()

    def record_length(self) -> None:
        """Write config.toml where the length has changed."""
        if self.settings.max_iters != self.length_recorded:
            self.record_settings()
            self.length_recorded = self.settings.max_iters

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
        before = self.clock()
        losses = evaluate_splits(run, self.stop_evaluating)
        self.pace.count_evaluation(self.clock() - before)
        state.seconds = self.clock() - self.started
        with self.world.agreement():
            check_loss(losses.val, state.iteration, settings)
        per_byte = losses.val_bits_per_byte
        say = console.outcome if settings.eval_only else console.say
        say(
            f"evaluation at iter {state.iteration}: {describe_losses(losses, run)}",
            style="green" if is_best(losses, state) else "red",
        )
        found = None if self.memorization is None else self.memorization.look(self.pace)
        self.metrics.write(
            "eval",
            iter=state.iteration,
            train_loss=losses.train,
            val_loss=losses.val,
            **({} if per_byte is None else {"val_bits_per_byte": per_byte}),
            **{f"val_loss_{name}": loss for name, loss in losses.val_of.items()},
            **({} if losses.replay is None else {"replay_loss": losses.replay}),
            **({} if found is None else found.row),
            tokens=state.tokens,
            seconds=state.seconds,
        )
        return losses

    def write_sample(self) -> None:
        """Let the model write, show the beginning of it, and record all."""
        before, iteration = self.clock(), self.state.iteration
        sample = draw_sample(self.run)
        self.pace.count_sample(self.clock() - before)
        console.say(f"sample at iter {iteration}:\n{shown(sample.text)}")
        prompt, seed = sample.prompt[-RECORDED_PROMPT:], self.settings.seed
        seconds = self.clock() - self.started
        self.metrics.keep("sample", iter=iteration, text=sample.text, prompt=prompt, seed=seed, seconds=seconds)

    def warn_of_overfitting(self, losses: Losses) -> None:
        """Say once that the model overfits; not before it has read the whole text."""
        state, run = self.state, self.run
        began = self.settings.began_at(state.iteration)
        passes = (state.iteration - began) * self.settings.tokens_per_iteration / run.mixture.train_tokens
        if state.overfitting_said or passes < 1 or (state.best_iteration or 0) < began:
            return
        before = [loss for _, loss in curve(read_metrics(run.out_dir / METRICS), "eval", "val_loss")]
        if warning := overfitting(losses, state, before):
            self.warn(warning)
            state.overfitting_said = True

    def save(self, *, best: bool = False) -> bool:
        """Write a checkpoint; return whether the disk took it."""
        state = self.state
        state.seconds = self.clock() - self.started
        state.settings = self.recorded_settings.model_dump(mode="json")
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
            record_settings(self.recorded_settings)

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
