"""The end of a run: score its best checkpoint, write summary.json, say what to try next."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

from quillgpt import console
from quillgpt.checkpoint import LoadedModel, load_model
from quillgpt.data.mixture import Mixture
from quillgpt.device import peak_memory_bytes
from quillgpt.errors import join_names
from quillgpt.evaluation import Score, Windows, joined, mixed_bits_per_byte, score_windows, spell_perplexity
from quillgpt.files import write_json
from quillgpt.report.page import write_report
from quillgpt.run_files import METRICS, REPORT, SUMMARY
from quillgpt.training.memorization import Memorization
from quillgpt.training.pace import Pace
from quillgpt.training.record.report import RunSummary, show_chart
from quillgpt.training.run import Run
from quillgpt.training.validation import has_improved, without_improvement

OPTIONAL = (
    *("val_losses_full", "val_loss_part", "val_part", "val_standard_error"),
    *("copied_share", "expected_copied_share"),
)
"""What is in summary.json only where it is known."""


def finish(
    run: Run, pace: Pace, memorization: Memorization | None = None, *, started: float, shift: bool
) -> RunSummary:
    """Score the best checkpoint on the whole validation split, write summary.json, and say what to try next.

    Where the minutes have no room for the whole split, a part from all over it is scored, and that is said.

    Args:
        run: The run, saved.
        pace: Knows how much time is left.
        memorization: Looks for copies in what the best checkpoint writes; None: that is not asked for.
        started: When it began, pauses between sessions left out, as time.perf_counter has it.
        shift: The validation text is of another kind than the training text.
    """
    state, settings = run.state, run.settings
    best = load_model(run.out_dir, attn_path=str(settings.attn_path))
    best.model.loss_in_parts = state.loss_in_parts
    mixture = run.mixture
    copying = None
    if memorization is not None:
        copying = memorization.of_best(best.model.to(run.machine.device), pace)
    scores, share = score_in_parts(run, best, pace)
    loss = mixture.mean([score.loss for score in scores])
    per_byte = mixed_bits_per_byte(
        [score.loss for score in scores], [score.bits_per_byte for score in scores], mixture.shares
    )
    names = [] if mixture.is_single else [dataset.name for dataset in mixture.datasets]
    val_of = {name: score.loss for name, score in zip(names, scores, strict=False)}
    assert state.best_val_loss is not None
    assert state.best_iteration is not None
    summary = RunSummary(
        best_val_loss=state.best_val_loss,
        best_iter=state.best_iteration,
        start_val_loss=state.start_val_loss,
        improved=has_improved(state),
        val_loss_full=loss if share == 1 else None,
        val_losses_full=val_of if val_of and share == 1 else None,
        val_loss_part=None if share == 1 else loss,
        val_part=None if share == 1 else share,
        val_standard_error=standard_error_of(scores, mixture),
        copied_share=None if copying is None else copying.copied,
        expected_copied_share=None if copying is None else copying.expected,
        iterations=state.iteration,
        tokens=state.tokens,
        train_seconds=state.train_seconds,
        wall_seconds=time.perf_counter() - started,
        saving_seconds=state.saving_seconds,
        left_out=[rollback.iteration + 1 for rollback in state.rollbacks],
        overflows=state.overflows,
        parameters=run.model.parameter_count(),
        peak_memory_bytes=peak_memory_bytes(run.machine.device),
    )
    absent = {name for name in OPTIONAL if getattr(summary, name) is None}
    write_json(run.out_dir / SUMMARY, summary.model_dump(exclude=absent))
    show_chart(run.out_dir / METRICS)
    if settings.report:
        report_of_run(run.out_dir)
    bits = "" if per_byte is None else f", {per_byte:.3f} bits per byte"
    splits = "val split" if mixture.is_single else f"val splits of {join_names(names, len(names))}"
    each = "" if mixture.is_single else f" ({', '.join(f'{name} {value:.4f}' for name, value in val_of.items())})"
    part = "the whole" if share == 1 else f"{share:.1%} of the"
    console.outcome(
        f"done in {console.clock_time(summary.wall_seconds)}: the best checkpoint is iter {summary.best_iter}"
        f"{'' if summary.best_iter else ', the start'}; "
        f"on {part} {splits} its loss is {loss:.4f}{each}, perplexity {spell_perplexity(loss)}{bits}",
        style="bold",
    )
    if copying is not None:
        console.outcome(copying.sentence("it" if summary.best_iter == state.iteration else "the best checkpoint"))
    if share < 1:
        console.say(f"the {settings.minutes:g} min had no room for the whole split; quill eval {run.out_dir} scores it")
    if not summary.improved:
        console.warn(without_improvement(state, settings, shift=shift))
    console.say(f"try: quill sample {run.out_dir}")
    return summary


def standard_error_of(scores: Sequence[Score], mixture: Mixture) -> float | None:
    """Return the standard error of the mean loss on several texts, which are independent of each other."""
    errors = [score.estimate.standard_error for score in scores]
    known = [share * error for share, error in zip(mixture.shares, errors, strict=True) if error is not None]
    return math.hypot(*known) if len(known) == len(errors) else None


def report_of_run(out_dir: Path) -> None:
    """Write a run's report.html; a run that is finished does not fail by it."""
    try:
        write_report({out_dir.resolve().name: out_dir}, out_dir / REPORT)
        console.say(f"all of it on one page: {out_dir / REPORT}")
    except Exception as error:
        told = " ".join(str(error).split()) or type(error).__name__
        console.warn(f"{out_dir / REPORT} was not written: {told}; to try again: quill report {out_dir}")


def score_in_parts(run: Run, best: LoadedModel, pace: Pace) -> tuple[list[Score], float]:
    """Score a model on the validation splits, part after part while there is time.

    Each part has blocks from all over the splits.

    Returns:
        The score on each split, and the share of their blocks that was scored.
    """
    settings, datasets = run.settings, run.mixture.datasets
    windows = [Windows(len(dataset.val), best.model.config.block_size) for dataset in datasets]
    for window in windows:
        window.check()
    parts = max(1, min(pace.parts_of_last_evaluation(), *map(len, windows)))
    model = best.model.to(run.machine.device)
    scores: list[list[Score]] = [[] for _ in datasets]
    taken = [window.in_parts(parts) for window in windows]
    batches = sum(part.batch_count(settings.batch_size) for parts_of_one in taken for part in parts_of_one)
    with console.progress("evaluating the best checkpoint", batches) as advance:
        for number in range(parts):
            if number and not pace.has_time_for_a_part():
                break
            for dataset, parts_of_one, own in zip(datasets, taken, scores, strict=True):
                own.append(
                    score_windows(
                        model,
                        best.tokenizer,
                        dataset.val,
                        parts_of_one[number],
                        batch_size=settings.batch_size,
                        dtype=run.machine.dtype,
                        advance=advance,
                    )
                )
    tokens = sum(score.tokens for own in scores for score in own)
    share = tokens / sum(window.target_count for window in windows)
    return [joined(own) for own in scores], share
