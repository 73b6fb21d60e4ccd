"""The schema: every setting with its type, default and description.

Names and defaults are those of nanoGPT's train.py and sample.py; other settings follow their style. A flag, a TOML key
and an environment variable (`QUILL_<NAME>`) share one name. The schema reads no files and imports no torch.
"""

from quillgpt.config.schema.base import (
    DTYPES,
    Arch,
    DtypeName,
    GeluName,
    LoraTargets,
    Settings,
    fields_in_order,
    grouped_fields,
)
from quillgpt.config.schema.speech import RecognizerSettings, TranscribeSettings, VoiceFields
from quillgpt.config.schema.training import (
    CHOSEN,
    MOST_MODELS,
    SPECIAL_ORIGINS,
    ChosenSettings,
    OptimizerName,
    ResolvedSettings,
    TrainFields,
    TrainSettings,
)
from quillgpt.config.schema.using import (
    EvalSettings,
    LabSettings,
    PrepareSettings,
    Prompt,
    Quantize,
    SampleSettings,
    Sampling,
    ServeSettings,
    SpeakSettings,
    SwapSettings,
)

COMMAND_SETTINGS: dict[str, type[Settings]] = {
    "quill train": TrainFields,
    "quill prepare": PrepareSettings,
    "quill sample": SampleSettings,
    "quill speak": SpeakSettings,
    "quill serve": ServeSettings,
    "quill eval": EvalSettings,
    "quill transcribe": TranscribeSettings,
    "quill lab ranges and quill lab look": LabSettings,
    "quill lab swap": SwapSettings,
}
"""The settings of every command that has some, in the order of docs/settings.md."""

__all__ = [
    "CHOSEN",
    "COMMAND_SETTINGS",
    "DTYPES",
    "MOST_MODELS",
    "SPECIAL_ORIGINS",
    "Arch",
    "ChosenSettings",
    "DtypeName",
    "EvalSettings",
    "GeluName",
    "LabSettings",
    "LoraTargets",
    "OptimizerName",
    "PrepareSettings",
    "Prompt",
    "Quantize",
    "RecognizerSettings",
    "ResolvedSettings",
    "SampleSettings",
    "Sampling",
    "ServeSettings",
    "Settings",
    "SpeakSettings",
    "SwapSettings",
    "TrainFields",
    "TrainSettings",
    "TranscribeSettings",
    "VoiceFields",
    "fields_in_order",
    "grouped_fields",
]
