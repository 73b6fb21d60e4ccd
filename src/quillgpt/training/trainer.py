"""The training loop: evaluate, save, step, log; stop at the end or when asked to."""

from __future__ import annotations

import math
import time
from contextlib import ExitStack, nullcontext
from pathlib import Path

from quillgpt import console
from quillgpt.checkpoint.names import has_checkpoint
from quillgpt.config import Given
from quillgpt.config.runs import how_to_go_on
from quillgpt.config.schema import TrainSettings
from quillgpt.data.distribution_shift import describe_shift
from quillgpt.device import peak
from quillgpt.errors import UserError
from quillgpt.model.cost import training_flops_per_token
from quillgpt.optim.schedule import learning_rate
from quillgpt.plots.record import METRICS, curve, read_metrics
from quillgpt.stopping import activity
from quillgpt.training.finish import finish
from quillgpt.training.interruption import NOTHING_LOST, Interrupted, Interruption
from quillgpt.training.metrics import MetricsLog, clock_time
from quillgpt.training.occupation import Occupation, occupied
from quillgpt.training.origin import apart_from_parent
from quillgpt.training.pace import Pace
from quillgpt.training.place import begin_record, check_place, claim_folder, earlier_run_kept, record_settings
from quillgpt.training.report import RunSummary, say_perplexity, show_set_up
from quillgpt.training.rollback import is_left_out, rate_factor, recover
from quillgpt.training.saving import Saving, check_loss
from quillgpt.training.setup import Run, set_up
from quillgpt.training.sinks import open_sinks
from quillgpt.training.step import NonFiniteError
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
        What the run came to; None where it was only evaluated, or interrupted.

    Raises:
        UserError: A setting, the data or a checkpoint does not allow it, or another process trains in out_dir.
    """
    started = time.perf_counter() if started is None else started
    given = given or Given(settings)
    settings = apart_from_parent(settings)
    check_place(settings)
    with (
        nullcontext() if settings.eval_only else occupied(Path(settings.out_dir)) as occupation,
        earlier_run_kept(settings),
        activity("" if settings.eval_only else NOTHING_LOST[settings.init_from == "resume"]),
    ):
        run = set_up(settings)
        trainer = Trainer(run, interruption or Interruption(), started, occupation)
        show_set_up(run, trainer.peak, given)
        return trainer.train()


class Trainer:
    """Trains one run.

    Args:
        run: What `set_up` made.
        interruption: Notes requests to stop.
        started: From when its minutes count.
        occupation: Its hold on out_dir; None where it is only evaluated.

    Attributes:
        peak: The rate that MFU is a share of.
    """

    def __init__(self, run: Run, interruption: Interruption, started: float, occupation: Occupation | None) -> None:
        self._run = run
        self._metrics = MetricsLog(None if self._settings.eval_only else run.out_dir / METRICS)
        self._started = time.perf_counter() - run.state.seconds
        self.peak = peak(run.machine.device, run.machine.dtype)
        parameters = run.model.parameter_count(positions=False)
        self._flops_per_iteration = self._settings.tokens_per_iteration * training_flops_per_token(
            run.model.config, parameters
        )
        self._saving = Saving(run)
        self._interruption = interruption
        self._pace = Pace(run, started)
        self._other_kind = None if self._settings.eval_only else describe_shift(run.dataset)
        self._iterating = False
        self._occupation = occupation

    @property
    def _settings(self) -> TrainSettings:
        """The run's settings, whose length follows the clock where it has minutes."""
        return self._run.settings

    def train(self) -> RunSummary | None:
        """Run until max_iters, or until interrupted at a step's boundary."""
        state, settings = self._run.state, self._settings
        if settings.eval_only:
            losses = self._evaluate()
            say_perplexity(settings, train=losses.train, val=losses.val)
            return None
        claim_folder(settings, anew=not self._run.resumed)
        self._begin_record()
        with self._metrics.shared_with(open_sinks(settings, iteration=state.iteration if self._run.resumed else None)):
            return self._train_and_finish()

    def _train_and_finish(self) -> RunSummary | None:
        state = self._run.state
        if self._other_kind is not None:
            console.warn(self._other_kind)
        if state.iteration >= self._settings.max_iters > 0:
            console.say(f"all {state.iteration} iterations are done; to train longer, raise --max_iters")
        with ExitStack() as heeding:
            while True:
                state, settings = self._run.state, self._settings  # others after a rollback or a change of length
                last = state.iteration >= settings.max_iters
                evaluating = last or state.iteration % settings.eval_interval == 0
                saving = self._saving.is_due()
                if evaluating or saving or self._interruption.requested or state.iteration % settings.log_interval == 0:
                    self._keep_folder()
                if (evaluating or saving or self._interruption.requested) and not self._settle():
                    continue
                if evaluating:
                    self._evaluate_and_save()
                elif saving:
                    self._save()
                if self._interruption.requested:
                    self._leave()
                    return None
                if not last and out_of_patience(settings, state):
                    console.say(
                        f"stopping early: {state.evaluations_since_best} evaluations in a row were not better than "
                        f"iter {state.best_iteration}; to go on, resume with a larger --patience, or 0 for none"
                    )
                    last = True
                if last:
                    break
                self._iterate()
                if not self._iterating:  # from now on there is something to save
                    heeding.enter_context(activity(""))
                    heeding.enter_context(self._interruption)
                    self._iterating = True
        self._saving.require()
        with activity(f"after the last iteration: the run is saved; finish it with: {how_to_go_on(self._run.out_dir)}"):
            return finish(self._run, started=self._started, other_kind=self._other_kind is not None)

    def _begin_record(self) -> None:
        """Let checkpoints and metrics.jsonl be what they were at this iteration: nothing, where the run begins."""
        self._saving.claim()
        if self._run.resumed:
            state = self._run.state
            self._metrics.rewind(state.iteration, evaluated=state.evaluated_iteration == state.iteration)
        else:
            begin_record(self._run.out_dir)
        record_settings(self._settings)

    def _keep_folder(self) -> None:
        """Go on in a new folder where out_dir was removed or moved: what the model has learned is not lost yet."""
        if self._occupation is None or not self._occupation.is_lost():
            return
        state, out_dir = self._run.state, self._run.out_dir
        lost = f"{out_dir} was removed or moved while the run trains, and with it the checkpoints and the record so far"
        try:
            self._occupation.renew()
        except OSError as error:
            raise UserError(f"{lost}; it cannot be made again ({error.strerror}), so nothing can be saved") from error
        console.warn(f"{lost}; the run goes on, and saves in a new {out_dir} from now on")
        claim_folder(self._settings, anew=False)
        record_settings(self._settings)
        self._saving.forget()
        state.best_val_loss = state.best_iteration = state.best_train_loss = None
        state.evaluations_since_best = 0

    def _iterate(self) -> None:
        state, settings = self._run.state, self._settings
        if is_left_out(state.iteration, state):
            console.say(f"iter {state.iteration + 1}: left out, its batch was not finite before")
            state.iteration += 1
            return
        before = time.perf_counter()
        factor = rate_factor(state.iteration, state, settings)
        try:
            loss = self._run.step(state.iteration, factor)
        except NonFiniteError as error:
            self._recover(error)
            return
        rate = learning_rate(state.iteration, settings) * factor
        state.iteration += 1
        state.tokens += settings.tokens_per_iteration
        logged = state.iteration % settings.log_interval == 0 or state.iteration == settings.max_iters
        if logged and not self._settle():
            return
        value = float(loss) if logged else math.nan  # reading the loss waits for the device
        now = time.perf_counter()
        state.train_seconds += now - before
        state.seconds = now - self._started
        self._pace.count(now - before)
        if logged:
            self._log(value, rate)
            self._keep_to_its_minutes()

    def _settle(self) -> bool:
        """Say whether all iterations so far were finite; where one was not, recover."""
        try:
            self._run.step.settle()
        except NonFiniteError as error:
            self._recover(error)
            return False
        return True

    def _recover(self, error: NonFiniteError) -> None:
        recover(self._run, error)
        self._saving = Saving(self._run)
        self._begin_record()

    def _log(self, loss: float, rate: float) -> None:
        state, settings = self._run.state, self._settings
        per_iteration = self._pace.read()
        tokens_per_second = settings.tokens_per_iteration / per_iteration
        mfu = self._flops_per_iteration / per_iteration / self.peak.flops_per_second
        self._metrics.write(
            "train",
            iter=state.iteration,
            loss=loss,
            lr=rate,
            tokens=state.tokens,
            seconds=state.seconds,
            tokens_per_second=tokens_per_second,
            mfu=mfu,
        )
        console.say(
            f"iter {state.iteration}: loss {loss:.4f}, elapsed {clock_time(state.seconds)}, "
            f"{per_iteration * 1e3:.0f} ms/iter, {tokens_per_second:,.0f} tokens/s, mfu {mfu:.1%}, lr {rate:.2e}, "
            f"{clock_time(self._pace.remaining_seconds())} left"
        )

    def _keep_to_its_minutes(self) -> None:
        """Let the length of a run that has minutes follow its speed."""
        before, iterations = self._settings.max_iters, self._pace.fitting_iterations()
        if iterations is None:
            return
        self._run.change_length(iterations)
        record_settings(self._settings)
        if abs(iterations - before) > before * WORTH_SAYING:
            console.say(f"{iterations:,} iterations instead of {before:,} fit into {self._settings.minutes:g} min")

    def _evaluate_and_save(self) -> None:
        """Evaluate, and save `last`, and `best` where it improved; before the first step only what is finetuned."""
        state = self._run.state
        if state.evaluated_iteration == state.iteration:  # resumed right after this evaluation
            return
        try:
            losses = self._evaluate()
        except Interrupted:
            return
        state.evaluated_iteration = state.iteration
        if state.iteration == 0 < self._settings.max_iters:
            state.start_val_loss = losses.val
            if self._run.parent is None:
                return
        best_before = state.best_val_loss, state.best_iteration, state.best_train_loss, state.evaluations_since_best
        improved = take_account(losses, state)
        if not improved and self._other_kind is None:
            self._warn_of_overfitting(losses)
        if not self._save(best=improved) and improved:  # what is not on the disk cannot be the best
            state.best_val_loss, state.best_iteration, state.best_train_loss, state.evaluations_since_best = best_before

    def _warn_of_overfitting(self, losses: Losses) -> None:
        """Say once that the model overfits; not before it has read the whole text."""
        state, run = self._run.state, self._run
        passes = state.tokens / len(run.dataset.train)
        if state.overfitting_said or passes < 1:
            return
        before = [loss for _, loss in curve(read_metrics(run.out_dir / METRICS), "eval", "val_loss")]
        if said := overfitting(losses, state, before):
            console.warn(said)
            state.overfitting_said = True

    def _evaluate(self) -> Losses:
        """Print and record the loss of both splits."""
        run, state, settings = self._run, self._run.state, self._settings
        before = time.perf_counter()
        losses = evaluate_splits(run, self._check_interruption)
        self._pace.count_evaluation(time.perf_counter() - before)
        state.seconds = time.perf_counter() - self._started
        check_loss(losses.val, state.iteration, settings)
        per_byte = losses.val_bits_per_byte
        say = console.outcome if settings.eval_only else console.say
        say(
            f"evaluation at iter {state.iteration}: {describe_losses(losses, run)}",
            style="green" if is_best(losses, state) else "red",
        )
        self._metrics.write(
            "eval",
            iter=state.iteration,
            train_loss=losses.train,
            val_loss=losses.val,
            **({} if per_byte is None else {"val_bits_per_byte": per_byte}),
            **({} if losses.replay is None else {"replay_loss": losses.replay}),
            tokens=state.tokens,
            seconds=state.seconds,
        )
        return losses

    def _check_interruption(self) -> None:
        if self._interruption.requested:
            raise Interrupted

    def _save(self, *, best: bool = False) -> bool:
        """Write a checkpoint, and say whether the disk took it."""
        self._run.state.seconds = time.perf_counter() - self._started
        return self._saving.save(best=best)

    def _leave(self) -> None:
        """Save and say how to go on."""
        state = self._run.state
        if state.iteration == 0 and not has_checkpoint(self._run.out_dir):
            console.outcome(f"interrupted {NOTHING_LOST[False]}")
            return
        self._save()
        self._saving.require()
        console.outcome(
            f"interrupted and saved at iter {state.iteration}; go on with: {how_to_go_on(self._run.out_dir)}"
        )
