"""`quill eval`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from quillgpt.cli.flags import JSON_FLAG, MODEL_HELP, settings_flags
from quillgpt.config import EvalSettings, resolve_eval
from quillgpt.errors import ConfigError


@settings_flags(EvalSettings)
def evaluate(
    model: Annotated[str, Parameter(name="MODEL", help=MODEL_HELP)],
    /,
    *,
    as_json: Annotated[bool, JSON_FLAG] = False,
    **flags: str,
) -> None:
    """Measure a model on whole data sets: loss, perplexity, bits per byte."""
    settings = resolve_eval(flags)
    datasets = [name.strip() for name in (settings.dataset or "").split(",") if name.strip()]
    if not datasets:
        raise ConfigError("eval needs a data set: --dataset NAME, or several separated by commas")

    from quillgpt.evaluation import evaluate_model

    evaluate_model(model, datasets, settings, as_json=as_json)
