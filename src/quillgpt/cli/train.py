"""`quill train`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from quillgpt.cli.flags import settings_flags
from quillgpt.config import resolve
from quillgpt.config.schema import TrainFields

INTERRUPTED = 130
"""Exit status of a process that Ctrl-C has ended, as shells have it."""

PRESET_HELP = (
    "A preset (quill configs lists them), a .toml file, or a .py file of nanoGPT. "
    "Without: train_gpt2, or own_text where --data is given."
)


@settings_flags(TrainFields)
def train(
    source: Annotated[str | None, Parameter(name="PRESET", help=PRESET_HELP)] = None, /, **flags: str | list[str]
) -> None:
    """Train or finetune a model."""
    settings = resolve(
        source, {name: ",".join(given) if isinstance(given, list) else given for name, given in flags.items()}
    )

    from quillgpt.training import train as train_model

    if train_model(settings) is None and not settings.eval_only:
        raise SystemExit(INTERRUPTED)
