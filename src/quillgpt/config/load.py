"""From everything a person set to one checked group of settings.

The order, later wins: the schema's defaults, a preset or file with what it extends, `.env`, the environment, flags.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from quillgpt.config.layers import Layer, environment_layer, flag_layer, merge, read_dotenv
from quillgpt.config.names import name_of_sources, split_sources
from quillgpt.config.schema import (
    EvalSettings,
    LabSettings,
    PrepareSettings,
    SampleSettings,
    Sampling,
    Settings,
    TrainFields,
    TrainSettings,
)
from quillgpt.config.sources import source_layers
from quillgpt.errors import ConfigError

OWN_TEXT = "own_text"
"""The preset for a text that is given without a preset."""

DOTENV = Path(".env")
"""The file of environment variables, in the folder where a command runs."""

SettingsT = TypeVar("SettingsT", bound=Settings)


def resolve(
    source: str | None,
    flags: Mapping[str, object],
    *,
    default_preset: str = "train_gpt2",
    environ: Mapping[str, str] | None = None,
    dotenv: Path | None = DOTENV,
) -> TrainSettings:
    """Return the settings of a training run.

    With `data` and without a `dataset` of the person's own (a preset's does not count), the data set is named after
    the text and, likewise, the run after the data set.

    Args:
        source: A preset's name (hyphens are underscores), or a path that ends in .toml or .py. None: the settings of
            the run that is resumed or finetuned, `own_text` where `data` is set, else `default_preset`.
        flags: Values by name; text is read by the setting's type.
        default_preset: The preset without a source.
        environ: Environment variables; None takes the process's own.
        dotenv: A file of environment variables; None reads none.

    Raises:
        ConfigError: A name is unknown, a value does not fit, or two values contradict each other.
    """
    outer = _outer_layers(TrainFields, flags, environ, dotenv)
    if source is None:
        source = _usual_source(merge(TrainFields, outer), default_preset)
    layers = [*source_layers(source), *outer]
    values = merge(TrainFields, layers)
    if isinstance(data := values.get("data"), str):
        own = {name for layer in layers if not layer.shipped for name in layer.values}
        if "dataset" not in own:
            values["dataset"] = name_of_sources(split_sources(data) or [data])
        if "out_dir" not in own:
            values["out_dir"] = f"out-{values['dataset']}"
    return _build(TrainSettings, values)


def _usual_source(given: Mapping[str, object], default_preset: str) -> str:
    if given.get("init_from") in ("resume", "finetune"):
        run = Path(str(given.get("out_dir", TrainFields.model_fields["out_dir"].default))) / "config.toml"
        if run.is_file():
            return str(run)
    return OWN_TEXT if given.get("data") is not None else default_preset


def resolve_sample(
    flags: Mapping[str, object], *, environ: Mapping[str, str] | None = None, dotenv: Path | None = DOTENV
) -> SampleSettings:
    """Return the settings of sampling, from `.env`, the environment and flags.

    Raises:
        ConfigError: As `resolve`.
    """
    return _resolve_flat(SampleSettings, flags, environ, dotenv)


def resolve_sampling(given: Mapping[str, object]) -> Sampling:
    """Return how to draw samples, as a program gives it; no environment is read.

    Raises:
        ConfigError: As `resolve`.
    """
    return _resolve_flat(Sampling, given, {}, None)


def resolve_eval(
    flags: Mapping[str, object], *, environ: Mapping[str, str] | None = None, dotenv: Path | None = DOTENV
) -> EvalSettings:
    """Return the settings of an evaluation, from `.env`, the environment and flags.

    Raises:
        ConfigError: As `resolve`.
    """
    return _resolve_flat(EvalSettings, flags, environ, dotenv)


def resolve_lab(
    flags: Mapping[str, object], *, environ: Mapping[str, str] | None = None, dotenv: Path | None = DOTENV
) -> LabSettings:
    """Return the settings of looking at a model's attention, from `.env`, the environment and flags.

    Raises:
        ConfigError: As `resolve`.
    """
    return _resolve_flat(LabSettings, flags, environ, dotenv)


def resolve_prepare(
    flags: Mapping[str, object], *, environ: Mapping[str, str] | None = None, dotenv: Path | None = DOTENV
) -> PrepareSettings:
    """Return the settings of preparing a data set, from `.env`, the environment and flags.

    Raises:
        ConfigError: As `resolve`.
    """
    return _resolve_flat(PrepareSettings, flags, environ, dotenv)


def _resolve_flat(
    schema: type[SettingsT], flags: Mapping[str, object], environ: Mapping[str, str] | None, dotenv: Path | None
) -> SettingsT:
    return _build(schema, merge(schema, _outer_layers(schema, flags, environ, dotenv)))


def _outer_layers(
    schema: type[Settings], flags: Mapping[str, object], environ: Mapping[str, str] | None, dotenv: Path | None
) -> list[Layer]:
    layers = []
    if dotenv is not None:
        layers.append(environment_layer(schema, read_dotenv(dotenv), f"in {dotenv}"))
    layers.append(environment_layer(schema, os.environ if environ is None else environ))
    layers.append(flag_layer(flags))
    return layers


def _build(schema: type[SettingsT], values: Mapping[str, object]) -> SettingsT:
    try:
        return schema(**values)
    except ValidationError as error:
        reasons = [detail["msg"].removeprefix("Value error, ") for detail in error.errors()]
        raise ConfigError("; ".join(reasons)) from None
