"""`quill sample`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from quillgpt.cli.flags import JSON_FLAG, MODEL, settings_flags
from quillgpt.config import SampleSettings, resolve_flat
from quillgpt.config.schema import SPECIAL_ORIGINS
from quillgpt.console import table, warn
from quillgpt.errors import ConfigError
from quillgpt.streams import visible

if TYPE_CHECKING:
    from quillgpt.api import Model

DASHES = "-" * 15


@settings_flags(SampleSettings)
def sample(
    model: Annotated[str | None, MODEL] = None,
    /,
    *,
    as_json: Annotated[bool, JSON_FLAG] = False,
    **flags: str,
) -> None:
    """Generate text with a model, on standard output."""
    settings = resolve_flat(SampleSettings, flags)
    chosen = model_to_sample(model, flags, settings)

    from quillgpt.api import load
    from quillgpt.generation import read_start

    loaded = load(
        chosen,
        device=settings.device,
        dtype=settings.dtype,
        threads=settings.threads,
        data_dir=settings.data_dir,
        quantize=settings.quantize,
    )
    start = None if settings.start is None else read_start(settings.start)
    prompt = loaded.prompt(start)
    if as_json:
        for drawn in loaded.draw(prompt, settings):
            print(json.dumps(asdict(drawn), ensure_ascii=False), flush=True)
        return
    print_setup(loaded, settings, prompt[1])
    write(prompt[0])
    for number, drawn in enumerate(loaded.draw(prompt, settings, on_text=write)):
        write(f"{drawn.prompt}{drawn.text}\n{DASHES}\n" if number else f"\n{DASHES}\n")


def write(text: str) -> None:
    """Write text to standard output at once; on a terminal, without control characters."""
    sys.stdout.write(visible(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def print_setup(model: Model, settings: SampleSettings, prompt: list[int]) -> None:
    """Print model and settings on standard error."""
    number_format = str(model.dtype).removeprefix("torch.") if model.quantize == "none" else model.quantize
    rows = {
        "model": model.folder,
        "parameters": f"{model.parameters:,}",
        "tokenizer": model.tokenizer.name,
        "device": f"{model.device}, {number_format}",
        "prompt": "end-of-text" if prompt == [model.tokenizer.end_of_text] else f"tokens: {len(prompt)}",
        "samples": f"{settings.num_samples} of at most {settings.max_new_tokens} tokens, seed {settings.seed}",
    }
    table("set-up", rows)
    from quillgpt.text.tokenizers.ids import IdTokenizer

    if isinstance(model.tokenizer, IdTokenizer):
        warn("ids are printed, because the text of the model's tokens is not known (meta.pkl had only vocab_size)")


def model_to_sample(model: str | None, flags: Mapping[str, object], settings: SampleSettings) -> str:
    """Return the model that MODEL, --init_from or --out_dir names.

    Raises:
        ConfigError: They name different models.
    """
    origin = None if settings.init_from in SPECIAL_ORIGINS else settings.init_from
    named = {
        "MODEL": model,
        "--init_from": origin if "init_from" in flags else None,
        "--out_dir": settings.out_dir if "out_dir" in flags else None,
    }
    given = {name: str(value) for name, value in named.items() if value is not None}
    if len(set(given.values())) > 1:
        raise ConfigError(
            f"{' and '.join(f'{name} = {value}' for name, value in given.items())} are different models; name one"
        )
    return next(iter(given.values()), origin or settings.out_dir)
