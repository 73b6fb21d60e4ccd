"""Converting a trained model to another attention kernel, with the loss after each stage."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from quillgpt.attention import KernelSpec
from quillgpt.checkpoint import load_model, save_model
from quillgpt.config.schema import TrainSettings
from quillgpt.console import progress, say
from quillgpt.data.batches import Source, TrainingBatches
from quillgpt.device import to_device
from quillgpt.errors import UserError
from quillgpt.lab.calibrate import calibrate
from quillgpt.lab.matching import match_layers
from quillgpt.lab.model_and_text import ModelAndText
from quillgpt.lab.variants import with_kernel
from quillgpt.ownership import check_ours, claim_as_written, files_below
from quillgpt.tables import ResultTable
from quillgpt.training import train

START = "start"
"""Folder of the model that finetuning starts from; the result, if there is no finetuning."""

MATCHING_RATE = 1e-3


@dataclass(frozen=True)
class Stage:
    """The result of one stage of a conversion.

    Attributes:
        name: What was done.
        loss: On the blocks of the text, or, after finetuning, of the run's best checkpoint; nats per token.
        tokens: Tokens read so far, for calibration and training together.
        folder: The folder of the model; None if it was not kept.
    """

    name: str
    loss: float
    tokens: int
    folder: Path | None = None


def target_kernel(requested: KernelSpec) -> KernelSpec:
    """Return the kernel to convert to: the requested one with a learned gain and, for kernels of distance, tau."""
    return replace(requested, learn_gain=True, learn_tau=requested.of_distance)


def conversion_stages(
    opened: ModelAndText,
    kernel: KernelSpec,
    folder: Path,
    *,
    calibrated: bool,
    match_iters: int,
    finetuning: TrainSettings | None,
) -> Iterator[Stage]:
    """Convert a model stage by stage, and yield the result of each.

    Args:
        opened: The model, and the held-out blocks to measure it on.
        kernel: The kernel to convert to.
        folder: The folder for the results.
        calibrated: Whether to fit gains and taus to the output of the original attention.
        match_iters: Iterations that train each layer's attention to return the original output; 0 for none.
        finetuning: The settings of the finetuning run, except init_from; None for no finetuning.

    Raises:
        UserError: Matching overflows, or finetuning is interrupted.
    """
    check_ours(folder, files_below(folder, START), remedy="give another --out")
    teacher, train_tokens = opened.gpt, opened.dataset.train
    yield Stage(f"{teacher.config.kernel}, as it was trained", opened.score(teacher).loss, 0)
    student = copy.deepcopy(with_kernel(teacher, kernel))
    yield Stage(f"swapped for {kernel.attn_type}", opened.score(student).loss, 0)
    block_size, tokens_read = teacher.config.block_size, 0
    batches = TrainingBatches([Source(train_tokens)], block_size=block_size, batch_size=opened.batch_size, seed=0)

    def batch(number: int) -> Tensor:
        return to_device(batches.batch(number)[0], opened.model.device)

    if calibrated:
        calibrate(student, teacher, [batch(0)])
        tokens_read += opened.batch_size * block_size
        yield Stage(
            f"gains{' and taus' if kernel.learn_tau else ''} calibrated", opened.score(student).loss, tokens_read
        )
    if match_iters:
        with progress("matching layers", match_iters) as advance:
            losses = match_layers(
                student, teacher, batch, iterations=match_iters, learning_rate=MATCHING_RATE, advance=advance
            )
        say(f"mismatch of the layers' attention: {losses[0]:.4f} at the start, {losses[-1]:.4f} at the end")
        tokens_read += match_iters * opened.batch_size * block_size
        yield Stage(f"layers matched, {match_iters} iterations", opened.score(student).loss, tokens_read)
    start = folder / START
    about = {name: value for name, value in opened.model.about.items() if name != "bias"}
    save_model(start, student, opened.model.tokenizer, about=about)
    claim_as_written(folder, files_below(folder, START))
    if finetuning is None:
        return
    summary = train(finetuning.model_copy(update={"init_from": str(start)}))
    if summary is None:
        raise UserError(f"finetuning was interrupted; the stages so far are in {folder}")
    run = Path(finetuning.out_dir)
    tuned = load_model(run).model.to(opened.model.device)
    how = f"adapters of rank {finetuning.lora_rank}" if finetuning.lora_rank else "all weights"
    yield Stage(
        f"finetuned ({how}), best at {summary.best_iter} of {summary.iterations}",
        opened.score(tuned).loss,
        tokens_read + summary.tokens,
        run,
    )


def stage_table(title: str, stages: list[Stage]) -> ResultTable:
    """Return a row for each stage."""
    formats = {"stage": "s", "loss": ".4f", "lost": "+.4f", "tokens": ",d"}
    rows = [
        {"stage": stage.name, "loss": stage.loss, "lost": stage.loss - stages[0].loss, "tokens": stage.tokens}
        for stage in stages
    ]
    return ResultTable(title, formats, rows)
