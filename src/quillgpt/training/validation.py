"""Evaluations during a run: how much text they take, and whether the run should go on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from quillgpt import console
from quillgpt.checkpoint import TrainingState
from quillgpt.config.schema import TrainSettings
from quillgpt.data.batches import Offsets, Tokens, block_count, spread_offsets
from quillgpt.data.dataset import Dataset
from quillgpt.distributed.fsdp import drop_gathered
from quillgpt.evaluation import bits_per_byte, mean_loss, mixed_bits_per_byte
from quillgpt.training.compilation import uncompiled
from quillgpt.training.run import Run

RISES_IN_A_ROW = 2
"""Evaluations above the best one that count as overfitting; a single one may be chance."""

NOISES = 2.0
"""Standard deviations of the noise between evaluations that a rise must exceed."""

SOON = 0.05
"""Share of a run with minutes at whose end only the last evaluation comes; half of an interval, if that is less."""

LATEST = 8
"""Evaluations that the noise is estimated from."""


@dataclass(frozen=True)
class Losses:
    """The losses of an evaluation.

    Attributes:
        train: Mean loss of the training split, nats per token.
        val: Mean loss of the validation split, nats per token.
        val_bits_per_byte: The latter in bits for each byte of text, which compares between tokenizers.
        replay: Mean loss of the validation split of the data set that is replayed; None without one.
        val_of: The validation loss of each data set of a mixture, whose weighted mean is `val`; empty without one.
    """

    train: float
    val: float
    val_bits_per_byte: float | None = None
    replay: float | None = None
    val_of: dict[str, float] = field(default_factory=dict)


def evaluated_blocks(settings: TrainSettings, split: str, val_blocks: int) -> int:
    """Return how many blocks an evaluation takes from a split.

    If patience may end the run, the whole validation split is taken, so that no lucky choice of batches decides.

    Args:
        settings: The run's.
        split: `train` or `val`.
        val_blocks: Blocks of the validation split.
    """
    if settings.eval_iters is None or (split == "val" and settings.patience):
        return val_blocks
    return settings.eval_iters * settings.batch_size


def evaluation_is_due(state: TrainingState, settings: TrainSettings) -> bool:
    """Whether a run is evaluated now, unless it just was: at its end, and every `eval_interval` iterations.

    So is each model at its end. In a run with minutes, whose interval and length follow the clock, evaluations are
    counted from the latest one, and none is due that the last one would follow soon.
    """
    if state.iteration >= settings.max_iters or (state.iteration and settings.within_model(state.iteration) == 0):
        return True
    if settings.minutes is None:
        return state.iteration % settings.eval_interval == 0
    return _next_evaluation(state, settings) <= state.iteration <= _before_the_last(settings, settings.max_iters)


def evaluations_to_come(state: TrainingState, settings: TrainSettings, end: int) -> int:
    """Return how many evaluations a run still has if it ends at iteration `end`."""
    interval = settings.eval_interval
    if settings.minutes is None:
        return 1 + max(0, (end - 1) // interval - state.iteration // interval)
    room = _before_the_last(settings, end) - _next_evaluation(state, settings)
    return 1 + max(0, 1 + math.floor(room / interval))


def _next_evaluation(state: TrainingState, settings: TrainSettings) -> int:
    """Return when a run with minutes is evaluated next, its end left out."""
    evaluated = state.evaluated_iteration
    return state.iteration if evaluated is None else max(state.iteration, evaluated + settings.eval_interval)


def _before_the_last(settings: TrainSettings, end: int) -> float:
    """Return the latest iteration at which a run with minutes that ends at `end` is evaluated before that."""
    return end - min(settings.eval_interval / 2, SOON * end)


def blocks_of_val(run: Run) -> int:
    """Return how many blocks the validation split has; of a mixture, all of them."""
    return sum(block_count(len(dataset.val), run.settings.block_size) for dataset in run.mixture.datasets)


def blocks_of_an_evaluation(run: Run) -> tuple[int, int]:
    """Return how many blocks of training and of validation splits an evaluation takes."""
    blocks = [blocks_of(dataset, run.settings) for dataset in run.mixture.datasets]
    return sum(train for train, _ in blocks), sum(val for _, val in blocks)


def blocks_of(dataset: Dataset, settings: TrainSettings) -> tuple[int, int]:
    """Return how many blocks of a data set's training and validation split an evaluation takes."""
    in_train, in_val = (block_count(len(tokens), settings.block_size) for tokens in (dataset.train, dataset.val))
    wanted = (evaluated_blocks(settings, split, in_val) for split in ("train", "val"))
    train, val = (min(count, blocks) for count, blocks in zip(wanted, (in_train, in_val), strict=True))
    return train, val


def evaluate_splits(run: Run, after_batch: Callable[[], None]) -> Losses:
    """Return the loss of a run's model on the same blocks of both splits each time.

    That of a mixture is the mean over its data sets, weighted by their shares.

    Args:
        run: The run.
        after_batch: Called after each batch; may raise to stop.
    """
    settings, mixture = run.settings, run.mixture

    def offsets_in(tokens: Tokens, blocks: int) -> Offsets:
        return spread_offsets(len(tokens), settings.block_size, blocks, settings.seed)

    def loss_of(name: str, tokens: Tokens, offsets: Offsets) -> float:
        batches = math.ceil(len(offsets) / (settings.batch_size * run.world.size))
        with console.progress(f"evaluating {name}", batches) as advance:

            def advance_and_tell() -> None:
                advance()
                after_batch()

            try:
                with uncompiled(run.evaluated_model):
                    return loss_over(run, tokens, offsets, advance_and_tell)
            finally:
                drop_gathered(run.evaluated_model)

    train, val, bits = [], [], []
    for dataset in mixture.datasets:
        train_blocks, val_blocks = blocks_of(dataset, settings)
        where = "" if mixture.is_single else f" of {dataset.name}"
        train.append(loss_of(f"train{where}", dataset.train, offsets_in(dataset.train, train_blocks)))
        offsets = offsets_in(dataset.val, val_blocks)
        val.append(loss_of(f"val{where}", dataset.val, offsets))
        bits.append(bits_per_byte(val[-1], dataset.val, offsets, settings.block_size, dataset.tokenizer))
    replay_loss = None
    if run.replayed is not None:
        blocks = block_count(len(run.replayed.val), settings.block_size)
        old = offsets_in(run.replayed.val, evaluated_blocks(settings, "val", blocks))
        replay_loss = loss_of(run.replayed.name, run.replayed.val, old)
    names = [] if mixture.is_single else [dataset.name for dataset in mixture.datasets]
    return Losses(
        train=mixture.mean(train),
        val=mixture.mean(val),
        val_bits_per_byte=mixed_bits_per_byte(val, bits, mixture.shares),
        replay=replay_loss,
        val_of=dict(zip(names, val, strict=False)),
    )


def loss_over(run: Run, tokens: Tokens, offsets: Offsets, after_batch: Callable[[], None]) -> float:
    """Return the mean loss of the evaluated model over the windows at `offsets`, which the ranks divide."""
    model, world, batch_size, dtype = run.evaluated_model, run.world, run.settings.batch_size, run.machine.dtype
    if world.size == 1:
        return mean_loss(model, tokens, offsets, batch_size=batch_size, dtype=dtype, advance=after_batch)
    share = math.ceil(len(offsets) / world.size)
    own = offsets[world.rank * share : (world.rank + 1) * share]
    total = torch.zeros((), dtype=torch.float64, device=run.machine.device)
    for first in range(0, share, batch_size):
        batch = own[first : first + batch_size]
        # A rank that has none left computes another: where the ranks share the weights, all take part in each batch.
        mean = mean_loss(model, tokens, batch if len(batch) else offsets[:1], batch_size=batch_size, dtype=dtype)
        total += mean * len(batch)
        after_batch()
    return float(world.sum(total)) / len(offsets)


def describe_losses(losses: Losses, run: Run) -> str:
    """Return an evaluation in words; with replay, also how both losses have changed since the first evaluation."""
    state = run.state
    said = f"train loss {losses.train:.4f}, val loss {losses.val:.4f}"
    if losses.val_bits_per_byte is not None:
        said += f", {losses.val_bits_per_byte:.3f} bits per byte"
    if losses.val_of:
        said += f" ({', '.join(f'{name} {loss:.4f}' for name, loss in losses.val_of.items())})"
    if losses.replay is not None:
        assert run.replayed is not None
        name, start = run.replayed.name, state.losses_at_start
        said += f", {name} loss {losses.replay:.4f}"
        if start:
            said += f"; since the start {losses.val - start['val']:+.4f} on the new text"
            said += f", {losses.replay - start['replay']:+.4f} on {name}"
        else:
            start |= {"val": losses.val, "replay": losses.replay}
    if state.best_val_loss is not None:
        said += f" (best {state.best_val_loss:.4f} at {state.best_iteration})"
    return said


def is_best(losses: Losses, state: TrainingState) -> bool:
    """Whether an evaluation is better than all before it."""
    return state.best_val_loss is None or losses.val < state.best_val_loss


def take_account(losses: Losses, state: TrainingState) -> bool:
    """Count an evaluation, remember it if it is the best so far, and return whether it is.

    An evaluation that is worse than the start may still be the best so far, but it does not reset patience.
    """
    improved = is_best(losses, state)
    state.overfitting_said = state.overfitting_said and not improved
    hopeful = state.start_val_loss is None or losses.val < state.start_val_loss or state.iteration == 0
    state.evaluations_since_best = 0 if improved and hopeful else state.evaluations_since_best + 1
    if improved:
        state.best_val_loss, state.best_iteration, state.best_train_loss = losses.val, state.iteration, losses.train
    return improved


def has_improved(state: TrainingState) -> bool:
    """Whether training has made the model better than it was at its start."""
    if state.start_val_loss is None or state.best_val_loss is None or state.iteration == 0:
        return True
    # A text of one character costs nothing from the start, and no run can better that.
    return state.best_val_loss < state.start_val_loss or state.best_val_loss == 0


def without_improvement(state: TrainingState, settings: TrainSettings, *, shift: bool) -> str:
    """Return the warning for a run that ends no better than it started.

    Args:
        state: The run's, at its end.
        settings: Its settings.
        shift: The validation text is of another kind than the training text, which has been said.
    """
    advice = (
        "a held-out text of the same kind is needed to judge it"
        if shift
        else (f"a --learning_rate below {settings.learning_rate:g}, fewer iterations or more text may help")
    )
    if state.best_iteration == 0:
        return (
            f"finetuning has made nothing better: no evaluation was below the val loss of the start, "
            f"{state.start_val_loss:.4f}. So `best` is the model that this run started from; {advice}"
        )
    return (
        f"this run has failed: its val loss was {state.start_val_loss:.4f} before the first step and never lower "
        f"after it (best {state.best_val_loss:.4f} at iter {state.best_iteration}); {advice}"
    )


def overfitting(losses: Losses, state: TrainingState, before: Sequence[float]) -> str | None:
    """Return the warning for a model that has begun to overfit; None if it has not.

    It has when the validation loss has been above the best one for a while, by more than its usual noise, and the
    training loss is below that of the best evaluation.

    Args:
        losses: The newest evaluation.
        state: With that evaluation counted.
        before: The validation losses of all evaluations so far, the newest last.
    """
    if state.evaluations_since_best < RISES_IN_A_ROW or state.best_train_loss is None:
        return None
    if losses.train >= state.best_train_loss:
        return None
    assert state.best_val_loss is not None
    if losses.val - state.best_val_loss <= NOISES * noise_of(before):
        return None
    return (
        f"overfitting: since iter {state.best_iteration} the val loss has risen from {state.best_val_loss:.4f} to "
        f"{losses.val:.4f}, while the train loss has fallen from {state.best_train_loss:.4f} to {losses.train:.4f}; "
        "the best checkpoint is kept. More text, more --dropout or a smaller model help; --patience=N ends such runs"
    )


def noise_of(losses: Sequence[float]) -> float:
    """Return the standard deviation of losses around a smooth curve, estimated from their second differences."""
    bends = np.diff(np.array(losses[-LATEST:]), n=2)
    # Second differences of independent noise have sqrt(6) times its deviation. 1.48 times the median of absolute values
    # estimates the deviation of a normal distribution.
    return float(np.median(np.abs(bends)) * 1.48 / math.sqrt(6)) if bends.size else 0.0


def out_of_patience(settings: TrainSettings, state: TrainingState) -> bool:
    """Whether the run has gone on for long enough without an improvement."""
    return bool(settings.patience) and state.evaluations_since_best >= (settings.patience or 0)
