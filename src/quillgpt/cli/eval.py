"""`quill eval`."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import asdict
from typing import Annotated

from quillgpt.cli.flags import JSON_FLAG, MODEL, settings_flags
from quillgpt.config import EvalSettings, resolve_flat
from quillgpt.console import warn
from quillgpt.errors import ConfigError

SPLITS = {"both": ("train", "val"), "val": ("val",), "train": ("train",)}


@settings_flags(EvalSettings)
def evaluate(
    model: Annotated[str, MODEL],
    /,
    *,
    as_json: Annotated[bool, JSON_FLAG] = False,
    **flags: str,
) -> None:
    """Measure a model on data sets: loss, perplexity, bits per byte."""
    settings = resolve_flat(EvalSettings, flags)

    from quillgpt.api import load
    from quillgpt.evaluation import published_losses, spell_perplexity

    loaded = load(
        model,
        device=settings.device,
        dtype=settings.dtype,
        threads=settings.threads,
        data_dir=settings.data_dir,
        quantize=settings.quantize,
        attn_type=settings.attn_type,
        **settings.kernel_options,
    )
    if settings.attn_type is not None or settings.kernel_options:
        warn(f"attention is computed by {loaded.config.kernel}, whatever the model was trained with")
    datasets = [name.strip() for name in (settings.dataset or "").split(",") if name.strip()]
    if settings.dataset is None:
        datasets = list(loaded.recorded_datasets)
    if not datasets:
        raise ConfigError("eval needs a data set: --dataset NAME, or several separated by commas")
    opened = [(name, loaded.open_dataset(name, data_dir=settings.data_dir)) for name in datasets]
    for (name, dataset), split in itertools.product(opened, SPLITS[settings.split]):
        batches = settings.eval_iters if settings.split == "both" and split == "train" else None
        score = loaded.evaluate(
            dataset,
            split=split,
            data_dir=settings.data_dir,
            batch_size=settings.batch_size,
            block_size=settings.block_size,
            batches=batches,
        )
        if not math.isfinite(score.loss):
            warn(
                f"the loss on {name} {split} is {score.loss}: the model overflows on this text. If its attention "
                "kernel is a polynomial, quill lab ranges shows the range of its arguments"
            )
        if as_json:
            row = {"model": str(loaded.folder), "dataset": name, "split": split, "batches": batches}
            print(json.dumps(row | asdict(score)))
            continue
        scope = "" if batches is None else f" in {batches} batches"
        if score.block_size is not None:
            scope += f", blocks of {score.block_size:,}"
        bits = "" if score.bits_per_byte is None else f", {score.bits_per_byte:.4f} bits per byte"
        published = published_losses(model, name) if score.block_size is None else None
        compared = "" if published is None else f"; published: {getattr(published, split):.2f}"
        perplexity = spell_perplexity(score.loss, 4)
        print(
            f"{name} {split}: loss {score.loss:.4f} nats per token, perplexity {perplexity}{bits}, "
            f"{score.tokens:,} tokens{scope}{compared}",
            flush=True,
        )
