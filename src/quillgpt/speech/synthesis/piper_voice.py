"""Voices of Piper: a neural network in a file .onnx, with a .onnx.json beside it."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quillgpt.config.paths import exists
from quillgpt.config.schema import VoiceFields
from quillgpt.errors import ConfigError, UserError, cut

SUFFIX = ".onnx"
USUAL_RATE = 175
"""Words per minute at which a voice speaks as it was trained."""


class PiperVoice:
    """A voice of Piper.

    Args:
        piper: The package.
        path: The voice file.
        rate: Words per minute.
    """

    def __init__(self, piper: Any, path: Path, rate: int) -> None:
        self._voice = piper.PiperVoice.load(path)
        self._settings = piper.SynthesisConfig(length_scale=self._voice.config.length_scale * USUAL_RATE / rate)
        self.name = f"piper {path.stem}"
        self.language: str = self._voice.config.espeak_voice
        self.sample_rate: int = self._voice.config.sample_rate

    def say(self, text: str) -> Iterator[NDArray[np.int16]]:
        """Yield a sentence as sound, one channel.

        Raises:
            UserError: The network cannot compute it.
        """
        try:
            for chunk in self._voice.synthesize(text.replace("[[", "[ ["), self._settings):  # [[ begins phonemes
                yield chunk.audio_int16_array.ravel()
        except Exception as error:  # of onnxruntime or piper, of no common kind
            raise UserError(f"{self.name} could not speak {text[:40]!r}: {cut(str(error))}") from None


def open_piper(settings: VoiceFields) -> PiperVoice:
    """Return the voice of Piper in the file that the settings name, at their rate.

    Raises:
        UserError: There is no such file, it is none of Piper's, or the package is not installed.
    """
    if settings.voice is None:
        raise ConfigError("piper needs a voice file: --voice FILE.onnx, with FILE.onnx.json beside it")
    path = Path(settings.voice)
    description = path.with_name(path.name + ".json")
    for file in (path, description):
        if not exists(file) or file.is_dir():
            raise UserError(f"there is no file {file}; a voice of Piper is FILE.onnx with FILE.onnx.json beside it")
    try:
        known = json.loads(description.read_bytes())
    except ValueError:
        known = None
    if not isinstance(known, dict) or not {"audio", "espeak", "phoneme_id_map"} <= known.keys():
        raise UserError(f"{description} does not describe a voice of Piper; fetch it again, from where {path.name} is")
    try:
        piper = importlib.import_module("piper")
        piper.SynthesisConfig  # noqa: B018 - older versions lack it
    except ModuleNotFoundError as error:
        raise UserError(
            f"Speaking with piper needs the package {error.name}, which is not installed: pip install piper-tts (its "
            "licence is the GPL, version 3)"
        ) from None
    except AttributeError:
        raise UserError("the installed piper-tts is too old: pip install --upgrade 'piper-tts>=1.3'") from None
    try:
        return PiperVoice(piper, path, settings.rate)
    except Exception as error:  # of onnxruntime, of no common kind
        raise UserError(f"{path} is no voice that Piper can use: {cut(str(error))}") from None
