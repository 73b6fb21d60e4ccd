"""Settings as a person gave them, with the place of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from quillgpt.config.schema import TrainSettings, fields_in_order
from quillgpt.config.write import toml_value

BY_PROGRAM = "given"
"""The place of settings that a program gives."""


@dataclass(frozen=True)
class Given:
    """The settings of a run before choices are made.

    Attributes:
        settings: The settings.
        places: Where each was set, by its name: `flags`, `environment`, `preset demo`, `run.toml`.
        verbose: Whether all are to be shown, not only those that are not the default.
    """

    settings: TrainSettings
    places: Mapping[str, str] = field(default_factory=dict)
    verbose: bool = False


def settings_by_place(settings: TrainSettings, given: Given, *, otherwise: str) -> dict[str, str]:
    """Return those settings that are not the default as `name = value`, by where they come from.

    Args:
        settings: As they are, after choices.
        given: As they were given.
        otherwise: The place of what is not as it was given.
    """
    found: dict[str, list[str]] = {place: [] for place in (*given.places.values(), BY_PROGRAM, otherwise)}
    for name, each in fields_in_order(type(settings)).items():
        value = getattr(settings, name)
        if value == each.default:
            continue
        as_given = name in given.settings.model_fields_set and value == getattr(given.settings, name)
        found[given.places.get(name, BY_PROGRAM) if as_given else otherwise].append(f"{name} = {toml_value(value)}")
    return {place: ", ".join(each) for place, each in found.items() if each}
