"""`quill sample`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from cyclopts import Parameter

from quillgpt.cli.flags import JSON_FLAG, MODEL_HELP, settings_flags
from quillgpt.config import SampleSettings, resolve_sample
from quillgpt.config.schema import SPECIAL_ORIGINS
from quillgpt.errors import ConfigError


@settings_flags(SampleSettings)
def sample(
    model: Annotated[str | None, Parameter(name="MODEL", help=MODEL_HELP)] = None,
    /,
    *,
    as_json: Annotated[bool, JSON_FLAG] = False,
    **flags: str,
) -> None:
    """Write text with a model, on standard output."""
    settings = resolve_sample(flags)
    chosen = model_to_sample(model, flags, settings)

    from quillgpt.generation import sample_to_terminal

    sample_to_terminal(chosen, settings, as_json=as_json)


def model_to_sample(model: str | None, flags: Mapping[str, object], settings: SampleSettings) -> str:
    """Return the model that MODEL, --init_from or --out_dir names.

    Raises:
        ConfigError: Two of them name different models.
    """
    origin = None if settings.init_from in SPECIAL_ORIGINS else settings.init_from
    named = {"MODEL": model, "--init_from": origin if "init_from" in flags else None, "--out_dir": flags.get("out_dir")}
    given = {name: str(value) for name, value in named.items() if value is not None}
    if len(set(given.values())) > 1:
        raise ConfigError(
            f"{' and '.join(f'{name} = {value}' for name, value in given.items())} are different models; name one"
        )
    return next(iter(given.values()), origin or settings.out_dir)
