"""The end of a run: score its best checkpoint, write summary.json, say what to try next."""

from __future__ import annotations

import math
import time

from quillgpt import console
from quillgpt.checkpoint import load_model
from quillgpt.device import peak_memory_bytes
from quillgpt.errors import join_names
from quillgpt.evaluation import mixed_bits_per_byte, score_split, spell_perplexity
from quillgpt.files import write_json
from quillgpt.plots.record import METRICS
from quillgpt.training.record.report import RunSummary, show_chart
from quillgpt.training.run import Run
from quillgpt.training.validation import has_improved, without_improvement


def finish(run: Run, *, started: float, shift: bool) -> RunSummary:
    """Score the best checkpoint on the whole validation split, write summary.json, and say what to try next.

    Args:
        run: The run, saved.
        started: When it began, pauses between sessions left out, as time.perf_counter has it.
        shift: The validation text is of another kind than the training text.
    """
    state, settings = run.state, run.settings
    best = load_model(run.out_dir, attn_path=str(settings.attn_path))
    mixture = run.mixture
    batches = [
        math.ceil((len(dataset.val) - 1) // settings.block_size / settings.batch_size) for dataset in mixture.datasets
    ]
    with console.progress("evaluating the best checkpoint", sum(batches)) as advance:
        scores = [
            score_split(
                best.model.to(run.machine.device),
                best.tokenizer,
                dataset.val,
                batch_size=settings.batch_size,
                dtype=run.machine.dtype,
                advance=advance,
            )
            for dataset in mixture.datasets
        ]
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
        val_loss_full=loss,
        val_losses_full=val_of or None,
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
    write_json(
        run.out_dir / "summary.json", summary.model_dump(exclude={"val_losses_full"} if mixture.is_single else None)
    )
    show_chart(run.out_dir / METRICS)
    bits = "" if per_byte is None else f", {per_byte:.3f} bits per byte"
    splits = "val split" if mixture.is_single else f"val splits of {join_names(names, len(names))}"
    each = "" if mixture.is_single else f" ({', '.join(f'{name} {value:.4f}' for name, value in val_of.items())})"
    console.outcome(
        f"done in {console.clock_time(summary.wall_seconds)}: the best checkpoint is iter {summary.best_iter}"
        f"{'' if summary.best_iter else ', the start'}; "
        f"on the whole {splits} its loss is {loss:.4f}{each}, perplexity {spell_perplexity(loss)}{bits}",
        style="bold",
    )
    if not summary.improved:
        console.warn(without_improvement(state, settings, shift=shift))
    console.say(f"try: quill sample {run.out_dir}")
    return summary
