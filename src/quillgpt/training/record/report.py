"""What a run reports: its set-up before, its summary after."""

from __future__ import annotations

import math
from pathlib import Path

from pydantic import ConfigDict

from quillgpt import console
from quillgpt.config import Given, settings_by_place, to_toml
from quillgpt.config.schema import TrainSettings
from quillgpt.device import Peak
from quillgpt.evaluation import published_losses, spell_perplexity
from quillgpt.optim.groups import count_values, group_parameters
from quillgpt.plots.chart import loss_chart
from quillgpt.plots.record import read_metrics
from quillgpt.records import Record
from quillgpt.training.run import Run


class RunSummary(Record):
    """The result of a run; the content of summary.json.

    Attributes:
        best_val_loss: Lowest validation loss of an evaluation, nats per token.
        best_iter: The iteration that had it; 0: the start of a finetuned model was better than all that came of it.
        start_val_loss: Validation loss before the first step; None where it was not measured.
        improved: Whether training has made the model better than at its start.
        val_loss_full: Loss of the best checkpoint over the whole validation split, in non-overlapping blocks; None
            where the minutes had no room for it.
        val_losses_full: The same for each data set of a mixture; None, and not in the file, without one.
        val_loss_part: Its loss over a part of the split, from all over it, where there was no room for the whole; else
            None, and not in the file.
        val_part: That part, as a share of the split.
        val_standard_error: The standard error of that loss; None, and not in the file, where it is not known.
        copied_share: With `trace_samples`: the share of what the best checkpoint writes that is copied from its text,
            0 to 1; else None, and not in the file.
        expected_copied_share: The same of held-out text.
        iterations: Optimizer steps done.
        tokens: Target tokens trained on.
        train_seconds: Time in training steps.
        wall_seconds: Time since the start of training, evaluations and saves included, pauses left out.
        saving_seconds: Time in saves.
        left_out: Iterations that were left out because they were not finite.
        overflows: Updates that float16's gradient scaler left out.
        parameters: Values in the model.
        peak_memory_bytes: Most memory that the last session held at one time; see `device.peak_memory_bytes`.
    """

    model_config = ConfigDict(allow_inf_nan=True)

    best_val_loss: float
    best_iter: int
    start_val_loss: float | None = None
    improved: bool = True
    val_loss_full: float | None
    val_losses_full: dict[str, float] | None = None
    val_loss_part: float | None = None
    val_part: float | None = None
    val_standard_error: float | None = None
    copied_share: float | None = None
    expected_copied_share: float | None = None
    iterations: int
    tokens: int
    train_seconds: float
    wall_seconds: float
    saving_seconds: float
    left_out: list[int]
    overflows: int
    parameters: int
    peak_memory_bytes: int | None

    @property
    def val_loss(self) -> float:
        """Loss of the best checkpoint over the validation split, or over the part of it that was scored."""
        loss = self.val_loss_part if self.val_loss_full is None else self.val_loss_full
        return math.nan if loss is None else loss


def show_settings(settings: TrainSettings, given: Given, *, resumed: bool) -> None:
    """Print the settings of a run, all or those that are not the default, and where they come from."""
    if given.verbose:
        console.say(to_toml(settings).rstrip(), style="dim")
        return
    otherwise = "the run so far" if resumed else "chosen for it"
    rows = settings_by_place(settings, given, otherwise=otherwise)
    console.table("settings that are not the default (--verbose shows all)", rows)


def show_set_up(run: Run, peak: Peak, given: Given) -> None:
    """Print the settings, the machine, the data and the model of a run."""
    settings, model = run.settings, run.model
    show_settings(settings, given, resumed=run.resumed)
    groups = group_parameters(model)
    positions = model.parameter_count() - model.parameter_count(positions=False)
    counted = f"{model.parameter_count():,}" + (
        f" ({model.parameter_count(positions=False):,} without positions)" if positions else ""
    )
    trained = {}
    if settings.lora_rank:
        count = sum(parameter.numel() for parameter in groups.trained.values())
        trained = {"trained": f"{count:,}: adapters of rank {settings.lora_rank}, alpha {settings.adapter_alpha:g}"}
    console.table(
        "set-up",
        {
            "device": run.machine.description,
            "peak": f"{peak.flops_per_second / 1e12:.3g} TFLOP/s ({peak.source}); mfu is the share of it in use",
            "threads": settings.threads,
            "dtype": settings.dtype,
            "compile": "later, where that pays" if settings.compile == "auto" else settings.compile,
            "attention": f"{settings.attn_type}, {settings.attn_path}",
            **describe_data(run),
            "tokens per iteration": f"{settings.tokens_per_iteration:,} = {settings.gradient_accumulation_steps} x "
            f"{settings.batch_size} sequences x {settings.block_size} tokens",
            "computed at once": f"{settings.micro_batch_size} sequences",
            "passes over the data": describe_passes(run),
            "parameters": counted,
            **trained,
            **describe_teachers(run),
            "decayed": count_values(groups.decayed),
            "not decayed": count_values(groups.vectors),
            "optimizer": settings.optimizer,
            "start": (
                "evaluation only" if settings.eval_only else f"iteration {run.state.iteration} of {settings.max_iters}"
            )
            + (f", from {run.parent}" if run.parent else ", fresh weights"),
        },
    )


def describe_teachers(run: Run) -> dict[str, str]:
    """Return the row of the set-up that names the models that teach a run, if any do."""
    if run.teachers is None:
        return {}
    names = list(run.state.teachers)
    if own := len(run.teachers.models) - len(names):
        names.append(f"{own} that this run has trained")
    return {"teachers": f"{', '.join(names)}: {run.teachers.share:.4g} of the targets is their mean probabilities"}


def describe_data(run: Run) -> dict[str, str]:
    """Return the rows of the set-up that say what a run learns from: one for each data set."""
    mixture = run.mixture
    rows = {}
    for dataset, share in zip(mixture.datasets, mixture.shares, strict=True):
        what = f"{dataset.folder}: {len(dataset.train):,} train and {len(dataset.val):,} val tokens, "
        what += f"tokenizer {dataset.tokenizer.name} of {dataset.tokenizer.vocab_size:,}"
        if mixture.is_single:
            return {"data": what}
        rows[f"data {dataset.name}"] = f"{share:.4g} of the sequences; {what}"
    return rows


def describe_passes(run: Run) -> str:
    """Say how often a run reads its data; of a mixture, how often each data set."""
    settings, mixture = run.settings, run.mixture
    tokens = settings.model_iters * settings.tokens_per_iteration
    of_each = f" for each of {settings.models} models" if settings.models > 1 else ""
    if mixture.is_single:
        return f"{tokens / mixture.train_tokens:.1f}{of_each}"
    passes = [
        f"{dataset.name} {tokens * share * (1 - settings.replay) / len(dataset.train):.1f}"
        for dataset, share in zip(mixture.datasets, mixture.shares, strict=True)
    ]
    return ", ".join(passes) + of_each


def say_perplexity(settings: TrainSettings, *, train: float, val: float) -> None:
    """Print the perplexities of losses, and the published losses of this model on this data set, if there are any."""
    console.outcome(f"perplexity: train {spell_perplexity(train)}, val {spell_perplexity(val)}")
    published = published_losses(settings.init_from, settings.dataset)
    if published is not None:
        console.outcome(f"published: train loss {published.train:.2f}, val loss {published.val:.2f}")


def show_chart(path: Path) -> None:
    """Draw the losses of a metrics.jsonl, which holds those of earlier sessions too."""
    width = min(80, console.stderr.width)
    chart = loss_chart(read_metrics(path), width=width, encoding=console.stderr.encoding)
    if chart:
        console.say(chart)
