"""The settings of commands that hear and speak."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from quillgpt.config.schema.base import BatchSize, PathText, ProcessorFields, Settings

EngineName = Literal["auto", "whisper", "pocketsphinx"]


class EngineFields(Settings):
    """Recognizing speech."""

    engine: EngineName = Field(
        "auto",
        description="whisper: accurate, 99 languages (extra whisper). pocketsphinx: English, offline, rough (extra voice). auto: whisper if its model is on the disk or can be fetched, else pocketsphinx.",
    )
    model: PathText | None = Field(
        None,
        description="Model of whisper: tiny, base, small, medium, large-v3, turbo and so on, or the folder of a converted model. Unset: small.",
    )
    language: str | None = Field(
        None, description="Language that is spoken, such as en or de. Unset: whisper detects it for each recording."
    )
    vad: bool = Field(True, description="Recognize only where a detector of voice activity hears speech.")


class EngineMachineFields(ProcessorFields):
    """The machine."""

    compute_type: str | None = Field(
        None,
        description="Number format of whisper: int8, float16, int8_float16, float32 and so on. Unset: chosen for the device.",
    )
    batch_size: BatchSize | None = Field(
        None, description="Pieces of 30 seconds that whisper recognizes at once. Unset: chosen for the device."
    )


class RecognizerSettings(EngineFields, EngineMachineFields):
    """Which recognizer is used, and how."""


class TranscriptFields(Settings):
    """The transcripts."""

    keep_doubtful: bool = Field(
        False,
        description="Keep segments in the text that seem wrong: low confidence, loops, words that whisper invents where nobody speaks. They are marked in the .json in any case.",
    )


class TranscribeSettings(RecognizerSettings, TranscriptFields):
    """The settings of `quill transcribe`."""


class VoiceFields(Settings):
    """The voice."""

    engine: Literal["auto", "espeak", "piper"] = Field(
        "auto", description="What speaks. auto: piper if --voice is a file .onnx, else espeak."
    )
    voice: PathText | None = Field(
        None,
        description="Voice of espeak by its code or name, such as de or en-us, also with a variant, such as en-us+f3; or a voice file of piper (.onnx). list: print espeak's voices. Unset: en-us.",
    )
    language: str | None = Field(
        None,
        description="Language to speak, such as de, with espeak's usual voice of it; unless --voice names another.",
    )
    rate: Annotated[int, Field(ge=80, le=450)] = Field(
        175, description="Words per minute, about; a voice of piper speaks at 175 as it was trained."
    )
