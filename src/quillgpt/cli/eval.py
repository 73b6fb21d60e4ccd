"""`quill eval`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

from quillgpt.cli.flags import JSON_FLAG, MODEL, settings_flags
from quillgpt.config import EvalSettings, resolve_eval
from quillgpt.errors import ConfigError


@settings_flags(EvalSettings)
def evaluate(
    model: Annotated[str, MODEL],
    /,
    *,
    as_json: Annotated[bool, JSON_FLAG] = False,
    **flags: str,
) -> None:
    """Measure a model on whole data sets: loss, perplexity, bits per byte."""
    settings = resolve_eval(flags)

    from quillgpt.api import load

    loaded = load(
        model,
        device=settings.device,
        dtype=settings.dtype,
        threads=settings.threads,
        data_dir=settings.data_dir,
        quantize=settings.quantize,
    )
    given = settings.dataset or loaded.about.get("dataset", "")
    datasets = [name.strip() for name in given.split(",") if name.strip()]
    if not datasets:
        raise ConfigError("eval needs a data set: --dataset NAME, or several separated by commas")
    for name, opened in [(name, loaded.open_dataset(name, data_dir=settings.data_dir)) for name in datasets]:
        score = loaded.evaluate(
            opened, split=settings.split, data_dir=settings.data_dir, batch_size=settings.batch_size
        )
        if as_json:
            print(json.dumps({"model": str(loaded.folder), "dataset": name, "split": settings.split, **asdict(score)}))
            continue
        bits = "" if score.bits_per_byte is None else f", {score.bits_per_byte:.4f} bits per byte"
        print(
            f"{name} {settings.split}: loss {score.loss:.4f} nats per token, perplexity {score.perplexity:.4f}{bits}, "
            f"{score.tokens:,} tokens",
            flush=True,
        )
