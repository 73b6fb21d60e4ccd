"""Settings: the one vocabulary, presets, files, environment and flags."""

from quillgpt.config.load import (
    resolve,
    resolve_eval,
    resolve_flat,
    resolve_prepare,
    resolve_sample,
    resolve_sampling,
)
from quillgpt.config.schema import EvalSettings, PrepareSettings, SampleSettings, TrainSettings
from quillgpt.config.sources import preset_description, preset_names
from quillgpt.config.write import to_toml

__all__ = [
    "EvalSettings",
    "PrepareSettings",
    "SampleSettings",
    "TrainSettings",
    "preset_description",
    "preset_names",
    "resolve",
    "resolve_eval",
    "resolve_flat",
    "resolve_prepare",
    "resolve_sample",
    "resolve_sampling",
    "to_toml",
]
