"""Settings: their schema, and their values from presets, files, environment and flags."""

from quillgpt.config.given import Given, settings_by_place
from quillgpt.config.resolution import (
    resolve,
    resolve_flat,
    resolve_given,
)
from quillgpt.config.schema import (
    EvalSettings,
    PrepareSettings,
    SampleSettings,
    ServeSettings,
    SpeakSettings,
    TrainSettings,
    TranscribeSettings,
)
from quillgpt.config.sources import preset_description, preset_names
from quillgpt.config.write import to_toml

__all__ = [
    "EvalSettings",
    "Given",
    "PrepareSettings",
    "SampleSettings",
    "ServeSettings",
    "SpeakSettings",
    "TrainSettings",
    "TranscribeSettings",
    "preset_description",
    "preset_names",
    "resolve",
    "resolve_flat",
    "resolve_given",
    "settings_by_place",
    "to_toml",
]
