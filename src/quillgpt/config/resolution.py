"""Resolves the settings of a command from all places that set some.

A later place wins: the schema's defaults, a preset or file with what it extends, `.env`, the environment, flags.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from quillgpt.config.dataset_names import name_of_sources, split_sources
from quillgpt.config.given import Given
from quillgpt.config.layers import Layer, environment_layer, flag_layer, merge_layers, read_dotenv
from quillgpt.config.paths import expand
from quillgpt.config.runs import CONFIG, run_of, settings_in_place, settings_of_checkpoint
from quillgpt.config.schema import (
    SPECIAL_ORIGINS,
    Settings,
    TrainFields,
    TrainSettings,
)
from quillgpt.config.sources import OWN_TEXT, source_layers
from quillgpt.console import say
from quillgpt.errors import ConfigError

FINETUNE = "finetune"
"""The default preset if init_from names a model."""

OF_A_TEXT = frozenset(
    (
        *("data", "val", "val_fraction", "tokenizer", "end_of_text_marks", "deduplicate", "drop_repeated_lines"),
        *("drop_openings", "drop_endings", "encoding", "skip_unreadable", "follow_links"),
        *("read_as", "me", "anonymise", "drop_quotes", "drop_signatures"),
    )
)
OF_TEACHERS = frozenset(("teachers", "teacher_share", "teacher_iters"))
"""Settings of how a data set is made from a text."""

NAMED_AFTER = "named after the text"
"""The place of the names of data set and run if the user named neither."""

RATES = ("learning_rate", "min_lr", "muon_learning_rate")

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

    With `data`, and unless the user sets `dataset` (a preset's does not count), the data set is named after the text;
    unless the user sets `out_dir`, the run is named after the data set.

    Args:
        source: A preset's name (hyphens are underscores), or a path that ends in .toml or .py. None takes the settings
            of the run that is resumed or finetuned, `own_text` if `data` is set, `finetune` if `init_from` names a
            model, else `default_preset`.
        flags: Values by name; text is parsed by the setting's type.
        default_preset: The preset to use without a source.
        environ: Environment variables; None takes the process's own.
        dotenv: A file of environment variables; None reads none.

    Raises:
        ConfigError: A name is unknown, a value does not fit, or two values contradict each other.
    """
    return resolve_given(source, flags, default_preset=default_preset, environ=environ, dotenv=dotenv).settings


def resolve_given(
    source: str | None,
    flags: Mapping[str, object],
    *,
    default_preset: str = "train_gpt2",
    environ: Mapping[str, str] | None = None,
    dotenv: Path | None = DOTENV,
) -> Given:
    """Return the settings as `resolve` does, with the place where each was set.

    Raises:
        ConfigError: As `resolve`.
    """
    outer = _outer_layers(TrainFields, flags, environ, dotenv)
    given = merge_layers(TrainFields, outer)
    source = _usual_source(given, default_preset) if source is None else source
    inner = _inner_layers(source)
    if given.get("init_from") == "finetune" and Path(source) == _config_of(given, run_of(Path(source))):
        inner = [_for_finetuning(layer, given) for layer in inner]
    layers = [*inner, *outer]
    values = merge_layers(TrainFields, inner) | given
    places = {name: layer.name for layer in layers for name in layer.values}
    if isinstance(data := values.get("data"), str):
        own = {name for layer in layers if not layer.shipped for name in layer.values}
        if "dataset" not in own:
            values["dataset"] = name_of_sources(split_sources(data) or [data])
            places["dataset"] = NAMED_AFTER
        if "out_dir" not in own:
            values["out_dir"] = f"out-{values['dataset']}"
            places["out_dir"] = NAMED_AFTER
    return Given(_build(TrainSettings, values), places)


def _usual_source(given: Mapping[str, object], default_preset: str) -> str:
    origin, config = given.get("init_from", "scratch"), _config_of(given)
    if origin in ("resume", "finetune") and (config.is_file() or run_of(config)):
        return str(config)
    if given.get("data") is not None:
        return OWN_TEXT
    return default_preset if origin in SPECIAL_ORIGINS else FINETUNE


def _config_of(given: Mapping[str, object], run: Path | None = None) -> Path:
    """Return the path of config.toml in the folder that out_dir names, else in `run`, else in the default folder."""
    return Path(str(given.get("out_dir", run or TrainFields.model_fields["out_dir"].default))) / CONFIG


def _inner_layers(source: str) -> list[Layer]:
    """Return the layers of a preset, a file or a run; a run is in the folder of its config.toml."""
    path = expand(source)
    run = run_of(path)
    if run is None:
        return source_layers(source)
    stored = None if path.is_file() else settings_of_checkpoint(run)
    layers = source_layers(source) if stored is None else [stored]
    return [*layers[:-1], settings_in_place(layers[-1], run)]


def _for_finetuning(layer: Layer, given: Mapping[str, object]) -> Layer:
    """Return the settings of a run for a new run that finetunes its weights.

    Settings of its text, teachers, minutes and patience are left out, and learning rates are divided by ten.
    """
    left = OF_A_TEXT | OF_TEACHERS | {"minutes", "patience", "overwrite"}
    left |= {"dataset"} if given.get("data") is not None else set()
    values = {name: value for name, value in layer.values.items() if name not in left}
    if layer.values.get("teacher_iters"):
        values["max_iters"] = layer.values["teacher_iters"]
    rates = {name: value / 10 for name in RATES if isinstance(value := values.get(name), float)}
    if "learning_rate" in rates and "learning_rate" not in given:
        say(f"learning rates are a tenth of the earlier ones: learning_rate = {rates['learning_rate']:g}")
    return replace(layer, values=values | rates)


def resolve_flat(
    schema: type[SettingsT],
    flags: Mapping[str, object],
    environ: Mapping[str, str] | None = None,
    dotenv: Path | None = DOTENV,
) -> SettingsT:
    """Return the settings of a command that has no presets, from `.env`, the environment and flags.

    Raises:
        ConfigError: As `resolve`.
    """
    return _build(schema, merge_layers(schema, _outer_layers(schema, flags, environ, dotenv)))


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
