"""The settings of a run as the user gave them, with the place of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from quillgpt.config.schema import TrainSettings, fields_in_order
from quillgpt.config.write import toml_value

BY_PROGRAM = "given"
"""The place of settings that a program set."""


@dataclass(frozen=True)
class Given:
    """The settings of a run before automatic choices.

    Attributes:
        settings: The settings.
        places: The place where each was set, by name: `flags`, `environment`, `preset demo`, `run.toml`.
        verbose: Whether to show all settings, also those at their defaults.
    """

    settings: TrainSettings
    places: Mapping[str, str] = field(default_factory=dict)
    verbose: bool = False


def settings_by_place(settings: TrainSettings, given: Given, *, otherwise: str) -> dict[str, str]:
    """Return the settings that differ from their defaults, as `name = value`, by the place that set them.

    Args:
        settings: The settings after automatic choices.
        given: The settings as they were given.
        otherwise: The place of settings that differ from those given.
    """
    by_place: dict[str, list[str]] = {place: [] for place in (*given.places.values(), BY_PROGRAM, otherwise)}
    for name, setting in fields_in_order(type(settings)).items():
        value = getattr(settings, name)
        if value == setting.default:
            continue
        as_given = name in given.settings.model_fields_set and value == getattr(given.settings, name)
        by_place[given.places.get(name, BY_PROGRAM) if as_given else otherwise].append(f"{name} = {toml_value(value)}")
    return {place: ", ".join(assignments) for place, assignments in by_place.items() if assignments}
